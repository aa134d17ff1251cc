"""Which images a sampling job draws, and how it writes them: files in out/samples/, each reported by an event."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trainers.contract.events import Sample
from trainers.contract.params.sample_image import SampleImageParams
from trainers.contract.spec import InputRef
from trainers.core.context import JobContext
from trainers.image.png import comparison_sheet, image_write


@dataclass(frozen=True)
class Column:
    """One way to draw every seed. A plain job has one, a comparison two or three."""

    label: str
    prompt: str
    with_adaptors: bool

    @property
    def slug(self) -> str:
        return self.label.replace(" + ", "-")


def columns_of(params: SampleImageParams, adaptors: tuple[InputRef, ...]) -> list[Column]:
    """The prompt once, or for a comparison: base model, with adaptors, and with adaptors and their trigger words.

    Trigger words that the prompt already contains are not added again and add no column.
    """
    if not params.compare:
        return [Column("image", params.prompt, with_adaptors=True)]
    assert adaptors, "JobSpec refuses compare without an adaptor"
    columns = [Column("base", params.prompt, with_adaptors=False), Column("adaptor", params.prompt, with_adaptors=True)]
    words = [str(adaptor.details.get("trigger_word") or "") for adaptor in adaptors]
    missing = [word for word in dict.fromkeys(words) if word and not _contains_word(params.prompt, word)]
    if missing:
        columns.append(Column("adaptor + trigger", ", ".join([*missing, params.prompt]), with_adaptors=True))
    return columns


def _contains_word(prompt: str, word: str) -> bool:
    """As a separate word: "category" does not contain "cat"."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt) is not None


def seeds_of(params: SampleImageParams) -> list[int]:
    return [params.seed + i for i in range(params.num_images)]


class SampleWriter:
    def __init__(self, job: JobContext[SampleImageParams]) -> None:
        self._job = job
        self._params = job.params
        self.num_finished = 0
        """Finished images, without previews and the comparison sheet."""

    def write(self, column: Column, images: Sequence[Image.Image]) -> None:
        for image, seed in zip(images, seeds_of(self._params), strict=True):
            self.num_finished += 1
            self._write(f"samples/{column.slug}-seed-{seed}.png", image, column, seed, column.label, {})

    def preview_write(self, column: Column, done: int, images: Sequence[Image.Image]) -> None:
        """Estimates of the images after `done` denoising steps."""
        for image, seed in zip(images, seeds_of(self._params), strict=True):
            path = f"samples/steps/{column.slug}-seed-{seed}-step-{done:04d}.png"
            label = f"{column.label} after step {done}"
            self._write(path, image, column, seed, label, {"denoising_step": done})

    def comparison_write(self, images_by_label: Mapping[str, Sequence[Image.Image]]) -> None:
        params = self._params
        sheet = comparison_sheet(images_by_label, [f"seed {seed}" for seed in seeds_of(params)])
        path = "samples/comparison.png"
        image_write(self._job.out / path, sheet, self._facts(params.prompt, params.seed, self._adaptors()))
        self._job.reporter.emit(
            Sample(step=self.num_finished, path=path, label="comparison", prompt=params.prompt, seed=params.seed)
        )

    def _write(
        self, path: str, image: Image.Image, column: Column, seed: int, label: str, details: dict[str, Any]
    ) -> None:
        adaptors = self._adaptors() if column.with_adaptors else []
        image_write(self._job.out / path, image, self._facts(column.prompt, seed, adaptors) | details)
        self._job.reporter.emit(
            Sample(
                step=self.num_finished,
                path=path,
                label=label,
                prompt=column.prompt,
                seed=seed,
                details={"adaptors": adaptors, **details},
            )
        )

    def _adaptors(self) -> list[dict[str, Any]]:
        adaptors = self._job.spec.inputs.adaptors
        scales = self._params.adaptor_scales or (1.0,) * len(adaptors)
        return [
            {"name": adaptor.name, "sha256": adaptor.sha256, "scale": scale}
            for adaptor, scale in zip(adaptors, scales, strict=True)
        ]

    def _facts(self, prompt: str, seed: int, adaptors: list[dict[str, Any]]) -> dict[str, Any]:
        """Everything that reproduces an image."""
        model, dataset = self._job.spec.inputs.model, self._job.spec.inputs.dataset
        assert model is not None
        return {
            "prompt": prompt,
            "seed": str(seed),
            "parameters": self._params.model_dump(mode="json"),
            "base_model": {"name": model.name, "sha256": model.sha256},
            "adaptors": adaptors,
            **({"input": {"name": dataset.name, "sha256": dataset.sha256}} if dataset else {}),
        }
