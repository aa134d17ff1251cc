"""Which documents make up which step: a pure function of (seed, step), for any accumulation and number of ranks."""

import math
from dataclasses import dataclass

from trainers.core.noise import Purpose, permutation


@dataclass(frozen=True)
class TextPlan:
    """An epoch is a seeded permutation of the documents. Its last global batch may be short; nothing is repeated."""

    num_documents: int
    batch_size: int
    """Documents per rank and micro-batch."""
    accumulation: int
    world_size: int
    seed: int

    @property
    def batch_documents(self) -> int:
        """Of a whole global batch."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_documents / self.batch_documents)

    def documents(self, step: int) -> list[int]:
        """The global batch of `step` (from 0); its index is the document's position."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = permutation(self.num_documents, self.seed, Purpose.ORDER, epoch)
        return order[within * self.batch_documents : (within + 1) * self.batch_documents]

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.steps_per_epoch

    def shares(self, count: int, rank: int) -> list[range]:
        """Positions of each micro-batch of `rank` in a global batch of `count`; empty ones are left out."""
        starts = range(rank * self.batch_size, count, self.world_size * self.batch_size)
        return [range(start, min(start + self.batch_size, count)) for start in starts]
