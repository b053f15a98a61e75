"""`llm-serve chat`: a conversation in the terminal."""

import asyncio
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TextIO

from client.server import Server, ServerError

HELP = """\
/system TEXT   what the model is to be; the conversation begins anew
/clear         begin anew
/model NAME    go on with another model; without a name: list them
/help          this list
/exit          end, as do Ctrl-D and Ctrl-C; Ctrl-C stops an answer first
A line that ends in \\ goes on in the next one.
"""
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(slots=True)
class Conversation:
    """What has been said, and how the model is asked."""

    model: str
    system: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    """Fields of each request, such as `temperature`."""
    turns: list[dict[str, str]] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """The body that asks for the next answer."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return {"model": self.model, "messages": [*first, *self.turns], **self.sampling}


class Chat:
    """Reads lines from the terminal, or one message from a pipe. Raises ServerError only for a pipe's message."""

    def __init__(self, server: Server, conversation: Conversation, source: TextIO, out: TextIO) -> None:
        self._server, self._conversation = server, conversation
        self._source, self._out = source, out
        self._is_terminal = source.isatty()

    def run(self, runner: asyncio.Runner) -> None:
        """Until the lines end."""
        if not self._is_terminal:
            runner.run(self._answer(self._source.read()))
            return
        self._say(f"talking to {self._conversation.model} at {self._server.url}; /help lists what else there is\n")
        try:
            while (line := self._read()) != "/exit":
                if line.startswith("/"):
                    self._command(line, runner)
                elif line:
                    self._turn(line, runner)
        except (EOFError, KeyboardInterrupt):
            self._say("\n")

    def _turn(self, line: str, runner: asyncio.Runner) -> None:
        """One message and its answer; what goes wrong is told."""
        try:
            runner.run(self._answer(line))
        except ServerError as error:
            self._say(f"\nerror: {error}\n")
        except KeyboardInterrupt:  # enough of this answer
            self._say("\n")

    async def _answer(self, message: str) -> None:
        turns = self._conversation.turns
        turns.append({"role": "user", "content": message})
        text, tokens, start, first = "", 0, time.monotonic(), 0.0
        try:
            async with aclosing(self._server.chat(self._conversation.request())) as pieces:
                async for piece in pieces:
                    if piece.text:
                        first = first or time.monotonic()
                        text += piece.text
                        self._say(_visible(piece.text))
                    tokens = piece.usage.answer if piece.usage else tokens
        finally:
            if text:  # also where it broke off
                turns.append({"role": "assistant", "content": text})
            else:
                turns.pop()
        self._say("\n")
        if self._is_terminal and first:
            rate = (tokens - 1) / max(time.monotonic() - first, 1e-9)
            figures = f"{tokens} tokens, the first after {first - start:.2f} s, then {rate:.0f} tokens/s"
            self._say(f"{_DIM}{figures}{_PLAIN}\n")

    def _command(self, line: str, runner: asyncio.Runner) -> None:
        name, _, rest = line.partition(" ")
        match name:
            case "/clear":
                self._conversation.turns.clear()
            case "/system":
                self._conversation.system = rest.strip() or None
                self._conversation.turns.clear()
            case "/model":
                self._change_model(rest.strip(), runner)
            case "/help":
                self._say(HELP)
            case _:
                self._say(f"there is no {name}\n{HELP}")

    def _change_model(self, name: str, runner: asyncio.Runner) -> None:
        try:
            models = runner.run(self._server.models())
        except ServerError as error:
            self._say(f"error: {error}\n")
            return
        if name in models:
            self._conversation.model = name
        else:
            there = "\n".join(models)
            self._say(f"{f'there is no model {name}; ' if name else ''}{self._server.url} serves:\n{there}\n")

    def _read(self) -> str:
        """A message; lines that end in a backslash are joined. Raises EOFError."""
        lines = [input("> ")]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input(". "))
        return "\n".join(lines).strip()

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _visible(text: str) -> str:
    """Without what a terminal would carry out: a model may say anything."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)


def chat(url: str, key: str | None, conversation: Conversation) -> None:
    """Talk in this process's terminal; an empty model is the server's only one. Raises ServerError."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 (gives `input` a history and its editing keys)

    with asyncio.Runner() as runner:
        server = runner.run(Server(url, key).__aenter__())
        try:
            conversation.model = conversation.model or runner.run(server.one_model())
            Chat(server, conversation, sys.stdin, sys.stdout).run(runner)
        finally:
            runner.run(server.__aexit__(None, None, None))
