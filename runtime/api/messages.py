"""The wire: the messages of a chat, and the tools that the model may call.

Source: OpenAI API reference, "Chat completions". Only text: nothing is fetched from addresses in a request.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from runtime.api.wire import Wire, variant, variant_by

MAX_TOOLS = 128
"""Tools of a request, and calls of a message (OpenAI's limit)."""
MAX_SCHEMA_CHARACTERS = 1 << 16
"""Longest JSON schema of a tool's parameters."""
MAX_DESCRIPTION_CHARACTERS = 1 << 14
MAX_NAME_CHARACTERS = 256
"""Longest name of a speaker, and longest id of a call."""

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


def _bad(problem: str) -> PydanticCustomError:
    return PydanticCustomError("messages", "{problem}", {"problem": problem})


class TextPart(Wire):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class RefusalPart(Wire):
    """What an assistant said when it would not answer."""

    type: Literal["refusal"]
    refusal: str


def _only_text(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        raise _bad(f"`{kind[:64]}` parts are not offered: only text, and nothing is fetched")
    return part


Part = Annotated[
    Annotated[TextPart, variant("text")] | Annotated[RefusalPart, variant("refusal")],
    variant_by(lambda part: "refusal" if isinstance(part, dict) and part.get("type") == "refusal" else "text"),
    BeforeValidator(_only_text),
]


Content = Annotated[
    Annotated[str, variant("text")] | Annotated[list[Part], Field(fail_fast=True), variant("parts")],
    variant_by(lambda content: "parts" if isinstance(content, list) else "text"),
]


def _json_object(text: str) -> str:
    try:
        is_object = not text.strip() or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise _bad("must be a JSON object, as text")
    return text


class FunctionCall(Wire):
    """Which function an assistant called."""

    name: ToolName
    arguments: Annotated[str, AfterValidator(_json_object)]
    """A JSON object, as text; empty where there are none."""


class ToolCall(Wire):
    """A call that an assistant made."""

    id: CallId
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Wire):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    """Only an assistant that calls tools, or refuses, may have none."""
    name: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None = None
    """Who speaks, for chat templates that tell."""
    refusal: str | None = None
    """An assistant's, which is what it said."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_call_id: CallId | None = None
    """Which call a tool's message answers."""
    function_call: object = None
    audio: object = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.function_call is not None:
            raise _bad("function_call: use `tool_calls`")
        if self.audio is not None:
            raise _bad("audio: this server does not offer it; leave it out")
        if self.role != "assistant" and (self.tool_calls or self.refusal is not None):
            raise _bad("only an assistant has `tool_calls` or a `refusal`")
        if self.content is None and not (self.tool_calls or self.refusal is not None):
            raise _bad("content: is missing")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise _bad("`tool_call_id` goes with the role `tool`, and that role with it")
        return self

    @property
    def text(self) -> str | None:
        """The content in one piece."""
        if self.content is None:
            return self.refusal
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)

    @property
    def is_about_tools(self) -> bool:
        """Whether only a template that knows tools can write it."""
        return self.role == "tool" or bool(self.tool_calls)


def check_answers(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Each tool's message answers a call that was made before."""
    called: set[str] = set()
    for message in messages:
        if message.tool_call_id is not None and message.tool_call_id not in called:
            raise _bad(f"no assistant's message before it has a call with the id {message.tool_call_id!r}")
        called |= {call.id for call in message.tool_calls or ()}
    return messages


def _is_a_schema_of_objects(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters.get("type", "object") != "object":
        raise _bad("must be the JSON schema of an object: `type` must be `object`")
    if len(json.dumps(parameters)) > MAX_SCHEMA_CHARACTERS:
        raise _bad(f"is a schema of more than {MAX_SCHEMA_CHARACTERS} characters")
    return parameters


class Function(Wire):
    """What the model may call."""

    name: ToolName
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARACTERS)] | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_is_a_schema_of_objects)] | None = None
    """JSON schema of the arguments; left out where there are none."""
    strict: bool | None = None
    """Calls that `tool_choice` forces keep to the schema, whether it is set or not."""


class Tool(Wire):
    """A function, as OpenAI wraps it."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """The name alone."""

    name: ToolName


class NamedTool(Wire):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


def _each_name_once(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _bad(f"two of them are called {twice!r}")
    return tools


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True), AfterValidator(_each_name_once)]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], variant("word")] | Annotated[NamedTool, variant("tool")],
    variant_by(lambda choice: "word" if isinstance(choice, str) else "tool"),
]
