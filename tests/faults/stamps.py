"""What stub trainers stamp, and the checker that reads nothing else. Standard library only."""

import json
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

SECRETS = ("hf_abcdefghijklmnopqrstuvwx", "ana_" + "x" * 43, "0123456789abcdef0123456789abcdef01234567")
"""What a stub that talks too much prints; no log may show them."""


@dataclass(frozen=True)
class Stamp:
    """One line. `boottime`: seconds on CLOCK_BOOTTIME, the same clock for all processes of this machine."""

    what: str
    """start, step, hold, follow or end."""
    job: str
    attempt: str
    pid: int
    rank: int
    step: int
    boottime: float
    others: tuple[int, ...] = ()
    """At the start: processes of other attempts of the job that were alive. There must be none."""
    outcome: str = ""


@dataclass(frozen=True)
class Life:
    """One attempt of one job, as its own processes tell it."""

    attempt: str
    first_step: int
    """Where it started: 0, or the checkpoint's step."""
    last_step: int
    started: float
    last_seen: float
    outcome: str
    """Of its end; empty where it did not come to one."""


def stamp_add(path: Path, stamp: Stamp) -> None:
    """One write, so that lines of several processes never mix."""
    line = json.dumps(asdict(stamp)).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def stamps_of(path: Path, job: str) -> list[Stamp]:
    if not path.exists():
        return []
    text = path.read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    return [
        Stamp(**{**entry, "others": tuple(entry["others"])}) for entry in map(json.loads, lines) if entry["job"] == job
    ]


def lives_of(path: Path, job: str) -> list[Life]:
    """The attempts that came to life, oldest first."""
    by_attempt: dict[str, list[Stamp]] = {}
    for stamp in stamps_of(path, job):
        by_attempt.setdefault(stamp.attempt, []).append(stamp)
    return sorted((_life(stamps) for stamps in by_attempt.values()), key=lambda life: life.started)


def still_alive(path: Path, job: str, attempt: str) -> tuple[int, ...]:
    """Pids of other attempts of `job` that live now."""
    others = {stamp.pid: stamp.attempt for stamp in stamps_of(path, job) if stamp.attempt != attempt}
    return tuple(sorted(pid for pid, other in others.items() if _lives(pid, other)))


def dead_ranks(path: Path, job: str, attempt: str) -> set[int]:
    """Ranks of this attempt that started and are gone."""
    pids = {stamp.pid: stamp.rank for stamp in stamps_of(path, job) if stamp.attempt == attempt}
    return {rank for pid, rank in pids.items() if not _lives(pid, attempt)}


def check_never_two(path: Path, job: str) -> list[Life]:
    """Asserts that the attempts of `job` were never alive at the same time; returns them."""
    lives = lives_of(path, job)
    for stamp in stamps_of(path, job):
        assert not stamp.others, f"attempt {stamp.attempt} of {job} started while processes {stamp.others} lived"
    for before, after in pairwise(lives):
        assert before.last_seen < after.started, f"{job}: {before} was alive when {after} started"
    return lives


def check_one_result(path: Path, job: str) -> list[Life]:
    """Asserts that one attempt alone came to the end, that it is the last one, and never two at once."""
    lives = check_never_two(path, job)
    ends = [life.outcome for life in lives if life.outcome == "succeeded"]
    assert ends == ["succeeded"], f"{job}: expected one attempt that succeeds, got {lives}"
    assert lives[-1].outcome == "succeeded", f"{job}: {lives}"
    return lives


def _life(stamps: list[Stamp]) -> Life:
    starts = [stamp for stamp in stamps if stamp.what == "start"]
    return Life(
        attempt=stamps[0].attempt,
        first_step=max(stamp.step for stamp in starts),
        last_step=max(stamp.step for stamp in stamps),
        started=min(stamp.boottime for stamp in starts),
        last_seen=max(stamp.boottime for stamp in stamps),
        outcome=next((stamp.outcome for stamp in stamps if stamp.what == "end"), ""),
    )


def _lives(pid: int, attempt: str) -> bool:
    """Whether the process is there, not a zombie, and still the one that stamped.

    Its folders are named on its command line, which every user may read; a trainer's wall hides its environment.
    """
    try:
        return attempt.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
