"""The judge of the soak finds what was planted, and nothing where all is well."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.soak_check import Verdict, judge, stamps_read
from tests.faults.stamps import Stamp, stamp_add


def stamp(what: str, at: float, attempt: str = "a", step: int = 0, job: str = "stub-1") -> Stamp:
    outcome = "succeeded" if what == "end" else ""
    return Stamp(what, job, attempt, pid=7, rank=0, step=step, boottime=at, outcome=outcome)


FIRST = [stamp("start", 1), stamp("step", 2, step=1)]
SECOND = [stamp("start", 5, "b"), stamp("step", 6, "b", step=2), stamp("end", 7, "b", step=3)]
LOST: dict[str, Any] = {"n": 1, "outcome": "lost", "resumed_from": None}
WON: dict[str, Any] = {"n": 2, "outcome": "succeeded", "resumed_from": 1}
RECORD: dict[str, Any] = {"name": "stub-1", "state": "succeeded", "reason": None, "attempts": [LOST, WON]}


def judged(
    stamps: list[Stamp] = FIRST + SECOND, *, adaptors: int = 1, job: str = "stub-1", **changed: object
) -> Verdict:
    return judge([job], {job: {**RECORD, **changed}}, {job: adaptors} if adaptors else {}, stamps)


def test_a_job_that_lost_a_worker_and_succeeded_once_is_fine() -> None:
    verdict = judged()
    assert verdict.passed
    assert (verdict.states["succeeded"], verdict.attempts["lost"], verdict.resumed) == (1, 1, 1)


def test_the_order_of_the_stamps_in_the_file_does_not_matter() -> None:
    assert judged((FIRST + SECOND)[::-1]).passed


def test_an_attempt_that_is_seen_after_the_next_one_started_is_a_double() -> None:
    verdict = judged([*FIRST, *SECOND, stamp("step", 5.5, step=2)])
    assert not verdict.lost
    assert verdict.doubled == ["stub-1: an attempt was seen 0.500 s after the next one had started"]


def test_an_attempt_within_a_longer_one_is_a_double() -> None:
    assert judged([stamp("start", 4), stamp("end", 9), *SECOND]).doubled


def test_a_start_beside_a_living_process_is_a_double_even_where_that_one_stamps_no_more() -> None:
    assert judged([*FIRST, replace(SECOND[0], others=(7,)), *SECOND[1:]]).doubled


def test_two_adaptors_or_two_successes_are_a_double() -> None:
    assert judged(adaptors=2).doubled == ["stub-1: has 2 adaptors"]
    assert judged(attempts=[{**LOST, "outcome": "succeeded"}, WON]).doubled == ["stub-1: attempts [1, 2] succeeded"]


@pytest.mark.parametrize("state", ["queued", "running", "failed", "cancelled"])
def test_a_job_that_did_not_succeed_is_lost(state: str) -> None:
    assert judged(state=state).lost == [f"stub-1: is {state}, reason None"]


def test_a_job_that_the_api_forgot_is_lost() -> None:
    assert judge(["stub-1"], {}, {}, FIRST).lost == ["stub-1: accepted, but the API does not know it"]


def test_a_success_without_work_or_without_an_adaptor_is_lost() -> None:
    assert judged(FIRST).lost == ["stub-1: succeeded, but no trainer came to its end"]
    assert judged(adaptors=0).lost == ["stub-1: succeeded without an adaptor"]


def test_a_real_training_stamps_its_start_alone() -> None:
    assert judged([stamp("start", 1, job="real-1")], job="real-1").passed
    assert judged([], job="real-1").lost


def test_stamps_come_back_from_their_file(tmp_path: Path) -> None:
    for each in SECOND:
        stamp_add(tmp_path / "stamps", each)
    assert stamps_read(tmp_path / "stamps") == SECOND
    assert stamps_read(tmp_path / "none") == []
