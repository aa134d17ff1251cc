"""What a row says: turns of a conversation, or plain text. Columns decide, or Jinja templates over them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from formats.rows import CHAT_COLUMNS, PAIR_COLUMNS
from trainers.text.data.row_templates import templates_render
from trainers.text.data.rows import NAMED_FAULTS, Row, bad_rows

SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


class Turn(NamedTuple):
    speaker: str
    """system, user or assistant."""
    text: str


@dataclass(frozen=True)
class Dialogue:
    """One row. A single turn of no speaker ("") is plain text."""

    where: str
    turns: tuple[Turn, ...]

    @property
    def is_plain(self) -> bool:
        return self.turns[0].speaker == ""


def dialogues_of(rows: Sequence[Row], *, input_template: str = "", output_template: str = "") -> list[Dialogue]:
    """TrainerError BAD_DATASET names rows and reasons; BAD_PARAMETERS a template that is not Jinja or not bounded."""
    if input_template:
        return _by_templates(rows, {"input_template": input_template, "output_template": output_template})
    read = _by_columns(rows[0])
    found, faults = [], []
    for row in rows:
        try:
            found.append(Dialogue(row.where, tuple(read(row.columns))))
        except ValueError as error:
            faults.append(f"{row.where}: {error}")
    return _without_faults(found, faults)


def _by_templates(rows: Sequence[Row], templates: Mapping[str, str]) -> list[Dialogue]:
    found, faults = [], []
    for row, texts in zip(rows, templates_render(templates, [row.columns for row in rows]), strict=True):
        if isinstance(texts, str):
            faults.append(f"{row.where}: {texts}")
        else:
            found.append(Dialogue(row.where, tuple(_pair(*texts))))
    return _without_faults(found, faults)


def _without_faults(found: list[Dialogue], faults: list[str]) -> list[Dialogue]:
    if faults:
        more = f" and {len(faults) - NAMED_FAULTS} more" if len(faults) > NAMED_FAULTS else ""
        raise bad_rows("; ".join(faults[:NAMED_FAULTS]) + more)
    return found


def turns_of(messages: Any) -> list[Turn]:
    """A chat of {role, content} or {from, value}: user and assistant take turns, perhaps after one word of the system.

    ValueError says which turn is wrong.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError("the chat is empty; expected turns of {role, content}")
    turns: list[Turn] = []
    for number, message in enumerate(messages, start=1):
        turn = _turn(message, number)
        expected = "assistant" if turns and turns[-1].speaker == "user" else "user"
        if turn.speaker != expected and not (turn.speaker == "system" and number == 1):
            raise ValueError(
                f"turn {number}: expected {expected}, got {turn.speaker}; user and assistant take turns, user first"
            )
        turns.append(turn)
    return turns


Read = Callable[[Mapping[str, Any]], list[Turn]]


def _by_columns(first: Row) -> Read:
    """How the first row is read is how all are."""
    names = set(first.columns)
    for column in CHAT_COLUMNS:
        if column in names:
            return lambda columns: _answered(turns_of(columns.get(column)))
    if {"instruction", "output"} <= names:
        return _instruction
    for prompt, response in PAIR_COLUMNS:
        if {prompt, response} <= names:
            return lambda columns, p=prompt, r=response: _pair(_cell(columns, p), _cell(columns, r))  # type: ignore[misc]
    if "text" in names:
        return lambda columns: [Turn("", _cell(columns, "text"))]
    expected = "messages; instruction, input and output; prompt and completion; question and answer; or text"
    raise bad_rows(
        f"{first.where}: expected the columns {expected}; got {', '.join(first.columns)}. "
        "Write input_template and output_template for other columns"
    )


def _instruction(columns: Mapping[str, Any]) -> list[Turn]:
    further = columns.get("input") or ""
    if not isinstance(further, str):
        raise ValueError(f"expected text under 'input', got {further!r:.60}")
    instruction = _cell(columns, "instruction")
    return _pair(f"{instruction}\n\n{further}" if further.strip() else instruction, _cell(columns, "output"))


def _pair(prompt: str, response: str) -> list[Turn]:
    return [Turn("user", prompt), Turn("assistant", response)]


def _answered(turns: list[Turn]) -> list[Turn]:
    """A question at the end that nobody answers teaches nothing."""
    while turns and turns[-1].speaker != "assistant":
        turns.pop()
    if not turns:
        raise ValueError("expected an answer of the assistant, got none")
    return turns


def _turn(message: Any, number: int) -> Turn:
    given = message.get("role", message.get("from")) if isinstance(message, dict) else None
    speaker = SPEAKERS.get(given) if isinstance(given, str) else None
    if speaker is None:
        raise ValueError(f"turn {number}: expected the role user, assistant or system, got {given!r:.60}")
    content = message.get("content", message.get("value"))
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"turn {number}: expected text under content, got {content!r:.60}")
    return Turn(speaker, content)


def _cell(columns: Mapping[str, Any], name: str) -> str:
    value = columns.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text under {name!r}, got {value!r:.60}")
    return value
