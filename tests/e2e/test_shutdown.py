"""The end of a cluster: in time, with every client told, and no process left."""

import os
import signal
import time

import openai
import psutil
import pytest

GRACE_S = 8
"""Of the fragile model."""
MARGIN_S = 5


def test_the_end_comes_in_time_and_leaves_no_process(one_to_end) -> None:
    """First Serve's, under load; then the machine's SIGTERM to Ray."""
    stream = one_to_end.client.completions.create(
        model="acme/fragile", prompt="Once", max_tokens=4_000, stream=True, extra_body={"min_tokens": 4_000}
    )
    next(stream)
    replicas = one_to_end.processes("ray::ServeReplica")
    assert len(replicas) == 3
    begun = time.monotonic()
    with pytest.raises(openai.APIError):
        one_to_end.cluster.run("serve", "shutdown", "-y")
        list(stream)
    _, left = psutil.wait_procs(replicas, begun + GRACE_S + MARGIN_S - time.monotonic())
    assert not left
    processes = one_to_end.processes()
    assert len(processes) > 3
    os.kill(one_to_end.session, signal.SIGTERM)
    _, left = psutil.wait_procs(processes, GRACE_S + MARGIN_S)
    assert not left and not one_to_end.processes()
