"""Which rows make up which step: a pure function of (seed, step), for any accumulation and number of ranks."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from trainers.core.noise import Purpose, permutation


@dataclass(frozen=True, eq=False)
class Plan:
    """An epoch is a seeded permutation of the rows. Its last global batch may be short; nothing is repeated.

    Rows of unlike shapes are sorted into global batches of one shape; what is left of each shape fills the last ones
    of the epoch. What a step sees depends on the size of the global batch alone, not on how it is shared out.
    """

    num_rows: int
    batch_size: int
    """Samples per rank and micro-batch."""
    accumulation: int
    world_size: int
    seed: int
    shapes: Sequence[Hashable] = ()
    """[row]; empty = all alike. A micro-batch has one shape."""
    num_class_rows: int = 0
    """Class images (prior preservation): as many go with each global batch as it has rows."""

    @property
    def batch_rows(self) -> int:
        """Rows of a whole global batch."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_rows / self.batch_rows)

    def rows(self, step: int) -> list[int]:
        """The global batch of `step` (from 0); its index is the sample's position."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return _order(self, epoch)[within * self.batch_rows : (within + 1) * self.batch_rows]

    def class_rows(self, step: int) -> list[int]:
        """The class images beside it, in seeded permutations that run on from step to step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = epoch * self.num_rows + within * self.batch_rows
        places = [divmod(start + index, self.num_class_rows) for index in range(len(self.rows(step)))]
        return [_class_order(self, round_)[place] for round_, place in places]

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.steps_per_epoch

    def micro_batches(self, shapes: Sequence[Hashable]) -> list[range]:
        """Positions of each micro-batch of samples that have these shapes, over all ranks: one shape each."""
        edges = [0, *(i for i in range(1, len(shapes)) if shapes[i] != shapes[i - 1]), len(shapes)]
        return [
            range(at, min(at + self.batch_size, end))
            for start, end in pairwise(edges)
            for at in range(start, end, self.batch_size)
        ]


@lru_cache(maxsize=4)
def _order(plan: Plan, epoch: int) -> list[int]:
    order = permutation(plan.num_rows, plan.seed, Purpose.ORDER, epoch)
    if not plan.shapes:
        return order
    whole: list[int] = []
    waiting: dict[Hashable, list[int]] = {}
    for row in order:
        alike = waiting.setdefault(plan.shapes[row], [])
        alike.append(row)
        if len(alike) == plan.batch_rows:
            whole += alike
            alike.clear()
    return whole + [row for alike in waiting.values() for row in alike]


@lru_cache(maxsize=4)
def _class_order(plan: Plan, round_: int) -> list[int]:
    return permutation(plan.num_class_rows, plan.seed, Purpose.CLASS_ORDER, round_)
