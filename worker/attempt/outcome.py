"""Decides the outcome of an attempt from why it stopped and what the trainer left, not from its exit code alone."""

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from trainers.contract.errors import Reason, ReasonCode, reason
from worker.process.supervise import Exit
from worker.transfer.out_folder import OutFolder, UnsafeFileError

NAME = "manifest.json"
MAX_BYTES = 64 << 20
"""Room for the records of some 300,000 files."""


class ManifestFile(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str
    size: int
    sha256: str


class Head(BaseModel):
    """The part of a manifest that the worker reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    outcome: str
    files: tuple[ManifestFile, ...] = ()


@dataclass(frozen=True)
class Manifest:
    content: dict[str, Any]
    outcome: str
    """succeeded or stopped."""
    files: tuple[ManifestFile, ...]


def manifest_read(out: OutFolder) -> Manifest | str:
    """Returns the manifest in `out`, or a sentence that says why it is missing or malformed."""
    try:
        data = out.read(NAME, limit=MAX_BYTES + 1)
    except FileNotFoundError:
        return "there is no manifest.json"
    except UnsafeFileError as error:
        return str(error)
    if len(data) > MAX_BYTES:
        return f"manifest.json has more than {MAX_BYTES} bytes"
    try:
        content = json.loads(data)
        head = Head.model_validate(content)
    except (ValueError, RecursionError) as error:
        return f"manifest.json cannot be read: {str(error)[:1000]}"
    if head.outcome not in ("succeeded", "stopped"):
        return f"manifest.json has outcome {head.outcome!r}, expected 'succeeded' or 'stopped'"
    problems = [problem for file in head.files if (problem := _problem(out, file))]
    return problems[0] if problems else Manifest(content, head.outcome, head.files)


def _problem(out: OutFolder, file: ManifestFile) -> str:
    try:
        size = out.size(file.path)
    except FileNotFoundError:
        return f"manifest.json names {file.path}, which is not there"
    except UnsafeFileError as error:
        return f"manifest.json names a file that is refused: {error}"
    return "" if size == file.size else f"{file.path} has {size} bytes, manifest.json says {file.size}"


StopKind = Literal["cancel", "pause", "drain"]
Outcome = Literal["succeeded", "failed", "stopped", "drained", "lost"]

FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that come from outside the trainer."""
TORCHRUN_EXIT = re.compile(r"exitcode\s*:\s*-(\d+)\b")
"""How torchrun reports the signal that killed a rank; its own exit status is 1."""
STOP_REASONS = {"cancel": ReasonCode.CANCELLED, "pause": ReasonCode.PAUSED, "drain": ReasonCode.DRAINED}


@dataclass(frozen=True)
class Ending:
    """The facts once no process of the trainer is left. A fenced attempt has no verdict: it is lost."""

    exit: Exit
    manifest: Manifest | str
    failed: Reason | None = None
    """From the trainer's own `failed` event."""
    stop: StopKind | None = None
    forced: bool = False
    """The grace period of a stop had passed and signals were sent, so the trainer's last error may be caused by us."""
    no_progress_seconds: float | None = None
    """Set if the trainer was ended because it made no progress for that long."""
    oversize: str = ""
    """The bound of out/ that the trainer exceeded; nothing in it is published."""
    out_of_memory: bool = False
    """The kernel killed something for memory while the attempt ran."""
    disk_full: bool = False
    """The disk was full when the trainer ended, so it may have been unable to report why."""
    tail: str = ""
    """End of the masked log."""


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    reason: Reason | None = None


def verdict_of(ending: Ending) -> Verdict:
    assert not ending.exit.fenced, "a fenced attempt must not publish anything"
    if ending.oversize:
        return Verdict("failed", reason(ReasonCode.OUTPUT_TOO_LARGE, ending.oversize, ending.tail))
    if isinstance(ending.manifest, Manifest) and ending.manifest.outcome == "succeeded":
        return Verdict("succeeded")
    if ending.no_progress_seconds is not None:
        silent = f"The trainer sent no event for {ending.no_progress_seconds:g} s."
        return Verdict("failed", reason(ReasonCode.NO_PROGRESS, silent, ending.tail))
    if ending.failed and not ending.forced:
        return Verdict("failed", ending.failed)
    if ending.stop:
        outcome: Outcome = "drained" if ending.stop == "drain" else "stopped"
        return Verdict(outcome, reason(STOP_REASONS[ending.stop]))
    if isinstance(ending.manifest, Manifest):
        return Verdict("drained", reason(ReasonCode.PREEMPTED, "The trainer was told to stop from outside."))
    return _death(ending, ending.manifest)


def _death(ending: Ending, problem: str) -> Verdict:
    """The trainer ended by itself without a manifest and without an error."""
    if ending.exit.code == 0:
        return Verdict(
            "failed", reason(ReasonCode.NO_MANIFEST, f"The trainer ended with status 0, but {problem}.", ending.tail)
        )
    number = _signal(ending)
    if ending.out_of_memory and number in (None, signal.SIGKILL):
        return Verdict(
            "failed", reason(ReasonCode.OUT_OF_MEMORY, "The kernel ended the trainer for memory.", ending.tail)
        )
    if ending.disk_full and number is None:
        return Verdict("failed", reason(ReasonCode.DISK_FULL, "The trainer failed on a full disk.", ending.tail))
    if ending.exit.shim_died:
        return Verdict("lost", reason(ReasonCode.WORKER_LOST, "The trainer's supervisor was killed.", ending.tail))
    if number in FROM_OUTSIDE:
        message = f"The trainer was killed from outside by {signal.Signals(number).name}."
        return Verdict("lost", reason(ReasonCode.WORKER_LOST, message, ending.tail))
    message = f"died of {_signal_name(number)}" if number else f"ended with status {ending.exit.code}"
    return Verdict("failed", reason(ReasonCode.INTERNAL, f"The trainer {message}; {problem}.", ending.tail))


def _signal(ending: Ending) -> int | None:
    """The signal that killed the trainer, or the first rank that torchrun reports."""
    if ending.exit.code is not None and ending.exit.code < 0:
        return -ending.exit.code
    match = TORCHRUN_EXIT.search(ending.tail)
    return int(match[1]) if match else None


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in {member.value for member in signal.Signals} else f"signal {number}"


CGROUP = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
VMSTAT = Path("/proc/vmstat")


def oom_kills() -> int | None:
    """How many processes of our control group (or else of this machine) the kernel killed for memory so far.

    None where it does not say.
    """
    for path in (*_counters(), VMSTAT):
        if path.is_file():
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None


def _counters() -> list[Path]:
    counters = []
    for line in CGROUP.read_text().splitlines() if CGROUP.is_file() else ():
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "memory":
            counters += [ROOT / "memory" / below / "memory.oom_control", ROOT / "memory" / "memory.oom_control"]
        elif not controllers:
            counters += [ROOT / below / "memory.events", ROOT / "memory.events"]
    return counters
