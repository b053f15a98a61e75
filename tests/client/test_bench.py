"""Loads and their figures."""

import asyncio
import json
from pathlib import Path

import pytest

from client.figures import figures, spread
from client.load import Answer, Usage, Work
from compiler import cli
from runtime.errors import EngineError


def answer(begin: float, first: float | None, end: float, tokens: int = 11, error: str | None = None) -> Answer:
    return Answer(begin, first, end, (0.1, 0.2), Usage(5, tokens), error)


def test_percentiles_are_values_that_were_measured() -> None:
    found = spread([float(n) for n in range(100, 0, -1)])
    assert (found.mean, found.p50, found.p90, found.p99, found.most) == (50.5, 50, 90, 99, 100)
    assert spread([3.0]).p99 == 3.0
    assert spread([]) is None


def test_rates_go_over_the_whole_load_and_leave_out_errors() -> None:
    answers = [answer(0, 1, 3), answer(1, 3, 4), answer(0, None, 1, 0, "429: full")]
    found = figures("2 clients", answers, {"ttft": 1.5})
    assert found.seconds == 4
    assert found.answer_tokens == 22
    assert found.tokens_per_second == 5.5
    assert found.errors == {"429: full": 1}
    assert (found.ttft.p50, found.ttft.most) == (1, 2)
    assert found.tpot.most == 0.2
    assert (found.good, found.goodput) == (1, 0.25)


def test_an_answer_without_text_meets_no_goal() -> None:
    assert figures("", [answer(0, None, 1, 0)], {"ttft": 9}).good == 0
    assert figures("", [answer(0, None, 1, 0)], {}).goodput is None


def test_no_two_prompts_begin_alike() -> None:
    work = Work("m", 20, 8)
    prompts = {work.body(number)["messages"][0]["content"][:40] for number in range(50)}
    assert len(prompts) == 50
    assert work.body(3) == work.body(3)


def bench(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["bench", *arguments])
    return code, *capsys.readouterr()


async def run(capsys, *arguments: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(bench, capsys, *arguments)


async def test_a_table_for_people(url: str, capsys) -> None:
    code, out, _ = await run(capsys, url, "--clients", "1", "3", "--requests", "6", "--goal", "ttft=60000")
    head, one, three = out.splitlines()
    assert code == 0
    assert head.split()[:3] == ["load", "requests", "errors"]
    assert one.split()[:4] == ["1", "client", "6", "0"]
    assert three.endswith("6 of 6")


async def test_json_for_programs_and_a_picture(url: str, capsys, tmp_path: Path) -> None:
    picture = tmp_path / "load.svg"
    arguments = ["--rate", "200", "--requests", "5", "--format", "json", "--plot", str(picture)]
    code, out, _ = await run(capsys, url, *arguments)
    (load,) = json.loads(out)["loads"]
    assert code == 0
    assert (load["load"], load["requests"], load["answer_tokens"]) == ("200/s", 5, 55)
    assert load["e2e"]["p50"] > 0
    assert picture.read_text().lstrip().startswith("<?xml")


async def test_a_server_that_refuses_ends_it_at_once(url: str, capsys) -> None:
    code, out, err = await run(capsys, url, "--model", "other")
    assert (code, out) == (1, "")
    assert err.startswith("llm-serve: 404: the model `other` is not here")


async def test_errors_under_load_are_counted_and_shown(url: str, capsys, engine) -> None:
    engine.scripts = {number: [EngineError("it broke")] for number in (2, 3)}
    code, out, _ = await run(capsys, url, "--clients", "1", "--requests", "4")
    assert code == 1
    assert "1 client: 2 x 500: it broke" in out


@pytest.mark.parametrize("wrong", [["--goal", "speed=3"], ["--goal", "ttft=-1"], ["--rate", "0"], ["--clients", "0"]])
def test_wrong_usage_is_told(wrong: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["bench", "http://127.0.0.1:1", *wrong])
    assert done.value.code == 64
