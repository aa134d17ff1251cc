"""Images of a dataset: decoded one by one, then matched with their captions."""

from typing import Any

from api.catalog.checking.captions import captions_read
from api.catalog.checking.decode import ImageFacts, image_decode
from api.catalog.checking.decoded import PIXEL_BYTES, DecodedBudget, images_budget
from api.catalog.checking.preview import shortened
from api.catalog.checking.report import Refused
from api.catalog.checking.row_set import parquet
from api.catalog.checking.strip import metadata_strip
from api.catalog.checking.work import Work, ending
from formats.datasets.images import (
    FORMAT_ENDINGS,
    IMAGE_ENDINGS,
    SMALL_SIDE,
    image_folder,
    image_paths,
    repeats_by_folder,
    repeats_message,
)
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
