"""What prompts begin with alike, which need not be computed twice."""

from collections.abc import Sequence


def common_length(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(some), len(others)))
