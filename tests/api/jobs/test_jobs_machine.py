"""Any order of requests, claims, losses and stops leaves the books right: property-based, the clock moved by hand."""

import uuid
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from api.accounts.models import Project
from api.catalog.models import Adaptor
from api.errors import Problem
from api.jobs.models import AcceleratorLease, Attempt, Event, Job
from api.jobs.services.attempt_lifecycle import Heartbeat, attempt_heartbeat, attempts_reap
from api.jobs.services.claim import ClaimRequest, attempt_claim
from api.jobs.services.control import job_cancel, job_pause, job_resume
from api.jobs.services.events import EventBatch, events_record
from api.jobs.services.files import Publication, artifact_publish
from api.jobs.services.finish import Finish, attempt_finish
from api.jobs.services.submit import JobRequest, job_create
from api.jobs.services.workers import Hello, worker_hello
from api.jobs.states import ENDED, LIVE, Outcome, State
from tests.api.host import event
from tests.api.jobs.test_transitions import DIAGRAM
from tests.api.world import Clock, World, file_entry, world_make

OUTCOMES = ("succeeded", "failed", "stopped", "drained", "lost")
CLOCK: list[Clock] = []


class Jobs(RuleBasedStateMachine):
    """Two workers of two slots and two accelerators; tokens of ended attempts go on speaking, as zombies do."""

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()
        self.open.enter_context(transaction.atomic())
        self.world: World = world_make(Project.objects.create(name=f"p{uuid.uuid4()}"))
        self.workers = [self.hello() for _ in range(2)]
        self.attempts: list[Any] = []
        self.jobs: list[Any] = []

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.open.close()

    def hello(self) -> dict[str, Any]:
        who = {"worker": str(uuid.uuid4()), "boot_id": str(uuid.uuid4())}
        cards = [{"index": 0}, {"index": 1}]
        values = {**who, "host": "h", "pools": ["default"], "slots": 2, "accelerators": cards}
        worker_hello(hello=Hello.model_validate(values))
        return who

    @rule(accelerators=st.integers(0, 2), priority=st.integers(-1, 1))
    def submit(self, accelerators: int, priority: int) -> None:
        resources = {"accelerators": accelerators, "strategy": "ddp" if accelerators > 1 else "single"}
        request = JobRequest.model_validate({**self.world.request, "resources": resources, "priority": priority})
        self.jobs.append(job_create(project=self.world.project, request=request, by="test")[0].pk)

    @rule(which=st.integers(0, 1), free=st.sampled_from([[0, 1], [0], []]))
    def claim(self, which: int, free: list[int]) -> None:
        values = {**self.workers[which], "claim_id": uuid.uuid4(), "pools": ["default"], "free_accelerators": free}
        if claimed := attempt_claim(request=ClaimRequest.model_validate(values)):
            self.attempts.append(claimed.attempt.pk)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        batch = {"first_seq": 1, "events": [event(1, "started", total=10, step=0)]}
        self.speak(data, lambda attempt: events_record(attempt_id=attempt.pk, batch=EventBatch.model_validate(batch)))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        self.speak(
            data, lambda attempt: attempt_heartbeat(attempt_id=attempt.pk, heartbeat=Heartbeat(fence=attempt.fence))
        )

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), step=st.integers(1, 9))
    def checkpoint(self, data: st.DataObject, step: int) -> None:
        values = {
            "kind": "checkpoint",
            "step": step,
            "path": f"c/{step}",
            "files": [file_entry(f"c/{step}/state", b"x")],
        }
        self.speak(
            data, lambda attempt: artifact_publish(attempt=attempt, publication=Publication.model_validate(values))
        )

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), complete=st.booleans())
    def finish(self, data: st.DataObject, outcome: str, complete: bool) -> None:
        files = [file_entry("adaptor/w", b"x")]
        manifest = {"outcome": outcome, "files": files} if complete else None
        report = Finish.model_validate({"outcome": outcome, "manifest": manifest, "files": files})
        self.speak(data, lambda attempt: attempt_finish(attempt=attempt, finish=report))
        self.speak(data, lambda attempt: attempt_finish(attempt=attempt, finish=report))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), verb=st.sampled_from([job_cancel, job_pause, job_resume]))
    def ask(self, data: st.DataObject, verb: Any) -> None:
        job_id = data.draw(st.sampled_from(self.jobs))
        before = Job.objects.get(pk=job_id)
        try:
            verb(job_id=job_id, by="test")
        except Problem as problem:
            assert problem.code == "job_state"
            assert Job.objects.get(pk=job_id).state == before.state

    @rule(passes=st.sampled_from([1, 20, 50]), gap=st.booleans())
    def time_passes(self, passes: int, gap: bool) -> None:
        attempts_reap()
        for _ in range(passes):
            CLOCK[0].advance(600 if gap else 8)
            ended = attempts_reap()
            assert not (gap and ended), "an outage of ours ended an attempt"

    def speak(self, data: st.DataObject, say: Any) -> None:
        """An attempt that lives is heard; a zombie is refused, and says nothing of importance."""
        attempt = Attempt.objects.select_related("job").get(pk=data.draw(st.sampled_from(self.attempts)))
        try:
            say(attempt)
        except Problem as problem:
            assert attempt.ended_at is not None or problem.code == "artifact_differs"
            assert problem.code in ("fenced", "attempt_ended", "artifact_differs")

    @invariant()
    def books_are_right(self) -> None:
        for job in Job.objects.filter(pk__in=self.jobs).prefetch_related("attempts"):
            live = [attempt for attempt in job.attempts.all() if attempt.ended_at is None]
            assert len(live) == (1 if job.state in LIVE else 0)
            assert job.fence == len(job.attempts.all())
            assert (job.ended is not None) == (job.state in ENDED)
            succeeded = [attempt for attempt in job.attempts.all() if attempt.outcome == Outcome.SUCCEEDED]
            assert len(succeeded) == (1 if job.state == State.SUCCEEDED else 0)
            assert Adaptor.objects.filter(job=job, partial=False).count() == len(succeeded)
            seqs = Event.objects.filter(job=job).order_by("seq").values_list("seq", flat=True)
            assert list(seqs) == list(range(1, job.event_seq + 1))
            self.moves_are_allowed(job)

    def moves_are_allowed(self, job: Job) -> None:
        rows = Event.objects.filter(job=job, kind="state").order_by("seq").values_list("data", flat=True)
        states = [State(data["state"]) for data in rows]
        assert states[0] == State.QUEUED and states[-1] == job.state
        assert all(after in DIAGRAM[before] for before, after in pairwise(states))

    @invariant()
    def accelerators_are_held_by_live_attempts_alone(self) -> None:
        held = AcceleratorLease.objects.filter(attempt__job__in=self.jobs).select_related("attempt__job")
        assert all(lease.attempt.ended_at is None for lease in held)
        for attempt in Attempt.objects.filter(job__in=self.jobs, ended_at=None).select_related("job"):
            assert sum(lease.attempt_id == attempt.pk for lease in held) == attempt.job.accelerators


@pytest.fixture
def machine(db: None, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> type[Jobs]:  # noqa: ARG001
    CLOCK[:] = [clock]
    for module in ("files", "finish"):
        monkeypatch.setattr(f"api.jobs.services.{module}.files_missing", lambda *_: [])
    return Jobs


def run(machine: type[Jobs], examples: int, steps: int) -> None:
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None)
    run_state_machine_as_test(machine, settings=settings(limits, suppress_health_check=list(HealthCheck)))


def test_any_order_of_events_leaves_consistent_rows(machine: type[Jobs]) -> None:
    run(machine, examples=5, steps=25)


@pytest.mark.slow
def test_any_long_order_of_events_leaves_consistent_rows(machine: type[Jobs]) -> None:
    run(machine, examples=15, steps=50)


@pytest.mark.long(smaller="test_any_long_order_of_events_leaves_consistent_rows")
@pytest.mark.parametrize("piece", range(20))
def test_2000_long_orders_of_events_leave_consistent_rows(machine: type[Jobs], piece: int) -> None:  # noqa: ARG001
    """In pieces, which several processes share; each draws examples of its own."""
    run(machine, examples=100, steps=50)
