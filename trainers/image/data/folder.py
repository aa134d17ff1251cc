"""What lies in a folder of images: its tables and its files, also in the layouts that Hub datasets have."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from formats.images import IMAGE_ENDINGS
from formats.splits import splits_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.data.image_rows import bad_dataset

METADATA = ("metadata.jsonl", "metadata.csv")
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
    """Metadata at the top wins over that of subfolders, and has no splits; metadata wins over Parquet.

    TrainerError BAD_PARAMETERS: the dataset has not the split that is asked for.
    """
    images = image_files(folder)
    at_top = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if at_top:
        _split({}, split_of)
        return Tables([at_top], images, {}, "")
    files = files_of(folder)
    metadata = [path for path in files if path.name in METADATA]
    tables = metadata or [path for path in files if path.suffix.lower() == ".parquet"]
    names = [path.relative_to(folder).as_posix() for path in tables or images]
    splits = splits_of(names, by_folder_only=not tables)
    split = _split(splits, split_of)
    chosen = [folder / name for name in splits[split]] if split else tables or images
    by_folder = splits_of((path.relative_to(folder).as_posix() for path in images), by_folder_only=True)
    counts = {name: len(by_folder.get(name, paths)) for name, paths in splits.items()}
    return Tables(chosen if tables else [], chosen if not tables else images, counts, split)


def files_of(folder: Path) -> list[Path]:
    """All files below it by name, without hidden ones and what is in hidden folders."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [path for path in found if not _is_hidden(path.relative_to(folder)) and path.is_file()]


def image_files(folder: Path) -> list[Path]:
    return [path for path in files_of(folder) if path.suffix.lower() in IMAGE_ENDINGS]


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`; a name that would leave the folder is refused. Links inside it are the worker's own."""
    relative = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or relative.is_absolute() or ".." in relative.parts or ":" in relative.parts[0]:
        raise bad_dataset(f"{where}: expected a file of this folder, got {name!r}")
    return folder / relative


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _split(splits: Mapping[str, Sequence[str]], split_of: ChooseSplit) -> str:
    try:
        return split_of([*splits])
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, str(error)) from None
