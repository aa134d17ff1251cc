"""`python -m worker` on the second way of starting: it forks also the stubs that tests put in the trainer's place.

ANNEAL_TEST_PREFORK=1 makes the hosts of tests/worker and tests/faults run it, so that every test of them can be run on
both ways. The prepared process imports nothing ahead: what is tested is the start, not the libraries. A job that could
be forked and is not fails.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from worker.__main__ import main
from worker.executors import local
from worker.process.forked import ForkedShim
from worker.process.prepared import Prepared
from worker.process.supervise import ShimProcess


def host_module() -> str:
    """What `python -m` runs as a worker host."""
    return "tests.worker.forking_host" if os.environ.get("ANNEAL_TEST_PREFORK") == "1" else "worker"


class PreparedForEach(Prepared):
    """Has no second way: a shim that was not forked fails its job."""

    def shim(self, arguments: Sequence[str], env: Mapping[str, str], log: int) -> ShimProcess:
        shim = super().shim(arguments, env, log)
        if not isinstance(shim, ForkedShim):
            shim.kill()
            raise AssertionError("the shim was started as a new program")
        return shim


if __name__ == "__main__":
    local.prepared_problem = lambda settings: ""  # noqa: ARG005
    local.Prepared = partial(PreparedForEach, modules=())  # type: ignore[assignment, misc]
    sys.exit(main())
