"""Parquet files: rows a batch at a time, and which columns hold texts and images.

The only module of `formats` that imports pyarrow.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import types
from pyarrow.parquet import ParquetFile

from formats.datasets.images import IMAGE, PATH_COLUMNS
from formats.datasets.rows import DatasetError, Row

BATCH_ROWS = 256
BROKEN = (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError)
"""Errors that pyarrow raises on invalid files."""


def parquet_rows(
    file: Path, name: str, *, batch_rows: int = BATCH_ROWS, on_batch: Callable[[Any, int], None] | None = None
) -> Iterator[Row]:
    """Rows, numbered from 1. Raises DatasetError; its message begins with `name`.

    `on_batch` is called with each decoded batch and the number of rows up to its end.
    """
    batches = parquet_open(file, name).iter_batches(batch_rows, use_threads=False)
    number = 0
    while (batch := _next(batches, name, number)) is not None:
        if on_batch:
            on_batch(batch, number + batch.num_rows)
        try:
            values = batch.to_pylist()
        except BROKEN as error:
            raise broken(name, error, number) from error
        for value in values:
            number += 1
            yield number, value


def parquet_open(file: Path, name: str) -> ParquetFile:
    try:
        return ParquetFile(file)
    except BROKEN as error:
        raise broken(name, error) from error


def column_values(opened: ParquetFile, column: str, name: str) -> list[Any]:
    """All values of a column."""
    try:
        values: list[Any] = opened.read(columns=[column]).column(column).to_pylist()
    except BROKEN as error:
        raise broken(name, error) from error
    return values


def image_columns(opened: ParquetFile) -> list[str]:
    """Columns with a struct {bytes, path}, in which Hugging Face datasets stores images."""
    return [str(field.name) for field in opened.schema_arrow if types.is_struct(field.type) and is_image(field.type)]


def is_image_table(file: Path, name: str, column: str = IMAGE) -> bool:
    """Whether a Parquet file beside images is a table of them: it has `column` or one of PATH_COLUMNS."""
    return bool({column, *PATH_COLUMNS} & set(parquet_open(file, name).schema_arrow.names))


def text_columns(opened: ParquetFile) -> list[str]:
    return [str(field.name) for field in opened.schema_arrow if is_text(field.type)]


def is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_image(kind: Any) -> bool:
    """Whether the type is bytes, or a struct with bytes."""
    if types.is_struct(kind):
        return any(field.name == "bytes" and is_image(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def image_bytes(value: Any) -> bytes | None:
    """Bytes of a cell of an image column; None if it is empty."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return bytes(content) if content else None


def broken(name: str, error: Exception, after: int = 0) -> DatasetError:
    """`after`: number of rows read before the error."""
    where = f" after row {after}" if after else ""
    return DatasetError(f"{name} cannot be read as Parquet{where}: {(str(error).splitlines() or [''])[0]:.200}")


def _next(batches: Iterator[Any], name: str, after: int) -> Any:
    try:
        return next(batches, None)
    except BROKEN as error:
        raise broken(name, error, after) from error
