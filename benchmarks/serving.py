"""Servers that have no command of their own: `python -m benchmarks.serving NAME JSON`.

Each runs in the environment of what it serves, so nothing is imported before it is known which.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any


def ours(port: int, folder: str, arguments: dict[str, Any], settings: dict[str, Any]) -> None:
    """A replica's application, without Ray."""
    import uvicorn

    from runtime.api.routes import create_app
    from runtime.application import ModelArguments, ModelSettings
    from runtime.engines.contract import Batching, Engine, load
    from runtime.replica import Replica

    async def load_from_folder(arguments: ModelArguments, batching: Batching) -> Engine:
        return await asyncio.to_thread(load, arguments, Path(folder), batching)

    async def serve(config: uvicorn.Config, replica: Replica) -> None:
        await replica.configure(ModelSettings.model_validate(settings))
        await uvicorn.Server(config).serve()
        await replica.close()

    replica = Replica(ModelArguments.model_validate(arguments), load_from_folder)
    config = uvicorn.Config(create_app(replica), port=port, log_level="warning")
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve(config, replica))


def xllamacpp(port: int, path: str, slots: int, context: int, threads: int) -> None:
    """llama.cpp's own server."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port = path, port
    parameters.n_parallel, parameters.n_ctx = slots, slots * context
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    print(server.listening_address)
    signal.sigwait({signal.SIGTERM})


def ray_serve_llm(port: int, folder: str, model: str, threads: int, engine: dict[str, Any]) -> None:
    """Ray's own way to serve a model with vLLM."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    ray.init("local", num_cpus=4, include_dashboard=False)  # CPUs are permits here: two ingress replicas want one each
    serve.start(http_options={"port": port})
    config = LLMConfig(
        model_loading_config={"model_id": model, "model_source": folder},
        accelerator_config={"kind": "cpu"},
        placement_group_config={"bundles": [{"CPU": threads}]},
        deployment_config={"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        engine_kwargs=engine,
    )
    serve.run(build_openai_app({"llm_configs": [config]}))
    signal.sigwait({signal.SIGTERM})


SERVERS = {each.__name__: each for each in (ours, ray_serve_llm, xllamacpp)}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](**json.loads(sys.argv[2]))
