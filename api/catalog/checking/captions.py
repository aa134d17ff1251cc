"""Captions of images, as a trainer looks for them: in a table, else in a.txt or a.caption beside each."""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from api.catalog.checking.configs import SMALL_BYTES
from api.catalog.checking.report import Refused, dataset_refusals
from api.catalog.checking.row_set import parquet
from api.catalog.checking.work import Work, ending
from formats.datasets.images import (
    CAPTION_COLUMNS,
    IMAGE,
    PATH_COLUMNS,
    SIDECARS,
    caption_read,
    cell_text,
    column_names,
    image_column,
    metadata_rows,
    path_below,
    sidecars_of,
)
from formats.datasets.rows import METADATA, Row, row_fault, row_place

CLIP_TOKENS = 75
"""What a text encoder of the CLIP family reads; the rest of a caption is cut."""
PIECES = re.compile(r"\w+|[^\w\s]")
"""A tokenizer makes at least one token of each."""


class Captions(NamedTuple):
    total: int
    texts: dict[str, str]
    """By the image's path; for the preview."""


def captions_read(work: Work, images: set[str], metadata: Sequence[str]) -> Captions:
    """Notices for what is missing, empty, long or unused. Raises Refused with the lines or files at fault.

    `metadata`: the tables that jobs read captions from; none if they are in files beside the images.
    """
    paths = set(work.paths)
    for path in sorted(path for path in paths if PurePosixPath(path).name in METADATA and path not in metadata):
        message = f"{path} is not read: {' and '.join(metadata)} {'is' if len(metadata) == 1 else 'are'}"
        work.notices.add("not read, since another metadata file is", message, file=path)
    if not metadata:
        return _sidecars(work, paths, images)
    count, texts, named = 0, dict[str, str](), set[str]()
    for path in metadata:
        rows, found_texts, mentioned = metadata_read(work, path, paths)
        count, texts, named = count + rows, {**texts, **found_texts}, named | mentioned
    for path in sorted(images - set(texts) - named) if texts else ():
        message = f"{path} has no row in {' and '.join(metadata)} and is not used"
        work.notices.add("no row in the metadata", message, file=path)
    for path, caption in texts.items():
        caption_notice(work, path, caption)
    return Captions(count, texts)


def caption_notice(work: Work, path: str, caption: str) -> None:
    if not caption.strip():
        work.notices.add("empty caption", f"the caption of {path} is empty", file=path)
    tokens = len(PIECES.findall(caption))
    if tokens > CLIP_TOKENS:
        message = (
            f"the caption of {path} has {len(caption)} characters, {tokens} tokens or more; text encoders of the CLIP "
            f"family read {CLIP_TOKENS}, so {tokens - CLIP_TOKENS} or more are lost"
        )
        work.notices.add("long caption", message, file=path)


def _sidecars(work: Work, paths: set[str], images: set[str]) -> Captions:
    beside: dict[str, list[str]] = {}
    for image in sorted(images):
        for path in sidecars_of(image):
            beside.setdefault(path, []).append(image)
    texts: dict[str, str] = {}
    for suffix in SIDECARS:
        for path in sorted(path for path in paths if PurePosixPath(path).suffix == suffix):
            if path not in beside:
                work.notices.add("a caption without an image", f"{path} has no image beside it", file=path)
            elif beside[path][0] in texts:
                message = f"{path} is not read: {beside[path][0]} has one already"
                work.notices.add("second caption", message, file=path)
            else:
                text = _caption_text(work, path)
                caption_notice(work, path, text)
                texts |= dict.fromkeys(beside[path], text)
    for path in sorted(images - set(texts)):
        work.notices.add("no caption beside it", f"{path} has no caption ({' or '.join(SIDECARS)})", file=path)
    return Captions(len(texts), texts)


def _caption_text(work: Work, path: str) -> str:
    file = work.open(path)
    with dataset_refusals():
        text = caption_read(file, path, max_bytes=SMALL_BYTES)
    if file.read_bytes()[:3] == codecs.BOM_UTF8:
        work.notices.add("byte order mark", f"{path} starts with a byte order mark, which is left out", file=path)
    return text


def metadata_read(work: Work, path: str, paths: set[str]) -> tuple[int, dict[str, str], set[str]]:
    """How many rows, captions by image (none where the columns have other names), and all files that rows name.

    Raises Refused by line.
    """
    file = work.open(path)
    if (size := file.stat().st_size) > SMALL_BYTES:
        raise Refused(f"{path} has {size} bytes; at most {SMALL_BYTES} are read")
    with dataset_refusals():
        rows = list(_parquet_rows(work, path) if ending(path) == ".parquet" else metadata_rows(file, path))
    columns = column_names(rows)
    if rows and not set(columns) & set(PATH_COLUMNS) and not any(isinstance(row, ValueError) for _, row in rows):
        message = f"{path} has no column {' or '.join(PATH_COLUMNS)}; jobs must set image_column"
        work.notices.add("no column of images", message, file=path)
        return len(rows), {}, set()
    folder = str(PurePosixPath(path).parent)
    image_name = image_column(IMAGE, columns)
    caption_column = next((column for column in CAPTION_COLUMNS if column in columns), None)
    lines: dict[str, int] = {}
    texts: dict[str, str] = {}
    faults = []
    for number, row in rows:
        try:
            image = _image(row, image_name, folder, paths, lines)
            texts[image] = cell_text(row, caption_column) if caption_column else ""
            lines[image] = number
        except ValueError as error:
            faults.append(f"{row_place(path, number)}: {error}")
    if faults:
        hint = "Mend the lines that are named, then upload again. One row per image."
        raise Refused(*faults, code="bad_metadata", hint=hint)
    cells = {
        str(PurePosixPath(folder) / value)
        for _, row in rows
        for value in row.values()
        if isinstance(value, str) and value
    }
    return len(lines), texts, cells & paths


def _parquet_rows(work: Work, path: str) -> Iterator[Row]:
    """As `metadata_rows`."""
    for number, row in parquet().rows(work.open(path), path, work.decoded):
        fault = row_fault(row)
        yield number, ValueError(fault) if fault else row


def _image(row: Any, column: str, folder: str, paths: set[str], lines: dict[str, int]) -> str:
    """The image that the row is of. Raises ValueError."""
    if isinstance(row, ValueError):
        raise row
    name = cell_text(row, column)
    path = path_below(folder, name)
    if path not in paths:
        raise ValueError(f"{name!r:.200} is not among the files")
    if path in lines:
        raise ValueError(f"{name!r:.200} has a row already, in line {lines[path]}; expected one per image")
    return path
