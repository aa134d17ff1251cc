"""What a check says: a refusal that names file and reason, or notices beside what it found."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from formats.datasets.rows import DatasetError

MAX_NOTICES = 200
"""So many notices and faults are kept in full; all are counted."""
MAX_NAMED = 10
"""So many files a warning names; the rest is counted."""
HINT = "Mend the file, then upload again."


class Refused(ValueError):  # noqa: N818 an answer, not a breakdown
    """The files cannot become a version. `faults`: one sentence per fault, the first is the message."""

    def __init__(self, *faults: str, code: str = "invalid", hint: str = HINT, count: int | None = None) -> None:
        super().__init__(faults[0])
        self.faults = [*faults[:MAX_NOTICES]]
        self.count = count or len(faults)
        self.code = code
        self.hint = hint

    def body(self) -> dict[str, Any]:
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        unshown = self.count - len(self.faults)
        shown = [*self.faults, *([f"and {unshown} more"] if unshown else [])]
        message = f"{self.faults[0]}{more}."
        return {"code": self.code, "message": message, "hint": self.hint, "fields": {"files": shown}}


@contextmanager
def dataset_refusals() -> Iterator[None]:
    """Turns what `formats` finds wrong with a file into Refused."""
    try:
        yield
    except DatasetError as error:
        raise Refused(str(error), hint=error.hint or HINT) from None


class Notices:
    """What the owner should know of an accepted upload."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.count = 0
        self._files: dict[str, list[str]] = {}
        self._sentences: list[str] = []

    def add(self, code: str, message: str, *, file: str, line: int | None = None) -> None:
        """`code` in words, as in "no caption": warnings are grouped by it."""
        self.count += 1
        if len(self.listed) < MAX_NOTICES:
            self.listed.append({"file": file, "line": line, "code": code.replace(" ", "_"), "message": message})
        where = file if line is None else f"{file} line {line}"
        self._files.setdefault(code, []).append(where)

    def add_group(self, code: str, message: str, files: Sequence[str]) -> None:
        """One notice, which is a warning too, for what many files have."""
        self.add(code, message, file=files[0])
        del self._files[code]
        self._sentences.append(f"{message}: {_named(files)}")

    def warnings(self) -> list[str]:
        """One sentence per code, with the first files."""
        return [*self._sentences, *(f"{code}: {_named(files)}" for code, files in self._files.items())]

    def details(self) -> dict[str, Any]:
        return {"notices": self.listed, "num_notices": self.count, "warnings": self.warnings()}


def plain(value: Any) -> Any:
    """`value` (JSON) without what no database or answer can hold: NUL and halves of characters."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
    return ", ".join(files[:MAX_NAMED]) + more


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
