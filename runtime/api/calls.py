"""Tool calls: what of them a request asks for, and the calls in its answers."""

import uuid
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from runtime.api.formats import schema_text
from runtime.api.messages import ChatMessage, NamedTool
from runtime.api.protocol import ChatRequest
from runtime.api.responses import CallPiece, Delta
from runtime.engines.contract import Constraint
from runtime.errors import RequestError
from runtime.schema.generation import GenerationConfig
from runtime.text.calls import CallReader, Calls, is_content
from runtime.text.prompt import ChatTemplate, Message
from runtime.text.tools import FORMATS, Call, Tool, ToolFormat
from runtime.text.transcript import Score

ID_CHARACTERS = 9
"""Length of a call's id, letters and digits: Mistral's templates take no other one."""


def calls_asked_for(request: ChatRequest, template: ChatTemplate | None, generation: GenerationConfig) -> Calls | None:
    """What the answers' calls may be; None where there may be none. Raises RequestError."""
    functions, choice = [tool.function for tool in request.tools or ()], request.tool_choice or "auto"
    names = frozenset(each.name for each in functions)
    if isinstance(choice, NamedTool):
        if choice.function.name not in names:
            raise RequestError(f"tool_choice: `tools` has no function {choice.function.name!r}", "tool_choice")
        names = frozenset({choice.function.name})
    if not names:
        if choice == "required":
            raise RequestError("tool_choice: there are no `tools` to call", "tool_choice")
        return None
    if choice == "none":
        return None
    _check_that_tools_are_known(template, generation, "tools")
    row = known_format(template, generation)
    if row is None:
        problem = (
            "how this model writes calls is not plain from its chat template; its `generation.tool_format` can say"
        )
        raise RequestError(f"tools: {problem}", "tools")
    if request.response_format is not None and request.response_format.type != "text":
        problem = "an answer that keeps to it is no call; leave it out, or `tools`, or make `tool_choice` none"
        raise RequestError(f"response_format: {problem}", "response_format")
    is_forced = choice != "auto"
    if is_forced and request.min_tokens:
        raise RequestError(
            "min_tokens cannot go with a call that has to be made: that says where it ends", "min_tokens"
        )
    tools = tuple(Tool(each.name, each.description, each.parameters) for each in functions)
    return Calls(row, names, tools, only_one=request.parallel_tool_calls is False, forced=is_forced)


def forced_by(calls: Calls) -> Constraint:
    """What makes an answer a call whose arguments match their schema. Raises RequestError where that is too large."""
    schemas = {}
    for number, tool in enumerate(calls.tools):
        if tool.name in calls.names:
            schema = {"type": "object", **(tool.parameters or {"properties": {}, "additionalProperties": False})}
            schemas[tool.name] = schema_text(schema, f"tools.{number}.function.parameters")
    return Constraint("lark", calls.format.grammar(schemas), "tools")


def known_format(template: ChatTemplate | None, generation: GenerationConfig) -> ToolFormat | None:
    """How the model writes calls, by its registry file, else by its template."""
    if generation.tool_format is not None:
        return FORMATS[generation.tool_format]
    return template.tool_format if template is not None else None


def _check_that_tools_are_known(template: ChatTemplate | None, generation: GenerationConfig, param: str) -> None:
    """Raises RequestError where the model would not hear of tools."""
    if generation.prompt_format:
        raise RequestError(f"{param}: this model has a `prompt_format`, which knows no tools", param)
    if template is None or not template.knows_tools:
        raise RequestError(f"{param}: this model has no chat template that knows tools", param)


def messages_of(
    conversation: Sequence[ChatMessage], template: ChatTemplate | None, generation: GenerationConfig
) -> list[Message]:
    """The conversation as templates take it. Raises RequestError for calls where the model would not hear of them."""
    for number, message in enumerate(conversation):
        if message.is_about_tools:
            _check_that_tools_are_known(template, generation, f"messages.{number}")
    return [
        Message(
            role=message.role,
            content=message.text,
            name=message.name,
            calls=tuple(
                (call.id, Call(call.function.name, call.function.arguments.strip() or "{}"))
                for call in message.tool_calls or ()
            ),
            answers=message.tool_call_id,
        )
        for message in conversation
    ]


async def with_calls(answer: AsyncGenerator[Delta, None], calls: Calls) -> AsyncGenerator[Delta, None]:
    """The answers with their calls told from their content."""
    readers: dict[int, _AnswerWithCalls] = {}
    async with aclosing(answer) as deltas:
        async for delta in deltas:
            if delta.index not in readers:
                readers[delta.index] = _AnswerWithCalls(calls)
            for each in readers[delta.index].read(delta):
                yield each


class _AnswerWithCalls:
    def __init__(self, calls: Calls) -> None:
        self._reader = CallReader(calls)
        self._scores: deque[Score] = deque()
        self._calls = 0
        self._has_begun = False

    def read(self, delta: Delta) -> list[Delta]:
        """The pieces that are certain now; at the end of the answer, all that is left.

        There is one for the first delta in any case: it is what the client waits for.
        """
        ended = delta.finish is not None
        found = self._reader.feed(delta.text) + (self._reader.flush() if ended else [])
        self._scores += delta.scores
        scores = tuple(self._due(ended=ended))
        text = "".join(each for each in found if isinstance(each, str))
        calls = [piece for each in found if isinstance(each, Call) for piece in self._pieces(each)]
        bare = replace(delta, text="", scores=(), finish=None)
        pieces = [replace(bare, text=text, scores=scores)] if text or scores or not self._has_begun else []
        pieces += [replace(bare, calls=(piece,)) for piece in calls]
        self._has_begun = True
        if ended:
            finish = "tool_calls" if self._calls and delta.finish == "stop" else delta.finish
            pieces.append(replace(bare, finish=finish))
        return pieces

    def _pieces(self, call: Call) -> Iterator[CallPiece]:
        index, self._calls = self._calls, self._calls + 1
        yield CallPiece(index, uuid.uuid4().hex[:ID_CHARACTERS], call.name)
        yield CallPiece(index, arguments=call.arguments)

    def _due(self, *, ended: bool) -> Iterator[Score]:
        """Tokens of the content, once it is plain that all their text is."""
        while self._scores and (ended or (len(self._scores) > 1 and self._scores[1].offset <= self._reader.settled)):
            score = self._scores.popleft()
            if is_content(score.offset, self._reader.not_content):
                yield score
