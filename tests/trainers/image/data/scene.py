"""Datasets of images as a job of `image_lora` draws from them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.trainers.context import context_make
from tests.trainers.job import SHA256, image_make
from trainers.contract.events import EventWriter, Warning_, read_events
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.spec import JobSpec
from trainers.core.loop import StepBatch
from trainers.image.data.batches import DrawSettings, MicroBatch, Plan, step_batch
from trainers.image.data.dataset import (
    Rows,
    batch_of,
    draw_settings_of,
    plan_of,
    rows_encode,
    rows_read,
    with_class_images,
)
from trainers.image.data.examples import Examples
from trainers.image.models.base import Base

PLAIN = {"adaptor_name": "tiny", "resolution": 64, "center_crop": True}
SIZES = ((96, 64), (64, 96), (64, 64), (96, 64), (80, 64))


@dataclass(frozen=True)
class Data:
    """A dataset as a job draws from it."""

    base: Base
    rows: Rows
    examples: Examples
    draws: DrawSettings
    plan: Plan
    warnings: list[str]
    cache: Path

    def step(self, step: int, rank: int = 0) -> StepBatch[MicroBatch]:
        return step_batch(self.examples, self.rows.trained, self.draws, self.plan, step, rank, self.rows.of_class)

    def micro(self, steps: int = 4) -> list[MicroBatch]:
        return [micro for step in range(steps) for micro in self.step(step).micro_batches]

    def cached(self, kind: str) -> int:
        return len(list((self.cache / kind).glob("*")))


Make = Callable[..., Data]


@contextmanager
def data_maker(root: Path, base: Base, shared_cache: Path) -> Iterator[Make]:
    """Gives what makes data in folders of `root`; all that it opened is closed at the end."""
    with ExitStack() as opened:
        yield partial(data_make, opened, root, base, cache=shared_cache)


def data_make(
    opened: ExitStack,
    root: Path,
    base: Base,
    *folders: Path,
    cache: Path,
    class_dataset: Path | None = None,
    generated: Path | None = None,
    world_size: int = 1,
    **params_given: Any,
) -> Data:
    """Data of folders: the dataset, further ones, class images from a dataset or made by the base."""
    number = len(list(root.glob("in-*")))
    inputs, out = root / f"in-{number}", root / f"out-{number}"
    (inputs / "datasets").mkdir(parents=True)
    out.mkdir()
    links = {"dataset": folders[0], **{f"datasets/{i}": path for i, path in enumerate(folders[1:])}}
    links |= {"class_dataset": class_dataset} if class_dataset else {}
    for name, folder in links.items():
        (inputs / name).symlink_to(folder)
    roles: dict[str, Any] = {
        "dataset": ref("first"),
        "model": ref("model"),
        "further_datasets": [ref(f"further {index}") for index in range(len(folders) - 1)],
        "class_dataset": ref("class") if class_dataset else None,
    }
    spec = JobSpec.model_validate(
        {"name": "data", "method": "image_lora", "params": PLAIN | params_given, "inputs": roles}
    )
    params = spec.params
    assert isinstance(params, ImageLoraParams)
    writer = EventWriter(out / "events.jsonl")
    opened.callback(writer.close)
    job = context_make(spec, inputs, out, cache, writer)
    rows = rows_read(job)
    if generated:
        rows = with_class_images(rows, params, generated)
    examples = rows_encode(job, base, rows)
    assert examples
    plan = plan_of(job.params, base, rows, batch_of(job.params, job.processes.world_size))
    object.__setattr__(plan, "world_size", world_size)
    emitted = [event.data for event in read_events(out / "events.jsonl")]
    warnings = [event.message for event in emitted if isinstance(event, Warning_)]
    return Data(base, rows, examples, draw_settings_of(base, params), plan, warnings, cache)


def ref(name: str) -> dict[str, str]:
    return {"name": name, "key": name, "sha256": SHA256}


def images(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, *, seed: int = 0) -> Path:
    folder.mkdir()
    for index, size in enumerate(sizes):
        image_make(folder / f"{index}.png", size, seed=seed + index)
        (folder / f"{index}.txt").write_text(f"cat {index}, dog {index}, photo {index}")
    return folder


def assert_same(first: Sequence[MicroBatch], second: Sequence[MicroBatch]) -> None:
    """To the last bit."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("latents_BCHW", "noise_BCHW", "times_B", "sizes_B6", "weights_B"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.text.keys() == other.text.keys()
        assert all(torch.equal(one.text[name], other.text[name]) for name in one.text)
