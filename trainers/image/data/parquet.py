"""Parquet whose cells hold images, as Hub datasets have them. Captions are read at once, images when needed."""

from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import types
from pyarrow.parquet import ParquetFile

from formats.rows import value_fault
from trainers.image.data.folder import inside
from trainers.image.data.image_rows import Columns, Faults, ImageRow, bad_dataset, refuse
from trainers.image.data.sources import Cell, Source
from trainers.image.data.tables import columns_check


def parquet_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image a row: bytes, a struct {bytes, path}, or the name of a file beside the table."""
    try:
        file = ParquetFile(path)
        schema = file.schema_arrow
        image = "file_name" if columns.image == "image" and "image" not in schema.names else columns.image
        columns = columns._replace(image=image)
        columns_check(columns, schema.names, path.name)
        captions = _captions(file, columns.caption, path)
        images = _sources(file, columns.image, path)
        masks = _sources(file, columns.mask, path) if columns.mask else [None] * len(captions)
    except (OSError, pyarrow.ArrowException) as error:
        raise bad_dataset(f"{path.name} cannot be read as Parquet: {error}") from error
    found: list[ImageRow] = []
    for row, (source, caption, mask) in enumerate(zip(images, captions, masks, strict=True), start=1):
        if caption is None:
            refuse(f"{path.name} row {row}: expected text in {columns.caption!r}, got nothing", faults)
        elif fault := value_fault(caption):
            refuse(f"{path.name} row {row}: {fault}", faults)
        else:
            found.append(ImageRow(source, caption.strip(), f"{path.name} row {row}", mask))
    return found


def _captions(file: ParquetFile, column: str | None, path: Path) -> list[str | None]:
    if column is None:
        return [""] * int(file.metadata.num_rows)
    kind = file.schema_arrow.field(column).type
    if not _is_text(kind):
        raise bad_dataset(f"{path.name}: expected text in {column!r}, got {kind}")
    values: list[str | None] = file.read(columns=[column]).column(column).to_pylist()
    return values


def _sources(file: ParquetFile, column: str, path: Path) -> list[Source]:
    kind = file.schema_arrow.field(column).type
    if _is_text(kind):
        names: list[str | None] = file.read(columns=[column]).column(column).to_pylist()
        return [inside(path.parent, name or "", f"{path.name} row {row}") for row, name in enumerate(names, start=1)]
    if not _is_bytes(kind):
        raise bad_dataset(
            f"{path.name}: expected images (bytes, or a struct of bytes and path) in {column!r}, got {kind}"
        )
    return [Cell(path, column, row) for row in range(file.metadata.num_rows)]


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
