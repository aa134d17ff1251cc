"""The columns that hold a text, a task or a chat, and the turns of a chat."""

from collections.abc import Collection
from typing import Any, NamedTuple

CHAT_COLUMNS = ("messages", "conversations", "conversation")
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
"""Task, optional input, answer."""
PAIR_COLUMNS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), (INPUT, OUTPUT))
"""Prompt and answer."""
TEXT = "text"
"""A document."""
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
"""Name in the file -> role."""


class Turn(NamedTuple):
    role: str
    """system, user or assistant; "" of a plain document."""
    text: str


def columns_read(names: Collection[str]) -> tuple[str, ...]:
    """The columns among `names` that are read without templates: a chat, the two or three of a task, or a text; ()
    if templates are needed."""
    for column in CHAT_COLUMNS:
        if column in names:
            return (column,)
    if INSTRUCTION in names and OUTPUT in names:
        return (INSTRUCTION, INPUT, OUTPUT)
    for pair in PAIR_COLUMNS:
        if set(pair) <= set(names):
            return pair
    return (TEXT,) if TEXT in names else ()


def turns_of(messages: Any) -> list[Turn]:
    """Turns of a chat of {role, content} or {from, value}. Raises ValueError that names the invalid turn."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError("the chat is empty; expected turns of {role, content}")
    turns: list[Turn] = []
    for number, message in enumerate(messages, start=1):
        turn = _turn(message, number)
        expected = "assistant" if turns and turns[-1].role == "user" else "user"
        if turn.role != expected and not (turn.role == "system" and number == 1):
            raise ValueError(
                f"turn {number}: expected {expected}, got {turn.role}; user and assistant take turns, user first"
            )
        turns.append(turn)
    return turns


def has_answer(turns: Collection[Turn]) -> bool:
    """Whether any turn is the assistant's, which is what training learns."""
    return any(turn.role == "assistant" for turn in turns)


def _turn(message: Any, number: int) -> Turn:
    name = message.get("role", message.get("from")) if isinstance(message, dict) else None
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise ValueError(f"turn {number}: expected the role user, assistant or system, got {name!r:.60}")
    content = message.get("content", message.get("value"))
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"turn {number}: expected text under content, got {content!r:.60}")
    return Turn(role, content)
