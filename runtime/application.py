"""The contract between compiler and runtime: what a model is, and what of it a deployed application receives.

A change of `ModelArguments` needs new processes (weights, dtype, environment); a change of `ModelSettings`
reaches running replicas. That split is the reason why editing a temperature never restarts a model.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from runtime.engines import ENGINES, engine_named
from runtime.engines.spec import EngineSpec, InitializerConfig
from runtime.schema import PATH_PATTERN, Schema, contradiction, shared
from runtime.schema.deployment import DeploymentConfig, RuntimeEnv
from runtime.schema.generation import GenerationConfig
from runtime.schema.lock import COMMIT_PATTERN, WeightsLock
from runtime.schema.scaling import ScalingConfig
from runtime.schema.weights import RepositoryName, S3MirrorConfig

RESERVED_NAMES = frozenset({
    "detokenize", "docs", "gateway", "health", "metadata", "metrics", "models", "openapi.json", "query", "tokenize",
    "v1",
})  # fmt: skip
"""No model may be called so: a model's name is its route, and would hide one of the gateway's, or the gateway."""


def _canonical_type(value: Any) -> Any:
    """Any letter case of an engine's name is its name."""
    if isinstance(value, dict) and isinstance(value.get("type"), str) and (row := engine_named(value["type"])):
        return {**value, "type": row.name}
    return value


if TYPE_CHECKING:
    Initializer = InitializerConfig
else:
    Initializer = Annotated[
        Union[tuple(row.config for row in ENGINES)],  # noqa: UP007 (the members come from the table)
        Field(discriminator="type"),
        BeforeValidator(_canonical_type),
    ]


class Initialization(Schema):
    """How to get the model into memory."""

    runtime_env: RuntimeEnv | None = None
    """Ray runtime environment of the model's processes: packages, environment variables."""
    s3_mirror_config: S3MirrorConfig | None = None
    """A mirror to load from instead of the hub."""
    hf_model_id: RepositoryName | None = None
    """The hub repository, where it is not `model_id`."""
    revision: Annotated[str, Field(pattern=PATH_PATTERN)] = "main"
    """Branch, tag or commit of the hub repository. Pins weights, code and tokenizer alike."""
    initializer: Initializer
    """The engine and its arguments; `type` chooses it."""
    pipeline: Literal["default", "defaulttransformers", "llamacpp", "vllm"] | None = None
    """llm-serve pipeline class. Follows from the engine; leave it out."""

    @property
    def engine(self) -> EngineSpec:
        """The table row of `initializer.type`."""
        engine = engine_named(self.initializer.type)
        assert engine is not None  # the discriminated union admits the table's names only
        return engine

    @property
    def commit(self) -> str | None:
        """The commit that `revision` is; None for the name of one, which may move on."""
        return self.revision if re.fullmatch(COMMIT_PATTERN, self.revision) else None

    @property
    def pins_code(self) -> bool:
        """Whether nobody can change the repository's code, without a lock: a mirror says itself what it holds."""
        mirror = self.s3_mirror_config
        return self.commit is not None and not (mirror and mirror.bucket_uri)

    @model_validator(mode="after")
    def _pipeline_fits_engine(self) -> Self:
        if self.pipeline is not None and self.pipeline not in self.engine.pipelines:
            raise contradiction(
                f"pipeline `{self.pipeline}` does not go with {self.engine.name}; "
                f"leave it out, or use one of: {', '.join(self.engine.pipelines)}",
                "pipeline",
            )
        return self


class ModelCard(Schema):
    """What `/v1/models` says of a model."""

    task: str = "text-generation"
    """Hugging Face task of the model."""
    url: str | None = None
    """Where people read about the model."""
    description: str | None = None
    """One line about the model."""

    def of_adapter(self) -> Self:
        """What of the model's holds for its adapters."""
        return self.model_copy(update={"url": None, "description": None})


EMBEDDING_TASKS = ("feature-extraction", "sentence-similarity")
"""Tasks of models that turn texts into vectors."""


class ModelDetails(ModelCard):
    """What `/v1/models` says besides of a model, where it is known."""

    engine: str | None = None
    """Name of the engine that runs it."""
    max_input_words: PositiveInt | None = None
    """Most words of a prompt."""
    context_length: PositiveInt | None = None
    """Tokens of prompt and answer together; known once the model is loaded."""


