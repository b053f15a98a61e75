"""lm-eval, through the API, finds what transformers computes: the same log-likelihoods, and so the same score.

lm-eval asks for the prompt's own log-probabilities (`echo`, `logprobs`, `max_tokens: 1`), several prompts in a request,
as token ids, which it gets from the server too (`/tokenizer_info`, `/tokenize`).
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.model import fetch_safetensors
from tests.conformance.environments import python_of

TASK = Path(__file__).parent / "lm_eval"
QUESTIONS = [json.loads(line) for line in (TASK / "questions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def likelihoods() -> list[list[tuple[float, bool]]]:
    """By transformers alone, for each choice of each question: that of its text, and whether it is the most likely."""
    folder = fetch_safetensors()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def of(question: str, choice: str) -> tuple[float, bool]:
        context = tokenizer(f"Question: {question}\nAnswer:").input_ids
        whole = tokenizer(f"Question: {question}\nAnswer: {choice}").input_ids
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0, len(context) - 1 : -1].log_softmax(-1)
        answer = torch.tensor(whole[len(context) :])
        told = logprobs.gather(1, answer.unsqueeze(1)).sum().item()
        return told, bool((logprobs.argmax(-1) == answer).all())

    return [[of(each["question"], choice) for choice in each["choices"]] for each in QUESTIONS]


def run(model_url: str, output: Path, batch: int, concurrent: int) -> None:
    """lm-eval on the task, without the network."""
    options = f"model=acme/model,base_url={model_url}/v1/completions,num_concurrent={concurrent}"
    command = [python_of("lm-eval"), "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", options]
    command += ["--tasks", "questions", "--include_path", ".", "--batch_size", batch]
    command += ["--output_path", output, "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(output / "cache"), "NO_PROXY": "*"}
    done = subprocess.run(
        [*map(str, command)], cwd=TASK, env={**os.environ, **offline}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def found(output: Path) -> Iterator[list[tuple[float, bool]]]:
    """What lm-eval has found for each choice of each question."""
    (samples,) = output.glob("**/samples_questions_*.jsonl")
    by_number = {each["doc_id"]: each for each in map(json.loads, samples.read_text().splitlines())}
    for number in range(len(QUESTIONS)):
        yield [(float(told), str(best) == "True") for told, best in by_number[number]["filtered_resps"]]


@pytest.mark.parametrize(("batch", "concurrent"), [(8, 1), (32, 3)])
def test_scores_and_likelihoods_are_those_of_transformers(model_url, likelihoods, tmp_path, batch, concurrent) -> None:
    """The server has four slots, and eight places to wait."""
    run(model_url, tmp_path, batch, concurrent)
    for theirs, ours in zip(likelihoods, found(tmp_path), strict=True):
        assert [told for told, _ in ours] == pytest.approx([told for told, _ in theirs], abs=0.02)
        assert [best for _, best in ours] == [best for _, best in theirs]
    (results,) = tmp_path.glob("**/results_*.json")
    right = [max(range(4), key=lambda choice, each=each: each[choice][0]) for each in likelihoods]
    score = sum(choice == each["answer"] for choice, each in zip(right, QUESTIONS, strict=True)) / len(QUESTIONS)
    assert json.loads(results.read_text())["results"]["questions"]["acc,none"] == pytest.approx(score)
    assert 0.3 < score < 1  # neither chance nor a task that any model solves
