"""Which columns the rows of a dataset have: what most rows say, all must."""

from collections import Counter
from typing import Any

from api.catalog.checking.report import MAX_NAMED, Refused
from formats.datasets.chats import CHAT_COLUMNS, columns_read, has_answer, turns_of
from formats.datasets.rows import row_fault, value_kind, value_named

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
