"""The lock of a model's weights: which bytes a deploy loads, next month as today.

`llm-serve lock` writes `registry/locks/<model>.yaml`; the compiler puts `WeightsLock`, the part that a replica needs,
into the application's `args`, so that other bytes are a restart that somebody has reviewed.
"""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from runtime.schema import PATH_PATTERN, Schema, contradiction, shared

COMMIT_PATTERN = r"^[0-9a-f]{40}$"

Commit = Annotated[str, Field(pattern=COMMIT_PATTERN)]
"""A git commit, all of its 40 digits."""


class LockedFile(Schema):
    """One file of the model."""

    path: Annotated[str, Field(pattern=PATH_PATTERN, max_length=255)]
    """Where it lies in the repository."""
    size: NonNegativeInt
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of its content, in hex."""


class WeightsLock(Schema):
    """What a replica loads, and nothing else."""

    commit: Commit
    """The commit of the repository."""
    files: Annotated[list[LockedFile], Field(min_length=1)]
    """Every file of the model that is loaded."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        check_names_differ(self.files)
        return self


class WeightsFacts(Schema):
    """What the config and the headers of the weights say of the model; what they do not say is left out."""

    architecture: str | None = None
    """Class of the model, such as `LlamaForCausalLM`, or the architecture that a GGUF file names."""
    layers: PositiveInt | None = None
    """Transformer blocks."""
    heads: PositiveInt | None = None
    """Attention heads of a layer."""
    kv_heads: PositiveInt | None = None
    """Heads of a layer that have keys and values of their own."""
    hidden_size: PositiveInt | None = None
    """Width of a token's vector."""
    vocabulary: PositiveInt | None = None
    """Token ids that the model knows."""
    context_length: PositiveInt | None = None
    """Tokens that the model was made for."""
    dtype: str | None = None
    """Number format of most of the weights, such as `bfloat16` or `Q4_K`."""
    parameters: PositiveInt | None = None
    """Numbers in the weights."""


class ModelLock(Schema):
    """A lock file: where a model's bytes are from, what they are, and what is known of them."""

    repository: str
    """The hub repository."""
    revision: str
    """The branch, tag or commit that was asked for."""
    commit: Commit
    """The commit that it stood for."""
    licence: str | None = None
    """Licence that the repository names."""
    gated: bool = False
    """Whether the hub gives the files only to accounts that were granted access."""
    facts: WeightsFacts = shared(WeightsFacts)
    """What is known of the model."""
    files: Annotated[list[LockedFile], Field(min_length=1)]
    """Every file of the model that is loaded."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        check_names_differ(self.files)
        return self

    @property
    def weights(self) -> WeightsLock:
        """The part that a replica needs."""
        return WeightsLock(commit=self.commit, files=self.files)


def check_names_differ(files: list[LockedFile]) -> None:
    """Raise where two paths are one on a file system that does not tell upper from lower case."""
    known: dict[str, str] = {}
    for each in files:
        other = known.setdefault(each.path.casefold(), each.path)
        if other is not each.path:
            raise contradiction(f"`{other}` and `{each.path}` are one name on some file systems", "files")
