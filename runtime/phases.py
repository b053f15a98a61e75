"""How long a model took to start, and with what."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)

NAMES = ("fetch", "verify", "load", "warm_up")
"""The phases of a start, in their order: files from their sources, their digests and contents checked, the engine,
the first answers."""


@dataclass(slots=True)
class Phases:
    """The seconds of each phase of this process's model that is over."""

    seconds: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done within; what is done in several pieces counts together. One that fails counts too."""
        assert name in NAMES
        began = self.clock()
        try:
            yield
        finally:
            took = self.clock() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took

    def log(self, model: str) -> None:
        """One line about all of them."""
        said = ", ".join(f"{name} {self.seconds[name]:.2f} s" for name in NAMES if name in self.seconds)
        _log.info("%s: started: %s", model, said)


STARTED = Phases()
"""Those of the model in this process: there is one."""
