"""Parquet: rows a batch at a time; columns of images as the Hugging Face datasets library writes them."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow.parquet import ParquetFile

from api.catalog.checking.report import Refused, dataset_refusals
from api.catalog.checking.work import DecodedBudget, rows_budget
from formats.datasets.images import CAPTION_COLUMNS, FILE_NAME, FORMAT_ENDINGS, IMAGE_NAMES, PATH_COLUMNS, image_format
from formats.datasets.parquet import (
    image_bytes,
    image_columns,
    is_image_table,
    parquet_open,
    parquet_rows,
    text_columns,
)
from formats.datasets.rows import Row

BATCH_ROWS = 64
ROW_BYTES = 256
"""Counted for each row beside its values, which may all be null."""
MAX_IMAGES = 50_000
UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

pyarrow.set_cpu_count(1)
pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # others reserve more address space than a check may have


def rows(file: Path, path: str, upload: DecodedBudget) -> Iterator[Row]:
    """Numbers from 1. Raises Refused where the file, or the `upload` with the files before it, decodes to too much."""
    budget = rows_budget(path, file.stat().st_size)

    def charge(batch: Any, rows_so_far: int) -> None:
        decoded_bytes = batch.nbytes + ROW_BYTES * batch.num_rows
        budget.add(decoded_bytes, f"the first {rows_so_far} rows")
        upload.add(decoded_bytes, f"its Parquet files up to {path}")

    with dataset_refusals():
        yield from parquet_rows(file, path, batch_rows=BATCH_ROWS, on_batch=charge)


def has_images(file: Path, path: str) -> bool:
    with dataset_refusals():
        return bool(image_columns(parquet_open(file, path)))


def is_table(file: Path, path: str) -> bool:
    with dataset_refusals():
        return is_image_table(file, path)


def images_unpack(packed: Sequence[tuple[Path, str]], folder: Path, upload: DecodedBudget) -> int:
    """Writes 000000.jpg, ... and metadata.jsonl into `folder`; how many. Names in the file are not trusted.

    Further columns of images (masks) become folders, further columns of text stay columns.
    """
    folder.mkdir(parents=True)
    count = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for file, path in packed:
            with dataset_refusals():
                opened = parquet_open(file, path)
            (image, *masks), caption = image_columns(opened), _caption_column(opened)
            texts = [name for name in text_columns(opened) if name not in PATH_COLUMNS]
            for number, row in rows(file, path, upload):
                where = f"{path} row {number}"
                entry = {name: row[name] for name in texts if row[name] is not None}
                entry |= {"text": _caption(row[caption], path, number)} if caption else {}
                entry |= {FILE_NAME: _image_write(folder, count, row[image], where)}
                entry |= {mask: _mask_write(folder, mask, count, row[mask], where) for mask in masks if row[mask]}
                metadata.write(json.dumps(entry, ensure_ascii=False) + "\n")
                count += 1
    return count


def _mask_write(folder: Path, column: str, count: int, value: Any, where: str) -> str:
    below = UNSAFE.sub("_", column)[:50]
    (folder / below).mkdir(exist_ok=True)
    return f"{below}/{_image_write(folder / below, count, value, f'{where}, {column}')}"


def _image_write(folder: Path, count: int, value: Any, where: str) -> str:
    data = image_bytes(value)
    if count >= MAX_IMAGES:
        raise Refused(f"{where}: more than {MAX_IMAGES} images")
    if not data:
        raise Refused(f"{where}: expected the bytes of an image, got none")
    kind = image_format(data[:64])
    if kind is None:
        raise Refused(f"{where} is not a {IMAGE_NAMES} image")
    name = f"{count:06d}{FORMAT_ENDINGS[kind][0]}"
    (folder / name).write_bytes(data)
    return name


def _caption(value: Any, path: str, number: int) -> str:
    if not isinstance(value, str):
        raise Refused(f"{path} row {number}: expected a caption, got {value!r:.60}")
    return value


def _caption_column(opened: ParquetFile) -> str | None:
    texts = text_columns(opened)
    return next((name for name in CAPTION_COLUMNS if name in texts), texts[0] if texts else None)
