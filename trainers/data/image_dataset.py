"""The dataset of an `image_lora` job as its parameters ask for it: read, split, encoded, drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.data.examples import Examples, Framing, caption_with_trigger, examples_encode
from trainers.data.image_batches import Draws
from trainers.data.images import Picture, bad_dataset, pictures_read
from trainers.data.plan import split
from trainers.events import Warning_
from trainers.models.base import Base
from trainers.params.image_lora import ImageLoraParams
from trainers.site import Site


@dataclass(frozen=True)
class Rows:
    """The dataset, and which rows of it are trained on."""

    pictures: Sequence[Picture]
    trained: Sequence[int]
    held_out: Sequence[int]


def rows_read(site: Site[ImageLoraParams]) -> Rows:
    params = site.params
    found = pictures_read(
        site.work.dataset,
        image_column=params.image_column,
        caption_column=params.caption_column,
        trigger_word=params.trigger_word,
    )
    for message in found.warnings:
        site.reporter.say(Warning_(message=message))
    trained, held_out = split(len(found.rows), params.validation_split, params.seed)
    if not trained:
        raise bad_dataset(
            f"expected at least 2 pictures with validation_split={params.validation_split}, got {len(found.rows)}"
        )
    return Rows(found.rows, trained, held_out)


def rows_encode(site: Site[ImageLoraParams], base: Base, rows: Rows) -> Examples | None:
    """Moments and embeddings; None where a stop was wanted meanwhile, which fit then obeys before its first step."""
    params = site.params
    dropped = [params.trigger_word] if params.caption_dropout_rate else []
    _warn_of_long_captions(site, base, rows)
    return examples_encode(
        base,
        rows.pictures,
        framing_of(params),
        trigger_word=params.trigger_word,
        further_texts=dropped,
        cache=site.work.cache,
        processes=site.processes,
        control=site.control,
        reporter=site.reporter,
    )


def _warn_of_long_captions(site: Site[ImageLoraParams], base: Base, rows: Rows) -> None:
    limit, trigger = base.tokenizers[0].model_max_length, site.params.trigger_word
    texts = [caption_with_trigger(trigger, picture.caption) for picture in rows.pictures]
    long = [
        picture.where
        for picture, ids in zip(rows.pictures, base.tokenizers[0](texts, verbose=False).input_ids, strict=True)
        if len(ids) > limit
    ]
    if long:
        site.reporter.say(
            Warning_(message=f"{len(long)} captions have more than {limit} tokens and are cut; the first is {long[0]}")
        )


def draws_of(base: Base, params: ImageLoraParams, num_timesteps: int) -> Draws:
    framing = framing_of(params)
    return Draws(
        seed=params.seed,
        num_timesteps=num_timesteps,
        scaling_factor=base.vae.config.scaling_factor,
        shift_factor=base.vae.config.get("shift_factor") or 0.0,
        flips=framing.flips,
        places=framing.places,
        caption_dropout_rate=params.caption_dropout_rate,
        dropped_text=params.trigger_word,
        noise_offset=params.noise_offset,
    )


def framing_of(params: ImageLoraParams) -> Framing:
    return Framing(params.resolution, params.image_interpolation_mode, params.center_crop, params.random_flip)
