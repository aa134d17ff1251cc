"""The states of a job and the one table of allowed moves between them."""

from django.db import models


class State(models.TextChoices):
    QUEUED = "queued", "waits for a worker"
    CLAIMED = "claimed", "a worker fetches its inputs"
    RUNNING = "running", "the trainer runs"
    SUCCEEDED = "succeeded", "the result is whole"
    FAILED = "failed", "ended without a result; the reason says why"
    CANCELLED = "cancelled", "ended because the user wanted so"
    PAUSED = "paused", "stopped by the user, to be resumed"


LIVE = (State.CLAIMED, State.RUNNING)
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED)


class Stop(models.TextChoices):
    NONE = "", "go on"
    PAUSE = "pause", "stop with a checkpoint, to be resumed"
    CANCEL = "cancel", "stop for good"


class Outcome(models.TextChoices):
    SUCCEEDED = "succeeded", "whole result"
    FAILED = "failed", "the trainer failed"
    STOPPED = "stopped", "stopped as the user asked"
    LOST = "lost", "the worker stopped answering"
    PREEMPTED = "preempted", "the worker gave its place away"


MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.CLAIMED, State.CANCELLED, State.PAUSED}),
    State.CLAIMED: frozenset(
        {State.RUNNING, State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED}
    ),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.FAILED: frozenset({State.QUEUED}),
    State.SUCCEEDED: frozenset(),
}
