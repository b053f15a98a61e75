"""How models write tool calls: a table, one row for each way that a family of them was trained on.

Sources: the chat templates that come with Qwen 2.5 and 3, Llama 3.1, Mistral's models, Phi-4-mini, DeepSeek R1
and V3.1. Calls are read as JSON and nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from runtime.schema.generation import ToolFormatName


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None
    parameters: Mapping[str, Any] | None
    """JSON schema of its arguments; None: it takes none."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the model made."""

    name: str
    arguments: str
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls."""

    signs: tuple[str, ...]
    """What a chat template holds, all of them, that writes calls so."""
    unlike: tuple[str, ...]
    """What none of them holds."""
    begin: str
    """What opens a call, or several."""
    end: str
    """What closes them; empty: the answer's end."""
    read: Callable[[str], list[Call]]
    """What stands between the two. Raises ValueError where that is no call."""
    forced: str
    """The beginning of an answer that has to be a call, up to its name; it goes into the prompt."""
    after_name: str
    after_arguments: str
    """What follows name and arguments of a call that is forced."""
    starts_with: str | None = None
    """An answer that starts with it is a call, too."""
    other_marks: tuple[str, ...] = ()
    """Further marks of calls, which may be control tokens in the vocabulary, as `begin` and `end` may."""
    takes_openai_messages: bool = False
    """Its templates want a call's arguments as text, and no content as null; others a mapping, and an empty text."""

    @property
    def marks(self) -> frozenset[bytes]:
        """Control tokens that are a part of calls, by name."""
        return frozenset(mark.encode() for mark in (self.begin, self.end, *self.other_marks) if mark)

    def grammar(self, schemas: Mapping[str, str]) -> str:
        """What an answer must be, after `forced`, that is a call of one of these tools, in llguidance's Lark.

        `schemas`: JSON schemas of their arguments, by name. Each is a document of its own: `$ref` works in it.
        """
        rules = [f"start: {' | '.join(f'call_{number}' for number in range(len(schemas)))}"]
        for number, (name, schema) in enumerate(schemas.items()):
            before = json.dumps(name + self.after_name, ensure_ascii=False)
            after = json.dumps(self.after_arguments) if self.after_arguments else ""
            rules.append(f"call_{number}: {before} arguments_{number} {after}")
            rules.append(f"arguments_{number}: %json {schema}")
        return "\n".join(rules)


def _json_calls(text: str) -> list[Call]:
    """Objects with a name and arguments, or lists of them, one after another."""
    found: list[Any] = []
    rest = text.strip()
    while rest:
        value, end = _value(rest)
        found += value if isinstance(value, list) else [value]
        rest = rest[end:].lstrip(" \n\r\t;,")
    if not found:
        raise ValueError("no call")
    return [_call(each) for each in found]


def _call(value: object) -> Call:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        raise ValueError("a call is an object with a name")
    return Call(name, _arguments(value.get("arguments", value.get("parameters", {}))))


def _arguments(value: object) -> str:
    """As text that every reader of JSON and of UTF-8 takes."""
    if not isinstance(value, dict):
        raise ValueError("the arguments of a call are an object")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _value(text: str) -> tuple[Any, int]:
    """The JSON value at the beginning of the text, and where it ends. Raises ValueError."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _headed_calls(head: re.Pattern[str], tail: re.Pattern[str]) -> Callable[[str], list[Call]]:
    """A reader of calls whose arguments alone are JSON. `head` matches up to them, with the name as its only group
    that is not empty; `tail` what follows them."""

    def read(text: str) -> list[Call]:
        found: list[Call] = []
        while text or not found:
            begin = head.match(text)
            if begin is None:
                raise ValueError("not a call")
            value, length = _value(text[begin.end() :])
            end = tail.match(text, begin.end() + length)
            if end is None:
                raise ValueError("the call does not end")
            found.append(Call(next(filter(None, begin.groups())), _arguments(value)))
            text = text[end.end() :]
        return found

    return read


_mistral_calls = _headed_calls(
    re.compile(r"\s*([\w-]+)(?:\[CALL_ID\]\w*)?\[ARGS\]\s*"), re.compile(r"\s*(?:\[TOOL_CALLS\]|\Z)")
)


def _deepseek_mark(words: str) -> str:
    """DeepSeek's marks have wide bars around them, and low blocks for spaces."""
    return f"<\uff5c{words.replace(' ', chr(0x2581))}\uff5c>"