class ModelConfig(Schema):
    """The model itself."""

    model_id: RepositoryName
    """Public name of the model, and its Hugging Face repository unless `initialization.hf_model_id` says otherwise."""
    model_task: str = "text-generation"
    """Hugging Face task of the model. With `feature-extraction` or `sentence-similarity` it makes embeddings instead
    of answers."""
    model_url: str | None = None
    """Where people read about the model."""
    model_description: str | None = None
    """One line about the model."""
    max_input_words: PositiveInt | None = None
    """Most words of a prompt; only the model's context limits it when left out."""
    warmup: bool = False
    """Answer in every slot at once, and once over the whole context, before the replica reports ready."""
    initialization: Initialization
    """How to get the model into memory."""
    generation: GenerationConfig = shared(GenerationConfig)
    """How the model generates."""

    @model_validator(mode="after")
    def _adapters_have_other_names(self) -> Self:
        if self.model_id in self.initialization.initializer.adapters:
            raise contradiction(f"an adapter is called like the model, {self.model_id}", "model_id")
        return self

    @property
    def embeds(self) -> bool:
        """Whether the model turns texts into vectors."""
        return self.model_task in EMBEDDING_TASKS

    @model_validator(mode="after")
    def _engine_can_embed(self) -> Self:
        engine = self.initialization.engine
        if self.embeds and not engine.embeds:
            able = ", ".join(row.name for row in ENGINES if row.embeds)
            message = (
                f"{engine.name} makes no embeddings, which model_task `{self.model_task}` asks for; use one of: {able}"
            )
            raise contradiction(message, "model_task")
        return self

    @property
    def card(self) -> ModelCard:
        """The fields that only inform."""
        return ModelCard(task=self.model_task, url=self.model_url, description=self.model_description)


class ModelSpec(Schema):
    """One model, complete: what all layers of its registry file say together."""

    enabled: bool = True
    """`false` keeps the file but compiles no application for it."""
    deployment_config: DeploymentConfig = shared(DeploymentConfig)
    """The Ray Serve deployment."""
    model: Annotated[ModelConfig, Field(alias="model_config")]
    """The model (`model_config` in YAML)."""
    scaling_config: ScalingConfig = shared(ScalingConfig)
    """The workers of one replica."""


class ModelArguments(Schema):
    """`args` of a model's application: a change restarts its replicas."""

    name: str
    """Name of the registry file, of the application and of its route."""
    declared_in: str
    """Path of the registry file, for messages."""
    model_id: str
    """Public name of the model."""
    warmup: bool = False
    """Answer in every slot at once, and once over the whole context, before the replica reports ready."""
    embeds: Literal[True] | None = None
    """The model turns texts into vectors instead of answering."""
    initialization: Initialization
    """How to get the model into memory."""
    lock: WeightsLock | None = None
    """The files that may be loaded, with their digests; any that the sources have when left out."""
    scaling_config: ScalingConfig
    """The workers of one replica."""
    environment: dict[str, str] | None = None
    """Variables of the model's processes that take the value of one of the node's: name -> the node's name."""

    @property
    def repository(self) -> str:
        """The hub repository of the weights."""
        return self.initialization.hf_model_id or self.model_id


class ModelSettings(Schema):
    """`user_config` of a model's deployment: a change reaches running replicas."""

    generation: GenerationConfig
    """How the model generates."""
    max_input_words: PositiveInt | None = None
    """Most words of a prompt."""
    max_waiting_requests: NonNegativeInt
    """Requests that may wait for a slot."""
    request_timeout_s: PositiveFloat | None = None
    """Seconds that an answer may take, waiting included; None: as long as it likes."""
    card: ModelCard = shared(ModelCard)
    """What `/v1/models` says of the model."""


class GatewayArguments(Schema):
    """`args` of the gateway application. Empty: all it needs is hot."""


class GatewayModel(Schema):
    """A model that the gateway offers."""

    id: str
    """Public name, as in requests' `model`."""
    application: str
    """Ray Serve application, for its status."""
    route_prefix: str
    """Where the application listens."""
    card: ModelDetails = shared(ModelDetails)
    """What `/v1/models` says of the model."""
    parent: str | None = None
    """The model that this is an adapter of."""


class GatewaySettings(Schema):
    """`user_config` of the gateway: adding a model restarts nothing else."""

    upstream: str
    """Where the node's own Ray proxy listens: the way to the models' routes."""
    wait_for_model_s: NonNegativeFloat = 0.0
    """Seconds that a request waits for a model that starts or has scaled to zero, before it gets a 503."""
    models: list[GatewayModel]
    """The models of the cluster."""
