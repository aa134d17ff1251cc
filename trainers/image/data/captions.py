"""The texts that an image is trained with: trigger word in front, parts in another order, or dropped."""

import hashlib
import math
from itertools import permutations

from trainers.core.noise import Purpose, stream

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
