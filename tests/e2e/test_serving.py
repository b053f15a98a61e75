"""The road end to end: registry -> generated -> Ray Serve -> a real model -> the real OpenAI client."""

import asyncio
import json
import re
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from demo.model import FILENAME, REPOSITORY
from runtime import metrics
from tests.e2e.conftest import COMMIT, ENGINES

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
LONG = [{"role": "user", "content": "Write a long story about a fox."}]


def text_of(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def ask(deployment, **more):
    request = {"model": REPOSITORY, "messages": FRANCE, "temperature": 0, **more}
    return deployment.client.chat.completions.create(**request)


def test_the_cluster_is_what_was_compiled(deployment) -> None:
    statuses = {name: each["status"] for name, each in deployment.cluster.applications().items()}
    broken = {"acme--no-weights", "acme--wrong-file", "acme--damaged"}
    assert {name for name, status in statuses.items() if status == "RUNNING"} == set(statuses) - broken
    assert {name for name, status in statuses.items() if status == "DEPLOY_FAILED"} == broken
    assert REPOSITORY in [model.id for model in deployment.client.models.list()]
    assert httpx.get(f"{deployment.url}/health").status_code == 200


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_answers_through_the_gateway(deployment, engine: str) -> None:
    """The same words as in `tests/runtime/engines`, where nothing lies between the question and the engine."""
    whole = ask(deployment, model=f"acme/{engine}")
    assert whole.choices[0].message.content == "The capital of France is Paris."
    assert text_of(ask(deployment, model=f"acme/{engine}", stream=True)) == "The capital of France is Paris."


def test_a_model_comes_from_its_mirror_in_a_bucket(deployment, cache) -> None:
    assert ask(deployment, model="acme/mirrored", max_tokens=16).choices[0].message.content
    assert (cache / "models--acme--mirrored" / "snapshots" / COMMIT / FILENAME).is_file()


def test_a_killed_worker_fails_what_runs_and_the_replica_comes_back_whole(deployment) -> None:
    """One of DeepSpeed's two workers. The other one, and the replica, go with it; new ones answer."""
    model, endless = "acme/deepspeed", {"max_tokens": 900, "extra_body": {"min_tokens": 900}}
    before = workers()
    stream = ask(deployment, model=model, messages=LONG, stream=True, **endless)
    next(iter(stream))
    (follower,) = (process for process in before if "Follower" in process.info["cmdline"][0])
    follower.kill()
    with pytest.raises(openai.APIError, match="a worker has died"):
        list(stream)
    deadline = time.monotonic() + 120
    while True:
        try:
            answer = ask(deployment, model=model)
            break
        except openai.InternalServerError as error:
            assert error.status_code == 503
            assert time.monotonic() < deadline, "no new replica answers"
            time.sleep(1)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert len(workers() - before) == 2


def workers() -> set[psutil.Process]:
    """DeepSpeed's; Ray names a process after its actor, and the others here are one each."""
    names = ("ray::Follower", "ray::Worker")
    return {each for each in psutil.process_iter(["cmdline"]) if (each.info["cmdline"] or [""])[0].startswith(names)}


def test_streamed_and_whole_answers_are_the_same(deployment) -> None:
    whole = ask(deployment)
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(ask(deployment, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == whole.choices[0].message.content
    assert len(chunks) > 4  # it came in pieces
    assert chunks[-1].usage == whole.usage


def test_a_stop_string_ends_the_answer_and_is_not_sent(deployment) -> None:
    whole = ask(deployment).choices[0].message.content
    stop = whole[8:14]  # lies across tokens
    expected = whole[: whole.index(stop)]
    assert ask(deployment, stop=[stop]).choices[0].message.content == expected
    assert text_of(ask(deployment, stop=stop, stream=True)) == expected


def test_a_conversation_of_several_turns(deployment) -> None:
    turns = [
        *FRANCE,
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]
    assert "Rome" in ask(deployment, messages=turns, max_tokens=32).choices[0].message.content


def test_completions_take_the_prompt_as_it_is(deployment) -> None:
    answer = deployment.client.completions.create(
        model=REPOSITORY, prompt="The capital of France is", max_tokens=8, temperature=0
    )
    assert "Paris" in answer.choices[0].text
    assert answer.usage.prompt_tokens == 5  # no template around it
    assert answer.choices[0].finish_reason == "length"


async def test_two_streams_run_at_the_same_time(deployment) -> None:
    """A short answer that starts after a long one is there before it; that one would take the better part of a minute,
    so that it does not matter where the machine pauses.
    """
    client = openai.AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0, timeout=120)
    began = asyncio.Event()

    async def ask(length: int) -> None:
        more = {"extra_body": {"min_tokens": length}, "stream": True}
        stream = await client.chat.completions.create(model=REPOSITORY, messages=LONG, max_tokens=length, **more)
        async for _ in stream:
            began.set()

    long = asyncio.create_task(ask(3500))
    async with asyncio.timeout(60):
        await began.wait()
    await ask(4)
    assert not long.done()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)
    await client.close()


def test_an_unknown_model_is_a_404_in_openais_shape(deployment) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        ask(deployment, model="acme/unknown")
    assert error.value.code == "model_not_found"
    assert error.value.param == "model"
    assert "acme/unknown" in error.value.message and REPOSITORY in error.value.message


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"n": 17}, "n"),
        ({"tools": [{}]}, "tools.0.type"),
    ],
)
def test_bad_requests_name_the_field(deployment, wrong, param) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(deployment, **wrong)
    assert error.value.param == param


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(deployment) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(deployment, messages=[{"role": "user", "content": "word " * 5000}])
    assert error.value.code == "context_length_exceeded"
    assert "4096" in error.value.message


