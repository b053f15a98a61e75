"""Real clients, each in an environment of its own, talk to the real model and tell what they understood."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from demo.model import REPOSITORY
from tests.compiler.node_yaml import node
from tests.conformance.environments import node_folder, python_of

CLIENTS = Path(__file__).parent / "clients"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
TRUTH = {
    "models": [REPOSITORY],
    "answer": ANSWER,
    "finish": "stop",
    "usage_adds_up": True,
    "streamed": ANSWER,
    "stream_usage": True,
    "cut": ["length", 3],
    "stopped": "The capital of ",
    "several": [0, 1, 2],
    "logprobs": [["The", 3], [" capital", 3]],
    "completion_logprobs": 1,
    "unknown_model": ["NotFoundError", "model_not_found"],
    "too_long": ["BadRequestError", "context_length_exceeded"],
    "context_window": True,
    "wrong_value": ["BadRequestError", None],
    "picture": ["BadRequestError", None],
    "schema": {"city": "str", "people": "int"},
    "tool": ["look_up", ["city", "people"]],
}
"""What every client has to understand, as far as it can ask."""
BASIC = {"answer", "streamed", "unknown_model"}
PYTHON = {
    "openai": ("openai_python.py", set(TRUTH) - {"context_window"}),
    "openai-1": ("openai_python.py", set(TRUTH) - {"context_window"}),
    "langchain": ("langchain.py", BASIC | {"schema", "tool", "stopped", "finish", "usage_adds_up"}),
    "litellm": ("litellm_.py", BASIC | {"stopped", "cut", "context_window", "finish", "usage_adds_up"}),
    "pydantic-ai": ("pydantic_ai_.py", BASIC | {"schema"}),
}
"""Environment -> script, and what it has to tell."""
NODE = {
    "openai.mjs": BASIC | {"schema", "stopped", "finish", "cut", "models", "stream_usage"},
    "ai_sdk.mjs": BASIC | {"schema", "finish"},
}
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONDONTWRITEBYTECODE": "1", "DO_NOT_TRACK": "1"}


def told(command: list[object], url: str) -> dict[str, object]:
    done = subprocess.run(
        [*map(str, command), url, REPOSITORY, QUESTION],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": os.environ["PATH"], **OFFLINE},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


def check(report: dict[str, object], must: set[str]) -> None:
    assert {name: report[name] for name in report if name in TRUTH} == {n: TRUTH[n] for n in report if n in TRUTH}
    assert must <= set(report)


@pytest.mark.parametrize("client", PYTHON)
def test_a_python_client(client: str, url: str) -> None:
    script, must = PYTHON[client]
    check(told([python_of(client), CLIENTS / script], url), must)


@pytest.mark.parametrize("script", NODE)
def test_a_javascript_client(script: str, url: str) -> None:
    check(told([node(), node_folder() / script], url), NODE[script])
