"""What an executor is given to start, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainers.contract.spec import Resources
from worker.process.places import Places
from worker.process.supervise import Exit
from worker.sandbox.confine import Network


@dataclass(frozen=True)
class Launch:
    attempt: str
    folder: Path
    """The attempt's, which the trainer starts in."""
    places: Places
    project: str
    resources: Resources
    accelerators: tuple[int, ...]
    kill_seconds: float
    deadline: float
    """End of the lease on CLOCK_BOOTTIME; the executor itself ends the trainer then."""
    network: Network = "none"
    """What the trainer may connect to."""
    reuse_key: str = ""
    """What the trainer may keep in memory for the next attempt of the same, as a key; "" = nothing."""
    can_be_forked: bool = False
    """Whether a prepared process may serve it; see worker/process/prepared.py."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For the trainer's environment."""


class Running(Protocol):
    def extend(self, deadline: float) -> None: ...

    def terminate(self) -> None:
        """SIGTERM, and after kill_seconds SIGKILL to all that is left."""

    def kill(self) -> None: ...

    def kill_shim(self) -> None: ...

    def wait(self, timeout_seconds: float) -> Exit | None:
        """The end, once nothing of the trainer is left."""
