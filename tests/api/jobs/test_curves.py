"""Curves of a job: exact while they are short, thinned without losing a peak when they are long."""

import math
import random
from typing import Any

import pytest
from rest_framework.test import APIClient

from api.jobs.curves import curves, curves_thin, points_add
from api.jobs.models import Attempt, Job, Metric
from tests.api.host import Agent, Host, step_event
from tests.api.world import World

pytestmark = pytest.mark.django_db
Points = list[tuple[int, float]]


@pytest.fixture
def attempt(world: World, user: APIClient, host: Host) -> Attempt:
    user.post("/api/v1/jobs", world.request, format="json")
    host.claim()
    return Attempt.objects.get()


def draw(attempt: Attempt, name: str, points: Points) -> None:
    Metric.objects.bulk_create(Metric(attempt=attempt, name=name, step=s, value=v) for s, v in points)


def noisy(count: int, seed: int = 0, gap: int = 1) -> Points:
    chance = random.Random(seed)
    return [(7 + gap * i, math.exp(-i / count) + chance.gauss(0, 0.1)) for i in range(count)]


def thinned(points: Points, num_points: int) -> Points:
    """What the database does, in Python: the first, the last, and both extremes of each stretch between."""
    if len(points) <= num_points:
        return points
    first, last, parts = points[0][0], points[-1][0], (num_points - 2) // 2
    stretches: dict[int, Points] = {}
    for step, value in points[1:-1]:
        stretches.setdefault((step - first) * parts // (last - first + 1), []).append((step, value))
    expected = {points[0], points[-1]}
    for part in stretches.values():
        expected |= {min(part, key=lambda p: (p[1], p[0])), min(part, key=lambda p: (-p[1], p[0]))}
    return sorted(expected)


@pytest.mark.parametrize("num_points", [4, 5, 50, 499, 500, 1000])
@pytest.mark.parametrize("gap", [1, 13])
def test_a_long_curve_keeps_its_ends_and_its_peaks(attempt: Attempt, num_points: int, gap: int) -> None:
    points = noisy(500, gap=gap)
    points[250] = (points[250][0], 99.0)
    draw(attempt, "loss", points)
    points_shown = curves(attempt.job, num_points=num_points)["loss"]
    assert points_shown == thinned(points, num_points)
    assert len(points_shown) <= num_points
    assert (points_shown[0], points_shown[-1]) == (points[0], points[-1])
    assert max(value for _, value in points_shown) == 99.0


def test_each_curve_is_thinned_by_its_own_steps(attempt: Attempt, django_assert_max_num_queries: Any) -> None:
    lines = {"loss": noisy(300), "lr": noisy(5, 1), "late": [(s + 10**6, v) for s, v in noisy(200, 2)], "flat": []}
    lines["flat"] = [(i, 1.0) for i in range(100)]
    for name, points in lines.items():
        draw(attempt, name, points)
    job = attempt.job
    with django_assert_max_num_queries(4):
        points_shown = curves(job, num_points=20)
    assert points_shown == {name: thinned(points, 20) for name, points in lines.items()}


def test_several_names_can_be_requested_in_both_ways(attempt: Attempt, user: APIClient) -> None:
    for name in ("a", "b", "c"):
        draw(attempt, name, [(1, 1.0)])
    path = f"/api/v1/jobs/{attempt.job_id}/metrics"
    for query, names in (("", "abc"), ("?name=a", "a"), ("?name=a,c", "ac"), ("?name=a&name=b", "ab"), ("?name=d", "")):
        assert list(user.get(path + query).json()["series"]) == list(names)
    for points in ("3", "100001", "many", "-1", "1e9"):
        answer = user.get(f"{path}?points={points}")
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["points"])
    assert user.get(f"{path}?points=4").status_code == 200


def test_a_superseded_part_stays_out_of_a_thinned_curve(attempt: Attempt) -> None:
    draw(attempt, "loss", [(i, 5.0) for i in range(1, 101)])
    fields = {f.attname: getattr(attempt, f.attname) for f in Attempt._meta.concrete_fields if f.name != "id"}
    other = {"n": 2, "fence": 2, "token_hash": "x", "claim_id": "00000000-0000-0000-0000-000000000001"}
    Attempt.objects.update(ended_at=attempt.started_at)
    second = Attempt.objects.create(**{**fields, **other, "start_step": 40, "event_seq": 1})
    draw(second, "loss", [(i, 1.0) for i in range(41, 201)])
    points_shown = curves(Job.objects.get(), num_points=50)["loss"]
    assert {value for step, value in points_shown if step <= 40} == {5.0}
    assert {value for step, value in points_shown if step > 40} == {1.0}


def test_a_long_curve_is_thinned_and_loses_no_peak(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.curves.MAX_STORED", 100)
    points, short = noisy(250), noisy(100, seed=1)
    draw(attempt, "loss", points)
    draw(attempt, "lr", short)
    curves_thin(attempt)
    stored = curves(Job.objects.get(), num_points=1000)
    assert stored["loss"] == thinned(points, 50) and len(stored["loss"]) <= 50
    assert stored["lr"] == short
    values = [value for _, value in points]
    assert {min(values), max(values)} <= {value for _, value in stored["loss"]}


def test_a_trainer_that_reports_without_end_leaves_curves_of_bounded_length(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.curves.MAX_STORED", 100)
    monkeypatch.setattr("api.jobs.services.events.THIN_EVERY", 50)
    for first in range(2, 1002, 100):
        assert agent.events(*[step_event(seq, seq, total=2000) for seq in range(first, first + 100)]).status_code == 200
    steps = list(Metric.objects.filter(name="loss").order_by("step").values_list("step", flat=True))
    assert len(steps) <= 200 and (steps[0], steps[-1]) == (2, 1001)


def test_a_point_that_is_recorded_already_stays(attempt: Attempt) -> None:
    points_add(attempt, [("loss", 1, 0.5), ("loss", 2, 0.25)])
    points_add(attempt, [("loss", 2, 9.0), ("loss", 3, 0.125)])
    assert curves(Job.objects.get()) == {"loss": [(1, 0.5), (2, 0.25), (3, 0.125)]}
