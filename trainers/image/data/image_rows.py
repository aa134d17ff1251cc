"""One row of a dataset of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.data.sources import Source, source_name, source_sha256

NAMED = 5
"""How many offenders an error names."""


@dataclass(frozen=True)
class ImageRow:
    source: Source
    caption: str
    """As written; may be empty where a trigger word stands in."""
    where: str
    """For errors: "cat.png (metadata.jsonl row 3)"."""
    mask: Source | None = None
    """Where a column names one."""
    repeats: int = 1
    """How often an epoch sees it by the name of its folder; the dataset's own `repeats` multiplies it."""

    @property
    def name(self) -> str:
        return source_name(self.source)

    def sha256(self) -> str:
        return source_sha256(self.source)


@dataclass(frozen=True)
class ImageRows:
    rows: list[ImageRow]
    warnings: list[str]
    """What was changed or passed over, for people."""


Faults = list[str]
"""Where a reader is given one, it says there what is wrong with a row and passes it over, instead of refusing all."""


class Columns(NamedTuple):
    """Names of the columns of a table of images."""

    image: str = "image"
    """Also matches the usual file_name."""
    caption: str | None = "text"
    """None: captions are not asked for, and are empty."""
    mask: str | None = None
    """None: masks are not asked for."""


def bad_dataset(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def refuse(message: str, faults: Faults | None) -> None:
    """Raises BAD_DATASET, or notes it where faults are collected."""
    if faults is None:
        raise bad_dataset(message)
    faults.append(message)
