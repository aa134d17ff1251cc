"""Adaptors as the JSON that docs/rest.md promises."""

from datetime import datetime
from typing import Any
from uuid import UUID

from api.catalog.answers import linked
from api.catalog.models import Adaptor
from api.catalog.shapes import LinkedFileShape
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
"""Keys of a text adaptor's manifest that people compare adaptors by."""
DROPPED = ("truncated", "filtered", "without_response")
"""Counts below `dataset` there."""


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


class AdaptorDetailShape(AdaptorSummaryShape):
    manifest: dict[str, Any]
    files: list[LinkedFileShape]


def adaptor_summary(adaptor: Adaptor) -> dict[str, Any]:
    """Of an adaptor that came from `selectors.adaptors_of`, which fetches what is shown here."""
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


def adaptor_detail(adaptor: Adaptor) -> dict[str, Any]:
    """With its manifest, and a signed link for each file."""
    files = linked(adaptor.key, adaptor.files)
    return {**adaptor_summary(adaptor), "manifest": adaptor.manifest, "files": files}
