"""The wire: requests as OpenAI's clients send them. Fields that are unknown are ignored, as OpenAI's clients expect;
those that are known to change the answer and are not offered are refused.

Source: OpenAI API reference, "Chat completions" and "Completions"; `top_k`, `min_p`, `repetition_penalty`,
`min_tokens`, `stop_token_ids` and many of those that are refused as vLLM's server names them.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, model_validator

from runtime.api.messages import ChatMessage, ToolChoice, Tools, check_answers
from runtime.api.wire import Wire, variant, variant_by
from runtime.schema.generation import MinP, Penalty, Seed, Temperature, TopK, TopP

MAX_STOPS = 4
"""Stop strings of a request (OpenAI's limit)."""
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 64
"""Stops by token ids of a request, and tokens of each."""
MAX_ANSWERS = 16
"""Answers to one request."""
MAX_BIASES = 1024
"""Tokens whose logits a request may change."""
MAX_MESSAGES = 1024
MAX_PROMPTS = 128
"""Prompts of a request."""
MAX_ANSWERS_TOGETHER = 128
"""Answers to all prompts of a request together."""
MAX_SCORED_TOKENS = 1 << 17
"""Tokens of prompts that a request may have scored; each takes about a kilobyte until it is sent."""
MAX_TOKENS_FIELD = 1 << 20
"""Upper bound of every count of tokens in a request; the model's context is checked later."""

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[
    Annotated[Stop, variant("text")] | Annotated[list[Stop], Field(max_length=MAX_STOPS), variant("texts")],
    variant_by(lambda stop: "texts" if isinstance(stop, list) else "text"),
]
StopTokens = Annotated[list[NonNegativeInt], Field(min_length=1, max_length=MAX_STOP_TOKENS, fail_fast=True)]
StopTokenOrTokens = Annotated[
    Annotated[NonNegativeInt, variant("token")] | Annotated[StopTokens, variant("tokens")],
    variant_by(lambda stop: "tokens" if isinstance(stop, list) else "token"),
]
StopTokenIds = Annotated[list[StopTokenOrTokens], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS_FIELD)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
"""The model's vocabulary is checked later."""
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
"""`fail_fast` here and elsewhere: where all of a long list is wrong, the first error of it is enough."""
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
"""A token's id where it is a key in JSON."""
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[TokenKey, Bias], Field(max_length=MAX_BIASES, fail_fast=True)]

NOT_OFFERED = frozenset({
    "allowed_token_ids", "audio", "bad_words", "chat_template", "chat_template_kwargs", "continue_final_message",
    "documents", "early_stopping", "echo", "functions", "guided_choice", "guided_grammar", "guided_json",
    "guided_regex", "ignore_eos", "include_stop_str_in_output", "kv_transfer_params", "logits_processors",
    "logprob_token_ids", "max_completion_tokens", "mm_processor_kwargs", "prompt_embeds", "repetition_detection",
    "return_prompt_text", "return_token_ids", "return_token_offsets", "return_tokens_as_token_ids",
    "structured_outputs", "suffix", "tools", "top_logprobs", "truncate_prompt_tokens", "use_beam_search", "verbosity",
    "vllm_xargs", "watermarking", "web_search_options",
})  # fmt: skip
"""Fields that a route has not declared, and refuses unless they are null, false or empty."""

OFFERED_ONLY: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "function_call": ("none", "auto"),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "thinking_token_budget": (),
    "tool_choice": ("none", "auto"),
}
"""Fields that are refused unless they are null or have one of these values, which is what happens anyway."""


class StreamOptions(Wire):
    """What to add to a stream."""

    include_usage: bool = False


class JsonSchema(Wire):
    """OpenAI's `json_schema`. The schema is kept to whether it is `strict` or not."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, object], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Wire):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` goes with the type json_schema, and with no other")
        return self


class ModelRequest(Wire):
    """What concerns one of the models."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=256)] = ""

    def refused(self) -> str | None:
        """The first field that asks for what is not offered."""
        for name, value in (self.model_extra or {}).items():
            only = OFFERED_ONLY.get(name)
            if (name in NOT_OFFERED and value) or (only is not None and value not in (None, *only)):
                return name
        return None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The fields that nobody knows."""
        known = NOT_OFFERED | OFFERED_ONLY.keys()
        return tuple(name for name in self.model_extra or () if name not in known)


class GenerateRequest(ModelRequest):
    """What both routes that answer have in common."""

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
    stop_token_ids: StopTokenIds | None = None
    """Ids, and lists of ids that must follow each other."""
    logit_bias: Biases | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    """Answers to the prompt; the seed of each is one above that of the one before."""
    best_of: int | None = None
    """Nothing but what `n` is."""


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(GenerateRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[Messages, AfterValidator(check_answers)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    """`auto` when left out."""
    parallel_tool_calls: bool | None = None
    """`false`: one call at the most."""


Text = Annotated[str, Field(min_length=1)]


def kind_of(prompt: Any) -> str:
    """Which of the four kinds of prompt it is meant to be."""
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else ""
    return "tokens" if isinstance(first, int) else "token_lists" if isinstance(first, list) else "texts"


Prompt = Annotated[
    Annotated[Text, variant("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), variant("texts")]
    | Annotated[TokenIds, variant("tokens")]
    | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS, fail_fast=True), variant("token_lists")],
    variant_by(kind_of),
]


def each_of(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """One text or several, one list of token ids or several: each by itself."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [each for each in given if not isinstance(each, int)]


def params_of(field: str, given: Sequence[object]) -> list[str]:
    """How errors name each of several; one alone is the field."""
    return [field] if len(given) == 1 else [f"{field}.{number}" for number in range(len(given))]


class CompletionRequest(GenerateRequest):
    """POST /v1/completions. A prompt goes to the model as it is, without `prompt_format` or chat template."""

    prompt: Prompt
    """One or several, as text or as token ids."""
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS_FIELD)] | None = None
    """0 only with `echo`."""
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each by itself."""
        return each_of(self.prompt)


class TokenizeRequest(ModelRequest):
    """POST /tokenize: a prompt as a completion takes it, or messages as a chat does."""

    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True
    """With the start token that the model wants."""
    return_token_strs: bool = False
    """Each token by its text, too."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self


class DetokenizeRequest(ModelRequest):
    """POST /detokenize."""

    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
