"""Method `inspect_dataset`: what a training job would see of a dataset, and what is wrong with it."""

import importlib
from collections.abc import Callable
from typing import Any

from foundation.atomic import json_write
from trainers.contract.events import Sample
from trainers.contract.params.inspect_dataset import InspectDatasetParams
from trainers.core.context import JobContext, Outcome

Preview = Callable[[JobContext[InspectDatasetParams]], dict[str, Any]]
"""Emits Sample events for what it writes below out/samples, and returns the report; "stopped" if it ended early."""
PREVIEWS = {
    "image_lora": "trainers.image.data.preview:preview",
    "masked_text": "trainers.text.data.preview:preview",
}
"""Loaded by name: images need other libraries than texts."""
REPORT = "samples/report.json"
LONG = ("files", "samples", "faults")
"""Lists of the report that the manifest only counts."""


def inspect(job: JobContext[InspectDatasetParams]) -> Outcome:
    """Writes the report to out/samples/report.json, and its summary into the manifest."""
    report = _preview(job.params.template_method)(job)
    json_write(job.out / REPORT, report)
    job.reporter.emit(Sample(step=0, path=REPORT, label="report"))
    counts = {f"num_{name}": len(report.get(name, [])) for name in LONG}
    job.facts["inspection"] = {name: value for name, value in report.items() if name not in LONG} | counts
    return "stopped" if report.get("stopped") else "succeeded"


def _preview(method: str) -> Preview:
    module, _, name = PREVIEWS[method].partition(":")
    preview: Preview = getattr(importlib.import_module(module), name)
    return preview
