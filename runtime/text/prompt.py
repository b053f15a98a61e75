"""Prompts: the model's own chat template in a sandbox, or the registry's `prompt_format`.

The dialect of chat templates is that of transformers, "Chat templates".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import RequestError
from runtime.text.renderer import RENDERER, RenderingEnded
from runtime.text.sandbox import CPU_S, MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


class ChatTemplate:
    """The template of a model."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._source = source
        self._special_tokens = special_tokens

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that makes the model answer. Blocks.

        Raises RequestError when the template refuses the messages, or is none; EngineError when nothing renders.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        variables = {**self._special_tokens, "messages": turns, "add_generation_prompt": True}
        try:
            answer = RENDERER.render(self._source, variables)
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
