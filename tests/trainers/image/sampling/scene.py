"""Jobs of `sample_image` as the worker lays them out, and what they leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_parts import ATTENTION
from tests.trainers.context import context_make
from tests.trainers.image.sampling.test_families import half_mask, photo
from trainers.contract.errors import TrainerError
from trainers.contract.events import EventWriter, read_events
from trainers.contract.spec import JobSpec
from trainers.core.context import JobContext, ModelCache
from trainers.core.lora import attach
from trainers.image.adaptors.file import adaptor_save
from trainers.image.models.families import load_base
from trainers.methods.sample_image import sample

MODEL = {"name": "tiny@1", "key": "models/1", "sha256": "ab" * 32}
DATASET = {"name": "photos@1", "key": "datasets/1", "sha256": "12" * 32}
ADAPTOR = {"name": "dog@1", "key": "adaptors/1", "sha256": "cd" * 32}
Make = Callable[..., JobContext]


def workspace(
    root: Path,
    photos: Path,
    adaptors: list[Path] | None = None,
    details: dict[str, Any] | None = None,
    *,
    model: Path,
    models: ModelCache | None = None,
    **params: Any,
) -> JobContext:
    """A workspace whose `in/` links the inputs, as the worker does."""
    folder = root / f"job{len(list(root.iterdir()))}"
    for name in ("in/adaptor", "out", "cache"):
        (folder / name).mkdir(parents=True)
    (folder / "in/model").symlink_to(model)
    (folder / "in/dataset").symlink_to(photos)
    for index, path in enumerate(adaptors or []):
        (folder / "in/adaptor" / str(index)).symlink_to(path)
    refs = [ADAPTOR | {"details": details or {}} for _ in adaptors or []]
    spec = {
        "name": "try",
        "method": "sample_image",
        "params": {"prompt": "a dog", "num_inference_steps": 2} | params,
        "inputs": {"model": MODEL, "adaptors": refs} | ({"dataset": DATASET} if "input_image" in params else {}),
    }
    events = EventWriter(folder / "out/events.jsonl")
    job_spec = JobSpec.model_validate(spec)
    return context_make(job_spec, folder / "in", folder / "out", folder / "cache", events, models)


def photos_make(folder: Path) -> Path:
    """A dataset to start from: a photo, an upright one, and masks."""
    photo(64).save(folder / "photo.png")
    photo(64).resize((72, 100)).save(folder / "tall.png")
    half_mask(64).save(folder / "right.png")
    half_mask(32).save(folder / "small.png")
    (folder / "text.txt").write_text("no image")
    return folder


def save_adaptor(tiny_sd: Path, folder: Path, **metadata: str) -> Path:
    base = load_base(tiny_sd, torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attach(base.network, r=4, alpha=8, dropout=0.0, seed=1, targets=ATTENTION):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    adaptor_save(base, folder, metadata=metadata)
    return folder


def images(work: JobContext) -> dict[str, Image.Image]:
    return {path.name: Image.open(path) for path in sorted((work.out / "samples").iterdir())}


def pixels(work: JobContext, name: str = "image-seed-42.png") -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(work.out / "samples" / name).convert("RGB"), dtype=int)


def emitted(work: JobContext) -> list[Any]:
    return [event.data for event in read_events(work.out / "events.jsonl")]


def refusal(work: JobContext) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        sample(work)
    return caught.value
