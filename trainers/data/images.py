"""Reads a folder of pictures with captions: metadata.jsonl, metadata.csv, Parquet, or a .txt/.caption beside each."""

from collections.abc import Sequence
from pathlib import Path

from trainers.data.image_folder import SIDECARS, SUFFIXES, picture_files, tables_of
from trainers.data.image_parquet import parquet_pictures
from trainers.data.image_tables import table_pictures, text_read
from trainers.data.picture import Columns, Picture, Pictures, bad_dataset, first_names


def pictures_read(folder: Path, columns: Columns, *, trigger_word: str) -> Pictures:
    """All pictures of `folder` with their captions, in the order of its tables, else by name.

    TrainerError BAD_DATASET names the column, file or row that is missing. A caption that is empty is refused where
    no trigger word stands in for it.
    """
    tables, warnings = tables_of(folder)
    if tables and tables[0].suffix == ".parquet":
        found = Pictures([row for path in tables for row in parquet_pictures(path, columns)], warnings)
    elif tables:
        rows = [row for path in tables for row in table_pictures(path, columns)]
        found = Pictures(rows, warnings + _unused(folder, rows, tables))
    else:
        found = _from_sidecars(folder, columns, trigger_word)
    if not found.rows:
        raise bad_dataset(f"expected pictures ({', '.join(SUFFIXES)}), metadata.jsonl or Parquet, found none")
    _refuse_missing_files(found.rows)
    if columns.caption:
        _refuse_empty_captions(found.rows, trigger_word)
    return found


def _unused(folder: Path, rows: Sequence[Picture], tables: Sequence[Path]) -> list[str]:
    named = {source for row in rows for source in (row.source, row.mask)}
    unused = [path.name for path in picture_files(folder) if path not in named]
    tables_said = ", ".join(dict.fromkeys(path.name for path in tables))
    return (
        [f"{len(unused)} pictures are not in {tables_said} and are not used: {first_names(unused)}"] if unused else []
    )


def _from_sidecars(folder: Path, columns: Columns, trigger_word: str) -> Pictures:
    files = picture_files(folder)
    if files and columns.mask:
        raise bad_dataset(
            f"mask_column={columns.mask!r} needs metadata.jsonl, metadata.csv or Parquet that has it, found none"
        )
    captions = {path: _sidecar(path) for path in files} if columns.caption else dict.fromkeys(files, "")
    missing = [path.relative_to(folder).as_posix() for path in files if captions[path] is None]
    warnings = []
    if missing and len(missing) == len(files) and trigger_word:
        warnings = [f"no picture has a caption; each is trained with the trigger word {trigger_word!r} alone"]
    elif missing:
        raise bad_dataset(
            f"{len(missing)} of {len(files)} pictures have no caption ({' or '.join(SIDECARS)} beside them, or "
            f"metadata.jsonl): {first_names(missing)}"
        )
    return Pictures([Picture(path, captions[path] or "", path.name) for path in files], warnings)


def _sidecar(path: Path) -> str | None:
    found = next((path.with_suffix(s) for s in SIDECARS if path.with_suffix(s).is_file()), None)
    return text_read(found).strip() if found else None


def _refuse_missing_files(rows: Sequence[Picture]) -> None:
    missing = [
        row.where
        for row in rows
        if any(isinstance(source, Path) and not source.is_file() for source in (row.source, row.mask))
    ]
    if missing:
        raise bad_dataset(f"{len(missing)} of {len(rows)} pictures are not in the dataset: {first_names(missing)}")


def _refuse_empty_captions(rows: Sequence[Picture], trigger_word: str) -> None:
    empty = [row.where for row in rows if not row.caption]
    if empty and not trigger_word:
        raise bad_dataset(
            f"{len(empty)} of {len(rows)} captions are empty: {first_names(empty)}; write them, or set trigger_word"
        )
