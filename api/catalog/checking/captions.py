"""Captions of images, as a trainer looks for them: metadata.jsonl or .csv, else a.txt or a.caption beside each."""

import codecs
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from api.catalog.checking.metadata import metadata_read
from api.catalog.checking.report import dataset_refusals
from api.catalog.checking.text import SMALL_BYTES
from api.catalog.checking.work import Work
from formats.image_tables import caption_read, metadata_files, sidecars_of
from formats.images import METADATA, SIDECARS

CLIP_TOKENS = 75
"""What a text encoder of the CLIP family reads; the rest of a caption is cut."""
PIECES = re.compile(r"\w+|[^\w\s]")
"""A tokenizer makes at least one token of each."""


class Captions(NamedTuple):
    total: int
    texts: dict[str, str]
    """By the image's path; for the preview."""


def captions_read(work: Work, images: set[str]) -> Captions:
    """Notices for what is missing, empty, long or unused. Raises Refused with the lines or files at fault."""
    paths = set(work.paths)
    metadata = metadata_files(paths)
    for path in sorted(path for path in paths if PurePosixPath(path).name in METADATA and path not in metadata):
        said = f"{path} is not read: {' and '.join(metadata)} {'is' if len(metadata) == 1 else 'are'}"
        work.notices.add("not read, since another metadata file is", said, file=path)
    if not metadata:
        return _sidecars(work, paths, images)
    count, texts, named = 0, dict[str, str](), set[str]()
    for path in metadata:
        rows, found, mentioned = metadata_read(work, path, paths)
        count, texts, named = count + rows, {**texts, **found}, named | mentioned
    for path in sorted(images - set(texts) - named) if texts else ():
        said = f"{path} has no row in {' and '.join(metadata)} and is not used"
        work.notices.add("no row in the metadata", said, file=path)
    for path, caption in texts.items():
        caption_notice(work, path, caption)
    return Captions(count, texts)


def caption_notice(work: Work, path: str, caption: str) -> None:
    if not caption.strip():
        work.notices.add("empty caption", f"the caption of {path} is empty", file=path)
    tokens = len(PIECES.findall(caption))
    if tokens > CLIP_TOKENS:
        said = (
            f"the caption of {path} has {len(caption)} characters, {tokens} tokens or more; text encoders of the CLIP "
            f"family read {CLIP_TOKENS}, so {tokens - CLIP_TOKENS} or more are lost"
        )
        work.notices.add("long caption", said, file=path)


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
                said = f"{path} is not read: {beside[path][0]} has one already"
                work.notices.add("second caption", said, file=path)
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
