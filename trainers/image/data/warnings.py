"""What an `image_lora` job says of its data before it trains: caches that are off, masks and captions that lack."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import CLIPTokenizer

from trainers.contract.params.image_lora import ImageLoraParams
from trainers.image.data.examples import Encoding, Row
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.masks import mask_source
from trainers.image.models.base import Base
from trainers.image.models.clip_text import MAX_CHUNKS
from trainers.image.models.families import family_module


class TokenLimit(NamedTuple):
    """What is past `limit` tokens, start and end not counted, is cut."""

    tokenizer: Any
    limit: int


def caches_off(params: ImageLoraParams, encoding: Encoding) -> list[str]:
    """Which parameter switches off a cache that was asked for."""
    found = []
    if params.cache_latents and not encoding.keep_latents:
        names = [name for name in ("color_jitter", "random_rotation") if getattr(params, name)]
        found.append(
            f"{' and '.join(names)} changes images at every draw, so latents are not cached: "
            "each image is encoded when it is drawn"
        )
    if params.cache_text_embeddings and encoding.text == "ids":
        found.append(
            "train_text_encoder changes embeddings at every step, so they are not cached: captions are embedded anew"
        )
    return found


def without_mask(params: ImageLoraParams, images: Sequence[ImageRow]) -> list[str]:
    opaque = opaque_images(params, images)
    if not opaque:
        return []
    return [f"{len(opaque)} images have no alpha channel, so all of them counts; the first is {opaque[0].where}"]


def opaque_images(params: ImageLoraParams, images: Sequence[ImageRow]) -> list[ImageRow]:
    """Those without the alpha channel that masks their loss."""
    if params.masked_loss != "alpha":
        return []
    return [image for image in images if mask_source(image, "alpha") is None]


def token_limit(base: Base, params: ImageLoraParams) -> TokenLimit:
    return limit_of(family_module(base.family), base.tokenizers[-1], params)


def limit_of(family: Any, last: Any, params: ImageLoraParams) -> TokenLimit:
    """T5's where the base's `last` tokenizer is one; else CLIP's, whose long texts fill chunks but in flow families."""
    if not isinstance(last, CLIPTokenizer):
        return TokenLimit(last, (params.max_sequence_length or family.T5_TOKENS) - 1)
    max_chunks = 1 if family.IS_FLOW else MAX_CHUNKS
    return TokenLimit(last, max_chunks * (last.model_max_length - 2))


def captions_cut(limit: TokenLimit, rows: Sequence[Row]) -> list[str]:
    lengths = token_counts(limit, [row.texts[0] for row in rows])
    long = [row.image.where for row, length in zip(rows, lengths, strict=True) if length > limit.limit]
    if not long:
        return []
    return [f"{len(long)} captions have more than {limit.limit} tokens and are cut; the first is {long[0]}"]


def token_counts(limit: TokenLimit, texts: Sequence[str]) -> list[int]:
    ids = limit.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []
    return [len(tokens) for tokens in ids]
