"""The rows of a dataset of images, and how its faults are reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.data.sources import Source, source_name, source_sha256

MAX_NAMES = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class ImageRow:
    source: Source
    caption: str
    """Unchanged from the dataset; may be empty if there is a trigger word."""
    where: str
    """For errors: "cat.png (metadata.jsonl row 3)"."""
    mask: Source | None = None
    """From the mask column."""
    repeats: int = 1
    """How often an epoch repeats it, from the name of its folder; multiplied by the `repeats` of its dataset."""

    @property
    def name(self) -> str:
        return source_name(self.source)

    def sha256(self) -> str:
        return source_sha256(self.source)


@dataclass(frozen=True)
class ImageRows:
    rows: list[ImageRow]
    warnings: list[str]
    """For people: what was changed or skipped."""


Faults = list[str]
"""A reader with such a list appends the fault of each bad row and skips the row, instead of refusing the dataset."""


class Columns(NamedTuple):
    """Names of the columns of a table of images."""

    image: str = "image"
    """Also matches the common file_name."""
    caption: str | None = "text"
    """None: captions are not read, and are empty."""
    mask: str | None = None
    """None: masks are not read."""


def bad_dataset(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def refuse(message: str, faults: Faults | None) -> None:
    """Raises BAD_DATASET, or appends the message to `faults`."""
    if faults is None:
        raise bad_dataset(message)
    faults.append(message)
