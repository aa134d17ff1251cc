"""Pauses double up to a limit, and a repeated call ends with its result or its last error."""

from itertools import islice

import pytest
from tenacity import retry_if_exception_type, stop_after_attempt

from foundation.retry import backoff, repeat


def test_pauses_double_up_to_the_longest_with_jitter() -> None:
    seconds = list(islice(backoff(1.0, 4.0), 5))
    assert all(full / 2 <= value <= full for value, full in zip(seconds, (1, 2, 4, 4, 4), strict=True))


def test_a_call_is_retried_until_it_succeeds_with_the_pause_as_its_sleep() -> None:
    outcomes, pauses = iter([KeyError(), KeyError(), "result"]), list[float]()

    def call() -> str:
        if isinstance(outcome := next(outcomes), Exception):
            raise outcome
        return outcome

    assert repeat(call, when=retry_if_exception_type(KeyError), first_seconds=0.2, pause=pauses.append) == "result"
    assert len(pauses) == 2 and 0.1 <= pauses[0] <= 0.2 <= pauses[1] <= 0.4


def test_the_last_error_is_raised_once_the_attempts_are_used_up() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(len(calls))
        raise KeyError(len(calls))

    stop, when = stop_after_attempt(3), retry_if_exception_type(KeyError)
    with pytest.raises(KeyError, match="3"):
        repeat(call, when=when, first_seconds=0, pause=lambda _: None, stop=stop)
    assert len(calls) == 3


def test_another_error_is_raised_at_once() -> None:
    def call() -> None:
        raise ValueError("not repeated")

    with pytest.raises(ValueError, match="not repeated"):
        repeat(call, when=retry_if_exception_type(KeyError), first_seconds=0, pause=pytest.fail)
