"""Checks the result of a soak from the trainers' stamps and the final REST records alone."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.soak_trainer import REAL
from cli.http import Record
from tests.faults.stamps import Stamp


@dataclass
class Verdict:
    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    """Number of jobs by outcome."""
    lost: list[str] = field(default_factory=list)
    """One sentence per accepted job that did not succeed, or succeeded without its work."""
    doubled: list[str] = field(default_factory=list)
    """One sentence per job with two trainers at once or two results."""
    resumed: int = 0
    """Attempts that resumed from a checkpoint."""

    @property
    def passed(self) -> bool:
        return not self.lost and not self.doubled


def judge(
    accepted: Iterable[str], records: Mapping[str, Record], adaptors: Mapping[str, int], stamps: Iterable[Stamp]
) -> Verdict:
    """`accepted`: names of the accepted jobs; `adaptors`: number of complete adaptors by job name."""
    verdict = Verdict()
    by_job: dict[str, list[Stamp]] = {}
    for stamp in stamps:
        by_job.setdefault(stamp.job, []).append(stamp)
    for job in accepted:
        job_stamps = by_job.get(job, [])
        verdict.lost += _losses(job, records.get(job), adaptors.get(job, 0), job_stamps)
        verdict.doubled += [f"{job}: {what}" for what in _doubles(records.get(job), adaptors.get(job, 0), job_stamps)]
        if record := records.get(job):
            verdict.states[record["state"]] += 1
            verdict.attempts.update(attempt["outcome"] or "live" for attempt in record["attempts"])
            verdict.resumed += sum(bool(attempt["resumed_from"]) for attempt in record["attempts"])
    return verdict


def stamps_read(path: Path) -> list[Stamp]:
    entries = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [Stamp(**{**entry, "others": tuple(entry["others"])}) for entry in entries]


def _losses(job: str, record: Record | None, adaptors: int, stamps: list[Stamp]) -> list[str]:
    if record is None:
        return [f"{job}: accepted, but the API does not know it"]
    if record["state"] != "succeeded":
        return [f"{job}: is {record['state']}, reason {record['reason']}"]
    if adaptors == 0:
        return [f"{job}: succeeded without an adaptor"]
    ended = any(stamp.outcome == "succeeded" for stamp in stamps)
    if not stamps or not (ended or job.startswith(REAL)):
        return [f"{job}: succeeded, but no trainer came to its end"]
    return []


def _doubles(record: Record | None, adaptors: int, stamps: list[Stamp]) -> list[str]:
    sentences = [f"started while processes {stamp.others} lived" for stamp in stamps if stamp.others]
    spans: dict[str, tuple[float, float]] = {}
    for stamp in stamps:
        first, last = spans.get(stamp.attempt, (stamp.boottime, stamp.boottime))
        spans[stamp.attempt] = min(first, stamp.boottime), max(last, stamp.boottime)
    for before, after in pairwise(sorted(spans.values())):
        if after[0] <= before[1]:
            sentences.append(f"an attempt was seen {before[1] - after[0]:.3f} s after the next one had started")
    if adaptors > 1:
        sentences.append(f"has {adaptors} adaptors")
    won = [attempt["n"] for attempt in (record or {}).get("attempts", ()) if attempt["outcome"] == "succeeded"]
    if len(won) > 1:
        sentences.append(f"attempts {won} succeeded")
    return sentences
