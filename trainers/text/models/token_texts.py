"""What each token adds to a text, for tokenizers whose tokens say something else alone than in their place."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

WINDOW = 64
"""Tokens decoded together, so that a long text takes time in proportion to its length."""
CONTEXT = 8
"""Of them before the first one that is looked at."""
INCOMPLETE = "\ufffd"
"""Stands for bytes of a character that later tokens may complete."""


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """All of the text, special tokens included, with the blanks that its tokens have."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One text for each token; together they are `decoded`. A character of several tokens belongs to its last one."""
    text = decoded(tokenizer, ids)
    ends: list[int] = []
    start = context = 0
    before, end = "", 0
    for stop in range(1, len(ids) + 1):
        window = decoded(tokenizer, ids[context:stop]).rstrip(INCOMPLETE)
        added = window[len(before) :] if window.startswith(before) else ""
        base = ends[start - 1] if start else 0
        matched = _common(added, text[base : base + len(added)])
        end = max(end, base + matched)
        ends.append(end)
        in_step = matched == len(added) and window.startswith(before)
        if in_step and stop - context >= WINDOW and (clean := _clean_context(tokenizer, ids, stop, text[:end])):
            start, context, before = stop, *clean
        elif not in_step and stop - context >= WINDOW:
            start, context, before = 0, 0, ""  # broken bytes: all of it, until it is the text again
    if ends:
        ends[-1] = len(text)
    return [text[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def _clean_context(tokenizer: Any, ids: Sequence[int], stop: int, text: str) -> tuple[int, str] | None:
    """From where the tokens before `stop` say alone what they say in their place, and what that is."""
    for context in range(stop - CONTEXT, stop):
        text_alone = decoded(tokenizer, ids[context:stop])
        if text_alone and INCOMPLETE not in text_alone and text.endswith(text_alone):
            return context, text_alone
    return None


def _common(one: str, other: str) -> int:
    """How many letters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
