"""Parquet whose cells hold images, as Hub datasets have them. Captions are read at once, images when needed."""

from pathlib import Path

from pyarrow.parquet import ParquetFile

from formats.image_tables import image_column, path_below
from formats.parquet import column_values, is_image, is_text, parquet_open
from formats.rows import DatasetError, value_fault
from trainers.image.data.image_rows import Columns, Faults, ImageRow, bad_dataset, refuse
from trainers.image.data.sources import Cell, Source
from trainers.image.data.tables import columns_check


def parquet_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image a row: bytes, a struct {bytes, path}, or the name of a file beside the table."""
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
