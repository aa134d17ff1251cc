"""Rows of a dataset's folder, each with the place that it came from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from formats.parquet import parquet_rows
from formats.row_files import PLAIN_ENDING, ROW_ENDINGS, row_files, row_place, text_rows
from formats.rows import DatasetError, row_fault
from formats.splits import splits_of
from trainers.contract.errors import ReasonCode, TrainerError

NAMED_FAULTS = 5


class Row(NamedTuple):
    where: str
    """File and line (or number of the row), for people."""
    columns: dict[str, Any]


ChooseSplit = Callable[[Sequence[str]], str]
"""As `Params.split_of`."""


def rows_read(folder: Path, split_of: ChooseSplit | None = None) -> list[Row]:
    """The rows below `folder` of the split that `split_of` chooses, or all; files in the order of their names.

    TrainerError BAD_DATASET: nothing to read, or faulty rows; the first few are named with what was expected.
    """
    splits = files_by_split(folder)
    split = _split(splits, split_of) if split_of else ""
    paths = [path for name, files in splits.items() for path in files if split in ("", name)]
    rows, faults = [], []
    for path in paths:
        for row in file_rows(path, path.relative_to(folder).as_posix()):
            if fault := row_fault(row.columns):
                faults.append(f"{row.where}: {fault}")
            else:
                rows.append(row)
    if faults:
        more = f" and {len(faults) - NAMED_FAULTS} more" if len(faults) > NAMED_FAULTS else ""
        raise bad_rows("; ".join(faults[:NAMED_FAULTS]) + more)
    if not rows:
        raise bad_rows(f"expected rows, but {', '.join(path.name for path in paths[:NAMED_FAULTS])} hold none")
    return rows


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """The files with rows by split; all under "" where their names say none."""
    names = row_files(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    if not names:
        raise bad_rows(
            f"expected rows in files ending in {', '.join((*ROW_ENDINGS, PLAIN_ENDING))}, found none of them"
        )
    splits = splits_of(names) or {"": names}
    return {split: [folder / name for name in listed] for split, listed in splits.items()}


def split_counts(folder: Path, split_of: ChooseSplit) -> dict[str, Any]:
    """{split, splits: rows by split} of a dataset that has splits, for manifests and previews; {} of another."""
    splits = files_by_split(folder)
    if "" in splits:
        return {}
    counts = {split: sum(1 for path in files for _ in file_rows(path, path.name)) for split, files in splits.items()}
    return {"split": _split(splits, split_of), "splits": counts}


def file_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of one file; a row that cannot be read has a ValueError in the place of its columns."""
    try:
        rows = parquet_rows(path, name) if path.suffix.lower() == ".parquet" else text_rows(path, name)
        for number, columns in rows:
            yield Row(row_place(name, number), columns)
    except DatasetError as error:
        raise bad_rows(str(error)) from error


def bad_rows(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def _split(splits: dict[str, list[Path]], split_of: ChooseSplit) -> str:
    try:
        return split_of([split for split in splits if split])
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, str(error)) from None
