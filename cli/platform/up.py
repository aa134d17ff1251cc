"""Brings the embedded platform up, keeps it up, and takes it down in order."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cli.platform.children import Say, child_stop, children_check
from cli.platform.home import NOTHING_REQUESTED, RequestedKinds, home_locked, home_open, kinds_resolve
from cli.platform.start import Platform, platform_start

CHECK_SECONDS = 0.3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def platform_run(
    root: Path, say: Say, on_ready: Callable[[Platform], None], requested: RequestedKinds = NOTHING_REQUESTED
) -> None:
    """Runs the platform in `root` until a stop signal. Raises CliError where a part does not start."""
    home = home_open(root)
    with home_locked(home), stop_signals() as stops:
        platform = Platform(home=home, url="", first={}, kinds=kinds_resolve(home, requested))
        try:
            platform_start(platform, say)
            on_ready(platform)
            while not stops.wait(CHECK_SECONDS):
                children_check(platform.children, say)
        finally:
            platform_stop(platform, say, stops)


class Stops(threading.Event):
    """Set by the first stop signal; `hurry` by the second."""

    hurry = False

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.hurry = self.is_set()
        self.set()


@contextmanager
def stop_signals() -> Iterator[Stops]:
    stops = Stops()
    before = {number: signal.signal(number, stops.receive) for number in STOP_SIGNALS}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def platform_stop(platform: Platform, say: Say, stops: Stops) -> None:
    """The last started first: the worker drains while the API still listens. A second signal hurries it."""
    for child in reversed(platform.children):
        if not child.alive:
            continue
        say(f"stopping {child.name}")
        assert child.process is not None
        child.process.send_signal(child.stop_signal)
        deadline = time.monotonic() + child.stop_seconds
        while child.alive and time.monotonic() < deadline and not stops.hurry:
            time.sleep(0.05)
        child_stop(child, 10 if stops.hurry else 0)
