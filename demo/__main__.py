"""`make demo`: fetch a small real model, compile, start Ray Serve, deploy generated/*.yaml, ask a question.

python -m demo          the whole road
python -m demo stop     stop the Ray that the demo has started
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import openai
import yaml
from openai.types.chat import ChatCompletionMessageParam

from demo.cluster import BIN, HOST, Cluster
from demo.cluster import stop as stop_cluster
from demo.model import REPOSITORY, DemoError, fetch

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".demo" / "session"
"""Name and process session of the Ray that the demo has started."""
QUESTION = "What is the capital of France, and what is it famous for? Answer in two sentences."
START_TIMEOUT_S = 180


def main(arguments: list[str]) -> int:
    """An exit code; what goes wrong is one message."""
    verbs = {"run": run, "stop": stop}
    verb = arguments[0] if arguments else "run"
    if verb not in verbs:
        print(f"usage: python -m demo [{' | '.join(verbs)}]", file=sys.stderr)
        return 64
    try:
        verbs[verb]()
    except DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def run() -> None:
    """The whole road."""
    cluster = Cluster(6379, 8265, _token())
    ours = _our_ray_runs(cluster)
    with _step(1, "model in the cache"):
        path = fetch()
    print(f"      {path}")
    with _step(2, "llm-serve compile"):
        output = cluster.run("llm-serve", "compile", cwd=ROOT)
    print("".join(f"      {line}\n" for line in output.splitlines()), end="")
    http_port = _http_port()
    with _step(3, "Ray"):
        if not ours:
            _refuse_taken_ports(cluster, http_port)
            STATE.parent.mkdir(exist_ok=True)
            processes = cluster.start(STATE.with_name("ray.log"))
            STATE.write_text(f"{cluster.session()} {processes}")
    print(f"      {'already running' if ours else 'started'}; dashboard at {cluster.dashboard}")
    with _step(4, "serve deploy generated/*.yaml"):
        cluster.run("bash", "-c", "serve deploy generated/*.yaml", cwd=ROOT)
    with _step(5, "waiting for RUNNING"):
        seen: dict[str, str] = {}
        for statuses in cluster.wait_until_running(START_TIMEOUT_S):
            changed = {name: status for name, status in statuses.items() if seen.get(name) != status}
            print("".join(f"\n      {name}: {status}" for name, status in changed.items()), end="", flush=True)
            seen = statuses
        print("\n     ", end="")
    with _step(6, f"a question through the OpenAI API: {QUESTION}"):
        pass
    _ask(_client(http_port), [{"role": "user", "content": QUESTION}])
    _say_what_next(http_port)


def stop() -> None:
    """Stop Ray, if it is the demo's."""
    cluster = Cluster(6379, 8265, _token())
    if not STATE.exists():
        print("the demo is not running")
        return
    if _our_ray_runs(cluster):
        stop_cluster(int(STATE.read_text().split()[1]))
        print("stopped")
    STATE.unlink()


class _step:
    """Prints what begins, and how long it took."""

    def __init__(self, number: int, title: str) -> None:
        print(f"[{number}/6] {title}", end="", flush=True)

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *failure: object) -> None:
        seconds = time.monotonic() - self.start
        print(f" ({seconds:.1f} s)" if failure[0] is None and seconds >= 0.05 else "")


def _token() -> str:
    """Ray's token of this user, made where there is none: its API is not open to everybody on the machine."""
    done = subprocess.run([str(BIN / "ray"), "get-auth-token", "--generate"], capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        raise DemoError(f"`ray get-auth-token --generate` failed:\n{done.stderr}")
    return done.stdout.split()[-1]


def _our_ray_runs(cluster: Cluster) -> bool:
    """Whether the demo's Ray is up. Raises DemoError when another one is, or something that is no Ray."""
    try:
        session = cluster.session()
    except DemoError as error:
        session = f"unknown ({error})"
    if session is None:
        return False
    if STATE.exists() and STATE.read_text().split()[:1] == [session]:
        return True
    raise DemoError(
        f"something already listens at {cluster.dashboard}, probably another Ray (session {session}).\n"
        "A deploy would replace all its applications, so the demo leaves it alone.\n"
        "Stop it with `ray stop`, then run `make demo` again."
    )


def _refuse_taken_ports(cluster: Cluster, http_port: int) -> None:
    for port, owner in (
        (cluster.gcs_port, "Ray's head"),
        (cluster.dashboard_port, "Ray's dashboard"),
        (http_port, "HTTP"),
    ):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise DemoError(
                    f"port {port}, needed for {owner}, is in use ({error.strerror}).\n"
                    f"`ss -ltnp 'sport = :{port}'` shows by which program; stop it and run `make demo` again."
                ) from error


def _http_port() -> int:
    config: Any = yaml.safe_load((ROOT / "generated" / "serve.yaml").read_text())
    return int(config["http_options"]["port"])


def _client(http_port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{HOST}:{http_port}/v1", api_key="none", max_retries=0)


def _ask(client: openai.OpenAI, messages: Iterable[ChatCompletionMessageParam]) -> None:
    """Ask, and print the answer as it comes and how fast it came."""
    start = time.monotonic()
    first: float | None = None
    tokens = 0
    for piece, count in _stream(client, messages):
        first = first or time.monotonic()
        print(piece, end="", flush=True)
        tokens = count or tokens
    if first is not None:
        rate = (tokens - 1) / max(time.monotonic() - first, 1e-9)
        print(f"\n\n      {tokens} tokens, the first after {first - start:.2f} s, then {rate:.0f} tokens/s\n")


def _stream(client: openai.OpenAI, messages: Iterable[ChatCompletionMessageParam]) -> Iterator[tuple[str, int]]:
    """Pieces of the answer, and at the end the number of its tokens."""
    try:
        stream = client.chat.completions.create(
            model=REPOSITORY, messages=messages, stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content, 0
            elif chunk.usage:
                yield "", chunk.usage.completion_tokens
    except openai.APIConnectionError as error:
        raise DemoError(f"nothing answers at {client.base_url}; run `make demo` first") from error
    except openai.APIError as error:
        raise DemoError(error.message) from error


def _say_what_next(http_port: int) -> None:
    print(f"""\
It runs on. Next:
  llm-serve chat                  talk to it (`make chat`)
  llm-serve bench http://{HOST}:{http_port}    how fast it is under load
  make demo-stop                  stop it
  curl http://{HOST}:{http_port}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{REPOSITORY}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
  export RAY_AUTH_MODE=token      before `serve status`, `serve deploy` and other Ray commands of your own""")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
