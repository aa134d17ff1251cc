"""The clock of leases: it goes on while the host sleeps, and nobody can set it."""

import time


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
