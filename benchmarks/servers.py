"""Ours and its peers behind HTTP: environments of their own, processes, and a client that notes when tokens come."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.answers import TOKENS, Answer, BenchmarkError, Side, collect
from compiler.lower.serve import MODEL_IMPORT_PATH
from demo import cluster as ray_cluster
from demo.environment import MISFITS
from demo.model import REPOSITORY
from runtime.engines.contract import meeting_place

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench"
"""Environments, logs, and what else may be deleted."""
HOST = "127.0.0.1"
OURS_ENVIRONMENT = Path(sys.executable)
_START_TIMEOUT_S = 180
_VARIABLES = dict(os.environ)
"""As they were before engines of ours set what their libraries read: peers run as they come."""


class UnavailableError(Exception):
    """A peer that cannot be had here, and why."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a server."""

    line: Sequence[object]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its environment, besides ours."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """What its requests say more, or otherwise."""


def environment(name: str, *packages: str, beside_ours: bool = False) -> Path:
    """The Python of an environment with these packages, made the first time. Raises UnavailableError.

    `beside_ours`: it sees all of our own packages too.
    """
    folder = FOLDER / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text() == repr(packages):
        return python
    print(f"installing {name}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    if beside_ours:
        paths = [path for path in sys.path if path.endswith("site-packages")]
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "ours.pth").write_text("".join(f"{path}\n" for path in paths))
    install = [str(python), "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise UnavailableError(f"pip cannot install it: {done.stdout.strip().splitlines()[-1]}")
    if not beside_ours:
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *MISFITS], check=True)
    ready.write_text(repr(packages))
    return python


@asynccontextmanager
async def running(name: str, command: Command, port: int) -> AsyncIterator[str]:
    """The server's address while it runs. Raises UnavailableError when it does not answer."""
    log = FOLDER / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command.line)),
            cwd=ROOT,
            env={**_VARIABLES, **command.variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await _answers(f"http://{HOST}:{port}/v1/models", process, log)
        yield f"http://{HOST}:{port}"
    finally:
        ray_cluster.stop(process.pid)  # it ends every process of a session


async def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                async with session.get(url) as response:
                    if response.ok:
                        return
            except aiohttp.ClientError:
                pass  # not yet
            await asyncio.sleep(0.5)
    raise UnavailableError(f"it does not answer; {log} says why")


def free_port() -> int:
    """A port that nobody listens at."""
    return int(meeting_place(HOST).rpartition(":")[2])


def serving(name: str, port: int, options: Mapping[str, Any], python: Path = OURS_ENVIRONMENT) -> Command:
    """The command of one of benchmarks.serving's servers."""
    return Command([python, "-m", "benchmarks.serving", name, json.dumps({"port": port, **options})])


@asynccontextmanager
async def http_side(name: str, url: str, ours: str | None, more: Mapping[str, Any]) -> AsyncIterator[Side]:
    """A server of OpenAI's API, asked through streams."""
    # A connection for each answer: servers close idle ones, some just when the next question is on its way.
    connections = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connections, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def answer(questions: Sequence[str]) -> list[Answer]:
            streams = (_pieces(session, url, question, more) for question in questions)
            asked = time.perf_counter()
            return await asyncio.gather(*(collect(asked, stream) for stream in streams))

        yield Side(name, answer, ours)


async def _pieces(
    session: aiohttp.ClientSession, url: str, question: str, more: Mapping[str, Any]
) -> AsyncIterator[tuple[str, int]]:
    """Text and tokens of an answer. Not every server counts: one that ended for its length has had as many as asked."""
    body = {
        "model": REPOSITORY,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        **more,
    }
    finish = None
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if not response.ok:
            raise BenchmarkError(f"{url} answers {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line.removeprefix(b"data: ")).get("choices", ()):
                finish = choice.get("finish_reason") or finish
                if text := choice.get("delta", {}).get("content"):
                    yield text, TOKENS
    if finish != "length":
        raise BenchmarkError(f"{url} ended an answer with {finish!r} before {TOKENS} tokens")


@contextmanager
def on_ray_serve(engine: str, initializer: Mapping[str, Any], slots: int, threads: int) -> Iterator[str]:
    """Our gateway's address while a cluster of its own serves the model with an engine."""
    model = {
        "extends": [f"engines/{engine}", "families/smollm2", "hardware/cpu"],
        "deployment_config": {"max_waiting_requests": 64},
        "scaling_config": {"num_cpus_per_worker": threads},
        "model_config": {
            "model_id": REPOSITORY,
            "initialization": {"initializer": dict(initializer)},
            "generation": {"max_batch_size": slots},
        },
    }
    with deployed(f"project-{engine}", model) as url:
        yield url


@contextmanager
def deployed(folder: str, model: Mapping[str, Any], builder: str = MODEL_IMPORT_PATH) -> Iterator[str]:
    """The gateway's address while a cluster of its own serves one model, deployed from what is compiled for it.

    `builder`: what Ray imports instead of ours.
    """
    project, name = FOLDER / folder, model["model_config"]["model_id"].replace("/", "--")
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(ROOT / "base", project / "base")
    (project / "registry/clusters").mkdir(parents=True)
    gcs, dashboard, client, port, metrics, stats = (free_port() for _ in range(6))
    (project / "registry/clusters/default.yaml").write_text(f'models: ["*"]\nhttp: {{port: {port}}}\n')
    (project / f"registry/{name}.yaml").write_text(json.dumps(model))
    haproxy = {"RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics), "RAY_SERVE_HAPROXY_STATS_PORT": str(stats)}
    os.environ |= {"PYTHONPATH": str(ROOT), **haproxy}
    cluster = ray_cluster.Cluster(gcs, dashboard, secrets.token_hex(32))
    ports = [f"--ray-client-server-port={client}", "--dashboard-agent-listen-port=0"]
    ports += ["--min-worker-port=0", "--max-worker-port=0"]
    session = cluster.start(project / "ray.log", "--num-cpus=4", *ports)
    try:
        cluster.run("llm-serve", "compile", cwd=project)
        config = project / "generated/serve.yaml"
        config.write_text(config.read_text().replace(MODEL_IMPORT_PATH, builder))
        cluster.run("serve", "deploy", str(config))
        for _ in cluster.wait_until_running(_START_TIMEOUT_S):
            pass
        yield f"http://{HOST}:{port}"
    finally:
        ray_cluster.stop(session)
