"""Random draws as pure functions of (seed, purpose, step, position): the same on every device and process count.

Philox is counter-based: the key is (seed, purpose), the counter starts at (step, position), so there is no state and
no two streams overlap. `position` is the place 0..B-1 in the global batch of the optimizer step, never the dataset row
(every epoch would repeat its noise).
"""

import threading
from enum import IntEnum
from typing import Any

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream is used for. The numbers determine every job's result: append, never renumber."""

    ORDER = 0
    TIMESTEP = 1
    NOISE = 2
    NOISE_OFFSET = 3
    LATENT = 4
    CROP = 5
    FLIP = 6
    CAPTION_DROPOUT = 7
    LAYER_DROPOUT = 8
    LORA_INIT = 9
    VALIDATION_SPLIT = 10
    VALIDATION_NOISE = 11
    VALIDATION_LATENT = 12
    CROP_PLACE = 13
    MASK = 14
    TOKEN = 15
    BLOCK = 16
    COIN = 17
    RESPONSE_CUT = 18
    COLUMNS_CUT = 19
    VALIDATION_MASK = 20
    CAPTION_SHUFFLE = 21
    COLOR = 22
    ROTATION = 23
    CLASS_ORDER = 24
    FILE_ORDER = 25
    SHORT_LENGTH = 26
    WEIGHTS = 27


def stream(seed: int, purpose: Purpose, step: int = 0, position: int = 0) -> np.random.Generator:
    """The generator of one draw. All four are 0 <= n < 2**64."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, step, position]))


def normal(shape: tuple[int, ...], seed: int, purpose: Purpose, step: int = 0, position: int = 0) -> torch.Tensor:
    """N(0, 1) in fp32 on the CPU."""
    return torch.from_numpy(_moved_to(seed, purpose, step, position).standard_normal(shape, dtype=np.float32))


def uniform(seed: int, purpose: Purpose, step: int = 0, position: int = 0) -> float:
    """One draw in [0, 1)."""
    return float(_moved_to(seed, purpose, step, position).random())


def integer(below: int, seed: int, purpose: Purpose, step: int = 0, position: int = 0) -> int:
    """One draw in 0..below-1."""
    return int(_moved_to(seed, purpose, step, position).integers(below))


INT64_MAX = 2**63 - 1
"""numpy rounds a larger seed to a double when it makes a key: part of the results of all jobs, as in crop places."""


class _OfThread(threading.local):
    """A generator for each thread, with the state of one that has drawn nothing."""

    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.Philox(key=[0, 0]))
        self.state = self.generator.bit_generator.state


_of_thread = _OfThread()


def _moved_to(seed: int, purpose: Purpose, step: int, position: int) -> np.random.Generator:
    """As `stream`, an eighth of its time, but only until the next call in this thread."""
    if seed > INT64_MAX:
        return stream(seed, purpose, step, position)
    state: Any = _of_thread.state
    key, counter = state["state"]["key"], state["state"]["counter"]
    key[0], key[1], counter[2], counter[3] = seed, purpose, step, position
    _of_thread.generator.bit_generator.state = state
    return _of_thread.generator


def permutation(count: int, seed: int, purpose: Purpose, step: int = 0) -> list[int]:
    return [int(i) for i in stream(seed, purpose, step).permutation(count)]


def split(num_rows: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training rows, held-out rows), both ascending. At least one row is held out where `share` > 0."""
    held_out = max(1, round(num_rows * share)) if share else 0
    order = permutation(num_rows, seed, Purpose.VALIDATION_SPLIT)
    return sorted(order[held_out:]), sorted(order[:held_out])
