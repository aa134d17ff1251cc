"""Rows of metadata.jsonl and metadata.csv as images with captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from formats.image_tables import cell_text, column_names, image_column, metadata_rows, path_below
from formats.rows import DatasetError
from trainers.image.data.image_rows import Columns, Faults, ImageRow, bad_dataset, refuse


def table_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image a row; file names count from the table's own folder."""
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        for line, row in metadata_rows(path, path.name):
            if isinstance(row, ValueError):
                refuse(f"{path.name} line {line}: {row}", faults)
            else:
                rows.append((line, row))
    except DatasetError as error:
        raise bad_dataset(str(error)) from error
    if not rows:
        return []
    names = column_names(rows)
    columns = columns._replace(image=image_column(columns.image, names))
    columns_check(columns, names, path.name)
    images = (_image_or_fault(path, row, line, columns, faults) for line, row in rows)
    return [image for image in images if image]


def columns_check(columns: Columns, names: Sequence[str], table: str) -> None:
    """TrainerError BAD_DATASET says what the parameter is, and which columns the table has."""
    for parameter, column in zip(("image_column", "caption_column", "mask_column"), columns, strict=True):
        if column is not None and column not in names:
            raise bad_dataset(
                f"{parameter}={column!r} is not a column of {table}; it has {', '.join(map(repr, names))}"
            )


def _image_or_fault(
    table: Path, row: dict[str, Any], line: int, columns: Columns, faults: Faults | None
) -> ImageRow | None:
    place = f"{table.name} line {line}"

    def file(column: str) -> Path:
        return table.parent / path_below("", cell_text(row, column))

    try:
        return ImageRow(
            source=file(columns.image),
            caption=cell_text(row, columns.caption).strip() if columns.caption else "",
            where=f"{row[columns.image]} ({place})",
            mask=file(columns.mask) if columns.mask else None,
        )
    except ValueError as error:
        refuse(f"{place}: {error}", faults)
        return None
