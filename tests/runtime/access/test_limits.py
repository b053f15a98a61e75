"""A key's minute, by a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.access.keys import Key
from runtime.access.limits import MINUTE_S, Limits, Window
from runtime.errors import RateLimitError


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key(requests: int | None = None, tokens: int | None = None, name: str = "team") -> Key:
    return Key(name, b"", ("*",), requests, tokens)


def test_so_many_requests_and_then_none_until_the_first_is_a_minute_old(clock: Clock) -> None:
    limits, limited = Limits(clock=clock), key(requests=2)
    limits.admit(limited)
    clock.now += 20
    limits.admit(limited)
    with pytest.raises(RateLimitError, match="2 requests") as caught:
        limits.admit(limited)
    assert caught.value.retry_after_s == 40
    clock.now += 39.5
    with pytest.raises(RateLimitError) as caught:
        limits.admit(limited)
    assert caught.value.retry_after_s == 1
    clock.now += 0.5
    limits.admit(limited)
    with pytest.raises(RateLimitError) as caught:
        limits.admit(limited)
    assert caught.value.retry_after_s == 20, "what was refused did not count"


def test_a_batch_counts_as_its_requests_or_not_at_all(clock: Clock) -> None:
    limits, limited = Limits(clock=clock), key(requests=5)
    limits.admit(limited, 3)
    with pytest.raises(RateLimitError):
        limits.admit(limited, 3)
    limits.admit(limited, 2)
    clock.now += MINUTE_S
    with pytest.raises(RateLimitError, match="5 requests"):
        limits.admit(limited, 6)
    limits.admit(limited, 5)


def test_tokens_are_paid_by_the_next_request(clock: Clock) -> None:
    limits, limited = Limits(clock=clock), key(tokens=100)
    limits.admit(limited)
    limits.take_tokens(limited, 250)
    with pytest.raises(RateLimitError, match="100 tokens") as caught:
        limits.admit(limited)
    assert caught.value.retry_after_s == MINUTE_S
    clock.now += MINUTE_S
    limits.admit(limited)


def test_keys_do_not_share_and_one_without_limits_has_none(clock: Clock) -> None:
    limits = Limits(clock=clock)
    limits.admit(key(requests=1))
    limits.admit(key(requests=1, name="other"))
    for _ in range(100):
        limits.admit(key(name="free"))
        limits.take_tokens(key(name="free"), 10**9)
    assert limits.headers(key(name="free")) == {}


def test_headers_say_where_the_key_stands(clock: Clock) -> None:
    limits, limited = Limits(clock=clock), key(requests=3, tokens=10)
    limits.admit(limited)
    clock.now += 15
    limits.take_tokens(limited, 12)
    assert limits.headers(limited) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "45s",
        "x-ratelimit-limit-tokens": "10",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "60s",
    }


def test_new_limits_hold_at_once(clock: Clock) -> None:
    limits = Limits(clock=clock)
    for _ in range(5):
        limits.admit(key(requests=5))
    limits.admit(key(requests=6))
    with pytest.raises(RateLimitError):
        limits.admit(key(requests=4))


TIMES = st.lists(st.floats(0, 30).map(lambda pause: round(pause, 3)), max_size=60)


@given(TIMES, st.integers(1, 5))
def test_no_span_ever_holds_more_than_the_limit(pauses: list[float], limit: int) -> None:
    window, now, admitted = Window(60), 0.0, list[float]()
    for pause in pauses:
        now += pause
        if not window.wait_s(now, limit):
            window.take(now, 1)
            admitted.append(now)
        assert sum(now - 60 < each <= now for each in admitted) <= limit


def test_a_window_stays_small() -> None:
    window = Window(60)
    for tick in range(100_000):
        window.take(tick / 100, 1)
        window.used(tick / 100)
    assert len(window._entries) <= 61