def test_overload_is_refused_and_closing_the_connection_frees_the_slot(deployment) -> None:
    request = {"model": "acme/single", "messages": LONG, "max_tokens": 3000, "extra_body": {"min_tokens": 3000}}
    stream = deployment.client.chat.completions.create(**request, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as error:
        deployment.client.chat.completions.create(**request)
    assert error.value.code == "overloaded"
    assert int(error.value.response.headers["retry-after"]) >= 1
    stream.close()
    closed = time.monotonic()
    while True:
        try:
            ask(deployment, model="acme/single", max_tokens=1)
            break
        except openai.RateLimitError:
            assert time.monotonic() - closed < 20, "the slot is still taken"
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("model", "field", "problem"),
    [
        ("acme--no-weights", "model_config.initialization.hf_model_id", "cannot get acme/is-nowhere"),
        ("acme--wrong-file", "model_config.initialization.initializer.model_filename", "is-nowhere.gguf"),
        ("acme--damaged", "model_config.initialization.hf_model_id", "bad checksum"),
    ],
)
def test_what_stops_a_replica_names_the_field_of_the_registry_file(deployment, model, field, problem) -> None:
    said = f"registry/{model}.yaml: {field}: "
    status = deployment.cluster.run("serve", "status")
    assert said in status.replace("\n", " ").replace("          ", "")
    with pytest.raises(openai.InternalServerError) as error:
        ask(deployment, model=model.replace("--", "/"))
    assert error.value.status_code == 503
    assert said in error.value.message and problem in error.value.message
    assert "Traceback" not in error.value.message


def test_a_model_that_has_scaled_to_zero_starts_when_it_is_asked_for(deployment) -> None:
    def status() -> str:
        return httpx.get(f"{deployment.url}/v1/models/acme/asleep", timeout=20).json()["status"]

    assert status() == "scaled_to_zero"
    with pytest.raises(openai.InternalServerError) as error:
        ask(deployment, model="acme/asleep")
    assert error.value.status_code == 503 and error.value.response.headers["retry-after"]
    deadline = time.monotonic() + 120
    while status() != "ready":  # looking asks for nothing
        assert time.monotonic() < deadline, status()
        time.sleep(1)
    assert ask(deployment, model="acme/asleep").choices[0].message.content


