"""The manifest: what a job was, made, and from what; and the model card's parts. Written last, once all else is."""

import functools
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foundation.atomic import json_write
from foundation.digests import file_list
from trainers.contract.events import Checkpoint, Sample, Step, Validation, read_events
from trainers.core.context import JobContext, Outcome

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
PRODUCTS = ("adaptor", "samples", "tensorboard", "wandb", "dataset", "model")
"""Folders of `out/` whose files are listed. Checkpoints have manifests of their own; events.jsonl still grows."""


@functools.cache
def versions() -> dict[str, str]:
    """Of Python, of Anneal, and of every library that can change a bit of the result."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "anneal": _anneal_version(), **versions}


def manifest_body(job: JobContext, outcome: Outcome) -> dict[str, Any]:
    """The manifest without its list of files. Rank 0 only."""
    spec = job.spec
    return {
        "name": spec.name,
        "method": spec.method,
        "params": spec.params.model_dump(mode="json"),
        "inputs": spec.inputs.model_dump(mode="json"),
        "resources": spec.resources.model_dump(mode="json"),
        "spec_digest": spec.digest(exclude_unset=True),
        "seed": spec.params.random_seed,
        "outcome": outcome,
        "versions": versions(),
        "thread_count": torch.get_num_threads(),
        "world_size": spec.resources.num_processes,
        **_event_facts(job.out / "events.jsonl"),
        **job.facts,
    }


def manifest_write(job: JobContext, outcome: Outcome) -> Path:
    """Writes `out/manifest.json`; nothing is written after it."""
    body = manifest_body(job, outcome)
    json_write(job.out / "manifest.json", {**body, "files": product_files(job.out)})
    return job.out / "manifest.json"


def product_files(out: Path) -> list[dict[str, Any]]:
    """Every finished file of the products, with paths relative to `out`."""
    return [
        {**entry, "path": f"{folder}/{entry['path']}"}
        for folder in PRODUCTS
        if (out / folder).is_dir()
        for entry in file_list(out / folder)
        if not Path(entry["path"]).name.startswith(".")
    ]


def _event_facts(path: Path) -> dict[str, Any]:
    """From the events: steps done, last metrics, samples, validation, latest checkpoint."""
    facts: dict[str, Any] = {"steps": 0, "metrics": {}, "validation": {}, "samples": [], "checkpoint": None}
    samples: dict[str, Any] = {}
    for event in read_events(path):
        match event.data:
            case Step(step=step, metrics=metrics):
                facts |= {"steps": step, "metrics": metrics}
            case Validation(metrics=metrics):
                facts["validation"] = metrics
            case Sample() as sample:
                samples[sample.path] = sample.model_dump(mode="json", exclude={"kind"})
            case Checkpoint(path=latest):
                facts["checkpoint"] = latest
            case _:
                pass
    return facts | {"samples": list(samples.values())}


def _anneal_version() -> str:
    try:
        return importlib.metadata.version("anneal")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def parameters_table(params: dict[str, Any], effective: Mapping[str, Any] | None = None) -> str:
    """A card's table of all parameters, as JSON; for null ones the value in `effective`."""
    used = {name: (effective or {}).get(name) if value is None else value for name, value in params.items()}
    return card_table("Training", [(name, json.dumps(value, ensure_ascii=False)) for name, value in used.items()])


def card_table(title: str, rows: list[tuple[str, str]]) -> str:
    """A section of a card, in Markdown; empty without rows."""
    if not rows:
        return ""
    body = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    return f"## {title}\n\n| name | value |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def base_name(manifest: dict[str, Any]) -> str:
    return str(manifest["inputs"]["model"]["name"])


def quoted(text: str) -> str:
    """As a string of JSON, which is one of YAML and of Python too."""
    return json.dumps(text, ensure_ascii=False)
