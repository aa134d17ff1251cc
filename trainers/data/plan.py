"""Which rows make up which step: a pure function of (seed, step), for any accumulation and number of ranks."""

import math
from dataclasses import dataclass

from trainers.noise import Purpose, permutation


@dataclass(frozen=True)
class Plan:
    """An epoch is a seeded permutation of the rows. Its last global batch may be short; nothing is repeated."""

    num_rows: int
    batch_size: int
    """Samples per rank and micro-batch."""
    accumulation: int
    world_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_rows / (self.batch_size * self.accumulation * self.world_size))

    def rows(self, step: int) -> list[int]:
        """The global batch of `step` (from 0); its index is the sample's position."""
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self.batch_size * self.accumulation * self.world_size
        return permutation(self.num_rows, self.seed, Purpose.ORDER, epoch)[within * size : (within + 1) * size]

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.steps_per_epoch

    def shares(self, count: int, rank: int) -> list[range]:
        """Positions of each micro-batch of `rank` in a global batch of `count`; empty ones are left out."""
        starts = range(rank * self.batch_size, count, self.world_size * self.batch_size)
        return [range(start, min(start + self.batch_size, count)) for start in starts]


def split(num_rows: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training rows, held-out rows), both ascending. At least one row is held out where `share` > 0."""
    held_out = max(1, round(num_rows * share)) if share else 0
    order = permutation(num_rows, seed, Purpose.VALIDATION_SPLIT)
    return sorted(order[held_out:]), sorted(order[:held_out])
