"""What is lowered is what the installed Ray takes, and what the runtime takes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from compiler.pipeline import compile_project, outputs
from compiler.source.project import Project
from runtime.application import GatewayArguments, GatewaySettings, ModelArguments, ModelSettings
from tests.compiler.support import write

REPO = Path(__file__).resolve().parents[3]
CASES = Path(__file__).resolve().parents[1] / "cases"
DOCUMENTS = [
    path
    for folder in (REPO / "generated", *sorted(CASES.glob("*/expected/generated")))
    for path in sorted(folder.rglob("*.yaml"))
]
FREE = {"args", "user_config", "runtime_env", "resources"}
"""Keys whose contents Ray does not declare."""


def unknown_keys(document: Any, schema: type[BaseModel], path: str = "") -> Iterator[str]:
    """Keys that Ray would silently ignore."""
    for key, value in document.items():
        if key not in schema.model_fields:
            yield f"{path}{key}"
        elif key not in FREE:
            below = [model for model in models_in(schema.model_fields[key].annotation) if issubclass(model, BaseModel)]
            for item in value if isinstance(value, list) else [value]:
                if below and isinstance(item, dict):
                    yield from unknown_keys(item, below[0], f"{path}{key}.")


def models_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: "/".join(path.parts[-4:]))
def test_ray_takes_every_key_of_every_document(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert list(unknown_keys(document, ServeDeploySchema)) == []
    ServeDeploySchema.model_validate(document)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: "/".join(path.parts[-4:]))
def test_the_runtime_reads_back_what_was_checked(path: Path) -> None:
    for application in yaml.safe_load(path.read_text())["applications"]:
        settings = application["deployments"][0]["user_config"]
        if application["import_path"] == "runtime.serve:gateway":
            GatewayArguments.model_validate(application["args"])
            assert GatewaySettings.model_validate(settings).model_dump(exclude_none=True) == settings
        else:
            arguments = ModelArguments.model_validate(application["args"])
            assert arguments.model_dump(exclude_none=True) == application["args"]
            assert ModelSettings.model_validate(settings).model_dump(exclude_none=True) == settings


def test_a_key_that_ray_does_not_know_would_be_seen() -> None:
    document = {"applications": [{"name": "a", "import_path": "a:b", "deployments": [{"name": "d", "replicas": 1}]}]}
    assert list(unknown_keys(document, ServeDeploySchema)) == ["applications.deployments.replicas"]


MODEL = """\
deployment_config: {{health_check_period_s: {period}, request_timeout_s: {timeout}, max_surge_percent: {surge}}}
model_config:
  model_id: acme/model
  model_description: {description}
  initialization:
    runtime_env: {{env_vars: {{A: "{variable}"}}}}
    initializer: {{type: llamaCpp, model_filename: {file}.gguf}}
  generation: {{max_batch_size: {slots}, generate_kwargs: {{temperature: {temperature}}}}}
"""
FIRST = {
    "period": 10,
    "timeout": 30,
    "surge": 0,
    "description": "one",
    "variable": "1",
    "file": "a",
    "slots": 2,
    "temperature": 0.5,
}
HOT = {"period": 20, "timeout": 60, "surge": 100, "description": "two", "slots": 4, "temperature": 0.9}
COLD = {"variable": "2", "file": "b"}


def application(root: Path, values: dict[str, Any]) -> dict[str, Any]:
    write(root, {"registry/acme--model.yaml": MODEL.format(**values)})
    document = yaml.safe_load(outputs(compile_project(Project(root)))["generated/serve.yaml"])
    return document["applications"][0]


@pytest.mark.parametrize("name", [*HOT, *COLD])
def test_only_what_needs_new_processes_restarts_them(tmp_path: Path, name: str) -> None:
    before, after = application(tmp_path, FIRST), application(tmp_path, FIRST | {name: (HOT | COLD)[name]})
    restarts = [key for key in ("args", "runtime_env", "import_path") if before.get(key) != after.get(key)]
    assert before != after
    assert bool(restarts) == (name in COLD)


@pytest.mark.parametrize("engine", ["vLLM", "llamaCpp"])
def test_a_replica_has_what_its_engine_computes_with(engine: str) -> None:
    from compiler.lower.serve import Model, model_application
    from runtime.application import ModelSpec

    in_replica = engine == "llamaCpp"
    spec = ModelSpec.model_validate(
        {
            "deployment_config": {
                "ray_actor_options": {"num_cpus": 2, "resources": {} if in_replica else {"m5": 0.01}}
            },
            "model_config": {"model_id": "a/b", "initialization": {"initializer": {"type": engine}}},
            "scaling_config": {
                "num_cpus_per_worker": 3.0,
                "num_gpus_per_worker": 4.0,
                "resources_per_worker": {"g5": 0.5},
            },
        }
    )
    application = model_application(Model("a--b", "registry/a--b.yaml", spec))
    actor = dict(application["deployments"][0]["ray_actor_options"])
    found = actor["num_cpus"], actor.get("num_gpus", 0), actor["resources"]
    assert found == ((5, 4, {"g5": 0.5}) if in_replica else (2, 0, {"m5": 0.01}))
    assert application["args"].scaling_config.resources_per_worker == {"g5": 0.5}
