"""A dataset of rows (.jsonl .json .csv .parquet .txt). Faulty lines of a .jsonl are left out, other files refused."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from api.catalog.checking.columns import Columns
from api.catalog.checking.preview import shortened
from api.catalog.checking.report import MAX_NOTICES, Refused, dataset_refusals
from api.catalog.checking.work import Work, ending
from formats.datasets.rows import LINES, SEPARATOR_NAMES, Row, csv_file_separator, row_place, text_rows
from formats.datasets.splits import splits_message, splits_of

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