_CALLS, _CALLS_END = _deepseek_mark("tool calls begin"), _deepseek_mark("tool calls end")
_CALL, _NAMED, _CALL_END = (_deepseek_mark(words) for words in ("tool call begin", "tool sep", "tool call end"))
_deepseek_calls = _headed_calls(
    re.compile(rf"\s*{_CALL}(?:function{_NAMED}([\w-]+)\s*```json\s*|([\w-]+){_NAMED}\s*)"),
    re.compile(rf"\s*(?:```)?\s*(?:{_CALL_END}\s*|\Z)"),
)


FORMATS: Mapping[ToolFormatName, ToolFormat] = {
    "hermes": ToolFormat(
        signs=("<tool_call>",),
        unlike=("<function=", "<arg_key>", "<|tool_call|>"),
        begin="<tool_call>",
        end="</tool_call>",
        read=_json_calls,
        forced='<tool_call>\n{"name": "',
        after_name='", "arguments": ',
        after_arguments="}",
    ),
    "llama3": ToolFormat(
        signs=("<|python_tag|>", '"parameters": '),
        unlike=(),
        begin="<|python_tag|>",
        end="",
        read=_json_calls,
        forced='{"name": "',
        after_name='", "parameters": ',
        after_arguments="}",
        starts_with="{",
    ),
    "mistral": ToolFormat(
        signs=("[TOOL_CALLS]",),
        unlike=("[ARGS]",),
        begin="[TOOL_CALLS]",
        end="",
        read=_json_calls,
        forced='[TOOL_CALLS] [{"name": "',
        after_name='", "arguments": ',
        after_arguments="}]",
    ),
    "mistral-args": ToolFormat(
        signs=("[TOOL_CALLS]", "[ARGS]"),
        unlike=(),
        begin="[TOOL_CALLS]",
        end="",
        read=_mistral_calls,
        forced="[TOOL_CALLS]",
        after_name="[ARGS]",
        after_arguments="",
        other_marks=("[CALL_ID]", "[ARGS]"),
    ),
    "phi4-mini": ToolFormat(
        signs=("<|tool_call|>",),
        unlike=(),
        begin="<|tool_call|>",
        end="<|/tool_call|>",
        read=_json_calls,
        forced='<|tool_call|>{"name": "',
        after_name='", "arguments": ',
        after_arguments="}",
    ),
    "deepseek-r1": ToolFormat(
        signs=(_CALLS, "```json"),
        unlike=(),
        begin=_CALLS,
        end=_CALLS_END,
        read=_deepseek_calls,
        forced=f"{_CALLS}{_CALL}function{_NAMED}",
        after_name="\n```json\n",
        after_arguments="\n```",
        other_marks=(_CALL, _NAMED, _CALL_END),
        takes_openai_messages=True,
    ),
    "deepseek-v3.1": ToolFormat(
        signs=(_CALLS,),
        unlike=("```json",),
        begin=_CALLS,
        end=_CALLS_END,
        read=_deepseek_calls,
        forced=f"{_CALLS}{_CALL}",
        after_name=_NAMED,
        after_arguments="",
        other_marks=(_CALL, _NAMED, _CALL_END),
        takes_openai_messages=True,
    ),
}
"""Every format by the name that registry files may give."""


@cache
def format_of(template: str) -> ToolFormat | None:
    """The one format that a chat template writes calls in; None where it is none of them, or not plain which."""
    found = [
        row
        for row in FORMATS.values()
        if all(sign in template for sign in row.signs) and not any(sign in template for sign in row.unlike)
    ]
    return found[0] if len(found) == 1 else None
