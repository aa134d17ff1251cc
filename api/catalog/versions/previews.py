"""Pages of what a check saw in a dataset: images with captions and thumbnails, or rows."""

import json
from collections.abc import Iterator
from typing import Any

from api.catalog.checking.preview import BLOCK_ITEMS, block_name
from api.catalog.models import DatasetVersion, VersionState
from api.catalog.versions.check_run import preview_prefix
from api.environment import environment
from api.storage import storage

JsonObject = dict[str, Any]
NOTHING = dict.fromkeys(("caption", "width", "height", "type", "thumbnail", "line", "row"))


def preview_page(version: DatasetVersion | None, *, start: int, limit: int) -> tuple[list[JsonObject], int | None]:
    """Items `start` to `start + limit`, and where the next page starts; None at the end."""
    if version is None or version.state != VersionState.READY:
        return [], None
    total = int(version.details.get("num_preview", 0))
    stop = min(start + limit, total)
    items = [_item(version, item) for item in _items(version, start, stop)]
    return items, stop if stop < total else None


def _items(version: DatasetVersion, start: int, stop: int) -> Iterator[JsonObject]:
    for number in range(start // BLOCK_ITEMS, -(-stop // BLOCK_ITEMS)):
        raw = b"".join(storage().open_range(preview_prefix(version.key) + block_name(number)))
        first = number * BLOCK_ITEMS
        yield from json.loads(raw)[max(0, start - first) : stop - first]


def _item(version: DatasetVersion, item: JsonObject) -> JsonObject:
    """With a signed link to its thumbnail."""
    shown = {**NOTHING, **item}
    if shown["thumbnail"]:
        key = preview_prefix(version.key) + shown["thumbnail"]
        shown["thumbnail"] = storage().presign_get(key, expires_seconds=environment().link_seconds).url
    return shown
