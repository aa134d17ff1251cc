"""Whether what failed on this worker works again: what may end its quarantine."""

from collections.abc import Callable, Sequence
from typing import Literal

from worker.host.accelerators import Accelerator, accelerators_of

Result = Literal["passed", "failed"]


def self_check(
    code: str, *, setting: str, accelerators: Sequence[Accelerator], has_room: Callable[[], bool]
) -> Result | None:
    """`code`: of the Reason that led to the quarantine. None for what only a person can judge, as a missing library."""
    if code == "disk_full":
        return "passed" if has_room() else "failed"
    if code == "no_accelerator":
        return "passed" if _driver_shows(setting, accelerators) else "failed"
    return None


def _driver_shows(setting: str, accelerators: Sequence[Accelerator]) -> bool:
    """Whether the driver shows every accelerator that this worker registered."""
    try:
        visible = {accelerator.index for accelerator in accelerators_of(setting)}
    except (OSError, ValueError):
        return False
    return {accelerator.index for accelerator in accelerators} <= visible
