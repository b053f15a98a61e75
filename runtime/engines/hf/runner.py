"""What one step of a transformers model is: the next tokens of the batch's rows, and a part of each new prompt.

transformers has continuous batching of its own. It takes temperature, top_k and top_p from each request and nothing
else (no seed, no penalties, no min_p, no least length), and it needs paged attention kernels, which MPT, layers
offloaded to disk and DeepSpeed's shards do not have. So the batch is ours, and the model, its cache's shape and the
logits processors are theirs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from runtime.engines.contract import Limits, ScoredToken
from runtime.engines.hf.rows import ModelRows, Part
from runtime.engines.hf.sampling import Sampler, scored
from runtime.engines.prefix import common_length
from runtime.engines.scheduler import Request, Runner
from runtime.errors import EngineError, EngineMemoryError

_STEP_TOKENS = 512
"""Tokens of new prompts in one step; answers under way wait as long as it takes."""
_LEAST_SHARED = 8
"""Tokens at the beginning of two prompts that are worth a copy."""
_SCORED_TOGETHER = 64
"""Tokens of an echoed prompt whose log-probabilities, [tokens, vocabulary], are in memory at a time."""


@contextmanager
def memory() -> Iterator[None]:
    """What PyTorch raises where there is none becomes EngineMemoryError; for the CPU it has no class of its own."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise EngineMemoryError("out of memory; try again later, or with a shorter prompt") from error
        raise


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence, by its number among the rows."""

    number: int
    sampler: Sampler


class _Kept(NamedTuple):
    """A prompt of which the cache is kept."""

    owner: str
    prompt: Sequence[int]


class HfRunner(Runner):
    """Steps one model."""

    step_tokens = _STEP_TOKENS

    def __init__(self, rows: ModelRows, slots: int, limits: Limits, end_tokens: Sequence[int]) -> None:
        self._rows = rows
        self.slots, self.limits, self.end_tokens = slots, limits, frozenset(end_tokens)
        self._numbers = itertools.count()
        self._sequences: dict[Request, _Sequence] = {}
        self._requests: dict[int, Request] = {}
        self._kept: dict[int, _Kept] = {}
        """By the numbers of their sequences; those that were of use last come last."""

    def admit(self, request: Request) -> int:
        with memory():
            sampler = Sampler(request.sampling, request.prompt, sorted(self.end_tokens), self._rows.device)
        sequence = _Sequence(next(self._numbers), sampler)
        self._sequences[request], self._requests[sequence.number] = sequence, request
        return self._share(request, sequence.number)

    def _share(self, request: Request, number: int) -> int:
        """Begin with what the same owner's prompts have in common with this one; how many tokens that is.

        The last token is read in any case, and so is each one that is scored.
        """
        prompt = [] if request.sampling.echo else request.prompt[:-1]
        alike = {
            other: common_length(kept.prompt, prompt)
            for other, kept in self._kept.items()
            if kept.owner == request.sampling.owner
        }
        most = max(alike, key=lambda other: alike[other], default=number)
        if alike.get(most, 0) < _LEAST_SHARED:
            return 0
        self._kept[most] = self._kept.pop(most)
        self._rows.share(number, most)
        return alike[most]

    def _keep(self, request: Request, number: int) -> None:
        """Keep what fits into one slot, no more prompts than there are slots, and none that another one begins with."""
        new = _Kept(request.sampling.owner, request.prompt)
        for other, (owner, prompt) in list(self._kept.items()):
            if owner == new.owner and common_length(prompt, new.prompt) == len(prompt):
                self._drop(other)
        self._kept[number] = new
        while len(self._kept) > self.slots or self._kept_tokens() > self.limits.context_length:
            self._drop(next(iter(self._kept)))

    def _kept_tokens(self) -> int:
        return sum(len(kept.prompt) for kept in self._kept.values())

    def _drop(self, number: int) -> None:
        del self._kept[number]
        self._rows.drop(number)

    def _drop_all(self) -> None:
        for number in list(self._kept):
            self._drop(number)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self, shares: Mapping[Request, int]) -> Mapping[Request, int | EngineError]:
        under_way = [self._requests[number] for number in self._rows.rows]
        new = {request: share for request, share in shares.items() if request not in under_way}
        with self._memory_of_the_batch():
            logits = self._decode(under_way)
        last, failed = self._read(new)
        with self._memory_of_the_batch():
            for request in last:
                number = self._sequences[request].number
                self._rows.join(number, keep=True)
                self._keep(request, number)
            return {**self._choose({**logits, **last}), **failed}

    @contextmanager
    def _memory_of_the_batch(self) -> Iterator[None]:
        """Without memory the batch begins anew: some of its layers may have grown."""
        try:
            with memory():
                yield
        except EngineMemoryError:
            self._kept.clear()
            self._rows.resize(self.slots)  # for the same shapes: nothing is to be compiled
            raise

    def _decode(self, under_way: Sequence[Request]) -> dict[Request, torch.Tensor]:
        """A token of each row; the logits of the next."""
        if not under_way:
            return {}
        tokens = [request.pending[0] for request in under_way]
        try:
            with memory():
                return dict(zip(under_way, self._rows.decode(tokens), strict=True))
        except EngineMemoryError:
            if not self._kept or not self._rows.is_even():
                raise
        self._drop_all()
        return dict(zip(under_way, self._rows.decode(tokens), strict=True))

    def _read(self, new: Mapping[Request, int]) -> tuple[dict[Request, torch.Tensor], dict[Request, EngineError]]:
        """Parts of prompts; the last logits of those that are through, and who there was no memory for."""
        last: dict[Request, torch.Tensor] = {}
        failed: dict[Request, EngineError] = {}
        groups = _of_like_length(new, self.limits.context_length)
        while groups:
            group = groups.pop()
            width = max(new[request] for request in group)
            parts = {self._sequences[request].number: _last(request, new[request], width) for request in group}
            try:
                with memory():
                    logits = self._rows.read(parts, width if group[0].sampling.echo else 1)
            except EngineMemoryError as error:
                if len(group) > 1 or self._kept:
                    groups += [[request] for request in group]
                else:
                    failed[group[0]] = error
                if len(group) == 1:
                    self._drop_all()
                continue
            for request, rows in zip(group, logits, strict=True):
                try:
                    with memory():
                        request.scored += _scored_prompt(request, rows[-new[request] :])
                except EngineMemoryError as error:
                    failed[request] = error
            ends = logits[:, -1].float()
            last.update((each, row) for each, row in zip(group, ends, strict=True) if new[each] == len(each.pending))
        return last, failed

    def _choose(self, logits: Mapping[Request, torch.Tensor]) -> dict[Request, int]:
        """The next token of each, with one wait for the device."""
        if not logits:
            return {}
        samplers = [self._sequences[request].sampler for request in logits]
        allowed = [self._allowed(request) for request in logits]
        together = torch.stack(list(logits.values()))
        best = together.argmax(-1)
        chosen = [
            best[row] if sampler.takes_the_best and tokens is None else sampler.choose(together[row], tokens)[0]
            for row, (sampler, tokens) in enumerate(zip(samplers, allowed, strict=True))
        ]
        tokens = torch.stack(chosen).tolist()
        for sampler, token in zip(samplers, tokens, strict=True):
            sampler.accept(token)
        if asked := [row for row, sampler in enumerate(samplers) if sampler.logprobs is not None]:
            counts = [samplers[row].logprobs or 0 for row in asked]
            found = scored(together[asked], [tokens[row] for row in asked], counts)
            for row, token in zip(asked, found, strict=True):
                tokens[row] = token
        return dict(zip(logits, tokens, strict=True))

    def _allowed(self, request: Request) -> torch.Tensor | None:
        """Whether each token may come next, [vocabulary]; None: all."""
        return torch.from_numpy(request.matcher.look()).to(self._rows.device) if request.matcher else None

    def forget(self, request: Request) -> None:
        number = self._sequences.pop(request).number
        del self._requests[number]
        self._rows.leave(number)

    def resize(self, slots: int) -> None:
        self._kept.clear()
        self._rows.resize(slots)
        self.slots = slots
        if self._rows.is_compiled:
            with memory():
                self._rows.warm_up()  # for other shapes

    def close(self) -> None:
        self._rows.close()


def _scored_prompt(request: Request, logits: torch.Tensor) -> Iterator[ScoredToken]:
    """The tokens of an echoed prompt that follow its next ones, from their logits, [tokens, vocabulary]."""
    tokens, count = request.to_score(len(logits)), request.sampling.logprobs or 0
    for begin in range(0, len(tokens), _SCORED_TOGETHER):
        part = tokens[begin : begin + _SCORED_TOGETHER]
        yield from scored(logits[begin : begin + len(part)].float(), part, [count] * len(part))


def _last(request: Request, share: int, width: int) -> Part:
    """So many tokens of a prompt up to the end of its share, or as many as there are: it may have seen some of them."""
    end = request.position + share
    begin = max(0, end - width)
    return Part(request.prompt[begin:end], begin)


def _of_like_length(shares: Mapping[Request, int], most: int) -> list[list[Request]]:
    """Groups to read together, with at most so many tokens in their caches, or one prompt.

    No one's share is longer than twice another's, as what is shorter is padded or read again, and neither is the prompt
    so far. Those that are echoed keep to themselves.
    """

    def fits(request: Request, group: Sequence[Request]) -> bool:
        shortest = group[0]
        ends = [each.position + shares[each] for each in (request, *group)]
        is_like = shares[request] <= 2 * shares[shortest] and max(ends) <= 2 * min(ends)
        return is_like and request.sampling.echo == shortest.sampling.echo and max(ends) * len(ends) <= most

    groups: list[list[Request]] = []
    for request in sorted(shares, key=lambda each: shares[each]):
        group = next((group for group in groups if fits(request, group)), None)
        if group is None:
            groups.append([request])
        else:
            group.append(request)
    return groups
