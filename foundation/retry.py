"""Repeats a call with pauses that double, with jitter. Tenacity repeats; the caller's own pause is its sleep."""

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import RetryCallState, Retrying, stop_never
from tenacity.retry import retry_base
from tenacity.stop import StopBaseT

Result = TypeVar("Result")
Pause = Callable[[float], None]
"""Waits up to that many seconds; raises where going on makes no sense. `pause(0)` only checks."""


def backoff(first_seconds: float, longest_seconds: float = 30.0) -> Iterator[float]:
    """Seconds to wait before each repetition: doubled each time, with jitter."""
    seconds = first_seconds
    while True:
        yield seconds * random.uniform(0.5, 1.0)
        seconds = min(seconds * 2, longest_seconds)


def repeat(
    call: Callable[[], Result],
    *,
    when: retry_base,
    first_seconds: float,
    pause: Pause,
    stop: StopBaseT = stop_never,
    on_stop: Callable[[RetryCallState], Result] | None = None,
) -> Result:
    """Returns the first result of `call` that `when` does not ask to repeat.

    Once `stop` holds, returns or raises what `on_stop` does, or else raises the last error.
    """
    waits = backoff(first_seconds)
    retrying = Retrying(
        sleep=pause,
        wait=lambda _: next(waits),
        retry=when,
        stop=stop,
        retry_error_callback=on_stop,
        reraise=True,
    )
    return retrying(call)
