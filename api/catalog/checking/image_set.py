"""Images of a dataset: decoded one by one, then matched with their captions."""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from api.catalog.checking.configs import SMALL_BYTES
from api.catalog.checking.decode import ImageFacts, image_decode, metadata_strip
from api.catalog.checking.report import Refused, dataset_refusals, shortened
from api.catalog.checking.row_set import parquet
from api.catalog.checking.work import PIXEL_BYTES, DecodedBudget, Work, ending, images_budget
from formats.datasets.images import (
    CAPTION_COLUMNS,
    FORMAT_ENDINGS,
    IMAGE,
    IMAGE_ENDINGS,
    PATH_COLUMNS,
    SIDECARS,
    SMALL_SIDE,
    caption_read,
    cell_text,
    column_names,
    image_column,
    image_folder,
    image_paths,
    metadata_rows,
    path_below,
    repeats_by_folder,
    repeats_message,
    sidecars_of,
)
from formats.datasets.rows import METADATA, Row, row_fault, row_place
from formats.datasets.splits import splits_message


def images_check(work: Work) -> dict[str, Any]:
    """{kind, num_images, num_captions, ...}. Raises Refused that names the file or line at fault."""
    paths = image_paths(work.paths)
    for path in sorted(set(work.paths) - set(paths)):
        if ending(path) in IMAGE_ENDINGS:
            work.notices.add("not used", f"{path} is hidden and is not used", file=path)
    budget = images_budget(sum(int(file["size"]) for file in work.files))
    facts = {path: _decoded(work, number, path, budget) for number, path in enumerate(paths)}
    stripped = _metadata(work, facts)
    _duplicates_notice(work, set(paths))
    layout = image_folder(work.paths, lambda path: _is_table(work, path))
    captions = captions_read(work, set(paths), layout.tables)
    repeats = {} if layout.tables else repeats_by_folder(paths)
    _repeats_notice(work, repeats)
    splits = layout.split_counts
    if len(splits) > 1:
        work.notices.add("splits", splits_message(splits, "images"), file=paths[0])
    for number, path in enumerate(paths):
        caption = captions.texts.get(path)
        work.preview.add(_item(number, path, facts[path], shortened(caption)))
    work.preview.finish()
    return {
        "kind": "images",
        "num_images": len(paths),
        "num_captions": captions.total,
        "num_preview": work.preview.count,
        **stripped,
        **({"repeats": repeats} if repeats else {}),
        **({"splits": splits} if splits else {}),
    }


def _is_table(work: Work, path: str) -> bool:
    """Whether jobs read captions from a Parquet file beside images. Raises Refused if it holds images itself."""
    if parquet().has_images(work.open(path), path):
        raise Refused(f"{path} holds images and cannot be mixed with other files, as {image_paths(work.paths)[0]}")
    is_table = bool(parquet().is_table(work.open(path), path))
    if not is_table:
        work.notices.add("not used", f"{path} has no column of images and is not used", file=path)
    return is_table


def _metadata(work: Work, facts: dict[str, ImageFacts]) -> dict[str, int]:
    """Says which images tell where and how they were taken, or takes that out."""
    gps = [path for path, one in facts.items() if one.gps]
    telling = [path for path, one in facts.items() if one.gps or one.metadata]
    if telling and work.strip_metadata:
        metadata_strip(work, {path: facts[path].orientation for path in telling})
        message = f"the metadata of {len(telling)} images was removed; their pixels are as they were"
        work.notices.add_group("metadata removed", message, telling)
        return {"num_stripped": len(telling)}
    offer = "are kept; upload with strip_metadata to remove them"
    if gps:
        message = f"{len(gps)} images hold GPS positions, which {offer}"
        work.notices.add_group("gps positions kept", message, gps)
    if len(telling) > len(gps):
        others = [path for path in telling if path not in set(gps)]
        message = f"{len(others)} images hold camera data or comments, which {offer}"
        work.notices.add_group("metadata kept", message, others)
    return {"num_gps": len(gps), "num_metadata": len(telling)} if telling else {}


def _repeats_notice(work: Work, repeats: dict[str, int]) -> None:
    for folder, times in repeats.items():
        message = f"{repeats_message(folder, times)}; rename it if that is not meant"
        work.notices.add("repeats by the folder's name", message, file=folder)


def _decoded(work: Work, number: int, path: str, budget: DecodedBudget) -> ImageFacts:
    facts = image_decode(work.open(path), path, work.preview.folder / _thumbnail(number))
    budget.add(facts.width * facts.height * PIXEL_BYTES, f"the images up to {path}")
    if ending(path) not in FORMAT_ENDINGS[facts.kind]:
        work.notices.add("other type than its name says", f"{path} is a {facts.kind}, and is used as one", file=path)
    if facts.frames > 1:
        work.notices.add("first of several frames", f"{path} has {facts.frames} frames; the first is used", file=path)
    if min(facts.width, facts.height) < SMALL_SIDE:
        message = f"{path} is {facts.width} x {facts.height} pixels; below {SMALL_SIDE} a side it shows next to nothing"
        work.notices.add("small image", message, file=path)
    return facts


def _duplicates_notice(work: Work, images: set[str]) -> None:
    first: dict[str, str] = {}
    for file in work.files:
        path = str(file["path"])
        if path in images and (other := first.setdefault(file["sha256"], path)) != path:
            work.notices.add("the same image twice", f"{path} is byte for byte {other}", file=path)


def _item(number: int, path: str, facts: ImageFacts, caption: str | None) -> dict[str, Any]:
    return {
        "path": path,
        "caption": caption,
        "width": facts.width,
        "height": facts.height,
        "type": facts.kind,
        "thumbnail": _thumbnail(number),
    }


def _thumbnail(number: int) -> str:
    return f"{number:06d}.jpg"


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
