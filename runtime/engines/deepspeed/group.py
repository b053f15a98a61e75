"""Several processes that share one model: the leader tells the others what to do, and all do it.

An order is a list of numbers, sent to all with gloo on the CPU, so that it does not depend on what the model's own
tensors travel by.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from itertools import chain

import torch
from torch import distributed
from transformers import PreTrainedModel

from runtime.engines.hf.rows import Compile, ModelRows, Part
from runtime.errors import EngineDeadError

_FOR_EVER = timedelta(days=3650)
"""A process waits as long as the leader has nothing to do. When another one dies, its connection ends at once."""


class Order(IntEnum):
    """What to do; each with the numbers that follow it."""

    READ = 0
    """how many logits to keep; then for each prompt: sequence, where to begin, how many tokens, tokens"""
    JOIN = 1
    """sequence, whether to keep its prompt"""
    DECODE = 2
    """tokens"""
    LEAVE = 3
    """sequence"""
    RESIZE = 4
    """slots"""
    CLOSE = 5
    SHARE = 6
    """sequence, the one that it begins as"""
    DROP = 7
    """sequence"""


@contextmanager
def _together() -> Iterator[None]:
    """What PyTorch raises when the connection to another worker has ended becomes EngineDeadError.

    A lack of memory too: the workers do not know of each other how far they came.
    """
    try:
        yield
    except RuntimeError as error:
        raise EngineDeadError(f"a worker has died, or failed: {str(error).splitlines()[0]}") from error


class Channel:
    """From the leader (rank 0) to all others."""

    def __init__(self) -> None:
        self._group = distributed.new_group(backend="gloo", timeout=_FOR_EVER)

    def send(self, order: Order, numbers: Sequence[int]) -> None:
        """Raises EngineDeadError when a worker is gone."""
        with _together():
            distributed.broadcast(torch.tensor([order, len(numbers)]), 0, self._group)
            if numbers:
                distributed.broadcast(torch.tensor(numbers), 0, self._group)

    def receive(self) -> tuple[Order, list[int]]:
        """The next order. Raises RuntimeError when the leader is gone."""
        head = torch.zeros(2, dtype=torch.int64)
        distributed.broadcast(head, 0, self._group)
        order, length = head.tolist()
        numbers = torch.zeros(length, dtype=torch.int64)
        if length:
            distributed.broadcast(numbers, 0, self._group)
        return Order(order), numbers.tolist()


class SharedRows(ModelRows):
    """The leader's share of a model: what happens to it, happens to the others'."""

    def __init__(
        self, model: PreTrainedModel, slots: int, context: int, channel: Channel, compile_: Compile | None
    ) -> None:
        super().__init__(model, slots, context, compile_)
        self._channel = channel
        channel.send(Order.RESIZE, [slots])

    def read(self, parts: Mapping[int, Part], keep: int = 1) -> torch.Tensor:
        numbers = ((number, part.begin, len(part.tokens), *part.tokens) for number, part in parts.items())
        self._channel.send(Order.READ, [keep, *chain.from_iterable(numbers)])
        with _together():
            return super().read(parts, keep)

    def share(self, number: int, other: int) -> None:
        self._channel.send(Order.SHARE, [number, other])
        super().share(number, other)

    def drop(self, number: int) -> None:
        self._channel.send(Order.DROP, [number])
        super().drop(number)

    def join(self, number: int, *, keep: bool = False) -> None:
        self._channel.send(Order.JOIN, [number, keep])
        with _together():
            super().join(number, keep=keep)

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        self._channel.send(Order.DECODE, tokens)
        with _together():
            return super().decode(tokens)

    def leave(self, number: int) -> None:
        self._channel.send(Order.LEAVE, [number])
        super().leave(number)

    def resize(self, slots: int) -> None:
        self._channel.send(Order.RESIZE, [slots])
        super().resize(slots)

    def close(self) -> None:
        with suppress(EngineDeadError):  # whoever is gone needs no order
            self._channel.send(Order.CLOSE, [])
        super().close()


def _parts(numbers: list[int]) -> dict[int, Part]:
    parts = {}
    while numbers:
        number, begin, length, *numbers = numbers
        parts[number], numbers = Part(numbers[:length], begin), numbers[length:]
    return parts


def obey(rows: ModelRows, channel: Channel) -> None:
    """Do what the leader says, until it closes. Raises RuntimeError when it is gone."""
    while True:
        order, numbers = channel.receive()
        match order:
            case Order.READ:
                rows.read(_parts(numbers[1:]), keep=numbers[0])
            case Order.JOIN:
                rows.join(numbers[0], keep=bool(numbers[1]))
            case Order.SHARE:
                rows.share(*numbers)
            case Order.DROP:
                rows.drop(numbers[0])
            case Order.DECODE:
                rows.decode(numbers)
            case Order.LEAVE:
                rows.leave(numbers[0])
            case Order.RESIZE:
                rows.resize(numbers[0])
            case Order.CLOSE:
                rows.close()
                return
