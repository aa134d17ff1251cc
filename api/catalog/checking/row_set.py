"""A dataset of rows (.jsonl .json .csv .parquet .txt). Faulty lines of a .jsonl are left out, other files refused."""

import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from api.catalog.checking.report import MAX_NAMED, MAX_NOTICES, Refused, dataset_refusals, shortened
from api.catalog.checking.work import Work, ending
from formats.datasets.chats import CHAT_COLUMNS, columns_read, has_answer, turns_of
from formats.datasets.rows import (
    LINES,
    SEPARATOR_NAMES,
    Row,
    csv_file_separator,
    row_fault,
    row_place,
    text_rows,
    value_kind,
    value_named,
)
from formats.datasets.splits import splits_message, splits_of

USUAL_SHARE = 0.8
"""A column that so many rows have is expected of all; so is a kind of value that so many of them have."""
MAX_COLUMNS = 500


class Columns:
    """`count` each row, `decide` once, then ask for each row's `fault`."""

    def __init__(self) -> None:
        self._rows = 0
        self._kinds_by_column: dict[str, Counter[str]] = {}
        self._expected: dict[str, str | None] = {}
        """Kind by column that is expected of all rows; None = any kind."""
        self._present: Counter[str] = Counter()
        self._num_good = 0
        self._num_unanswered = 0
        self.chat: str | None = None
        """The column of chats, if there is one."""

    def count(self, row: Any) -> None:
        if not isinstance(row, dict):
            return
        self._rows += 1
        for name, value in row.items():
            if value is not None and (name in self._kinds_by_column or len(self._kinds_by_column) <= MAX_COLUMNS):
                self._kinds_by_column.setdefault(name, Counter())[value_kind(value)] += 1

    def add_good(self, row: dict[str, Any]) -> None:
        """Counts the keys of a row that stays in the dataset."""
        self._num_good += 1
        self._present.update(row.keys())
        if self.chat is not None and not has_answer(turns_of(row[self.chat])):
            self._num_unanswered += 1

    def unread(self) -> str:
        """Why a training without templates refuses the good rows; "" where it takes them."""
        if not columns_read(self._present):
            return "methods read these columns only by input_template and output_template"
        if self._num_unanswered:
            return f"{self._num_unanswered} of {self._num_good} chats have no answer of the assistant to learn from"
        return ""

    def disagreement(self) -> str:
        """Which keys only some of the good rows have, and how many rows; "" where all rows have the same."""
        partial = [(name, count) for name, count in self._present.items() if count < self._num_good]
        if not partial:
            return ""
        names = ", ".join(f"{name!r:.100} in {count} of {self._num_good} rows" for name, count in partial[:MAX_NAMED])
        more = f" and {len(partial) - MAX_NAMED} more keys" if len(partial) > MAX_NAMED else ""
        return f"the rows do not have the same keys: {names}{more}"

    def decide(self, path: str) -> None:
        if len(self._kinds_by_column) > MAX_COLUMNS:
            raise Refused(f"{path}: the rows have more than {MAX_COLUMNS} columns; expected the same few in each")
        for name, kinds in self._kinds_by_column.items():
            if kinds.total() >= USUAL_SHARE * self._rows:
                kind, count = kinds.most_common(1)[0]
                self._expected[name] = kind if count >= USUAL_SHARE * kinds.total() else None
        self.chat = next((name for name in CHAT_COLUMNS if self._expected.get(name) == "list"), None)

    def shown(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "kind": kinds.most_common(1)[0][0], "in_all_rows": name in self._expected}
            for name, kinds in self._kinds_by_column.items()
        ]

    def fault(self, row: Any) -> str | None:
        """What is wrong with the row, or None."""
        if fault := row_fault(row):
            return fault
        for name, kind in self._expected.items():
            value = row.get(name)
            if value is None:
                return f"{name!r:.100} is missing"
            if kind is not None and value_kind(value) != kind:
                return f"expected {kind} under {name!r:.100}, got {value_named(value)}"
        if self.chat is not None:
            return _chat_fault(row[self.chat])
        texts = [value for value in row.values() if isinstance(value, str)]
        return "every text is empty" if texts and not any(text.strip() for text in texts) else None


def _chat_fault(messages: Any) -> str | None:
    try:
        turns_of(messages)
    except ValueError as error:
        return str(error)
    return None


MAX_LINE_BYTES = 64 << 20
MAX_JSON_BYTES = 64 << 20
"""A .json file is read at once; a .jsonl may have any size."""
LONG_CHARACTERS = 100_000
MAX_PREVIEW_ROWS = 5_000


