"""Chat templates run here: in Jinja's immutable sandbox, in a process of their own.

A chat template comes with the weights and is a program, so it is untrusted: it sees nothing but the conversation. The
sandbox keeps it from the machine, the process from its time and memory: nothing else can end a thread of Python, or a
multiplication that takes a minute. The process has no environment, and ends with the one that started it.

It reads lines of JSON, `{"template": ..., "variables": ...}`, and answers each with a line: `{"text": ...}`, or
`{"broken": why}` for what is no template, or `{"refused": why}` for one that fails.
"""

import json
import resource
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 2.0
"""What one prompt may take to render, in seconds of computing."""
MEMORY_BYTES = 1 << 30
"""Address space of the process."""
MAX_CHARACTERS = 4 << 20
"""Longest prompt."""

_PROGRAM_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a program of somebody else's may raise while it runs."""


def reads(source: str, variable: str) -> bool:
    """Whether the template looks at the variable; what is no template does not. It is parsed for that, and not run."""
    try:
        names = _environment().parse(source).find_all(nodes.Name)
        return any(name.name == variable and name.ctx == "load" for name in names)
    except (TemplateError, RecursionError):
        return False


def main() -> None:
    """Answer lines until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for the process which started this one
    _say({"ready": True})
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # whose signal ends the process, whatever it is at
        answer = _render(asked["template"], asked["variables"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(answer)


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _render(source: str, variables: Mapping[str, Any]) -> dict[str, str]:
    try:
        template = _compiled(source)
    except _PROGRAM_ERRORS as error:
        return {"broken": str(error)}
    try:
        parts, length = [], 0
        for part in template.generate(variables):
            parts.append(part)
            length += len(part)
            if length > MAX_CHARACTERS:
                return {"refused": f"the prompt has more than {MAX_CHARACTERS} characters"}
        return {"text": "".join(parts)}
    except MemoryError:
        return {"refused": f"it needs more than {MEMORY_BYTES} bytes of memory"}
    except _PROGRAM_ERRORS as error:
        return {"refused": str(error)}


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


class _Generation(Extension):
    """`{% generation %}` marks an answer's text for training; here it is a block as any."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which models have not been trained on. The arguments are transformers'."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


if __name__ == "__main__":
    main()
