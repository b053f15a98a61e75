"""What a cluster file says. It is the compiler's own: the runtime never sees it."""

from typing import Annotated

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt

from runtime.schema import Schema, shared


class HttpOptions(Schema):
    """Where Ray's proxies listen."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")] = "127.0.0.1"
    """Address to listen on. Ray's own default is every interface."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port. Ray ignores a change of it until Serve is shut down."""
    request_timeout_s: PositiveFloat = 600.0
    """Seconds after which Ray ends a request, streams included. Ray's own default is no limit."""


class GatewayOptions(Schema):
    """The gateway application."""

    num_replicas: PositiveInt = 1
    """Replicas of the gateway."""
    wait_for_model_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds that a request waits for a model that starts or has scaled to zero, before it gets a 503. `0`: it gets
    one at once, and a model that has scaled to zero starts all the same."""


class ClusterSpec(Schema):
    """A cluster: which models it serves, and how it is reached."""

    models: Annotated[list[str], Field(min_length=1)]
    """Names of model files, or globs such as `mosaicml--*`."""
    http: HttpOptions = shared(HttpOptions)
    """Where Ray's proxies listen."""
    hardware: list[str] = []
    """The hardware profiles of its nodes, such as `hardware/g5`. When left out: all that base/hardware/ has."""
    require_locks: bool = False
    """Whether every model of it must have a lock (`llm-serve lock`)."""
    overlay: dict[str, JsonValue] = {}
    """A layer over every model of the cluster, in the form of a model file: tags and all."""
    gateway: GatewayOptions = shared(GatewayOptions)
    """The gateway application."""
