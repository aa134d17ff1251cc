"""Response schemas of adaptors."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from api.catalog.models import Adaptor
from api.catalog.versions.schemas import LinkedFileShape, linked_files
from api.openapi import Schema

TEXT_FACTS = (
    "training_method",
    "perbatch_cutoff",
    "resp_cutoff_ratio",
    "loss_weight_type",
    "geo_p",
    "loss_norm_type",
    "mask_prompt_loss",
    "eos_padding",
)
"""Keys of a text adaptor's manifest that are useful to compare adaptors."""
DROPPED = ("truncated", "filtered", "without_response")
"""Counts in `dataset` of the manifest."""


class AdaptorSummaryShape(Schema):
    name: str
    version: int
    job: UUID
    method: str
    base_model: str | None
    """name@version"""
    trigger_word: str
    partial: bool
    """The job was stopped before its last step."""
    digest: str
    size_bytes: int
    metrics: dict[str, Any]
    """The last values that the manifest has."""
    facts: dict[str, Any]
    """What a masked_text job decided and dropped: training_method, cutoffs, weighting, ...; empty for other methods."""
    tags: list[str]
    notes: str
    created: datetime

    @classmethod
    def of(cls, adaptor: Adaptor) -> Self:
        """`adaptor`: from `selectors.adaptors_of`, which fetches its base model and tags."""
        return cls.model_validate(_values(adaptor))


class AdaptorDetailShape(AdaptorSummaryShape):
    manifest: dict[str, Any]
    files: list[LinkedFileShape]

    @classmethod
    def of(cls, adaptor: Adaptor) -> Self:
        files = linked_files(adaptor.key, adaptor.files)
        return cls.model_validate({**_values(adaptor), "manifest": adaptor.manifest, "files": files})


def _values(adaptor: Adaptor) -> dict[str, Any]:
    metrics = adaptor.manifest.get("metrics")
    return {
        "name": adaptor.name,
        "version": adaptor.version,
        "job": adaptor.job_id,
        "method": adaptor.method,
        "base_model": str(adaptor.base_model) if adaptor.base_model else None,
        "trigger_word": adaptor.trigger_word,
        "partial": adaptor.partial,
        "digest": adaptor.digest,
        "size_bytes": adaptor.size_bytes,
        "metrics": metrics if isinstance(metrics, dict) else {},
        "facts": _facts(adaptor.manifest),
        "tags": sorted(tag.name for tag in adaptor.tags.all()),
        "notes": adaptor.notes,
        "created": adaptor.created,
    }


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    dataset = manifest.get("dataset")
    counts = {name: dataset[name] for name in DROPPED if name in dataset} if isinstance(dataset, dict) else {}
    return {**{name: manifest[name] for name in TEXT_FACTS if name in manifest}, **counts}
