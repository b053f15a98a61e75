"""How much hypothesis does: the same few examples at every `make test`, many new ones in `make test-all`."""

import os
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

slow_machines = [HealthCheck.too_slow]
settings.register_profile(
    "quick", max_examples=100, derandomize=True, deadline=None, suppress_health_check=slow_machines
)
settings.register_profile("full", max_examples=1000, deadline=None, suppress_health_check=slow_machines)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def at_size(quick: T, full: T) -> T:
    """How many cases a test of its own making has, by the same profile."""
    return full if os.environ.get("HYPOTHESIS_PROFILE") == "full" else quick
