"""The history of sampling: what was asked for, with what, and the images that came."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from pydantic import BaseModel

from api.environment import environment
from api.jobs.filters import ref_condition
from api.jobs.models import Artifact, Job, JobInput
from api.jobs.superseded import samples_shown
from api.storage import storage

METHOD = "sample_image"


class SampledAdaptor(BaseModel):
    name: str
    """name@version"""
    scale: float


class SampledImage(BaseModel):
    path: str
    url: str
    """Signed link; images of a sampling are small enough to be their own thumbnails."""
    size_bytes: int
    details: dict[str, Any]


class SamplingShape(BaseModel):
    job: UUID
    name: str
    state: str
    created: datetime
    prompt: str
    negative_prompt: str
    seeds: list[int]
    """One for each image, or for each row of a comparison."""
    compare: bool
    model: str | None
    adaptors: list[SampledAdaptor]
    params: dict[str, Any]
    images: list[SampledImage]
    rerun_url: str
    """POST there to make the same images again, or with `params` others."""


def samplings_filter(jobs: QuerySet[Job], *, adaptor: str, model: str, search: str) -> QuerySet[Job]:
    """Sampling jobs whose prompt or name has `search` in it, made with that adaptor or base model. Raises Problem."""
    found = jobs.filter(method=METHOD)
    for role, ref in (("adaptor", adaptor), ("model", model)):
        if ref:
            used = JobInput.objects.filter(ref_condition("name", ref, role), job=OuterRef("pk"), role=role)
            found = found.filter(Exists(used))
    return found.filter(Q(spec__params__prompt__icontains=search) | Q(name__icontains=search)) if search else found


def sampling_shapes(jobs: list[Job]) -> list[dict[str, Any]]:
    """Two queries for the images of all."""
    images: dict[Any, list[Artifact]] = {}
    rows = Artifact.objects.filter(job__in=jobs, kind=Artifact.Kind.SAMPLE)
    for row in samples_shown(rows, [job.pk for job in jobs]).select_related("attempt").order_by("id"):
        images.setdefault(row.job_id, []).append(row)
    return [_shape(job, images.get(job.pk, [])).model_dump(mode="json") for job in jobs]


def _shape(job: Job, images: list[Artifact]) -> SamplingShape:
    params, inputs = job.spec["params"], job.spec["inputs"]
    adaptors = inputs.get("adaptors", [])
    scales = params["adaptor_scales"] or [1.0] * len(adaptors)
    return SamplingShape(
        job=job.pk,
        name=job.name,
        state=job.state,
        created=job.created,
        prompt=params["prompt"],
        negative_prompt=params["negative_prompt"],
        seeds=[params["seed"] + index for index in range(params["num_images"])],
        compare=params["compare"],
        model=inputs["model"]["name"] if inputs.get("model") else None,
        adaptors=[SampledAdaptor(name=ref["name"], scale=scale) for ref, scale in zip(adaptors, scales, strict=True)],
        params=params,
        images=[_image(artifact, file) for artifact in images for file in artifact.files],
        rerun_url=f"/api/v1/jobs/{job.pk}/rerun",
    )


def _image(artifact: Artifact, file: dict[str, Any]) -> SampledImage:
    key = f"{artifact.attempt.prefix}/{file['path']}"
    url = storage().presign_get(key, expires_seconds=environment().link_seconds).url
    return SampledImage(path=file["path"], url=url, size_bytes=file["size"], details=artifact.details)
