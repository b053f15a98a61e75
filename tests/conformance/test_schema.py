"""schemathesis against both applications' own OpenAPI documents, over the scripted engine."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import loading
from runtime.api.routes import create_app
from runtime.application import GatewayModel, GatewaySettings
from runtime.engines.contract import Limits
from runtime.gateway import Gateway
from runtime.replica import Replica
from tests.conformance.environments import python_of
from tests.conftest import at_size
from tests.listening import listening
from tests.runtime.support import ScriptedEngine, arguments_for, settings_for

EXAMPLES = at_size(20, 500)
"""Of each operation."""
NOT_CHECKED = {
    "positive_data_acceptance": "what fits the schema may still be too long for the model, or name another one",
    "unsupported_method": "a POST without JSON is refused before anybody looks at its path",
}


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    engine = ScriptedEngine()
    engine.limits = Limits(context_length=4000, vocabulary_size=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", lambda *_: engine)
        patch.setattr(loading, "model_folder", lambda *_: Path())
        replica = Replica(arguments_for({"type": "llamaCpp"}))
        asyncio.run(replica.configure(settings_for(max_waiting_requests=64)))
    with listening(create_app(replica)) as address:
        yield address


@pytest.fixture(scope="module")
def gateway(model: str) -> Iterator[str]:
    service = Gateway(lambda: {})
    offered = GatewayModel(id="acme/model", application="acme--model", route_prefix="")
    service.configure(GatewaySettings(upstream=model, models=[offered]))
    with listening(service.create_app()) as address:
        yield address


@pytest.mark.parametrize("application", ["model", "gateway"])
def test_no_request_brings_a_server_error_or_an_answer_that_is_not_declared(
    application: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(application)
    program = python_of("schemathesis").with_name("schemathesis")
    options = [
        "--max-examples",
        str(EXAMPLES),
        "--exclude-checks",
        ",".join(NOT_CHECKED),
        "--continue-on-failure",
        "--no-color",
    ]
    options += ["--seed", "1"] if EXAMPLES == 20 else []
    command = [str(program), "run", f"{url}/openapi.json", "--no-color", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
