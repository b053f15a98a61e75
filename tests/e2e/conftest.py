"""One real Ray cluster for all end-to-end tests, deployed from what `llm-serve compile` writes."""

import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import boto3
import openai
import psutil
import pytest
from moto.server import ThreadedMotoServer

from demo.cluster import FAILED, HOST, Cluster, stop
from demo.model import FILENAME, REPOSITORY, fetch_safetensors

REPO = Path(__file__).resolve().parents[2]
SMOLLM2 = REPOSITORY.replace("/", "--")
_REPLICA_PORTS = count(30_000, 1_000)
"""Each cluster has a thousand for its replicas: HAProxy would send requests to whoever listens at one."""
DEPLOY_TIMEOUT_S = 240
COMMIT = "c0ffee" * 6 + "c0ff"
CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}

MODEL = """\
extends: {base}
deployment_config: {{max_waiting_requests: 0, autoscaling_config: {autoscaling}}}
scaling_config: {{num_cpus_per_worker: 0}}
model_config:
  model_id: {model_id}
  {more}
"""
MODELS = {
    # One slot and nobody may wait: shows overload, and that a closed connection frees the slot.
    "acme--single": f"initialization: {{hf_model_id: {REPOSITORY}}}\n  generation: {{max_batch_size: 1}}",
    "acme--asleep": f"initialization: {{hf_model_id: {REPOSITORY}}}",
    "acme--no-weights": "initialization: {hf_model_id: acme/is-nowhere}",
    "acme--wrong-file": f"""\
initialization:
    hf_model_id: {REPOSITORY}
    initializer: {{model_filename: is-nowhere.gguf}}""",
    "acme--damaged": "initialization: {hf_model_id: acme/damaged-weights}",
}
FRAGILE = f"""\
extends: {SMOLLM2}
deployment_config:
  max_waiting_requests: 6
  graceful_shutdown_timeout_s: 8
  graceful_shutdown_wait_loop_s: 0.5
  max_surge_percent: 100
scaling_config: {{num_cpus_per_worker: 0}}
model_config:
  model_id: acme/fragile
  initialization: {{hf_model_id: {REPOSITORY}}}
  generation: {{max_batch_size: 2}}
"""
"""A model to be killed, replaced and overrun: two slots, six places to wait, eight seconds to finish."""
ENGINE = """\
extends: [engines/{engine}, families/smollm2, hardware/cpu]
deployment_config: {{ray_actor_options: {{num_cpus: 0}}}}
scaling_config: {{num_cpus_per_worker: 0, num_workers: {workers}}}
model_config:
  model_id: acme/{engine}
  initialization:
    hf_model_id: {repository}
    initializer: {initializer}
"""
ENGINES = {
    "single-device": (1, "{dtype: float32}"),
    "device-map": (1, "{dtype: float32}"),
    "deepspeed": (2, "{dtype: float32}"),
    "vllm": (
        1,
        "{engine_kwargs: {dtype: float32, enforce_eager: true, max_model_len: 1024, gpu_memory_utilization: 0.3,"
        " kv_cache_memory_bytes: 268435456}}",
    ),
}
"""Workers and initializer of a model for each engine besides llamaCpp, which the shipped file has."""


MIRRORED = """\
extends: {base}
deployment_config: {{ray_actor_options: {{num_cpus: 0}}}}
scaling_config: {{num_cpus_per_worker: 0}}
model_config:
  model_id: acme/mirrored
  initialization:
    s3_mirror_config: {{bucket_uri: "s3://models/mirrored/", endpoint_url: "{url}"}}
"""
"""A model that no cache has: its files are in a bucket, and locked."""


@dataclass
class Deployment:
    """The running cluster, the project that it was deployed from, and a client."""

    cluster: Cluster
    project: Path
    port: int
    session: int
    """Number of the process session that it runs in."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def processes(self, *names: str) -> list[psutil.Process]:
        """The cluster's own whose command begins with one of the names; all of them when there is none."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                command = " ".join(process.info["cmdline"] or ())
                if os.getsid(process.pid) == self.session and command.startswith(names or ""):
                    found.append(process)
        return found

    def deploy(self) -> None:
        """The README's two commands, to the letter."""
        self.cluster.run("llm-serve", "compile", cwd=self.project)
        self.cluster.run("bash", "-c", "serve deploy generated/*.yaml", cwd=self.project)

    def wait_until_settled(self) -> dict[str, str]:
        """Every application RUNNING or failed for good."""
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        while True:
            found = self.cluster.applications()
            statuses = {name: each["status"] for name, each in found.items()}
            if statuses and all(status in ("RUNNING", *FAILED) for status in statuses.values()):
                return statuses
            assert time.monotonic() < deadline, statuses
            time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _write_base(folder: Path, port: int) -> None:
    """The shipped base and SmolLM2 file."""
    shutil.copytree(REPO / "base", folder / "base")
    clusters = folder / "registry" / "clusters"
    clusters.mkdir(parents=True)
    shutil.copy(REPO / "registry" / f"{SMOLLM2}.yaml", folder / "registry")
    (clusters / "default.yaml").write_text(f'models: ["*"]\nhttp: {{port: {port}}}\n')


