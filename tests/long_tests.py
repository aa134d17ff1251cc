"""Tests marked `long`, which `make test-all` alone runs, leave a smaller test of the same promise to CI.

Where only some cases of a test are long, the others are the smaller ones; else the mark names one, as
`long(smaller="test_x")`.
"""

from collections.abc import Sequence

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any("::" in argument for argument in config.args):
        return  # single cases: the smaller ones may be among those left out
    if result := without_smaller(items):
        raise pytest.UsageError("\n".join(result))


def without_smaller(items: Sequence[pytest.Item]) -> list[str]:
    """A sentence for each long test that leaves CI nothing."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    wholly_long = {test for test, cases in tests.items() if all(case.get_closest_marker("long") for case in cases)}
    files = {test.partition("::")[0] for test in tests}
    faults = []
    for test in sorted(wholly_long):
        mark = tests[test][0].get_closest_marker("long")
        smaller = str(mark.kwargs.get("smaller", "")) if mark else ""
        target = smaller if "::" in smaller else f"{test.partition('::')[0]}::{smaller}"
        is_collected = target.partition("::")[0] in files
        if not smaller or target in wholly_long or (is_collected and target not in tests):
            faults.append(f"{test} is long: expected a smaller test that CI runs, got smaller={smaller!r}")
    return faults
