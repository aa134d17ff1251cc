"""What lies in a folder of images: its tables and its files, also in the layouts that Hub datasets have."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from formats.image_tables import image_folder
from trainers.contract.errors import ReasonCode, TrainerError

ChooseSplit = Callable[[Sequence[str]], str]
"""As `Params.split_of`."""


class Tables(NamedTuple):
    """What names the images of a folder."""

    paths: list[Path]
    """All metadata files, or all Parquet files, of the split; empty: captions lie beside the images."""
    images: list[Path]
    """Of the split, by the names of their folders."""
    splits: dict[str, int]
    """How many images each split has, or Parquet files that hold them; {} where names say none."""
    split: str


def tables_of(folder: Path, split_of: ChooseSplit) -> Tables:
    """As `formats.image_tables.image_folder` has it, of the split that `split_of` chooses.

    TrainerError BAD_PARAMETERS: the dataset does not have that split.
    """
    layout = image_folder(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    split = _split(layout.splits, split_of)
    images = [folder / name for name in layout.images]
    if layout.tables:
        tables = layout.splits[split] if split else layout.tables
        return Tables([folder / name for name in tables], images, layout.split_counts, split)
    chosen = [folder / name for name in layout.splits[split]] if split else images
    return Tables([], chosen, layout.split_counts, split)


def _split(splits: Mapping[str, Sequence[str]], split_of: ChooseSplit) -> str:
    try:
        return split_of([*splits])
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, str(error)) from None
