"""Commands that talk to a server: `chat`, `bench`."""

import argparse
import asyncio
import os
from collections.abc import Callable

from compiler.exits import OK, WRONG_CONFIG
from compiler.report import printing as report
from compiler.verbs.project import RefusedError

try:
    import client.bench
    import client.chat
    from client.server import KEY_VARIABLE, ServerError
except ModuleNotFoundError as missing:
    raise RefusedError(f"this needs the package {missing.name!r}: pip install 'llm-serve[client]'") from missing


def chat(options: argparse.Namespace) -> int:
    """A conversation in the terminal."""
    wanted = {"temperature": options.temperature, "max_tokens": options.max_tokens}
    sampling = {name: value for name, value in wanted.items() if value is not None}
    conversation = client.chat.Conversation(options.model or "", options.system, sampling)
    try:
        client.chat.chat(options.url, os.environ.get(KEY_VARIABLE), conversation)
    except ServerError as error:
        report.print_failure(str(error))
        return WRONG_CONFIG
    return OK


def bench(options: argparse.Namespace) -> int:
    """Figures of a server under load; exit 1 when a request failed."""
    wanted = client.bench.Options(
        options.url,
        os.environ.get(KEY_VARIABLE),
        options.model or "",
        options.clients or ([] if options.rate else [1, 8]),
        options.rate,
        options.requests,
        options.prompt_words,
        options.tokens,
        dict(options.goal),
    )
    try:
        found = asyncio.run(client.bench.measure(wanted))
        machine = options.format == "json"
        report.print_lines(
            [client.bench.as_json(wanted, found) if machine else client.bench.table(found, wanted.goals)]
        )
        if options.plot:
            client.bench.plot(found, options.plot)
    except (ServerError, OSError) as error:
        report.print_failure(str(error))
        return WRONG_CONFIG
    except ModuleNotFoundError as missing:
        raise RefusedError(f"--plot needs the package {missing.name!r}: pip install {missing.name}") from missing
    return WRONG_CONFIG if any(each.errors for each in found) else OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"bench": bench, "chat": chat}
