"""The dataset of an `image_lora` job as its parameters ask for it: encoded, planned, drawn from."""

from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.context import JobContext
from trainers.core.encoding_cache import EncodingCache
from trainers.core.global_batch import GlobalBatch
from trainers.image.data.augment import Augment
from trainers.image.data.batches import Draws, Dropout
from trainers.image.data.buckets import Shape, shape_for, shapes_of
from trainers.image.data.examples import Encoding, Examples, examples_encode
from trainers.image.data.framing import Framing
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.pixels import image_size
from trainers.image.data.plan import Plan
from trainers.image.data.rows import Rows, example_rows
from trainers.image.data.texts import TextKind
from trainers.image.data.timesteps import times_of
from trainers.image.data.warnings import caches_off, captions_cut, token_limit, without_mask
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import family_module


def rows_encode(job: JobContext[ImageLoraParams], base: Base, rows: Rows) -> Examples | None:
    """Moments and embeddings; None where a stop was wanted meanwhile, which fit then obeys before its first step.

    A warning says which cache a parameter switches off, which images have no mask, and which captions are cut.
    """
    params, examples = job.params, example_rows(rows, job.params)
    told = caches_off(params, encoding_of(base, params)) + without_mask(params, rows.images)
    for message in told + captions_cut(token_limit(base, params), examples):
        job.reporter.emit(Warning_(message=message))
    return examples_encode(
        base,
        examples,
        encoding_of(base, params),
        further_texts=[params.trigger_word] if params.caption_dropout_rate else [],
        encoding_cache=EncodingCache(job.cache, job.processes, job.control, job.reporter),
    )


def plan_of(params: ImageLoraParams, base: Base, rows: Rows, batch: GlobalBatch) -> Plan:
    """Which rows (of `rows.trained` and `rows.of_class`) make up which step."""
    framing = framing_of(params, family_module(base.family).PIXEL_MULTIPLE)
    return plan_for(params, framing, rows, batch)


def batch_of(params: ImageLoraParams, world_size: int) -> GlobalBatch:
    """As the parameters ask for it."""
    return GlobalBatch(params.train_batch_size, params.gradient_accumulation_steps, world_size)


def plan_for(params: ImageLoraParams, framing: Framing, rows: Rows, batch: GlobalBatch) -> Plan:
    several = len(framing.shapes) > 1
    return Plan(
        num_rows=len(rows.trained),
        batch_size=batch.batch_size,
        accumulation=batch.accumulation,
        world_size=batch.world_size,
        seed=params.seed,
        shapes=[shape_in(framing, rows.images[place]) for place in rows.trained] if several else (),
        num_class_rows=len(rows.class_images),
    )


def draws_of(base: Base, params: ImageLoraParams) -> Draws:
    return Draws(
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
    kept: TextKind = "kept" if params.cache_text_embeddings else "fresh"
    return Encoding(
        framing=framing_of(params, family_module(base.family).PIXEL_MULTIPLE),
        keep_latents=params.cache_latents and not augment.jitters and not augment.turns,
        text="ids" if params.train_text_encoder else kept,
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
