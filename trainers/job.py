"""One job from directory to directory, as one rank: events, manifest, and the Reason of a failure.

Imports torch: `trainers.run` loads it once the libraries that the job does not use are hidden.
"""

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import ValidationError

from foundation.atomic import json_write
from foundation.protocol import LOADING
from trainers.contract.errors import Reason, ReasonCode, TrainerError, reason
from trainers.contract.events import EventWriter, Failed, Finished, Progress
from trainers.contract.spec import JobSpec, Resources, spec_load
from trainers.core.context import JobContext, ModelCache, Outcome, job_context
from trainers.core.distributed import stop_processes
from trainers.core.manifest import manifest_write
from trainers.core.model_files import is_panic

DETAIL_CHARACTERS = 4000


def run(spec_path: Path, inputs: Path, out: Path, cache: Path) -> int:
    """Runs the job as this rank and returns its exit code."""
    return 1 if job_run(spec_path, inputs, out, cache, ModelCache()) else 0


def job_run(spec_path: Path, inputs: Path, out: Path, cache: Path, models: ModelCache) -> Reason | None:
    """Runs the job as this rank. Returns why it failed, which is also its last event, or None."""
    rank = int(os.environ.get("RANK", 0))
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    (out / f".failed-rank-{rank}.json").unlink(missing_ok=True)
    events = EventWriter(out / "events.jsonl") if rank == 0 else None
    try:
        spec = spec_load(spec_path)
        choose_accelerators(spec.resources)
        if rank == 0:
            out_prepare(out)
        run_method(spec, inputs, out, cache, events, models)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        failure = report_failure(error, rank, out, events)
        if isinstance(error, TrainerError | ValidationError):
            print(f"failed: {failure.message}\n{failure.hint}".rstrip(), file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        return failure
    finally:
        stop_processes()
        if events:
            events.close()
    return None


def run_method(
    spec: JobSpec, inputs: Path, out: Path, cache: Path, events: EventWriter | None, models: ModelCache
) -> None:
    """The method, then the last event, then the manifest."""
    entry = entry_of(spec)
    if events:
        events.emit(Progress(stage=LOADING, done=0, total=1))
    with job_context(spec, inputs, out, cache, events, models) as job:
        outcome = entry(job)
    if events:
        events.emit(Finished(outcome=outcome, step=int(job.facts.get("steps", 0))))
        manifest_write(job, outcome)


def entry_of(spec: JobSpec) -> Callable[[JobContext], Outcome]:
    """The method's function, by the dotted path that its params class names."""
    module, _, name = spec.params.entry.partition(":")
    entry: Callable[[JobContext], Outcome] = getattr(importlib.import_module(module), name)
    return entry


def choose_accelerators(resources: Resources) -> None:
    """Makes the exact indices of the spec the only visible ones, unless the worker has already done so."""
    if isinstance(resources.accelerators, tuple):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, resources.accelerators)))


def out_prepare(out: Path) -> None:
    """Prepares `out/` for another attempt: that of a stopped job continues, that of a succeeded one is refused."""
    path = out / "manifest.json"
    if not path.exists():
        return
    if json.loads(path.read_bytes())["outcome"] == "succeeded":
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"{out} holds a finished job; choose an empty folder")
    path.unlink()


def report_failure(error: BaseException, rank: int, out: Path, events: EventWriter | None) -> Reason:
    """Rank 0 emits `failed`. Another rank writes its reason to a file, since it causes the error that rank 0 gets."""
    failure = reason_of(error)
    if events is None:
        json_write(out / f".failed-rank-{rank}.json", failure.model_dump(mode="json"))
        return failure
    if failure.code == ReasonCode.INTERNAL:
        others = [Reason.model_validate_json(path.read_bytes()) for path in sorted(out.glob(".failed-rank-*.json"))]
        failure = next((other for other in others if other.code != ReasonCode.INTERNAL), failure)
    events.emit(Failed(reason=failure))
    return failure


def reason_of(error: BaseException) -> Reason:
    """The Reason of an exception: its known cause, or `internal` with the end of the traceback."""
    detail = "".join(traceback.format_exception(error))[-DETAIL_CHARACTERS:]
    if isinstance(error, TrainerError):
        return error.reason
    if isinstance(error, ValidationError):
        return reason(ReasonCode.BAD_PARAMETERS, str(error))
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
        return reason(ReasonCode.OUT_OF_MEMORY, detail=detail)
    if "No space left on device" in str(error):
        return reason(ReasonCode.DISK_FULL, detail=detail)
    if is_panic(error) and "Regex" in str(error):
        message = f"a regular expression of the base model's tokenizer gave up on a text: {error}"
        return reason(ReasonCode.BAD_BASE_MODEL, message, detail)
    return reason(ReasonCode.INTERNAL, detail=detail)


def memory_release() -> None:
    """Frees the memory of the last job, so that a waiting process holds no more than its model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
