"""What a row says: turns of a conversation, or plain text. Columns decide, or Jinja templates over them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formats.chats import CHAT_COLUMNS, INPUT, INSTRUCTION, OUTPUT, TEXT, Turn, columns_read, has_answer, turns_of
from trainers.text.data.row_templates import templates_render
from trainers.text.data.rows import NAMED_FAULTS, Row, bad_rows


@dataclass(frozen=True)
class Dialogue:
    """One row. A single turn of no role ("") is plain text."""

    where: str
    turns: tuple[Turn, ...]

    @property
    def is_plain(self) -> bool:
        return self.turns[0].role == ""


def dialogues_of(rows: Sequence[Row], *, input_template: str = "", output_template: str = "") -> list[Dialogue]:
    """TrainerError BAD_DATASET names rows and reasons; BAD_PARAMETERS a template that is not Jinja or not bounded."""
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


Read = Callable[[Mapping[str, Any]], list[Turn]]


def _by_columns(first: Row) -> Read:
    """How the first row is read is how all are."""
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
    """A question at the end that nobody answers teaches nothing."""
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
