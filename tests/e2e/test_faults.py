"""Overload, death, updates and long use, on the real cluster: clients are told, and nothing is left over."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from random import Random
from socket import AF_INET

import httpx
import openai
import psutil
import pytest

from tests.conftest import at_size
from tests.e2e.conftest import DEPLOY_TIMEOUT_S

MODEL = "acme/fragile"
REPLICA = "ray::ServeReplica:acme--fragile"
GATEWAY = "ray::ServeReplica:gateway"
SHORT = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4}
ENDLESS = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4_000, "min_tokens": 4_000, "stream": True}
READY_S = 30


def stream_of(deployment):
    more = {"extra_body": {"min_tokens": ENDLESS["min_tokens"]}}
    asked = {name: value for name, value in ENDLESS.items() if name != "min_tokens"}
    return deployment.client.completions.create(**asked, **more)


def wait_until_it_answers(deployment, model: str = MODEL) -> float:
    """Seconds until then."""
    begun = time.monotonic()
    while True:
        try:
            deployment.client.completions.create(**SHORT | {"model": model})
            return time.monotonic() - begun
        except openai.APIStatusError as error:
            assert error.status_code in (429, 503), error
            assert time.monotonic() < begun + READY_S, f"no answer after {READY_S} s: {error}"
            time.sleep(0.2)


async def test_200_at_once_are_answered_or_refused_in_openais_shape(deployment) -> None:
    """Two slots and six places; whoever is refused, by us or by Ray on the way, is told so alike."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=deployment.url, limits=limits, timeout=120) as client:
        responses = await asyncio.gather(*(client.post("/v1/completions", json=SHORT) for _ in range(200)))
    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) == {200, 429}, statuses
    for response in responses:
        if response.status_code == 429:
            assert response.json()["error"]["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
    assert wait_until_it_answers(deployment) < READY_S


@pytest.mark.parametrize("round_", range(at_size(2, 20)))
def test_a_replica_killed_in_mid_stream_shows_and_comes_back(deployment, round_: int) -> None:
    wait_until_it_answers(deployment)
    stream = stream_of(deployment)
    next(stream)
    (replica,) = deployment.processes(REPLICA)
    replica.kill()
    with pytest.raises(openai.APIError, match="went away in the middle"):
        list(stream)
    assert wait_until_it_answers(deployment) < READY_S


async def test_an_update_fails_no_request_that_is_shorter_than_the_grace_period(deployment) -> None:
    """Three clients, fewer than its places, while the replica is replaced; a longer stream ends with an error event."""
    statuses, done = Counter(), asyncio.Event()
    before = deployment.processes(REPLICA)
    long = stream_of(deployment)
    next(long)

    def read_to_its_end() -> str:
        with pytest.raises(openai.APIError) as error:
            list(long)
        return str(error.value)

    async def ask(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/completions", json=SHORT)
        statuses[response.status_code if response.status_code == 200 else response.text] += 1

    async def ask_all_the_time() -> None:
        async with httpx.AsyncClient(base_url=deployment.url, timeout=60) as client:
            while not done.is_set():
                await ask(client)
                await asyncio.sleep(0.25)

    asking = asyncio.gather(*(ask_all_the_time() for _ in range(3)))
    ending = asyncio.create_task(asyncio.to_thread(read_to_its_end))
    file = deployment.project / "registry" / "acme--fragile.yaml"
    file.write_text(
        file.read_text().replace(
            "initialization: {", "initialization: {revision: main, initializer: {model_init_kwargs: {n_ctx: 2048}}, "
        )
    )
    await asyncio.to_thread(deployment.deploy)
    await asyncio.to_thread(psutil.wait_procs, before, DEPLOY_TIMEOUT_S)
    assert "in the middle of the answer" in await ending
    await asyncio.sleep(1)
    done.set()
    await asking
    assert set(statuses) == {200}, statuses
    assert len(deployment.processes(REPLICA)) == 1 and not any(process.is_running() for process in before)


async def test_long_use_with_clients_that_leave_grows_nothing(deployment) -> None:
    """A tenth of the streams are cut. After a warm-up, memory and descriptors of replica and gateway stay."""
    random, statuses = Random(3), Counter()
    seconds = at_size(30, 600)

    async def use(client: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            leaves = random.random() < 0.1
            length = random.choice((4, 16, 64))
            asked = SHORT | {"max_tokens": 900 if leaves else length, "min_tokens": 900 if leaves else length}
            async with client.stream("POST", "/v1/completions", json=asked | {"stream": True}) as response:
                statuses[response.status_code] += 1
                async for _ in response.aiter_bytes():
                    if leaves and response.num_bytes_downloaded > 2_000:
                        break

    async def use_for(client: httpx.AsyncClient, seconds: float) -> dict[str, tuple[float, int]]:
        until = time.monotonic() + seconds
        await asyncio.gather(*(use(client, until) for _ in range(4)))
        await asyncio.sleep(1)
        return {name: _held(deployment, name) for name in (REPLICA, GATEWAY)}

    async with httpx.AsyncClient(base_url=deployment.url, timeout=60) as client:
        before = await use_for(client, seconds / 3)
        after = await use_for(client, seconds * 2 / 3)
    assert set(statuses) == {200}, statuses
    for name in before:
        grown, opened = (now - then for now, then in zip(after[name], before[name], strict=True))
        assert grown < max(8, seconds / 60), f"{name} grew by {grown:.1f} MB: {before[name]} -> {after[name]}"
        assert opened <= 4, f"{name} has {opened} descriptors more"


def _held(deployment, name: str) -> tuple[float, int]:
    """MB of memory and descriptors."""
    (process,) = deployment.processes(name)
    return process.memory_info().rss / 1e6, process.num_fds()


def test_only_loopback_answers(deployment) -> None:
    """Ray's own ports are open on all addresses. None of them speaks our API, or Ray's to deploy things."""
    addresses = [each.address for found in psutil.net_if_addrs().values() for each in found if each.family == AF_INET]
    others = [address for address in addresses if not address.startswith("127.")]
    ports = set()
    for process in deployment.processes():
        with suppress(psutil.NoSuchProcess):
            listening = [each.laddr for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            ports |= {at.port for at in listening if at.ip not in ("127.0.0.1", "::1")}
    assert others and ports and deployment.port not in ports
    paths = ("/v1/models", "/acme--fragile/v1/models", "/api/serve/applications/", "/-/routes")
    for url in (f"http://{address}:{port}{path}" for address in others for port in ports for path in paths):
        with suppress(httpx.HTTPError):  # most of them do not speak HTTP
            answer = httpx.get(url, timeout=1)
            is_api = answer.headers.get("content-type", "").startswith("application/json")
            assert answer.status_code != 200 or not is_api, url  # Prometheus' pages answer whatever the path is
