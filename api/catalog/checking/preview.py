"""What people see of a dataset, in blocks of a fixed number of items, so that a page is one or two small reads."""

import json
from pathlib import Path
from typing import Any

from api.catalog.checking.report import plain

BLOCK_ITEMS = 100
MAX_ITEMS = 50_000
MAX_TEXT = 2_000
"""Characters of one text that a preview shows."""


class Preview:
    """Writes `items-00000.json`, ... (JSON lists) and thumbnails into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self._block: list[Any] = []

    def add(self, item: Any) -> None:
        if self.count >= MAX_ITEMS:
            return
        self.count += 1
        self._block.append(item)
        if len(self._block) == BLOCK_ITEMS:
            self.finish()

    def finish(self) -> None:
        """Call once at the end, too."""
        if self._block:
            number = (self.count - 1) // BLOCK_ITEMS
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / block_name(number)).write_text(json.dumps(plain(self._block), ensure_ascii=False), "utf-8")
            self._block = []


def block_name(number: int) -> str:
    return f"items-{number:05d}.json"


def shortened(value: Any) -> Any:
    """`value` with its texts cut, as JSON can hold it."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {str(key): shortened(item) for key, item in list(value.items())[:100]}
    if isinstance(value, (list, tuple)):
        return [shortened(item) for item in value[:100]]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