def test_the_first_apis_clients_get_the_same_answers(deployment) -> None:
    name, expected = REPOSITORY.replace("/", "--"), ask(deployment, max_tokens=16)
    prompt = {"prompt": FRANCE[0]["content"], "parameters": {"max_new_tokens": 16, "do_sample": False}}
    single = httpx.post(f"{deployment.url}/query/{name}", json=prompt, timeout=120).json()[REPOSITORY]
    batch = httpx.post(f"{deployment.url}/query/batch/{name}", json=[prompt] * 3, timeout=120).json()[REPOSITORY]
    assert {each["generated_text"] for each in (single, *batch)} == {expected.choices[0].message.content}
    assert single["num_input_tokens"] == expected.usage.prompt_tokens
    assert REPOSITORY in httpx.get(f"{deployment.url}/models").json()


def test_every_number_is_in_rays_export_too(deployment) -> None:
    """A node's addresses, as Ray lists them for Prometheus."""
    ask(deployment, max_tokens=4)
    session = deployment.cluster.session()
    (listed,) = json.loads(Path(f"/tmp/ray/{session}/prom_metrics_service_discovery.json").read_text())
    wanted = {metric.name for metric in (metrics.TIME_TO_FIRST_TOKEN, metrics.RUNNING, metrics.ANSWERS)}
    wanted |= {metrics.START_SECONDS.name, metrics.CACHE_USE.name, metrics.GATEWAY_RESPONSES.name}
    deadline = time.monotonic() + 60
    while True:
        texts = [httpx.get(f"http://{target}/metrics", timeout=20).text for target in listed["targets"]]
        found = set(re.findall(r"^# TYPE ray_(llm_serve_\w+) ", "\n".join(texts), re.MULTILINE))
        if wanted <= found:
            break
        assert time.monotonic() < deadline, wanted - found
        time.sleep(1)
    own = httpx.get(f"{deployment.url}/{REPOSITORY.replace('/', '--')}/metrics").text
    assert f'llm_serve_answers_total{{model="{REPOSITORY}",reason="length"}}' in own


def test_a_new_model_restarts_nothing(deployment) -> None:
    def replicas() -> dict[str, set[str]]:
        return {
            name: {each["replica_id"] for part in found["deployments"].values() for each in part["replicas"]}
            for name, found in deployment.cluster.applications().items()
            if found["status"] == "RUNNING"
        }

    before = replicas()
    registry = deployment.project / "registry"
    text = (registry / "acme--asleep.yaml").read_text().replace("acme/asleep", "acme/new")
    (registry / "acme--new.yaml").write_text(text)
    deployment.deploy()
    deployment.wait_until_settled()
    deadline = time.monotonic() + 30
    while "acme/new" not in [model.id for model in deployment.client.models.list()]:
        assert time.monotonic() < deadline, "the gateway has not heard of it"
        time.sleep(0.5)
    after = replicas()
    assert after.keys() - before.keys() == {"acme--new"}
    assert {name: after[name] for name in before} == before


def test_editing_a_default_reconfigures_and_restarts_nothing(deployment) -> None:
    def replicas() -> set[str]:
        model = deployment.cluster.applications()["acme--single"]["deployments"]["Model"]
        return {replica["replica_id"] for replica in model["replicas"]}

    before = replicas()
    single = deployment.project / "registry" / "acme--single.yaml"
    single.write_text(
        single.read_text().replace("{max_batch_size: 1}", "{max_batch_size: 2, stopping_sequences: Paris}")
    )
    deployment.deploy()
    deployment.wait_until_settled()
    deadline = time.monotonic() + 30
    while "Paris" in (answer := ask(deployment, model="acme/single").choices[0].message.content):
        assert time.monotonic() < deadline, "the new settings have not arrived"
        time.sleep(0.5)
    assert answer.startswith("The capital")
    assert replicas() == before
