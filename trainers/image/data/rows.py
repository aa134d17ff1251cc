"""The rows of an `image_lora` job: all its datasets with their repeats, the held-out split, class images, captions."""

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
from trainers.image.data.examples import CaptionedImage
from trainers.image.data.image_rows import Columns, Faults, ImageRow, ImageRows, bad_dataset
from trainers.image.data.images import images_read


@dataclass(frozen=True)
class Rows:
    """A place is an index into `images` followed by `class_images`."""

    images: Sequence[ImageRow]
    trained: Sequence[int]
    """The place of each row of an epoch; images with repeats occur several times."""
    held_out: Sequence[int]
    class_images: Sequence[ImageRow] = ()

    @property
    def of_class(self) -> Sequence[int]:
        """Places of the class images."""
        return range(len(self.images), len(self.images) + len(self.class_images))


def rows_read(job: JobContext[ImageLoraParams]) -> Rows:
    """The job's datasets in order, and the class images of its class dataset."""
    rows = rows_of(images_with_repeats(job), job.params)
    if job.spec.inputs.class_dataset:
        return with_class_images(rows, job.params, job.inputs / "class_dataset")
    return rows


def images_with_repeats(job: JobContext[ImageLoraParams], faults: Faults | None = None) -> list[tuple[ImageRow, int]]:
    """(image, repeats per epoch) of all datasets in order. Emits their warnings."""
    images: list[tuple[ImageRow, int]] = []
    for dataset, repeats in zip(_datasets(job, faults), repeats_of(job), strict=True):
        for message in dataset.warnings:
            job.reporter.emit(Warning_(message=message))
        images += [(image, repeats * image.repeats) for image in dataset.rows]
    return images


def rows_of(images: Sequence[tuple[ImageRow, int]], params: ImageLoraParams) -> Rows:
    """Splits off the held-out images. TrainerError BAD_DATASET: none are left to train on."""
    trained, held_out = split(len(images), params.validation_split, params.seed)
    if not trained:
        raise bad_dataset(
            f"expected at least {2 if params.validation_split else 1} images with "
            f"validation_split={params.validation_split}, got {len(images)}"
        )
    places = [place for place in trained for _ in range(images[place][1])]
    return Rows([image for image, _ in images], places, held_out)


def with_class_images(rows: Rows, params: ImageLoraParams, folder: Path) -> Rows:
    """`rows` with the images of `folder` after its class images, num_class_images in total; captions are not read."""
    images = images_read(folder, Columns(params.image_column, caption=None), trigger_word="", split_of=_any_split).rows
    missing = params.num_class_images - len(rows.class_images)
    return replace(rows, class_images=[*rows.class_images, *images[:missing]])


def class_images_missing(rows: Rows, params: ImageLoraParams) -> int:
    """How many class images the base model must still draw."""
    return params.num_class_images - len(rows.class_images) if params.prior_preservation else 0


def captioned_images(rows: Rows, params: ImageLoraParams) -> list[CaptionedImage]:
    """All images with the texts that they are trained with; class images have the class prompt."""
    return [
        *(
            CaptionedImage(
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
        *(CaptionedImage(image, [params.class_prompt], of_class=True) for image in rows.class_images),
    ]


def repeats_of(job: JobContext[ImageLoraParams]) -> Sequence[int]:
    """How often an epoch repeats each dataset."""
    count, repeats = 1 + len(job.spec.inputs.further_datasets), job.params.repeats
    if repeats and len(repeats) != count:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"repeats has {len(repeats)} values for {count} datasets; give one each, the job's dataset first",
        )
    return repeats or [1] * count


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
        yield _named_dataset(folder, ref, columns, params, faults)


def _any_split(splits: Sequence[str]) -> str:
    """For class images: train if there is one, else the first."""
    return split_chosen(splits, TRAIN) if not splits or TRAIN in splits else splits[0]


def _named_dataset(
    folder: Path, ref: InputRef, columns: Columns, params: ImageLoraParams, faults: Faults | None
) -> ImageRows:
    """One dataset of several: its messages begin with its name."""
    dataset_faults: Faults | None = None if faults is None else []
    try:
        dataset = images_read(
            folder, columns, trigger_word=params.trigger_word, split_of=params.split_of, faults=dataset_faults
        )
    except TrainerError as error:
        raise TrainerError(error.reason.code, f"{ref.name}: {error.reason.message}") from error
    if faults is not None and dataset_faults:
        faults += [f"{ref.name}: {message}" for message in dataset_faults]
    rows = [replace(row, where=f"{ref.name}: {row.where}") for row in dataset.rows]
    return ImageRows(rows, [f"{ref.name}: {message}" for message in dataset.warnings])


ORDERS = 8
"""Orders that a shuffled caption is drawn from: each is embedded once. Captions of few parts have all their orders."""
SEPARATOR = ","


def caption_with_trigger(trigger_word: str, caption: str) -> str:
    """ "{trigger}, {caption}"; either alone where the other is empty."""
    return ", ".join(part for part in (trigger_word, caption) if part)


def caption_orders(caption: str, keep_tokens: int) -> list[str]:
    """The caption in up to ORDERS orders of its comma-separated parts; the first `keep_tokens` parts stay in front.

    The orders depend on the caption alone, so that jobs share their embeddings.
    """
    parts = [part.strip() for part in caption.split(SEPARATOR) if part.strip()]
    fixed, shuffled = parts[:keep_tokens], parts[keep_tokens:]
    if len(shuffled) < 2:
        return [caption]
    if math.factorial(len(shuffled)) <= ORDERS:
        orders = [list(order) for order in permutations(shuffled)]
    else:
        seed = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8])
        draws = (stream(seed, Purpose.CAPTION_SHUFFLE, index).permutation(len(shuffled)) for index in range(ORDERS))
        orders = [[shuffled[int(place)] for place in draw] for draw in draws]
    return [", ".join([*fixed, *order]) for order in orders]


def texts_of(caption: str, trigger_word: str, *, shuffle: bool, keep_tokens: int) -> list[str]:
    """The texts that a draw chooses from, trigger word included."""
    captions = caption_orders(caption, keep_tokens) if shuffle else [caption]
    return [caption_with_trigger(trigger_word, text) for text in captions]
