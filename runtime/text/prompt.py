"""Prompts: the model's own chat template in a sandbox, or the registry's `prompt_format`.

The dialect of chat templates is that of transformers, "Chat templates".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import RequestError
from runtime.text.renderer import RENDERER, RenderingEnded
from runtime.text.sandbox import CPU_S, MEMORY_BYTES, reads
from runtime.text.tools import Call, Tool, ToolFormat, format_of


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str | None
    """None: an assistant called tools and said nothing."""
    name: str | None = None
    calls: tuple[tuple[str, Call], ...] = ()
    """Calls that an assistant made, each with its id."""
    answers: str | None = None
    """The id of the call that this is the result of."""

    def turn(self, *, as_openai: bool) -> dict[str, Any]:
        """As templates see it. Keys that mean nothing here are left out, because some look whether they are there."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content if as_openai else self.content or ""}
        if self.name is not None:
            turn["name"] = self.name
        if self.answers is not None:
            turn["tool_call_id"] = self.answers
        if self.calls:
            turn["tool_calls"] = [
                {
                    "id": number,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.arguments if as_openai else json.loads(call.arguments),
                    },
                }
                for number, call in self.calls
            ]
        return turn


_NOTHING = {"type": "object", "properties": {}}
"""The parameters of a tool that takes none: templates look into them."""


def _declared(tool: Tool) -> dict[str, Any]:
    """A tool as templates see it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters or _NOTHING}
    return {"type": "function", "function": function}


class ChatTemplate:
    """The template of a model, or its two: some have one of their own for conversations with tools."""

    def __init__(self, source: str, special_tokens: dict[str, str], tool_source: str | None = None) -> None:
        self._source = source
        self._tool_source = tool_source or source
        self._special_tokens = special_tokens
        self.knows_tools = reads(self._tool_source, "tools")
        """Whether it tells the model of tools."""
        self.tool_format = format_of(self._tool_source)
        """How it writes calls, where that is plain."""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), tool_format: ToolFormat | None = None
    ) -> str:
        """The prompt that makes the model answer. Blocks.

        Raises RequestError when the template refuses the messages, or is none; EngineError when nothing renders.
        """
        as_openai = tool_format is not None and tool_format.takes_openai_messages
        turns = [message.turn(as_openai=as_openai) for message in messages]
        variables = {**self._special_tokens, "messages": turns, "add_generation_prompt": True}
        if tools:
            variables["tools"] = [_declared(tool) for tool in tools]
        try:
            answer = RENDERER.render(self._tool_source if tools else self._source, variables)
        except RenderingEnded as error:
            limit = f"{CPU_S:.0f} s of computing, or {MEMORY_BYTES >> 20} MiB of memory"
            raise RequestError(f"the model's chat template needs more than {limit}", "messages") from error
        match answer:
            case {"text": text}:
                return text
            case {"broken": problem}:
                raise RequestError(f"the model's chat template is broken: {problem}", "messages")
            case _:
                raise RequestError(f"the model's chat template refuses these messages: {answer['refused']}", "messages")


def format_instructions(prompt_format: str, messages: Sequence[Message]) -> str:
    """A conversation through `prompt_format`, for models that know one instruction and its answer.

    System messages go in front of the next instruction; the answers given so far follow theirs.
    """
    prompt, preamble = "", ""
    for message in messages:
        content = message.content or ""
        if message.role == "assistant":
            prompt += content + "\n"
        elif message.role == "user":
            prompt += prompt_format.format(instruction=preamble + content)
            preamble = ""
        else:
            preamble += content + "\n\n"
    if not messages or messages[-1].role != "user":
        raise RequestError("the last message must be the user's", "messages")
    return prompt
