"""Rows of a dataset's folder as dialogues or plain texts, each with its place. Columns decide, or Jinja templates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from formats.datasets.chats import (
    CHAT_COLUMNS,
    INPUT,
    INSTRUCTION,
    OUTPUT,
    TEXT,
    Turn,
    columns_read,
    has_answer,
    turns_of,
)
from formats.datasets.parquet import parquet_rows
from formats.datasets.rows import PLAIN_ENDING, ROW_ENDINGS, DatasetError, row_fault, row_files, row_place, text_rows
from formats.datasets.splits import splits_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.data.row_templates import templates_render

NAMED_FAULTS = 5


class Row(NamedTuple):
    where: str
    """File and line or row number, for display."""
    columns: dict[str, Any]


@dataclass(frozen=True)
class Dialogue:
    """Turns of one row. A single turn with the role "" is plain text."""

    where: str
    turns: tuple[Turn, ...]

    @property
    def is_plain(self) -> bool:
        return self.turns[0].role == ""


ChooseSplit = Callable[[Sequence[str]], str]
"""As `Params.split_of`."""
Read = Callable[[Mapping[str, Any]], list[Turn]]


def rows_read(folder: Path, split_of: ChooseSplit | None = None) -> list[Row]:
    """Reads the rows of the split that `split_of` chooses, or all, from the files below `folder` in order of name.

    Raises TrainerError(BAD_DATASET) if there are none, or naming the first few invalid rows.
    """
    splits = files_by_split(folder)
    split = _split(splits, split_of) if split_of else ""
    paths = [path for name, files in splits.items() for path in files if split in ("", name)]
    rows, faults = [], []
    for path in paths:
        for row in file_rows(path, path.relative_to(folder).as_posix()):
            if fault := row_fault(row.columns):
                faults.append(f"{row.where}: {fault}")
            else:
                rows.append(row)
    if faults:
        more = f" and {len(faults) - NAMED_FAULTS} more" if len(faults) > NAMED_FAULTS else ""
        raise bad_rows("; ".join(faults[:NAMED_FAULTS]) + more)
    if not rows:
        raise bad_rows(f"expected rows, but {', '.join(path.name for path in paths[:NAMED_FAULTS])} hold none")
    return rows


def dialogues_of(rows: Sequence[Row], *, input_template: str = "", output_template: str = "") -> list[Dialogue]:
    """Converts rows by their columns, or by templates.

    Raises TrainerError: BAD_DATASET names invalid rows; BAD_PARAMETERS is for a template that is not valid Jinja or
    exceeds its limits.
    """
    if input_template:
        return _by_templates(rows, {"input_template": input_template, "output_template": output_template})
    read = _by_columns(rows[0])
    dialogues, faults = [], []
    for row in rows:
        try:
            dialogues.append(Dialogue(row.where, tuple(read(row.columns))))
        except ValueError as error:
            faults.append(f"{row.where}: {error}")
    return _without_faults(dialogues, faults)


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Files with rows by split; all under "" if no name contains a split. Raises TrainerError(BAD_DATASET) if none."""
    names = row_files(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    if not names:
        raise bad_rows(
            f"expected rows in files ending in {', '.join((*ROW_ENDINGS, PLAIN_ENDING))}, found none of them"
        )
    splits = splits_of(names) or {"": names}
    return {split: [folder / name for name in listed] for split, listed in splits.items()}


def split_counts(folder: Path, split_of: ChooseSplit) -> dict[str, Any]:
    """{split, splits: rows by split}, for manifests and previews; {} for a dataset without splits."""
    splits = files_by_split(folder)
    if "" in splits:
        return {}
    counts = {split: sum(1 for path in files for _ in file_rows(path, path.name)) for split, files in splits.items()}
    return {"split": _split(splits, split_of), "splits": counts}


def file_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of one file; an unreadable row has a ValueError in place of its columns."""
    try:
        rows = parquet_rows(path, name) if path.suffix.lower() == ".parquet" else text_rows(path, name)
        for number, columns in rows:
            yield Row(row_place(name, number), columns)
    except DatasetError as error:
        raise bad_rows(str(error)) from error


def bad_rows(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def _split(splits: dict[str, list[Path]], split_of: ChooseSplit) -> str:
    try:
        return split_of([split for split in splits if split])
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, str(error)) from None


def _by_templates(rows: Sequence[Row], templates: Mapping[str, str]) -> list[Dialogue]:
    dialogues, faults = [], []
    for row, texts in zip(rows, templates_render(templates, [row.columns for row in rows]), strict=True):
        if isinstance(texts, str):
            faults.append(f"{row.where}: {texts}")
        else:
            dialogues.append(Dialogue(row.where, tuple(_pair(*texts))))
    return _without_faults(dialogues, faults)


def _without_faults(dialogues: list[Dialogue], faults: list[str]) -> list[Dialogue]:
    if faults:
        more = f" and {len(faults) - NAMED_FAULTS} more" if len(faults) > NAMED_FAULTS else ""
        raise bad_rows("; ".join(faults[:NAMED_FAULTS]) + more)
    return dialogues


def _by_columns(first: Row) -> Read:
    """The function that reads all rows, chosen by the columns of the first."""
    names = columns_read(first.columns)
    if not names:
        expected = "messages; instruction, input and output; prompt and completion; question and answer; or text"
        raise bad_rows(
            f"{first.where}: expected the columns {expected}; got {', '.join(first.columns)}. "
            "Write input_template and output_template for other columns"
        )
    if names[0] in CHAT_COLUMNS:
        return lambda columns: _answered(turns_of(columns.get(names[0])))
    if names[0] == INSTRUCTION:
        return _instruction
    if names == (TEXT,):
        return lambda columns: [Turn("", _cell(columns, TEXT))]
    prompt, response = names
    return lambda columns: _pair(_cell(columns, prompt), _cell(columns, response))


def _instruction(columns: Mapping[str, Any]) -> list[Turn]:
    further = columns.get(INPUT) or ""
    if not isinstance(further, str):
        raise ValueError(f"expected text under 'input', got {further!r:.60}")
    instruction = _cell(columns, INSTRUCTION)
    return _pair(f"{instruction}\n\n{further}" if further.strip() else instruction, _cell(columns, OUTPUT))


def _pair(prompt: str, response: str) -> list[Turn]:
    return [Turn("user", prompt), Turn("assistant", response)]


def _answered(turns: list[Turn]) -> list[Turn]:
    """Drops turns after the last answer. Raises ValueError if there is no answer."""
    if not has_answer(turns):
        raise ValueError("expected an answer of the assistant, got none")
    while turns[-1].role != "assistant":
        turns.pop()
    return turns


def _cell(columns: Mapping[str, Any], name: str) -> str:
    value = columns.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text under {name!r}, got {value!r:.60}")
    return value
