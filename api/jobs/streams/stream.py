"""Live streams: one poller per process reads the news of all followed jobs and distributes them.

Between two polls it holds no database connection, whatever the number of open streams.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError, connection
from django.db.models import Q

from api.environment import environment
from api.jobs.models import Event, Job
from api.jobs.schemas import EventShape
from api.jobs.selectors import KINDS, Reaches, is_superseded, reaches_of
from api.jobs.states import ENDED

log = logging.getLogger(__name__)

Message = dict[str, Any]
SUPERSEDED = "superseded"
"""Kind of a message that only advances a follower: a later attempt did the same steps again."""
PAGE = 500
"""Most events of a job in one poll, and half of what waits in memory for one slow reader."""
MAX_PAUSE_SECONDS = 5.0
"""Longest pause between two failing polls."""
MAX_DOUBLINGS = 10


@dataclass(eq=False)
class Follower:
    """One open stream. `seq`: the last event that it received. A message of None ends it."""

    job_id: UUID
    seq: int
    progress: Any = None
    messages: "asyncio.Queue[Message | None]" = field(default_factory=asyncio.Queue)


@dataclass(frozen=True)
class News:
    """Of one job: its events after the lowest seq of its followers, whether it has ended with them, its progress."""

    events: list[Message]
    ended: bool
    progress: Any


class Poller:
    """Polls while there are followers. Belongs to one event loop."""

    def __init__(self, read_news: "Callable[[dict[UUID, int]], dict[UUID, News]]") -> None:
        self._read_news = read_news
        self._followers: set[Follower] = set()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def follow(self, job_id: UUID, after: int) -> AsyncIterator[Follower]:
        follower = Follower(job_id, after)
        self._followers.add(follower)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    async def _run(self) -> None:
        failures = 0
        while self._followers:
            # A follower that joins during the poll may need older events: they come with the next poll. A follower
            # that lags behind is skipped until it has read.
            polled = [follower for follower in self._followers if follower.messages.qsize() < PAGE]
            try:
                news = await sync_to_async(self._read_news, thread_sensitive=False)(_lowest(polled))
                failures = 0
            except Exception as error:  # streams outlive any failure: nothing would restart the task
                failures += 1
                _failure_log(error, failures)
                news = {}
            for follower in polled:
                if follower in self._followers and follower.job_id in news:
                    self._distribute_safely(follower, news[follower.job_id])
            await asyncio.sleep(_pause_seconds(failures))

    def _distribute_safely(self, follower: Follower, news: News) -> None:
        """A failure ends only this stream; its reader reconnects with its last id."""
        try:
            self._distribute(follower, news)
        except Exception:
            log.exception("the stream of job %s ends: its news cannot be delivered", follower.job_id)
            follower.messages.put_nowait(None)
            self._followers.discard(follower)

    def _distribute(self, follower: Follower, news: News) -> None:
        for event in news.events:
            if event["seq"] > follower.seq:
                if event["kind"] != SUPERSEDED:
                    follower.messages.put_nowait(event)
                follower.seq = event["seq"]
        if _is_new_progress(news, follower):
            follower.progress = news.progress
            follower.messages.put_nowait(_transient(news.progress, follower.seq))
        if news.ended:
            follower.messages.put_nowait(None)
            self._followers.discard(follower)


def _failure_log(error: Exception, failures: int) -> None:
    """An unreachable database is expected; for other errors the first failure logs its traceback."""
    expected = isinstance(error, OperationalError | InterfaceError)
    log.log(
        logging.WARNING if expected else logging.ERROR,
        "live streams wait, consecutive failure %d: %s: %s",
        failures,
        type(error).__name__,
        error,
        exc_info=error if failures == 1 and not expected else None,
    )


def _pause_seconds(failures: int) -> float:
    poll = environment().stream_poll_seconds
    return float(min(poll * 2 ** min(failures, MAX_DOUBLINGS), max(poll, MAX_PAUSE_SECONDS)))


def _lowest(followers: Iterable[Follower]) -> dict[UUID, int]:
    lowest: dict[UUID, int] = {}
    for follower in followers:
        lowest[follower.job_id] = min(follower.seq, lowest.get(follower.job_id, follower.seq))
    return lowest


def _is_new_progress(news: News, follower: Follower) -> bool:
    """Only the newest matters, so none is queued while the reader has unread messages."""
    changed = news.progress is not None and news.progress != follower.progress
    return changed and not news.ended and follower.messages.empty()


def news_of(lowest: dict[UUID, int]) -> dict[UUID, News]:
    """The news of each job after its seq, in three queries; closes the connection."""
    try:
        jobs = list(Job.objects.filter(pk__in=lowest).only("state", "event_seq", "progress"))
        behind = [job for job in jobs if job.event_seq > lowest[job.pk]]
        events = _events_after({job.pk: lowest[job.pk] for job in behind}) if behind else {}
        return {job.pk: _news(job, lowest[job.pk], events.get(job.pk, [])) for job in jobs}
    finally:
        connection.close()


_POLLERS: "WeakKeyDictionary[asyncio.AbstractEventLoop, Poller]" = WeakKeyDictionary()


def poller() -> Poller:
    """The poller of the running event loop."""
    return _POLLERS.setdefault(asyncio.get_running_loop(), Poller(news_of))


def _events_after(after: dict[UUID, int]) -> dict[UUID, list[Message]]:
    condition = Q(pk__in=())
    for job_id, seq in after.items():
        condition |= Q(job=job_id, seq__gt=seq, seq__lte=seq + PAGE)
    events = list(Event.objects.filter(condition).order_by("seq").select_related("attempt"))
    reaches = reaches_of(after) if any(event.kind in KINDS for event in events) else {}
    messages: dict[UUID, list[Message]] = {}
    for event in events:
        messages.setdefault(event.job_id, []).append(_message(event, reaches))
    return messages


def _message(event: Event, reaches: Reaches) -> Message:
    if is_superseded(reaches, event.attempt_id, event.kind, event.data.get("step")):
        return {"seq": event.seq, "kind": SUPERSEDED}
    return EventShape.of(event).model_dump(mode="json")


def _news(job: Job, lowest: int, events: Iterable[Message]) -> News:
    """A job has ended for its followers once they get its last event."""
    listed = list(events)
    newest = listed[-1]["seq"] if listed else lowest
    return News(listed, job.state in ENDED and newest >= job.event_seq, job.progress)


def _transient(progress: dict[str, Any], seq: int) -> Message:
    """Steps have no event rows: only the newest is sent, with the seq of the event before it."""
    return {"seq": seq, "kind": progress["kind"], "time": None, "attempt": None, "data": progress}
