"""How much of the storage a project fills, and with what."""

from typing import Any

from django.db.models import Count, F, Sum
from pydantic import BaseModel

from api.accounts.models import Project
from api.catalog.models import Adaptor, DatasetVersion, PretrainedModelVersion
from api.jobs.models import Artifact, Attempt, Job


class SizeShape(BaseModel):
    count: int
    size_bytes: int


class UsageShape(BaseModel):
    datasets: SizeShape
    """Versions."""
    models: SizeShape
    adaptors: SizeShape
    artifacts: dict[str, SizeShape]
    """By kind: checkpoint, sample, ..."""
    logs: SizeShape
    jobs: int
    total_bytes: int


def usage(project: Project) -> dict[str, Any]:
    """Six aggregates. What no row names is not counted: open uploads, files that wait for a sweep."""
    sizes = {
        "datasets": _size(DatasetVersion.objects.filter(record__project=project)),
        "models": _size(PretrainedModelVersion.objects.filter(record__project=project)),
        "adaptors": _size(Adaptor.objects.filter(project=project)),
        "logs": _size(Attempt.objects.filter(job__project=project), "log_bytes"),
    }
    kinds = Artifact.objects.filter(job__project=project).order_by("kind").values("kind")
    artifacts = {
        row["kind"]: SizeShape(count=row["count"], size_bytes=row["size"])
        for row in kinds.annotate(count=Count("pk"), size=Sum("size_bytes"))
    }
    parts = (*sizes.values(), *artifacts.values())
    return UsageShape(
        **sizes,
        artifacts=artifacts,
        jobs=Job.objects.filter(project=project).count(),
        total_bytes=sum(part.size_bytes for part in parts),
    ).model_dump(mode="json")


def _size(rows: Any, column: str = "size_bytes") -> SizeShape:
    found = rows.aggregate(count=Count("pk"), size=Sum(F(column)))
    return SizeShape(count=found["count"], size_bytes=found["size"] or 0)
