"""The rows of an `image_lora` job: all its datasets, how often an epoch sees each, what is held out, and its class."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

from formats.splits import TRAIN, split_chosen
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.spec import InputRef
from trainers.core.context import JobContext
from trainers.core.noise import Purpose, stream
from trainers.core.split import split
from trainers.image.data.examples import Row
from trainers.image.data.image_rows import Columns, Faults, ImageRow, ImageRows, bad_dataset
from trainers.image.data.images import images_read


@dataclass(frozen=True)
class Rows:
    """Places are those in `images`, then those in `class_images`."""

    images: Sequence[ImageRow]
    trained: Sequence[int]
    """Place of each row of an epoch; a dataset that repeats has each of its places so often."""
    held_out: Sequence[int]
    class_images: Sequence[ImageRow] = ()

    @property
    def of_class(self) -> Sequence[int]:
        """Places of the class images."""
        return range(len(self.images), len(self.images) + len(self.class_images))


def rows_read(job: JobContext[ImageLoraParams]) -> Rows:
    """The job's datasets in order, and what the class dataset gives of the class images."""
    rows = rows_of(images_with_repeats(job), job.params)
    if job.spec.inputs.class_dataset:
        return with_class_images(rows, job.params, job.inputs / "class_dataset")
    return rows


def images_with_repeats(job: JobContext[ImageLoraParams], faults: Faults | None = None) -> list[tuple[ImageRow, int]]:
    """All images of all datasets in order, and how often an epoch sees each; warnings are said."""
    images: list[tuple[ImageRow, int]] = []
    for found, times in zip(_datasets(job, faults), repeats_of(job), strict=True):
        for message in found.warnings:
            job.reporter.emit(Warning_(message=message))
        images += [(image, times * image.repeats) for image in found.rows]
    return images


def rows_of(images: Sequence[tuple[ImageRow, int]], params: ImageLoraParams) -> Rows:
    """Splits off what is held out. TrainerError BAD_DATASET: nothing is left to train on."""
    trained, held_out = split(len(images), params.validation_split, params.seed)
    if not trained:
        raise bad_dataset(
            f"expected at least {2 if params.validation_split else 1} images with "
            f"validation_split={params.validation_split}, got {len(images)}"
        )
    places = [place for place in trained for _ in range(images[place][1])]
    return Rows([image for image, _ in images], places, held_out)


def with_class_images(rows: Rows, params: ImageLoraParams, folder: Path) -> Rows:
    """`rows` with the images of `folder` behind its class images, num_class_images in all; captions are unread."""
    found = images_read(folder, Columns(params.image_column, caption=None), trigger_word="", split_of=_any_split).rows
    wanted = params.num_class_images - len(rows.class_images)
    return replace(rows, class_images=[*rows.class_images, *found[:wanted]])


def class_images_missing(rows: Rows, params: ImageLoraParams) -> int:
    """How many class images the base model still has to make."""
    return params.num_class_images - len(rows.class_images) if params.prior_preservation else 0


def captioned_images(rows: Rows, params: ImageLoraParams) -> list[Row]:
    """Images with the texts that they are trained with; class images have the class prompt."""
    return [
        *(
            Row(
                image,
                texts_of(
                    image.caption,
                    params.trigger_word,
                    shuffle=params.caption_shuffle,
                    keep_tokens=params.keep_tokens,
                ),
            )
            for image in rows.images
        ),
        *(Row(image, [params.class_prompt], of_class=True) for image in rows.class_images),
    ]


def repeats_of(job: JobContext[ImageLoraParams]) -> Sequence[int]:
    """How often an epoch sees each dataset."""
    count, given = 1 + len(job.spec.inputs.further_datasets), job.params.repeats
    if given and len(given) != count:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"repeats has {len(given)} values for {count} datasets; give one each, the job's dataset first",
        )
    return given or [1] * count


def _datasets(job: JobContext[ImageLoraParams], faults: Faults | None) -> Iterator[ImageRows]:
    params, inputs = job.params, job.spec.inputs
    columns = Columns(
        params.image_column, params.caption_column, params.mask_column if params.masked_loss == "mask_column" else None
    )
    if not inputs.further_datasets:
        yield images_read(
            job.dataset, columns, trigger_word=params.trigger_word, split_of=params.split_of, faults=faults
        )
        return
    further = job.inputs / "datasets"
    folders = [job.dataset, *(further / str(index) for index in range(len(inputs.further_datasets)))]
    for folder, ref in zip(folders, (inputs.dataset, *inputs.further_datasets), strict=True):
        assert ref is not None
        yield _named(folder, ref, columns, params, faults)


def _any_split(splits: Sequence[str]) -> str:
    """Of class images: train where it is there, else the first."""
    return split_chosen(splits, TRAIN) if not splits or TRAIN in splits else splits[0]


def _named(folder: Path, ref: InputRef, columns: Columns, params: ImageLoraParams, faults: Faults | None) -> ImageRows:
    """Of one dataset among several: whatever is said of it begins with its name."""
    own: Faults | None = None if faults is None else []
    try:
        found = images_read(folder, columns, trigger_word=params.trigger_word, split_of=params.split_of, faults=own)
    except TrainerError as error:
        raise TrainerError(error.reason.code, f"{ref.name}: {error.reason.message}") from error
    if faults is not None and own:
        faults += [f"{ref.name}: {message}" for message in own]
    rows = [replace(row, where=f"{ref.name}: {row.where}") for row in found.rows]
    return ImageRows(rows, [f"{ref.name}: {message}" for message in found.warnings])


ORDERS = 8
"""Orders that a shuffled caption is drawn from: each is embedded once. Few parts have all their orders among them."""
SEPARATOR = ","


def caption_with_trigger(trigger_word: str, caption: str) -> str:
    """ "{trigger}, {caption}"; either alone where the other is empty."""
    return ", ".join(part for part in (trigger_word, caption) if part)


def caption_orders(caption: str, keep_tokens: int) -> list[str]:
    """The caption with its comma-separated parts behind the first `keep_tokens` in up to ORDERS orders.

    The orders depend on the caption alone, so that jobs share their embeddings.
    """
    parts = [part.strip() for part in caption.split(SEPARATOR) if part.strip()]
    kept, moved = parts[:keep_tokens], parts[keep_tokens:]
    if len(moved) < 2:
        return [caption]
    if math.factorial(len(moved)) <= ORDERS:
        orders = [list(order) for order in permutations(moved)]
    else:
        seed = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8])
        draws = (stream(seed, Purpose.CAPTION_SHUFFLE, index).permutation(len(moved)) for index in range(ORDERS))
        orders = [[moved[int(place)] for place in draw] for draw in draws]
    return [", ".join([*kept, *order]) for order in orders]


def texts_of(caption: str, trigger_word: str, *, shuffle: bool, keep_tokens: int) -> list[str]:
    """What a draw chooses from, trigger word included."""
    captions = caption_orders(caption, keep_tokens) if shuffle else [caption]
    return [caption_with_trigger(trigger_word, text) for text in captions]
