"""What lies in a folder of pictures: its tables and its files, also in the layouts that Hub datasets have."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from formats.pictures import PICTURE_ENDINGS
from trainers.data.picture import bad_dataset, first_names

METADATA = ("metadata.jsonl", "metadata.csv")
TRAIN = "train"
"""Of the splits of a Hub dataset, the one that is read."""


def tables_of(folder: Path) -> tuple[list[Path], list[str]]:
    """(tables that name the pictures, warnings): all metadata files, or all Parquet files, or none.

    Metadata at the top wins over that of subfolders, metadata over Parquet, the split `train` over the other splits.
    """
    at_top = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if at_top:
        return [at_top], []
    files = files_of(folder)
    metadata = [path for path in files if path.name in METADATA]
    parquet = [path for path in files if path.suffix.lower() == ".parquet"]
    return _training_split(folder, metadata or parquet)


def files_of(folder: Path) -> list[Path]:
    """All files below it by name, without hidden ones and what is in hidden folders."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [path for path in found if not _is_hidden(path.relative_to(folder)) and path.is_file()]


def picture_files(folder: Path) -> list[Path]:
    return [path for path in files_of(folder) if path.suffix.lower() in PICTURE_ENDINGS]


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`; a name that would leave the folder is refused. Links inside it are the worker's own."""
    relative = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or relative.is_absolute() or ".." in relative.parts or ":" in relative.parts[0]:
        raise bad_dataset(f"{where}: expected a file of this folder, got {name!r}")
    return folder / relative


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _training_split(folder: Path, tables: Sequence[Path]) -> tuple[list[Path], list[str]]:
    def is_training(path: Path) -> bool:
        *folders, name = path.relative_to(folder).parts
        return TRAIN in folders or name.startswith((f"{TRAIN}-", f"{TRAIN}.", f"{TRAIN}_"))

    training = [path for path in tables if is_training(path)]
    others = [path.relative_to(folder).as_posix() for path in tables if path not in training]
    if not training or not others:
        return list(tables), []
    return training, [f"{len(others)} tables are not of the split {TRAIN!r} and are not used: {first_names(others)}"]