def rows_check(work: Work, paths: list[str]) -> dict[str, Any]:
    """{kind, columns, num_rows, num_skipped, chat, ...}. Raises Refused that names file and line."""
    for path in sorted(set(work.paths) - set(paths)):
        work.notices.add("not used", f"{path} holds no rows and is not used", file=path)
    columns = Columns()
    for path in paths:
        _separator_notice(work, path)
        for _, row in rows_of(work, path):
            columns.count(row)
    columns.decide(paths[0])
    checked = {path: _file_check(work, path, columns) for path in paths}
    num_rows = sum(good for good, _ in checked.values())
    num_skipped = sum(bad for _, bad in checked.values())
    by_split = splits_of(paths)
    splits = {split: sum(checked[path][0] for path in named) for split, named in by_split.items()}
    if len(splits) > 1:
        work.notices.add("splits", splits_message(splits, "rows"), file=paths[0])
    if message := columns.disagreement():
        work.notices.add(
            "keys in some rows only", f"{message}; a job reads all rows by the same columns", file=paths[0]
        )
    if message := columns.unread():
        work.notices.add("rows that need templates", message, file=paths[0])
    work.preview.finish()
    return {
        "kind": "text",
        "columns": columns.shown(),
        "chat": columns.chat is not None,
        "num_rows": num_rows,
        "num_skipped": num_skipped,
        **({"splits": splits} if splits else {}),
        "num_preview": work.preview.count,
    }


def rows_of(work: Work, path: str) -> Iterator[Row]:
    file = work.open(path)
    if ending(path) == ".parquet":
        yield from parquet().rows(file, path, work.decoded)
        return
    if ending(path) == ".json" and (size := file.stat().st_size) > MAX_JSON_BYTES:
        raise Refused(f"{path} has {size} bytes; a .json file may have {MAX_JSON_BYTES}", hint=LINES)
    with dataset_refusals():
        yield from text_rows(file, path, max_line_bytes=MAX_LINE_BYTES)


def _separator_notice(work: Work, path: str) -> None:
    if ending(path) != ".csv":
        return
    with dataset_refusals():
        separator = csv_file_separator(work.open(path), path)
    if separator != ",":
        message = f"{path} is read with {SEPARATOR_NAMES[separator]} between its cells"
        work.notices.add("cells not separated by commas", message, file=path)


def _file_check(work: Work, path: str, columns: Columns) -> tuple[int, int]:
    """How many rows are good and how many were left out."""
    good = 0
    faults: list[tuple[int, str]] = []
    bad_lines: set[int] = set()
    for line, row in rows_of(work, path):
        if fault := columns.fault(row):
            bad_lines.add(line)
            if len(faults) < MAX_NOTICES:
                faults.append((line, f"{row_place(path, line)}: {fault}"))
            continue
        good += 1
        columns.add_good(row)
        _row_show(work, path, line, row)
    if not bad_lines and not good:
        raise Refused(f"{path} has {'no rows' if work.open(path).stat().st_size else 'zero bytes'}")
    if bad_lines:
        _leave_out(work, path, bad_lines, faults, good)
    return good, len(bad_lines)


def _leave_out(work: Work, path: str, bad_lines: set[int], faults: list[tuple[int, str]], good: int) -> None:
    if ending(path) != ".jsonl" or not good:
        raise Refused(*(fault for _, fault in faults), code="bad_rows", count=len(bad_lines))
    for line, fault in faults:
        work.notices.add("left out", fault, file=path, line=line)
    work.notices.count += len(bad_lines) - len(faults)
    work.rewrite(path, _good_lines(work.open(path), bad_lines))


def _good_lines(file: Path, bad_lines: set[int]) -> Iterator[bytes]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if number not in bad_lines and line.strip():
                yield line


def _row_show(work: Work, path: str, line: int, row: Any) -> None:
    longest = max((len(value) for value in row.values() if isinstance(value, str)), default=0)
    if longest > LONG_CHARACTERS:
        message = (
            f"{row_place(path, line)} has a text of {longest} characters; methods cut or pack rows at their length"
        )
        work.notices.add("long row", message, file=path, line=line)
    if work.preview.count < MAX_PREVIEW_ROWS:
        work.preview.add({"path": path, "line": line, "row": shortened(row)})


def parquet() -> ModuleType:
    return importlib.import_module("api.catalog.checking.parquet")
