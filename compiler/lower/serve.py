"""ModelSpec -> Ray Serve documents (the schema of `serve deploy`, Ray 2.60).

What needs new processes goes into `args` and `runtime_env`, what does not into `user_config`; Ray restarts an
application for the first and reconfigures it for the second.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from compiler.check.cluster import ClusterSpec, HttpOptions
from compiler.check.validate import SHARED
from compiler.facts import Facts
from compiler.kept import once_in
from compiler.source.tree import in_order
from runtime.application import (
    GatewayModel,
    GatewaySettings,
    ModelArguments,
    ModelDetails,
    ModelSettings,
    ModelSpec,
)
from runtime.schema import Schema
from runtime.schema.deployment import RayActorOptions, RuntimeEnv
from runtime.schema.lock import WeightsLock

MODEL_IMPORT_PATH = "runtime.serve:model"
GATEWAY_IMPORT_PATH = "runtime.serve:gateway"
GATEWAY = "gateway"
"""Name of the gateway application."""

MAX_ONGOING_HEADROOM = 8
"""Ray sends a replica so many requests more than it accepts: those are refused by the replica, in OpenAI's words,
and not by Ray's proxy, in plain text."""
GATEWAY_MAX_ONGOING = 1024
"""Requests that one gateway replica forwards at a time; each costs it one connection."""

LOGGING = {"encoding": "JSON", "enable_access_log": False}
"""Of all of Serve's processes. The runtime's own record of each request says more than Ray's access log."""

Document = dict[str, Any]
"""Plain data, in the order in which it is written, and sections of specs as they are."""


class Model(NamedTuple):
    """A checked model, the file that declares it, and the lock of its weights."""

    name: str
    file: str
    spec: ModelSpec
    lock: WeightsLock | None = None


def route_prefix(name: str) -> str:
    """Where a model's own application listens."""
    return f"/{name}"


def head(http: HttpOptions) -> Document:
    """A Serve config up to its applications."""
    return {"proxy_location": "EveryNode", "http_options": http, "logging_config": LOGGING}


def model_application(model: Model) -> Document:
    """One model as one Serve application."""
    spec = model.spec
    initialization = spec.model.initialization
    runtime_env = initialization.runtime_env
    arguments = ModelArguments(
        name=model.name,
        declared_in=model.file,
        model_id=spec.model.model_id,
        warmup=spec.model.warmup,
        embeds=spec.model.embeds or None,
        initialization=initialization.model_copy(update={"runtime_env": None}),  # Ray applies it, not we
        lock=model.lock,
        scaling_config=spec.scaling_config,
        environment=(runtime_env.from_node or None) if runtime_env else None,
    )
    application: Document = {
        "name": model.name,
        "route_prefix": route_prefix(model.name),
        "import_path": MODEL_IMPORT_PATH,
    }
    if runtime_env is not None:
        application["runtime_env"] = _environment(runtime_env)
    return {**application, "args": arguments, "deployments": [_model_deployment(spec)]}


def _model_deployment(spec: ModelSpec) -> Document:
    config = spec.deployment_config
    slots = spec.model.generation.max_batch_size
    waiting = 2 * slots if config.max_waiting_requests is None else config.max_waiting_requests
    settings = ModelSettings(
        generation=spec.model.generation,
        max_input_words=spec.model.max_input_words,
        max_waiting_requests=waiting,
        request_timeout_s=config.request_timeout_s,
        card=spec.model.card,
    )
    scaling = (
        {"num_replicas": config.num_replicas}
        if config.autoscaling_config is None
        else {"autoscaling_config": config.autoscaling_config}
    )
    return {
        "name": "Model",
        **scaling,
        "max_ongoing_requests": config.max_ongoing_requests or slots + waiting + MAX_ONGOING_HEADROOM,
        "max_queued_requests": config.max_queued_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1.0},
        "graceful_shutdown_wait_loop_s": config.graceful_shutdown_wait_loop_s,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
        "max_surge_percent": config.max_surge_percent,
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": config.health_check_timeout_s,
        "ray_actor_options": _actor_options(spec),
        "user_config": settings,
    }


def _actor_options(spec: ModelSpec) -> Document | RayActorOptions:
    """Where the replica runs. An engine that computes in it gives it the worker's resources.

    One that has workers makes a placement group for them when it starts: a bundle each, as `scaling_config` says.
    """
    options = spec.deployment_config.ray_actor_options
    scaling = spec.scaling_config
    if spec.model.initialization.engine.runs_in != "replica":
        return options
    return {
        **_fields(options),
        "num_cpus": options.num_cpus + scaling.num_cpus_per_worker,
        "resources": scaling.resources_per_worker,
        "num_gpus": scaling.num_gpus_per_worker,
    }


def gateway_application(cluster: ClusterSpec, models: Iterable[Facts]) -> Document:
    """The gateway of a cluster, with all models that it offers."""
    offers = [offer for model in models for offer in _offers(model)]
    settings = GatewaySettings(
        upstream=_upstream(cluster.http), wait_for_model_s=cluster.gateway.wait_for_model_s, models=offers
    )
    deployment = {
        "name": "Gateway",
        "num_replicas": cluster.gateway.num_replicas,
        "max_ongoing_requests": GATEWAY_MAX_ONGOING,
        "max_queued_requests": GATEWAY_MAX_ONGOING,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1.0},
        "ray_actor_options": {"num_cpus": 0.0},
        "user_config": settings,
    }
    return {
        "name": GATEWAY,
        "route_prefix": "/",
        "import_path": GATEWAY_IMPORT_PATH,
        "args": {},
        "deployments": [deployment],
    }


def _offers(model: Facts) -> Iterator[GatewayModel]:
    """The model, and it with each of its adapters."""
    card = ModelDetails(**model.card)
    route = {"application": model.name, "route_prefix": route_prefix(model.name)}
    yield GatewayModel(id=model.model_id, **route, card=card)
    for name in model.adapters:
        yield GatewayModel(id=name, **route, card=card.of_adapter(), parent=model.model_id)


def _upstream(http: HttpOptions) -> str:
    """The proxy of whatever node the gateway runs on: every node that has a replica has one."""
    host = "127.0.0.1" if http.host == "0.0.0.0" else http.host  # noqa: S104 (compared, not bound)
    return f"http://[{host}]:{http.port}" if ":" in host else f"http://{host}:{http.port}"


@once_in(SHARED)
def _environment(runtime_env: RuntimeEnv) -> Document:
    return {key: in_order(value) for key, value in sorted(runtime_env.declared().items())}


def _fields(section: Schema) -> Document:
    """What a section says, to be said elsewhere with something added."""
    return {name: value for name, value in vars(section).items() if value is not None}
