"""Chats: turns of user and assistant, perhaps after one word of the system."""

from typing import Any

SPEAKERS = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
"""What other formats say, as we do."""


def chat_fault(turns: Any) -> str | None:
    """What is wrong with a list of {role, content} (or {from, value}), or None."""
    if not isinstance(turns, list) or not turns:
        return "the chat is empty; expected turns of {role, content}"
    expected = "user"
    for number, turn in enumerate(turns, start=1):
        given = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        speaker = SPEAKERS.get(given) if isinstance(given, str) else None
        if speaker is None:
            return f"turn {number}: expected the role user, assistant or system, got {given!r:.60}"
        content = turn.get("content", turn.get("value"))
        if not isinstance(content, str) or not content.strip():
            return f"turn {number}: expected text under content, got {content!r:.60}"
        if speaker == "system" and number == 1:
            continue
        if speaker != expected:
            return f"turn {number}: expected {expected}, got {speaker}; user and assistant take turns, user first"
        expected = "assistant" if speaker == "user" else "user"
    return None


def chat_has_answer(turns: Any) -> bool:
    """Of a chat without a fault: whether the assistant says anything, which training learns from."""
    return any(SPEAKERS[turn.get("role", turn.get("from"))] == "assistant" for turn in turns)
