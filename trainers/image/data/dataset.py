"""The dataset of an `image_lora` job: its rows from the datasets and captions, and its settings from the parameters."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from transformers import CLIPTokenizer

from formats.datasets.splits import TRAIN, split_chosen
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.spec import InputRef
from trainers.core.cache import EncodingCache
from trainers.core.context import JobContext
from trainers.core.distributed import GlobalBatch
from trainers.core.noise import Purpose, split, stream
from trainers.image.data.batches import DrawSettings, Dropout, Plan, times_of
from trainers.image.data.examples import CaptionedImage, Encoding, Examples, TextKind, examples_encode
from trainers.image.data.framing import Augment, Framing, Shape, mask_source, shape_for, shapes_of
from trainers.image.data.image_rows import Columns, Faults, ImageRow, ImageRows, bad_dataset, image_size
from trainers.image.data.images import images_read
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import Family, image_family
from trainers.image.models.text_encoders import MAX_CHUNKS


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


def rows_encode(job: JobContext[ImageLoraParams], base: Base, rows: Rows) -> Examples | None:
    """Moments and embeddings; None if a stop was requested meanwhile, which fit obeys before its first step.

    Warns of caches that a parameter turns off, of images without a mask, and of captions that are cut.
    """
    params, examples = job.params, captioned_images(rows, job.params)
    messages = cache_warnings(params, encoding_of(base, params)) + mask_warnings(params, rows.images)
    for message in messages + caption_warnings(token_limit(base, params), examples):
        job.reporter.emit(Warning_(message=message))
    return examples_encode(
        base,
        examples,
        encoding_of(base, params),
        further_texts=[params.trigger_word] if params.caption_dropout_rate else [],
        encoding_cache=EncodingCache(job.cache, job.processes, job.control, job.reporter),
    )


def plan_of(params: ImageLoraParams, base: Base, rows: Rows, batch: GlobalBatch) -> Plan:
    """The plan over `rows.trained` and `rows.of_class`."""
    framing = framing_of(params, image_family(base.family).pixel_multiple)
    return plan_for(params, framing, rows, batch)


def batch_of(params: ImageLoraParams, world_size: int) -> GlobalBatch:
    return GlobalBatch(params.train_batch_size, params.gradient_accumulation_steps, world_size)


def plan_for(params: ImageLoraParams, framing: Framing, rows: Rows, batch: GlobalBatch) -> Plan:
    has_buckets = len(framing.shapes) > 1
    return Plan(
        num_rows=len(rows.trained),
        batch_size=batch.batch_size,
        accumulation=batch.accumulation,
        world_size=batch.world_size,
        seed=params.seed,
        shapes=[shape_in(framing, rows.images[place]) for place in rows.trained] if has_buckets else (),
        num_class_rows=len(rows.class_images),
    )


def draw_settings_of(base: Base, params: ImageLoraParams) -> DrawSettings:
    return DrawSettings(
        seed=params.seed,
        times=times_of(base, params),
        scaling_factor=base.vae.config.scaling_factor,
        shift_factor=base.vae.config.get("shift_factor") or 0.0,
        augment=augment_of(params),
        dropout=dropout_of(params),
        noise_offset=params.noise_offset,
        unmasked_weight=params.unmasked_weight,
        prior_weight=params.prior_weight,
    )


def encoding_of(base: Base, params: ImageLoraParams) -> Encoding:
    augment = augment_of(params)
    frozen_text: TextKind = "cached" if params.cache_text_embeddings else "fresh"
    return Encoding(
        framing=framing_of(params, image_family(base.family).pixel_multiple),
        cache_latents=params.cache_latents and not augment.has_jitter and not augment.has_rotation,
        text="ids" if params.train_text_encoder else frozen_text,
        text_settings=TextSettings(params.clip_skip, params.max_sequence_length),
        mask=None if params.masked_loss == "none" else params.masked_loss,
    )


def framing_of(params: ImageLoraParams, multiple: int) -> Framing:
    square = Shape(params.resolution, params.resolution)
    shapes = tuple(shapes_of(params.resolution, multiple)) if params.aspect_ratio_buckets else (square,)
    return Framing(shapes, params.image_interpolation_mode, params.center_crop, params.random_flip)


def shape_in(framing: Framing, image: ImageRow) -> Shape:
    return shape_for(*image_size(image), list(framing.shapes))


def dropout_of(params: ImageLoraParams) -> Dropout:
    return Dropout(params.caption_dropout_rate, params.trigger_word)


def augment_of(params: ImageLoraParams) -> Augment:
    jitter = params.color_jitter
    return Augment(
        brightness=params.color_jitter_brightness * jitter,
        contrast=params.color_jitter_contrast * jitter,
        saturation=params.color_jitter_saturation * jitter,
        hue=params.color_jitter_hue * jitter,
        degrees=params.rotation_degrees,
        rotation_prob=params.rotation_prob * params.random_rotation,
    )


class TokenLimit(NamedTuple):
    """Captions are cut after `limit` tokens, start and end tokens not counted."""

    tokenizer: Any
    limit: int


def cache_warnings(params: ImageLoraParams, encoding: Encoding) -> list[str]:
    """Parameters that turn off a cache which other parameters turn on."""
    warnings = []
    if params.cache_latents and not encoding.cache_latents:
        names = [name for name in ("color_jitter", "random_rotation") if getattr(params, name)]
        warnings.append(
            f"{' and '.join(names)} changes images at every draw, so latents are not cached: "
            "each image is encoded when it is drawn"
        )
    if params.cache_text_embeddings and encoding.text == "ids":
        warnings.append(
            "train_text_encoder changes embeddings at every step, so they are not cached: captions are embedded anew"
        )
    return warnings


def mask_warnings(params: ImageLoraParams, images: Sequence[ImageRow]) -> list[str]:
    opaque = opaque_images(params, images)
    if not opaque:
        return []
    return [f"{len(opaque)} images have no alpha channel, so all of them counts; the first is {opaque[0].where}"]


def opaque_images(params: ImageLoraParams, images: Sequence[ImageRow]) -> list[ImageRow]:
    """Images without the alpha channel that would mask their loss."""
    if params.masked_loss != "alpha":
        return []
    return [image for image in images if mask_source(image, "alpha") is None]


def token_limit(base: Base, params: ImageLoraParams) -> TokenLimit:
    return limit_of(image_family(base.family), base.tokenizers[-1], params)


def limit_of(family: Family, last_tokenizer: Any, params: ImageLoraParams) -> TokenLimit:
    """T5's if the base's last tokenizer is T5's; else CLIP's, which takes several chunks except in flow families."""
    if not isinstance(last_tokenizer, CLIPTokenizer):
        return TokenLimit(last_tokenizer, (params.max_sequence_length or family.t5_tokens) - 1)
    max_chunks = 1 if family.is_flow else MAX_CHUNKS
    return TokenLimit(last_tokenizer, max_chunks * (last_tokenizer.model_max_length - 2))


def caption_warnings(limit: TokenLimit, rows: Sequence[CaptionedImage]) -> list[str]:
    lengths = token_counts(limit, [row.texts[0] for row in rows])
    long = [row.image.where for row, length in zip(rows, lengths, strict=True) if length > limit.limit]
    if not long:
        return []
    return [f"{len(long)} captions have more than {limit.limit} tokens and are cut; the first is {long[0]}"]


def token_counts(limit: TokenLimit, texts: Sequence[str]) -> list[int]:
    ids = limit.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []
    return [len(tokens) for tokens in ids]
