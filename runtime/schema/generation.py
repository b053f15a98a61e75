"""`model_config.generation`: how a model generates. All of it is hot: it changes without a restart."""

from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from runtime.schema import Schema, contradiction, shared

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]
TopK = NonNegativeInt
Penalty = Annotated[float, Field(ge=-2, le=2)]
SEEDS = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]


class GenerateKwargs(Schema):
    """Defaults of the sampling parameters; a request overrides them one by one."""

    library = "generate"

    do_sample: bool = True
    """`false`: always take the most likely token, whatever the temperature."""
    max_new_tokens: PositiveInt = 256
    """Most tokens of an answer (OpenAI's `max_tokens`)."""
    min_new_tokens: NonNegativeInt = 0
    """Tokens before which neither an end token nor a stopping sequence ends the answer."""
    temperature: Temperature = 1.0
    """Sampling temperature; 0 takes the most likely token."""
    top_p: TopP = 1.0
    """Nucleus sampling: the share of probability kept; 1 is off."""
    top_k: TopK = 0
    """Number of most likely tokens kept; 0 is off."""
    min_p: MinP = 0.0
    """Tokens below this share of the best one's probability are cut; 0 is off."""
    repetition_penalty: PositiveFloat = 1.0
    """Divides the logits of tokens that have been seen, prompt included; 1 is off."""
    presence_penalty: Penalty = 0.0
    """Taken from the logit of every token that the answer holds already; 0 is off."""
    frequency_penalty: Penalty = 0.0
    """Taken from the logit of a token for each time that the answer holds it; 0 is off."""
    seed: Seed | None = None
    """Seed of the sampler; a new one for each request when left out."""

    @model_validator(mode="after")
    def _lengths_are_ordered(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            message = f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens})"
            raise contradiction(message, "min_new_tokens", "max_new_tokens")
        return self


StopSequence = str | NonNegativeInt | list[NonNegativeInt]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


def _no_empty_stop(stops: list[StopSequence]) -> list[StopSequence]:
    if any(stop in ("", []) for stop in stops):
        raise ValueError("an empty stopping sequence would end every answer at once")
    return stops


def _has_instruction(prompt_format: str | None) -> str | None:
    if not prompt_format:
        return prompt_format
    try:
        fields = [part[1:] for part in Formatter().parse(prompt_format) if part[1] is not None]
    except ValueError as error:
        problem = f"not a format string: {error}; write {{{{ and }}}} for literal braces"
        raise PydanticCustomError("prompt_format", "{problem}", {"problem": problem}) from error
    if not fields or any(field != ("instruction", "", None) for field in fields):
        problem = "must be empty or contain `{instruction}`, and no other placeholder"
        raise PydanticCustomError("prompt_format", "{problem}", {"problem": problem})
    return prompt_format


ToolFormatName = Literal["hermes", "llama3", "mistral", "mistral-args", "phi4-mini", "deepseek-r1", "deepseek-v3.1"]
"""The rows of `runtime.text.tools`, which holds what they mean."""


class GenerationConfig(Schema):
    """Batching, sampling defaults, prompt format and stops."""

    max_batch_size: PositiveInt = 1
    """Sequences that a replica generates at the same time (its slots)."""
    batch_wait_timeout_s: NonNegativeFloat = 0.0
    """Seconds that an idle engine waits for more requests before it starts a batch. Requests join a running
    batch at once, so more than 0 pays only for engines that cannot."""
    generate_kwargs: GenerateKwargs = shared(GenerateKwargs)
    """Defaults of the sampling parameters."""
    prompt_format: Annotated[str | None, AfterValidator(_has_instruction)] = None
    """Wraps a user's message; must be empty or contain `{instruction}`. Empty: the model's own chat template."""
    stopping_sequences: Annotated[list[StopSequence], BeforeValidator(_listed), AfterValidator(_no_empty_stop)] = []
    """Where an answer ends, besides the model's end token: strings, token ids, or lists of token ids that must
    follow each other. The stop itself is not sent."""
    tool_format: ToolFormatName | None = None
    """How the model writes tool calls. Left out, it follows from the model's chat template where that shows it."""
