"""Where the encoding of a dataset is kept, shared out and told."""

from pathlib import Path
from typing import NamedTuple

from trainers.core.cache import Makers, Store, tensors_cached
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter


class EncodingCache(NamedTuple):
    cache: Path
    """Of this host, shared by jobs and ranks."""
    processes: Processes
    control: Control
    reporter: Reporter

    def keep(self, name: str, stage: str, makers: Makers) -> Store | None:
        """The tensors of each key, made where the cache lacks them; None: a stop was wanted meanwhile."""
        return tensors_cached(
            self.cache / name,
            makers,
            stage=stage,
            processes=self.processes,
            control=self.control,
            reporter=self.reporter,
        )
