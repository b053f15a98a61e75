"""Choosing tokens: each row of a batch by its own parameters, with the processors of transformers."""

from collections.abc import Sequence

import torch
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runtime.engines.contract import Sampling, ScoredToken


class Sampler:
    """Chooses the tokens of one sequence. Order as in `generate()`: biases, penalties, temperature, then the cuts."""

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], end_tokens: Sequence[int], device: torch.device
    ) -> None:
        self._sampling = sampling
        self.logprobs = sampling.logprobs
        self._tokens = list(prompt)
        self._processors = LogitsProcessorList(_processors(sampling, len(prompt), end_tokens, device))
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def takes_the_best(self) -> bool:
        """Whether it is the most likely token, and nothing else plays a part."""
        return self._sampling.temperature == 0 and not self._processors

    def choose(self, logits: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """The next token, [1], from the last one's logits, [vocabulary], and of those that are allowed, if not all."""
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        seen = torch.tensor([self._tokens], device=logits.device)
        scores = self._processors(seen, logits.unsqueeze(0))
        if self._sampling.temperature == 0:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1, generator=self._generator)[0]

    def accept(self, token: int) -> None:
        """The token that was chosen."""
        self._tokens.append(token)


def _processors(
    sampling: Sampling, prompt_length: int, end_tokens: Sequence[int], device: torch.device
) -> list[LogitsProcessor]:
    found: list[LogitsProcessor] = []
    if sampling.logit_bias:
        found.append(SequenceBiasLogitsProcessor({(token,): float(bias) for token, bias in sampling.logit_bias}))
    if sampling.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        found.append(AnswerPenalties(sampling, prompt_length))
    if sampling.min_new_tokens:
        found.append(
            MinNewTokensLengthLogitsProcessor(prompt_length, sampling.min_new_tokens, list(end_tokens), device)
        )
    if sampling.temperature == 0:
        return found
    if sampling.temperature != 1.0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    return found


class AnswerPenalties(LogitsProcessor):  # type: ignore[misc]
    """OpenAI's presence and frequency penalties, which transformers does not have: they count the answer alone."""

    def __init__(self, sampling: Sampling, prompt_length: int) -> None:
        self._presence, self._frequency = sampling.presence_penalty, sampling.frequency_penalty
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros_like(scores)
        answer = input_ids[:, self._prompt_length :]
        counts.scatter_add_(1, answer, torch.ones_like(answer, dtype=counts.dtype))
        return scores - self._frequency * counts - self._presence * (counts > 0)


def scored(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[ScoredToken]:
    """The tokens that were chosen, one for each row of raw logits, [rows, vocabulary], and how many more to tell of."""
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1).tolist()
    values, ids = (each.tolist() for each in logprobs.topk(max(counts)))
    return [
        ScoredToken(token, chosen[row], tuple(zip(ids[row][:count], values[row][:count], strict=True)))
        for row, (token, count) in enumerate(zip(tokens, counts, strict=True))
    ]
