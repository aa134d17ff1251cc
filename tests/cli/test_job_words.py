"""What the lists of jobs say in few words."""

from typing import Any

import pytest

from cli.commands.jobs import evaluation_text, state_text, step_text
from cli.commands.operations import fitting
from cli.watch import sentence, state_sentence

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


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"state": "claimed", "phase": None}, "claimed"),
        ({"state": "claimed", "phase": "loading"}, "claimed: loading the model and the data"),
        ({"state": "claimed", "phase": "of a newer API", "stopping": True}, "claimed: of a newer API, stopping"),
        ({"state": "running", "stopping": True}, "running, stopping"),
    ],
)
def test_a_claimed_job_shows_what_it_does(job: Any, text: str) -> None:
    assert state_text(job) == text


LOST = {"attempt": 1, "outcome": "lost", "reason": {"message": "The worker stopped answering."}}
LATER = {"not_before": "2026-12-01T12:03:00+00:00", "tries": 1, "max_tries": 6}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"state": "queued", **LOST, "next_step": 40, "tries": 1, "max_tries": 3},
            "attempt 1 lost: The worker stopped answering; queued again, resumes from step 40 (try 2 of 3)",
        ),
        (
            {"state": "queued", **LOST, "outcome": "failed", "next_step": 0, **LATER},
            "attempt 1 failed: The worker stopped answering; queued again, starts from the beginning, "
            "waits until 12:03:00 UTC (try 2 of 6)",
        ),
        ({"state": "failed", **LOST}, "failed: The worker stopped answering"),
        ({"state": "queued", "reason": LOST["reason"]}, "The worker stopped answering; queued again"),
        ({"state": "queued", "reason": None}, "queued"),
        ({"state": "running", "reason": None}, "running"),
    ],
)
def test_a_watcher_reads_why_an_attempt_ended_and_what_is_next(data: Any, text: str) -> None:
    assert state_sentence(data) == text


def test_a_watcher_reads_the_phase() -> None:
    assert sentence({"kind": "phase", "data": {"phase": "importing"}}) == "importing the libraries"


@pytest.mark.parametrize(
    ("curves", "text"),
    [
        (
            {"validation/exact_match": [[4, 0.5]], "validation/correct": [[4, 2.0]]},
            "exact_match 0.5, correct 2 (step 4)",
        ),
        ({"loss": [[1, 2.0]], "validation/loss": [[2, 9.0], [4, 0.03125]]}, "loss 0.03125 (step 4)"),
        ({"loss": [[1, 2.0]]}, ""),
    ],
)
def test_a_job_shows_the_numbers_of_its_last_evaluation(curves: Any, text: str) -> None:
    assert evaluation_text(curves) == text


def test_a_row_of_the_audit_fits_80_columns() -> None:
    name = "0f8fad5b-d9cb-469f-a165-70867728950e"
    row = {"at": "2026-12-01T03:28:11.123456Z", "actor": f"attempt:{name}", "kind": "checkpoint_published" * 2}
    shown = fitting({**row, "object": f"job:{name}", "data": {"much": "x" * 1000}})
    assert shown["at"] == "2026-12-01 03:28:11" and shown["object"] == "job:0f8fad5b"
    assert len("  ".join(shown.values())) <= 80
