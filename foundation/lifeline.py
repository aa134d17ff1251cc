"""Ends a process with the one that started it. Standard library only."""

import ctypes
import os
import signal
import threading

PR_SET_PDEATHSIG = 1
DEADMAN_EXIT_CODE = 70


def die_with_parent(death_signal: int = signal.SIGKILL) -> None:
    """The kernel sends this process `death_signal` when the thread that started it ends. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def tie_to_parent() -> None:
    """Ends with its parent (SIGKILL by the kernel), and at EOF of the deadman pipe if there is one.

    ANNEAL_PARENT_PID: the expected parent; another one means that it ended before this call.
    ANNEAL_DEADMAN_FD: read end of a pipe; EOF means that the supervisor has ended.
    """
    parent = int(os.environ.get("ANNEAL_PARENT_PID") or os.getppid())
    die_with_parent()
    if os.getppid() != parent and "TORCHELASTIC_RUN_ID" not in os.environ:
        os._exit(DEADMAN_EXIT_CODE)
    deadman = os.environ.get("ANNEAL_DEADMAN_FD")
    if deadman:
        threading.Thread(target=_wait_for_end, args=(int(deadman),), name="deadman", daemon=True).start()


def _wait_for_end(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os._exit(DEADMAN_EXIT_CODE)
