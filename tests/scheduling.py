"""How xdist shares the tests out: what shares a platform or the fixtures of a file to one process, and longest first.

Parts that mostly wait for the clock (leases, heartbeats) start first, so that the others use the cores meanwhile.
`--dist loadgroup` was meant for this; pytest-xdist 3.8 does not see its marks under pytest 9.2.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ONE_BY_ONE = (
    "tests/api/jobs/test_jobs_machine.py",
    "tests/api/test_schemathesis.py",
    "tests/bench/test_benches.py",
    "tests/trainers/test_config_canaries.py",
)
"""Long tests that share nothing with the others of their file."""
SHARED_PLATFORM = ("tests/e2e/", "tests/faults/")
OWN_PLATFORM = ("tests/e2e/test_fetch.py", "tests/e2e/test_served.py", "tests/faults/test_exact_resume.py")
"""What lies there and does not use the platform that the others share."""
LONGEST = (
    "tests/e2e/ with one platform",
    "tests/faults/ on sqlite",
    "tests/faults/ on postgresql",
    "tests/trainers/core/test_resume.py",
    "tests/faults/test_exact_resume.py",
    "tests/api/test_schemathesis.py",
    "tests/bench/test_benches.py",
    "tests/trainers/test_config_canaries.py",
    "tests/e2e/test_served.py",
    "tests/e2e/test_fetch.py",
    "tests/upgrade/",
    "tests/api/jobs/test_jobs_machine.py",
    "tests/worker/process/test_residents.py",
    "tests/worker/process/test_prepared_training.py",
    "tests/trainers/image/training/",
    "tests/api/panel/",
    "tests/trainers/image/sampling/test_families.py",
    "tests/api/accounts/test_authorization.py",
    "tests/worker/attempt/test_agent.py",
    "tests/worker/sandbox/test_wall.py",
    "tests/trainers/core/",
    "tests/worker/host/",
    "tests/trainers/image/adaptors/",
    "tests/trainers/methods/",
    "tests/trainers/text/training/",
    "tests/api/test_commands.py",
    "tests/api/test_metrics.py",
    "tests/api/catalog/test_versions.py",
    "tests/api/catalog/test_derived_datasets.py",
    "tests/api/jobs/test_dispatch.py",
    "tests/worker/process/",
    "tests/test_language.py",
    "tests/cli/test_completion.py",
)
"""Beginnings of the groups that take longest, in their order; the others follow by their number of tests."""


def group_of(nodeid: str) -> str:
    """What runs in one process together with this test."""
    file = nodeid.partition("::")[0]
    for folder in SHARED_PLATFORM:
        if file.startswith(folder) and file not in OWN_PLATFORM:
            return f"{folder} {platform_of(nodeid, folder)}"
    return nodeid if file in ONE_BY_ONE else file


def platform_of(nodeid: str, folder: str) -> str:
    if folder == "tests/e2e/":
        return "with one platform"
    return "on postgresql" if "postgresql" in nodeid.partition("[")[2] else "on sqlite"


def rank(group: str, num_tests: int) -> tuple[int, int]:
    """The smaller, the earlier it starts."""
    place = next((place for place, beginning in enumerate(LONGEST) if group.startswith(beginning)), len(LONGEST))
    return place, -num_tests


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        first = min(self.workqueue, key=lambda group: rank(group, len(self.workqueue[group])))
        self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongestFirst:
    return LongestFirst(config, log)
