"""The wire: requests as OpenAI's clients send them. Fields that are unknown are ignored, as OpenAI's clients expect.

Source: OpenAI API reference, "Chat completions" and "Completions"; `top_k`, `min_p`, `repetition_penalty`,
`min_tokens` as vLLM's server names them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.schema.generation import MinP, Penalty, Seed, Temperature, TopK, TopP

MAX_STOPS = 4
"""Stop strings of a request (OpenAI's limit)."""
MAX_STOP_CHARACTERS = 256
MAX_MESSAGES = 1024
MAX_TOKENS_FIELD = 1 << 20
"""Upper bound of every count of tokens in a request; the model's context is checked later."""

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS_FIELD)]


class Wire(BaseModel):
    """Base of what comes over the wire."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(Wire):
    """What to add to a stream."""

    include_usage: bool = False


class GenerateRequest(Wire):
    """What both routes have in common."""

    model: Annotated[str, Field(max_length=256)] = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS_FIELD)] | None = None
    n: Literal[1] | None = 1
    """Answers per prompt; this version gives one."""
    logprobs: Literal[False, 0] | None = None
    """Not offered yet: refused rather than ignored."""


class TextPart(Wire):
    """A piece of a message's content. Only text: nothing is fetched from addresses in a request."""

    type: Literal["text"]
    text: str


class ChatMessage(Wire):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerateRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenCount | None = None
    tools: Annotated[list[object], Field(max_length=0)] | None = None
    """Tool calls are not offered yet: refused rather than ignored."""


class CompletionRequest(GenerateRequest):
    """POST /v1/completions. The prompt goes to the model as it is, without `prompt_format` or chat template."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = False
    """Not offered yet: refused rather than ignored."""

    @property
    def text(self) -> str:
        """The one prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]
