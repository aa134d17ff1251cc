"""A dataset version of selected images that jobs made, each with its prompt as the caption."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import Field

from api.accounts.models import Project
from api.catalog.models import Dataset, DatasetVersion
from api.catalog.models import VersionState as State
from api.catalog.versions.create import AnyVersion
from api.catalog.versions.derived import ImageRow, dataset_derive
from api.errors import Problem
from api.jobs.models import Artifact, Job
from api.jobs.selectors import job_find, samples_shown
from formats.datasets.images import IMAGE_ENDINGS
from trainers.contract.spec import Contract

MAX_IMAGES = 1000
COMPARISON = "comparison"
"""Label of a sheet of several images."""
Path = Annotated[str, Field(min_length=1, max_length=500)]


class Pick(Contract):
    """Images of one job."""

    job: str
    """Its id, or the first characters of it."""
    paths: list[Path] = Field([], max_length=MAX_IMAGES)
    """As `jobs/{id}/samples` shows them; empty = every finished image."""
    captions: dict[str, Annotated[str, Field(max_length=10_000)]] = Field({}, max_length=MAX_IMAGES)
    """Text by path, instead of the prompt."""


class SamplesRequest(Contract):
    picks: list[Pick] = Field(min_length=1, max_length=100)
    extend: bool = False
    """Add them to the dataset's latest version; otherwise the new version is these images alone."""


def dataset_from_samples(
    *, project: Project, record: Dataset, request: SamplesRequest, by: str
) -> tuple[AnyVersion, bool]:
    """Returns the version of these images and whether it is new. Raises Problem that names the invalid pick."""
    images: list[ImageRow] = []
    captions: dict[str, str] = {}
    jobs = Job.objects.filter(project=project)
    for number, pick in enumerate(request.picks):
        job = job_find(jobs, pick.job)
        for image, caption in _images(job, pick, f"picks.{number}"):
            images.append(image)
            captions[image.path] = caption
    if len(images) > MAX_IMAGES:
        raise _refusal("picks", f"expected at most {MAX_IMAGES} images, got {len(images)}")
    base = _latest(record) if request.extend else None
    source: dict[str, Any] = {"samples_of": sorted({str(job_find(jobs, pick.job).pk) for pick in request.picks})}
    source |= {"extends": str(base)} if base else {}
    return dataset_derive(record=record, base=base, images=images, captions=captions, source=source, by=by)


def _images(job: Job, pick: Pick, where: str) -> Iterator[tuple[ImageRow, str]]:
    rows = samples_shown(Artifact.objects.filter(job=job, kind=Artifact.Kind.SAMPLE), [job.pk])
    rows = rows.select_related("attempt").order_by("id")
    files = {file["path"]: (row, file) for row in rows for file in row.files if _is_image(file)}
    paths = pick.paths or [path for path, (row, _) in files.items() if _is_finished(row.details)]
    if missing := [path for path in (*paths, *pick.captions) if path not in files]:
        raise _refusal(where, f"{missing[0]!r:.200} is no image that job {job.name} made")
    if not paths:
        raise _refusal(where, f"job {job.name} made no images")
    for path in dict.fromkeys(paths):
        row, file = files[path]
        name = f"{job.pk.hex[:8]}-{path.removeprefix('samples/').replace('/', '-')}"
        image = ImageRow(name, f"{row.attempt.prefix}/{path}", file["size"], file["sha256"])
        yield image, pick.captions.get(path, str(row.details.get("prompt") or ""))


def _is_finished(details: dict[str, Any]) -> bool:
    """Not a sheet and not an intermediate, noisy image: those are taken only by path."""
    return details.get("label") != COMPARISON and "denoising_step" not in details


def _is_image(file: dict[str, Any]) -> bool:
    return PurePosixPath(file["path"]).suffix.lower() in IMAGE_ENDINGS


def _latest(record: Dataset) -> DatasetVersion | None:
    version: DatasetVersion | None = record.versions.filter(state=State.READY).order_by("-version").first()
    if version and version.details.get("kind", "images") != "images":
        raise _refusal("extend", f"{version} holds {version.details['kind']}, to which no image can be added")
    return version


def _refusal(field: str, message: str) -> Problem:
    return Problem("invalid", f"{field}: {message}.", fields={field: [message]})
