"""What the lists of jobs say in few words."""

from typing import Any

import pytest

from cli.commands.jobs import step_text

STEP = {"kind": "step", "step": 3, "total": 10}
STAGE = {"kind": "progress", "stage": "evaluating", "done": 1, "total": 4}


@pytest.mark.parametrize(
    ("progress", "last_steps", "text"),
    [
        (STEP, [3], "3/10"),
        (STAGE, [10], "10"),
        (STAGE, [4, None], "4"),
        (None, [None], "-"),
        (None, [], "-"),
    ],
)
def test_a_job_shows_the_step_that_it_reached(progress: Any, last_steps: list[int | None], text: str) -> None:
    assert step_text({"progress": progress, "attempts": [{"last_step": step} for step in last_steps]}) == text
