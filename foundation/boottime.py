"""The clock that also counts the time a machine was suspended, which leases are measured on. Standard library only."""

import time


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
