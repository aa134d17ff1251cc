"""Rows of metadata.jsonl, metadata.csv and Parquet as images with captions.

Of Parquet, whose cells may hold the images, captions are read at once and images when needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyarrow.parquet import ParquetFile

from formats.image_tables import cell_text, column_names, image_column, metadata_rows, path_below
from formats.parquet import column_values, is_image, is_text, parquet_open
from formats.rows import DatasetError, value_fault
from trainers.image.data.image_rows import Cell, Columns, Faults, ImageRow, Source, bad_dataset, refuse


def table_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image per row; file names are relative to the table's folder."""
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
    """Raises TrainerError(BAD_DATASET) that names the parameter and the columns of the table."""
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


def parquet_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image per row: bytes, a struct {bytes, path}, or the name of a file beside the table."""
    try:
        file = parquet_open(path, path.name)
        names = file.schema_arrow.names
        columns = columns._replace(image=image_column(columns.image, names))
        columns_check(columns, names, path.name)
        captions = _captions(file, columns.caption, path)
        images = _sources(file, columns.image, path)
        masks = _sources(file, columns.mask, path) if columns.mask else [None] * len(captions)
    except DatasetError as error:
        raise bad_dataset(str(error)) from error
    rows: list[ImageRow] = []
    for number, (source, caption, mask) in enumerate(zip(images, captions, masks, strict=True), start=1):
        if caption is None:
            refuse(f"{path.name} row {number}: expected text in {columns.caption!r}, got nothing", faults)
        elif fault := value_fault(caption):
            refuse(f"{path.name} row {number}: {fault}", faults)
        else:
            rows.append(ImageRow(source, caption.strip(), f"{path.name} row {number}", mask))
    return rows


def _captions(file: ParquetFile, column: str | None, path: Path) -> list[str | None]:
    if column is None:
        return [""] * int(file.metadata.num_rows)
    kind = file.schema_arrow.field(column).type
    if not is_text(kind):
        raise DatasetError(f"{path.name}: expected text in {column!r}, got {kind}")
    return column_values(file, column, path.name)


def _sources(file: ParquetFile, column: str, path: Path) -> list[Source]:
    kind = file.schema_arrow.field(column).type
    if is_text(kind):
        return [_file(path, name, row) for row, name in enumerate(column_values(file, column, path.name), start=1)]
    if not is_image(kind):
        raise DatasetError(
            f"{path.name}: expected images (bytes, or a struct of bytes and path) in {column!r}, got {kind}"
        )
    return [Cell(path, column, row) for row in range(file.metadata.num_rows)]


def _file(table: Path, name: str | None, row: int) -> Path:
    try:
        return table.parent / path_below("", name or "")
    except ValueError as error:
        raise DatasetError(f"{table.name} row {row}: {error}") from error
