"""A long test without a smaller one is refused when the tests are collected."""

from dataclasses import dataclass

import pytest

from tests.long_tests import without_smaller

LONG = pytest.mark.long.mark


@dataclass
class Item:
    nodeid: str
    mark: pytest.Mark | None = None

    def get_closest_marker(self, _name: str) -> pytest.Mark | None:
        return self.mark


def long_but_for(smaller: str) -> pytest.Mark:
    return pytest.mark.long(smaller=smaller).mark


@pytest.mark.parametrize(
    ("items", "is_refused"),
    [
        ([Item("a.py::test_x[1]", LONG), Item("a.py::test_x[2]")], False),
        ([Item("a.py::test_x[1]", LONG), Item("a.py::test_x[2]", LONG)], True),
        ([Item("a.py::test_x", long_but_for("test_y")), Item("a.py::test_y")], False),
        ([Item("a.py::test_x", long_but_for("test_y")), Item("a.py::test_z")], True),
        ([Item("a.py::test_x", long_but_for("test_x"))], True),
        ([Item("a.py::test_x", long_but_for("b.py::test_y")), Item("b.py::test_y")], False),
        ([Item("a.py::test_x", long_but_for("b.py::test_y"))], False),
    ],
    ids=[
        "other cases",
        "all cases",
        "named",
        "named and not there",
        "itself",
        "in another file",
        "in one not collected",
    ],
)
def test_a_long_test_leaves_a_smaller_one(items: list[pytest.Item], is_refused: bool) -> None:
    assert bool(without_smaller(items)) == is_refused
