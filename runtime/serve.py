"""What Ray Serve imports: the builders of the two kinds of application. The only module that knows Ray.

The compiler's documents name `runtime.serve:model` and `runtime.serve:gateway`. Ray reads the type of a builder's
argument from its annotation, so this module must not postpone annotations.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime import tracing, workers
from runtime.api.routes import create_app
from runtime.application import GatewayArguments, GatewaySettings, ModelArguments, ModelSettings
from runtime.availability import Condition
from runtime.errors import ConfigError, LLMServeError
from runtime.gateway import Gateway as GatewayService
from runtime.logs import forward_to
from runtime.metrics import GATEWAY_METRICS, MODEL_METRICS, Metrics
from runtime.node_metrics import NodeMetrics
from runtime.replica import Replica, load_here

_log = logging.getLogger(__name__)

_COMES_UP = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOYING, ApplicationStatus.UNHEALTHY)
"""Ray tries until there is a replica."""


class Model:
    """A replica of one model. Ray calls `reconfigure` before the first request, and again for new settings."""

    def __init__(self, arguments: ModelArguments) -> None:
        in_replica = arguments.initialization.engine.runs_in == "replica"
        self.export = NodeMetrics(MODEL_METRICS)
        metrics = Metrics(MODEL_METRICS, self.export.record)
        self.replica = Replica(arguments, load_here if in_replica else workers.start, metrics)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _under_ray(create_app(self.replica, tracing.tracer("llm-serve-model")))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        try:
            await self.replica.configure(ModelSettings.model_validate(user_config))
        except LLMServeError as error:
            raise error.with_traceback(None) from None  # `serve status` shows it: the message says it all

    async def check_health(self) -> None:
        await self.replica.check_health()
        await self.replica.measure()
        self.export.refresh()

    async def __del__(self) -> None:
        await self.replica.close()


class Gateway:
    """One replica of the gateway."""

    def __init__(self) -> None:
        self.export = NodeMetrics(GATEWAY_METRICS)
        metrics = Metrics(GATEWAY_METRICS, self.export.record)
        self.service = GatewayService(conditions, metrics, tracing.tracer("llm-serve-gateway"))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return _under_ray(self.service.create_app())

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self.service.configure(GatewaySettings.model_validate(user_config))

    def check_health(self) -> None:
        self.export.refresh()


def _under_ray(app: ASGIApp) -> ASGIApp:
    """The application as a part of Ray Serve, which keeps the logs, and puts requests' ids on answers."""
    forward_to("ray.serve")

    async def without_id(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [each for each in message["headers"] if each[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_without_id)

    return without_id


_ModelDeployment = serve.deployment(serve.ingress()(Model))
_GatewayDeployment = serve.deployment(serve.ingress()(Gateway))


def model(arguments: ModelArguments) -> Application:
    """Builder of a model's application."""
    return _ModelDeployment.bind(arguments)


def gateway(_: GatewayArguments) -> Application:
    """Builder of the gateway's application."""
    return _GatewayDeployment.bind()


def conditions() -> Mapping[str, Condition]:
    """How every application is. Those that Ray does not tell of are not there."""
    try:
        applications = serve.status().applications
    except (RayError, RayServeException) as error:  # knowing it only makes the client's error better
        _log.warning("cannot ask Ray Serve which applications run: %s", error)
        return {}
    return {
        name: condition_of(application)
        for name, application in applications.items()
        # Ray looks at new arguments: the replicas of the old ones, where there are some, still answer
        if application.deployments or application.status != ApplicationStatus.DEPLOYING
    }


def condition_of(application: ApplicationStatusOverview) -> Condition:
    """Ready is what has a running replica, whatever becomes of its others."""
    deployments = application.deployments.values()
    if any(deployment.replica_states.get("RUNNING", 0) for deployment in deployments):
        return Condition("ready")
    if application.status == ApplicationStatus.RUNNING:
        states = [state for deployment in deployments for state, count in deployment.replica_states.items() if count]
        if set(states) <= {"STOPPING"}:
            return Condition("scaled_to_zero", "it has scaled to zero, and starts now")
        return Condition("starting", "a replica starts")
    messages = [deployment.message for deployment in deployments if deployment.message]
    reason = _reason(messages[0] if messages else application.message)
    said = f"{application.status.value}: {reason}" if reason else application.status.value
    return Condition("starting" if application.status in _COMES_UP else "failed", said)


def _reason(message: str) -> str:
    """What our own error says in a message of Ray's, which wraps it into a traceback; else its first line."""
    _, found, reason = message.rpartition(f"{ConfigError.__module__}.{ConfigError.__qualname__}: ")
    return reason.strip() if found else message.partition("\n")[0]
