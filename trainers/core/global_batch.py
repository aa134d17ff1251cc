"""How many rows a step sees, and how they are shared out over micro-batches and ranks."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one optimizer step are batch_size x accumulation x world_size."""

    batch_size: int
    """Rows per rank and micro-batch."""
    accumulation: int
    """Micro-batches per rank and step."""
    world_size: int

    @property
    def rows(self) -> int:
        return self.batch_size * self.accumulation * self.world_size

    def with_rows(self, rows: int) -> "GlobalBatch":
        """The same batch size and ranks with the accumulation that makes `rows`. Raises ValueError naming both."""
        at_once = self.batch_size * self.world_size
        if rows % at_once:
            raise ValueError(
                f"{_processes(self.world_size)} with batches of {self.batch_size} take {at_once} rows at a time, "
                f"of which a global batch of {rows} is no multiple"
            )
        return replace(self, accumulation=rows // at_once)

    def world_sizes(self, rows: int) -> list[int]:
        """The numbers of processes on which batches of this size can make up `rows`."""
        micro_batches, rest = divmod(rows, self.batch_size)
        return [] if rest else [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]

    def __str__(self) -> str:
        parts = f"batch size {self.batch_size} x accumulation {self.accumulation} x {_processes(self.world_size)}"
        return f"global batch {self.rows} = {parts}"


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
