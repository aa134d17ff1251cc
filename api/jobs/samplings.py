"""The history of sampling: what was requested, with which models, and the resulting images."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from pydantic import BaseModel

from api.environment import environment
from api.jobs.filters import ref_condition
from api.jobs.models import Artifact, Job, JobInput
from api.jobs.selectors import params_stored
from api.jobs.superseded import samples_shown
from api.storage import storage
from trainers.contract.params import METHODS


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

    @classmethod
    def of(cls, artifact: Artifact, file: dict[str, Any]) -> Self:
        key = f"{artifact.attempt.prefix}/{file['path']}"
        url = storage().presign_get(key, expires_seconds=environment().link_seconds).url
        return cls(path=file["path"], url=url, size_bytes=file["size"], details=artifact.details)


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

    @classmethod
    def of(cls, job: Job, images: list[Artifact]) -> Self:
        sampling, inputs = params_stored(job).image_sampling(), job.spec["inputs"]
        assert sampling is not None, f"{job.method} samples no images"
        adaptors = inputs.get("adaptors", [])
        scales = sampling.adaptor_scales or (1.0,) * len(adaptors)
        return cls(
            job=job.pk,
            name=job.name,
            state=job.state,
            created=job.created,
            prompt=sampling.prompt,
            negative_prompt=sampling.negative_prompt,
            seeds=list(sampling.seeds),
            compare=sampling.compare,
            model=inputs["model"]["name"] if inputs.get("model") else None,
            adaptors=[
                SampledAdaptor(name=ref["name"], scale=scale) for ref, scale in zip(adaptors, scales, strict=True)
            ],
            params=job.spec["params"],
            images=[SampledImage.of(artifact, file) for artifact in images for file in artifact.files],
            rerun_url=f"/api/v1/jobs/{job.pk}/rerun",
        )


def samplings_filter(jobs: QuerySet[Job], *, adaptor: str, model: str, search: str) -> QuerySet[Job]:
    """Sampling jobs whose prompt or name contains `search` and that used the adaptor and base model. Raises Problem."""
    prompt_fields = {name: method.prompt_field for name, method in METHODS.items() if method.prompt_field}
    samplings = jobs.filter(method__in=prompt_fields)
    for role, ref in (("adaptor", adaptor), ("model", model)):
        if ref:
            used = JobInput.objects.filter(ref_condition("name", ref, role), job=OuterRef("pk"), role=role)
            samplings = samplings.filter(Exists(used))
    if not search:
        return samplings
    matches = Q(name__icontains=search)
    for method, field in prompt_fields.items():
        matches |= Q(("method", method), (f"spec__params__{field}__icontains", search))
    return samplings.filter(matches)


def sampling_schemas(jobs: list[Job]) -> list[SamplingShape]:
    """Two queries for the images of all."""
    images: dict[Any, list[Artifact]] = {}
    rows = Artifact.objects.filter(job__in=jobs, kind=Artifact.Kind.SAMPLE)
    for row in samples_shown(rows, [job.pk for job in jobs]).select_related("attempt").order_by("id"):
        images.setdefault(row.job_id, []).append(row)
    return [SamplingShape.of(job, images.get(job.pk, [])) for job in jobs]