def _write_project(folder: Path, port: int) -> None:
    """Those, and variants of the file."""
    _write_base(folder, port)
    for name, more in MODELS.items():
        autoscaling = "{min_replicas: 0}" if name == "acme--asleep" else "{}"
        text = MODEL.format(base=SMOLLM2, model_id=name.replace("--", "/"), more=more, autoscaling=autoscaling)
        (folder / "registry" / f"{name}.yaml").write_text(text)
    (folder / "registry" / "acme--fragile.yaml").write_text(FRAGILE)
    for engine, (workers, initializer) in ENGINES.items():
        text = ENGINE.format(engine=engine, workers=workers, initializer=initializer, repository=REPOSITORY)
        (folder / "registry" / f"acme--{engine}.yaml").write_text(text)


def _write_lock(project: Path, file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    said = {"repository": "acme/mirrored", "revision": "main", "commit": COMMIT}
    files = [{"path": FILENAME, "size": file.stat().st_size, "sha256": digest}]
    lock = project / "registry" / "locks" / "acme--mirrored.yaml"
    lock.parent.mkdir()
    lock.write_text(json.dumps({**said, "files": files}))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model cache of its own: the real model, and one whose file was damaged after it was stored."""
    weights = fetch_safetensors()
    folder = tmp_path_factory.mktemp("cache")
    for repository in (REPOSITORY, "acme/damaged-weights"):
        shutil.copytree(weights.parents[1], folder / f"models--{repository.replace('/', '--')}", symlinks=True)
    damaged = (folder / "models--acme--damaged-weights" / "snapshots" / weights.name / FILENAME).resolve()
    with damaged.open("r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"damage")
    return folder


@pytest.fixture(scope="session")
def bucket(cache: Path) -> Iterator[str]:
    """An S3 server with the real model in a bucket; its address."""
    server = ThreadedMotoServer(HOST, 0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **CREDENTIALS)
    client.create_bucket(Bucket="models")
    client.upload_file(str(_gguf(cache)), "models", f"mirrored/{FILENAME}")
    client.put_object(Bucket="models", Key="mirrored/hash", Body=COMMIT.encode())
    yield url
    server.stop()


def _gguf(cache: Path) -> Path:
    return sorted((cache / f"models--{SMOLLM2}").glob(f"snapshots/*/{FILENAME}"))[0]


@contextmanager
def deployed(project: Path, cache: Path, write: Callable[[Path, int], None]) -> Iterator[Deployment]:
    """A cluster of its own for a project, which `write` fills in, given the port of its HTTP."""
    gcs, dashboard, client_server, http, metrics, stats = _free_ports(6)
    patch = pytest.MonkeyPatch()
    patch.setenv("LLM_SERVE_CACHE", str(cache))
    patch.setenv("HF_HUB_OFFLINE", "1")
    for name, value in CREDENTIALS.items():
        patch.setenv(name.upper(), value)
    patch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", str(metrics))
    patch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", str(stats))
    patch.setenv("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", str(replicas := next(_REPLICA_PORTS)))
    patch.setenv("RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT", str(replicas + 999))
    patch.setenv("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "2")  # of 30 s, which the tests cannot wait
    cluster = Cluster(gcs, dashboard, secrets.token_hex(32))
    write(project, http)
    # Ports of its own, so that a Ray which runs on this machine already is not in the way.
    options = (f"--ray-client-server-port={client_server}", "--dashboard-agent-listen-port=0")
    options += ("--min-worker-port=0", "--max-worker-port=0", "--num-cpus=4")
    session = cluster.start(project / "ray.log", *options)
    try:
        running = Deployment(cluster, project, http, session)
        running.deploy()
        running.wait_until_settled()
        yield running
    finally:
        patch.undo()
        stop(session)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, cache: Path, bucket: str) -> Iterator[Deployment]:
    def write(folder: Path, port: int) -> None:
        _write_project(folder, port)
        (folder / "registry" / "acme--mirrored.yaml").write_text(MIRRORED.format(base=SMOLLM2, url=bucket))
        _write_lock(folder, _gguf(cache))

    with deployed(tmp_path_factory.mktemp("project"), cache, write) as running:
        yield running


@pytest.fixture
def one_to_end(tmp_path: Path, cache: Path) -> Iterator[Deployment]:
    """A cluster that a test may end, with the fragile model alone."""

    def write(folder: Path, port: int) -> None:
        _write_base(folder, port)
        (folder / "registry" / "acme--fragile.yaml").write_text(FRAGILE)

    with deployed(tmp_path, cache, write) as running:
        yield running
