"""What an attempt fetches: its spec with the checkpoint to go on from, and signed links by place below `in/`."""

from collections.abc import Iterator
from typing import Any

from api.catalog.selectors import input_files
from api.environment import environment
from api.errors import Problem
from api.jobs.models import Artifact, Attempt, Job, State
from api.storage import storage
from trainers.contract.spec import InputRef, Inputs, folder_digest

Files = list[dict[str, Any]]
"""[{path, size, sha256, key}]"""


def attempt_spec(attempt: Attempt) -> dict[str, Any]:
    """The job's spec, with `inputs.checkpoint` where the attempt resumes."""
    return _spec_with(attempt.job, attempt.checkpoint)


def attempt_inputs(attempt: Attempt) -> dict[str, Any]:
    return _inputs_with(attempt.job, attempt.checkpoint)


def job_spec(job: Job) -> dict[str, Any]:
    """Spec and inputs of the attempt that the job would have next; of a job that succeeded, those of its first."""
    checkpoint = None if job.state == State.SUCCEEDED else job.checkpoint
    return {"spec": _spec_with(job, checkpoint), "inputs": _inputs_with(job, checkpoint)}


def _spec_with(job: Job, checkpoint: Artifact | None) -> dict[str, Any]:
    spec: dict[str, Any] = job.spec
    if checkpoint is None:
        return spec
    return {**spec, "inputs": {**spec["inputs"], "checkpoint": _checkpoint_ref(checkpoint).model_dump(mode="json")}}


def _inputs_with(job: Job, checkpoint: Artifact | None) -> dict[str, Any]:
    return {
        place: {"sha256": sha256, "files": [_linked(file) for file in files]}
        for place, sha256, files in _places(job, checkpoint)
    }


def attempt_links(attempt: Attempt, paths: list[str]) -> list[dict[str, Any]]:
    """Fresh links for files below `in/`, as in `dataset/a.png`. Raises Problem(404) for a path that is no input."""
    known = {
        f"{place}/{file['path']}": file
        for place, _, files in _places(attempt.job, attempt.checkpoint)
        for file in files
    }
    if unknown := [path for path in paths if path not in known]:
        raise Problem("not_found", f"{unknown[0]} is no input of this attempt.", status=404)
    return [{"path": path, "url": _linked(known[path])["url"]} for path in paths]


def _places(job: Job, checkpoint: Artifact | None) -> Iterator[tuple[str, str, Files]]:
    for place, ref in Inputs.model_validate(job.spec["inputs"]).places().items():
        yield place, ref.sha256, input_files(ref)
    if checkpoint is not None:
        yield "checkpoint", _checkpoint_ref(checkpoint).sha256, _checkpoint_files(checkpoint)


def _checkpoint_ref(artifact: Artifact) -> InputRef:
    return InputRef(
        name=f"checkpoint of step {artifact.step}",
        key=f"{artifact.attempt.prefix}/{artifact.path}",
        sha256=folder_digest(_checkpoint_files(artifact)),
        details={"step": artifact.step},
    )


def _checkpoint_files(artifact: Artifact) -> Files:
    """With paths relative to the checkpoint's folder."""
    return [
        {
            **file,
            "path": file["path"].removeprefix(artifact.path + "/"),
            "key": f"{artifact.attempt.prefix}/{file['path']}",
        }
        for file in artifact.files
    ]


def _linked(file: dict[str, Any]) -> dict[str, Any]:
    url = storage().presign_get(file["key"], expires_seconds=environment().link_seconds).url
    return {"path": file["path"], "size": file["size"], "sha256": file["sha256"], "url": url}
