"""The dataset of an `image_lora` job: parameters become settings of encoding, plan and draws, with their warnings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import CLIPTokenizer

from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.context import JobContext
from trainers.core.encoding_cache import EncodingCache
from trainers.core.global_batch import GlobalBatch
from trainers.image.data.batches import DrawSettings, Dropout, Plan
from trainers.image.data.crops import Augment, mask_source
from trainers.image.data.decoding import image_size
from trainers.image.data.examples import CaptionedImage, Encoding, Examples, TextKind, examples_encode
from trainers.image.data.framing import Framing, Shape, shape_for, shapes_of
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.rows import Rows, captioned_images
from trainers.image.data.timesteps import times_of
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import family_module
from trainers.image.models.text_encoders import MAX_CHUNKS


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
    framing = framing_of(params, family_module(base.family).PIXEL_MULTIPLE)
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
        framing=framing_of(params, family_module(base.family).PIXEL_MULTIPLE),
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
    return limit_of(family_module(base.family), base.tokenizers[-1], params)


def limit_of(family: Any, last_tokenizer: Any, params: ImageLoraParams) -> TokenLimit:
    """T5's if the base's last tokenizer is T5's; else CLIP's, which takes several chunks except in flow families."""
    if not isinstance(last_tokenizer, CLIPTokenizer):
        return TokenLimit(last_tokenizer, (params.max_sequence_length or family.T5_TOKENS) - 1)
    max_chunks = 1 if family.IS_FLOW else MAX_CHUNKS
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
