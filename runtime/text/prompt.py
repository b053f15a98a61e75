"""Prompts: the model's own chat template in a sandbox, or the registry's `prompt_format`.

A chat template comes with the weights and is a program, so it is untrusted: it runs in Jinja's immutable sandbox
and sees nothing but the conversation. Source of its dialect: transformers, "Chat templates".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import RequestError

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


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


class ChatTemplate:
    """A compiled template of a model."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """Raises RequestError when a conversation comes, not here, if `source` is no template: completions work."""
        self._special_tokens = special_tokens
        self._template: Template | None = None
        self._problem = ""
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            self._problem = str(error)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that makes the model answer. Raises RequestError when the template refuses the messages."""
        if self._template is None:
            raise RequestError(f"the model's chat template is broken: {self._problem}", "messages")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, **self._special_tokens)
        except _PROGRAM_ERRORS as error:
            raise RequestError(f"the model's chat template refuses these messages: {error}", "messages") from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    """Jinja's own filter escapes HTML, which models have not been trained on."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


def format_instructions(prompt_format: str, messages: Sequence[Message]) -> str:
    """A conversation through `prompt_format`, for models that know one instruction and its answer.

    System messages go in front of the next instruction; the answers given so far follow theirs.
    """
    prompt, preamble = "", ""
    for message in messages:
        if message.role == "assistant":
            prompt += message.content + "\n"
        elif message.role == "user":
            prompt += prompt_format.format(instruction=preamble + message.content)
            preamble = ""
        else:
            preamble += message.content + "\n\n"
    if not messages or messages[-1].role != "user":
        raise RequestError("the last message must be the user's", "messages")
    return prompt
