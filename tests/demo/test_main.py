"""What the demo says when something is in its way."""

import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

import demo.__main__ as command
from demo.cluster import HOST, Cluster, stop
from demo.model import DemoError


@contextmanager
def server(answers: dict[str, str]) -> Iterator[int]:
    """An HTTP server with fixed answers, in place of Ray's dashboard; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(self.path, "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((HOST, 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


def cluster(dashboard_port: int) -> Cluster:
    return Cluster(1, dashboard_port, "token")


@contextmanager
def unused_port() -> Iterator[int]:
    """Held, so that nobody else gets it; as nobody listens, Linux lets who reuses addresses bind it all the same."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, 0))
        yield held.getsockname()[1]


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "STATE", tmp_path / "session")
    return tmp_path / "session"


def test_no_ray_yet(state) -> None:
    with unused_port() as port:
        assert not command._our_ray_runs(cluster(port))


def test_its_own_ray_is_known_and_anothers_is_left_alone(state) -> None:
    with server({"/api/version": '{"session_name": "session_1"}'}) as port:
        with pytest.raises(DemoError, match=r"another Ray \(session session_1\)(.*\n)*Stop it with `ray stop`"):
            command._our_ray_runs(cluster(port))
        state.write_text("session_1 4711")
        assert command._our_ray_runs(cluster(port))


@pytest.mark.parametrize("answers", [{}, {"/api/version": "<html>"}], ids=["404", "not JSON"])
def test_something_that_is_no_ray(state, answers) -> None:
    with server(answers) as port, pytest.raises(DemoError, match=f"already listens at http://{HOST}:{port}"):
        command._our_ray_runs(cluster(port))


def test_a_taken_port_is_named_with_a_way_to_find_its_owner() -> None:
    with (
        unused_port() as gcs,
        unused_port() as dashboard,
        server({}) as port,
        pytest.raises(DemoError, match=f"port {port}, needed for HTTP, is in use"),
    ):
        command._refuse_taken_ports(Cluster(gcs, dashboard, ""), port)


def test_a_failed_application_ends_the_wait_with_rays_message() -> None:
    model = '{"status": "DEPLOY_FAILED", "message": "", "deployments": {"Replica": {"message": "no bucket_uri"}}}'
    failed = f'{{"applications": {{"gateway": {{"status": "RUNNING"}}, "m": {model}}}}}'
    with server({"/api/serve/applications/": failed}) as port:
        waiting = cluster(port).wait_until_running(60)
        assert next(waiting) == {"gateway": "RUNNING", "m": "DEPLOY_FAILED"}
        with pytest.raises(DemoError, match="m is DEPLOY_FAILED:\nno bucket_uri"):
            next(waiting)


def test_the_wait_has_an_end() -> None:
    deploying = '{"applications": {"m": {"status": "DEPLOYING", "message": "", "deployments": {}}}}'
    with server({"/api/serve/applications/": deploying}) as port:
        waiting = cluster(port).wait_until_running(0)
        with pytest.raises(DemoError, match=r"not running after 0 s: \{'m': 'DEPLOYING'\}"):
            list(waiting)


def test_a_command_that_fails_shows_its_output() -> None:
    with pytest.raises(DemoError, match="`bash -c echo why; exit 3` failed:\nwhy"):
        cluster(1).run("bash", "-c", "echo why; exit 3")


def test_a_ray_that_does_not_start_says_why(tmp_path) -> None:
    with (
        unused_port() as gcs,
        unused_port() as dashboard,
        pytest.raises(DemoError, match=r"--nonsense` failed:\n(.*\n)*.*[Nn]o such option"),
    ):
        Cluster(gcs, dashboard, "").start(tmp_path / "ray.log", "--nonsense")


def test_stop_ends_a_session_whole_and_nothing_else() -> None:
    """Ray's workers and HAProxy have process groups of their own in the session of their head."""
    program = "set -m; sleep 600 & sleep 600 & wait"
    ours, others = (subprocess.Popen(["bash", "-c", program], start_new_session=True) for _ in range(2))
    while len(psutil.Process(ours.pid).children()) < 2:
        time.sleep(0.01)
    children = psutil.Process(ours.pid).children()
    stop(ours.pid)
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert others.poll() is None
    stop(others.pid)


def test_verbs(state, capsys) -> None:
    assert command.main(["sing"]) == 64
    assert capsys.readouterr().err == "usage: python -m demo [run | stop]\n"
    assert command.main(["stop"]) == 0
    assert capsys.readouterr().out == "the demo is not running\n"
