"""How xdist shares the tests out: one by one, but those of e2e/ to one process and those of faults/ to one: each folder
shares a platform.

`--dist loadgroup` was meant for this; pytest-xdist 3.8 does not see its marks under pytest 9.2.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ONE_PLATFORM = ("e2e", "faults")


class OnePlatform(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.removeprefix("tests/").partition("/")[0]
        return folder if folder in ONE_PLATFORM else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OnePlatform:
    return OnePlatform(config, log)
