"""What an editor says of the sources: a real YAML language server with the schemas and settings that are checked in."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.reference.editor import files, modeline, schemas
from compiler.source.tags import TAGS
from runtime.engines import ENGINES
from tests.compiler.reference.language_server import LanguageServer

REPO = Path(__file__).resolve().parents[3]
SOURCES = sorted(
    path.relative_to(REPO).as_posix() for folder in ("base", "registry") for path in (REPO / folder).rglob("*.yaml")
)
MODEL, PROFILE, CLUSTER = "registry/acme--a.yaml", "base/engines/acme.yaml", "registry/clusters/acme.yaml"
LOCK = "registry/locks/acme--a.yaml"

TAGGED = """\
extends: [engines/vllm, hardware/g5]
waive: {W203: the reason}
deployment_config:
  autoscaling_config: !unset
  max_queued_requests: !template "{{ model_id }}"
  ray_actor_options: !replace {num_cpus: 1}
model_config:
  model_id: acme/a
  warmup: !template "{{ model_config.x }}"
  generation:
    max_batch_size: !final 8
    generate_kwargs: !final {temperature: 0.5, top_p: !force 0.9}
    stopping_sequences: !append ["a", 7]
    prompt_format: !unset
  initialization:
    runtime_env: {pip: !prepend [einops], env_vars: {HF_TOKEN: {from_env: HF_TOKEN}}}
    initializer: {type: VLLM, engine_kwargs: {max_model_len: 4096}}
scaling_config:
  num_workers: !force 2
  resources_per_worker: {instance_type_g5: !unset }
"""

LOCKED = f"""\
repository: acme/a
revision: main
commit: {"c0" * 20}
licence: apache-2.0
facts: {{layers: 2}}
files:
  - path: model.safetensors
    size: 12
    sha256: {"ab" * 32}
"""

MISTAKES = [
    (MODEL, "model_config:\n  warmpu: true\n", 2, "warmpu"),
    (MODEL, "model_config:\n  warmup: 1\n", 2, "true"),
    (MODEL, "scaling_config:\n  num_workers: 1\n  placement_strategy: PACKED\n", 3, "STRICT_PACK"),
    (MODEL, "scaling_config:\n  num_workers: 0\n", 2, ""),
    (MODEL, "model_config:\n  initialization:\n    initializer: {type: vLMM}\n", 3, "vLLM"),
    (
        MODEL,
        "model_config:\n  initialization:\n    initializer:\n      type: vLLM\n      device_map: auto\n",
        5,
        "device_map",
    ),
    (MODEL, "model_config:\n  generation:\n    max_batch_size: !finl 3\n", 3, "!finl"),
    (PROFILE, "deployment_config:\n  max_ongoing_request: 4\n", 2, "max_ongoing_request"),
    (PROFILE, "model_config:\n  initialization:\n    initializer:\n      n_ctx: 4\n", 4, "n_ctx"),
    (CLUSTER, "models: [a]\nhttp:\n  prot: 80\n", 3, "prot"),
    (CLUSTER, "http: {port: 80}\n", 1, "models"),
    (CLUSTER, "models: [a]\noverlay:\n  scaling_config:\n    num_wrokers: 1\n", 4, "num_wrokers"),
    (LOCK, LOCKED.replace("licence", "license"), 4, "license"),
    (LOCK, LOCKED.replace("c0c0", "main", 1), 3, ""),
    (LOCK, LOCKED.replace("12", "-1"), 8, ""),
]


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    settings = json.loads((REPO / ".vscode/settings.json").read_text())
    with LanguageServer(REPO, settings) as running:
        yield running


def test_what_is_checked_in_is_current() -> None:
    assert {path: (REPO / path).read_bytes() for path in files()} == files(), "run `llm-serve schema`"


@pytest.mark.parametrize("file", SOURCES)
def test_no_shipped_file_has_a_false_error(server: LanguageServer, file: str) -> None:
    assert server.diagnostics(file, (REPO / file).read_text()) == []


@pytest.mark.parametrize(("file", "text"), [(MODEL, TAGGED), (PROFILE, TAGGED), (CLUSTER, "models: [a]\noverlay:\n" +
    "".join(f"  {line}\n" for line in TAGGED.splitlines()[2:]))])  # fmt: skip
def test_every_tag_is_known_where_it_belongs(server: LanguageServer, file: str, text: str) -> None:
    assert all(tag in TAGGED for tag in TAGS if tag != "!remove")
    assert server.diagnostics(file, text) == []
    assert server.diagnostics(file, text.replace("!append", "!remove")) == []


def test_a_lock_is_known(server: LanguageServer) -> None:
    assert server.diagnostics(LOCK, LOCKED) == []


@pytest.mark.parametrize(("file", "text", "line", "said"), MISTAKES)
def test_a_typo_is_marked_on_its_line(server: LanguageServer, file: str, text: str, line: int, said: str) -> None:
    found = server.diagnostics(file, text)
    assert [each["range"]["start"]["line"] + 1 for each in found] == [line] * len(found) != []
    assert any(said in each["message"] for each in found), found


def test_a_key_shows_its_docs(server: LanguageServer) -> None:
    text = "model_config:\n  generation:\n    max_batch_size: 8\n"
    assert "Sequences that a replica generates at the same time" in server.hover(MODEL, text, 2, 6)
    assert "Default: `1`" in server.hover(MODEL, text, 2, 6)


def test_a_file_may_name_its_schema_itself(server: LanguageServer) -> None:
    text = f"{modeline('cluster', 'elsewhere/x.yaml')}\nmodels: [a]\nprot: 1\n"
    assert [each["range"]["start"]["line"] for each in server.diagnostics("elsewhere/x.yaml", text)] == [2]


def test_every_engine_is_offered() -> None:
    text = json.dumps(schemas()["model"])
    assert [engine.name for engine in ENGINES if f'"{engine.name}"' not in text] == []
