"""llamaCpp: a GGUF file through llama.cpp, many sequences in one decode."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from runtime.engines.spec import EngineSpec, InitializerConfig
from runtime.schema import PATH_PATTERN, Schema, shared


class LlamaKwargs(Schema):
    """The arguments of llama-cpp-python's `Llama()` that this engine honours, under the same names."""

    library = "llama"

    n_ctx: NonNegativeInt = 4096
    """Tokens of context of each sequence, prompt and answer together; 0 is as much as the model was trained for."""
    n_batch: PositiveInt = 512
    """Most tokens that one decode processes, over all sequences."""
    n_ubatch: PositiveInt = 512
    """Most tokens that the hardware processes at once."""
    n_threads: PositiveInt | None = None
    """CPU threads; `scaling_config.num_cpus_per_worker` when left out."""
    n_gpu_layers: Annotated[int, Field(ge=-1)] | None = None
    """Layers to put on GPUs; -1 is all. When left out, all where the worker has a GPU, and else none."""
    main_gpu: NonNegativeInt = 0
    """The GPU that holds the whole model, when it is not split."""
    use_mmap: bool = True
    """Map the file instead of reading it."""
    use_mlock: bool = False
    """Keep the weights from being swapped out."""
    flash_attn: bool | None = None
    """Flash attention; llama.cpp decides when left out."""
    offload_kqv: bool = True
    """Keep the key-value cache on the GPU."""
    pooling_type: Literal["mean", "cls", "last"] | None = None
    """How an embedding model makes one vector of its tokens'; the file says it when left out."""


class LlamaCpp(InitializerConfig):
    """Run a GGUF file with llama.cpp."""

    type: Literal["llamaCpp"] = "llamaCpp"
    model_filename: Annotated[str, Field(pattern=PATH_PATTERN)] | None = None
    """The file in the model's repository to load, such as `model-Q4_K_M.gguf`. May be left out where the
    repository has only one .gguf file."""
    model_init_kwargs: LlamaKwargs = shared(LlamaKwargs)
    """Arguments of `Llama()`."""


SPEC = EngineSpec(
    name="llamaCpp",
    config=LlamaCpp,
    pipelines=("default", "llamacpp"),
    runs_in="replica",
    parallel="gpus",
    loader="runtime.engines.llama_cpp.engine:load",
    embeds=True,
    reads="gguf",
    # Its threads wait for each other some hundred times a token. By default they spin for milliseconds then, and where
    # they have all CPUs, a gateway or a proxy beside them gets its turn seconds late.
    environment=(("GOMP_SPINCOUNT", "1000"),),
)
