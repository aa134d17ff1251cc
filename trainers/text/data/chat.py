"""From turns to token ids, the same way in training, in the preview and in sampling.

A text is tokenized piece by piece: what a template says gives special tokens, what a person wrote never does, so that a
literal [MASK] or <|im_end|> stays text. The ids of a prompt are a prefix of the ids of a row that begins with it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from formats.chats import Turn, turns_of
from trainers.text.models.base import TextBase


class Role(IntEnum):
    """What a token is. Numbers lie in caches: append, never renumber."""

    SPECIAL = 0
    """Of the template around what people wrote."""
    PROMPT = 1
    RESPONSE = 2
    """Of an answer that is learned, its end token included."""
    FILL = 3
    """An end token after the end."""
    BEFORE = 4
    """A BOS that a batch puts before its documents."""


@dataclass(frozen=True)
class ChatFormat:
    """Templates of the pieces of a chat. {role} is filled in; what stands for the text lies between head and tail."""

    name: str
    begin: str
    """Before the first turn."""
    heads: Mapping[str, str]
    """By role: before the text."""
    tails: Mapping[str, str]
    """By role: after the text. The assistant's is learned with the answer."""
    between: str
    """After an assistant's tail where another turn follows."""
    needs: tuple[str, ...]
    """Tokens that the tokenizer must know."""


def _roles(template: str) -> dict[str, str]:
    return {role: template.replace("{role}", role) for role in ("system", "user", "assistant")}


LLADA = ChatFormat(
    name="llada",
    begin="<|startoftext|>",
    heads=_roles("<|start_header_id|>{role}<|end_header_id|>\n\n"),
    tails=_roles("<|eot_id|>"),
    between="",
    needs=("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
CHATML = ChatFormat(
    name="chatml",
    begin="",
    heads=_roles("<|im_start|>{role}\n"),
    tails={"system": "<|im_end|>\n", "user": "<|im_end|>\n", "assistant": "<|im_end|>"},
    between="\n",
    needs=("<|im_start|>", "<|im_end|>"),
)
BERT = ChatFormat(
    name="bert",
    begin="[CLS]",
    heads={"system": "[System] ", "user": "[Question] ", "assistant": "[Answer] "},
    tails={"system": " [/System] ", "user": " [/Question] ", "assistant": "{end}"},
    between="",
    needs=("[CLS]", "[SEP]"),
)
PLAIN = ChatFormat(
    name="plain",
    begin="",
    heads={"system": "", "user": "User: ", "assistant": "Assistant: "},
    tails={"system": "\n", "user": "\n", "assistant": "{end}"},
    between="\n",
    needs=(),
)
BY_FAMILY: dict[str, ChatFormat] = {"llada": LLADA, "dream": CHATML, "bert": BERT, "modernbert": BERT}


class Encoded(NamedTuple):
    """Token ids of one row, and the role of each."""

    ids_L: NDArray[np.int32]
    roles_L: NDArray[np.uint8]


@dataclass(frozen=True)
class ChatTokenizer:
    """A base's tokenizer with its chat format: all that it takes to encode, without the weights."""

    tokenizer: Any
    format: ChatFormat
    eos_id: int
    bos_id: int | None
    begins_plain: bool
    """BERT's plain texts begin with [CLS]."""

    def special(self, template: str) -> list[int]:
        """Ids of a template's piece; {end} is the end of text."""
        if template == "{end}":
            return [self.eos_id]
        return list(self.tokenizer(template, add_special_tokens=False).input_ids) if template else []

    def text(self, text: str) -> list[int]:
        """Ids of what a person wrote, in which nothing is special."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return list(ids)

    def digest(self) -> str:
        """Of all that an id depends on."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        table = backend.to_str() if backend else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(
            repr((table, self.format, self.eos_id, self.bos_id, self.begins_plain)).encode()
        ).hexdigest()


def chat_tokenizer_of(base: TextBase) -> ChatTokenizer:
    """The family's own chat format where the tokenizer knows its tokens; ChatML for any that knows its; plain else."""
    vocabulary = base.tokenizer.get_vocab()
    wanted = BY_FAMILY.get(base.family, CHATML)
    found = next(f for f in (wanted, CHATML, PLAIN) if all(token in vocabulary for token in f.needs))
    return ChatTokenizer(
        tokenizer=base.tokenizer,
        format=found,
        eos_id=base.eos_id,
        bos_id=base.bos_id,
        begins_plain=base.family in ("bert", "modernbert"),
    )


def shift_begin(base: TextBase, *, learned: bool) -> list[int]:
    """What a training with a shift puts before a text that is `learned` from its first token on: a BOS, or for want of
    one the end token, at which that token is predicted."""
    if not base.shift or not (learned or base.bos_first):
        return []
    return [base.eos_id if base.bos_id is None else base.bos_id]


def prompt_ids(base: TextBase, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids up to where the assistant's answer begins. ValueError: turns are wrong, or the last is not the user's."""
    turns = [Turn("user", prompt)] if isinstance(prompt, str) else turns_of(list(prompt))
    if turns[-1].role != "user":
        raise ValueError(f"expected the last turn to be the user's, got {turns[-1].role}")
    chat_tokenizer = chat_tokenizer_of(base)
    pieces = _chat_pieces(chat_tokenizer, turns, learned=frozenset())
    asked = [
        *(i for piece, _ in pieces for i in piece),
        *chat_tokenizer.special(chat_tokenizer.format.heads["assistant"]),
    ]
    return [*shift_begin(base, learned=False), *asked]


def encode_chat(chat_tokenizer: ChatTokenizer, turns: Sequence[Turn], *, supervise_all: bool) -> Encoded:
    """A whole dialogue. The last answer is learned, or with `supervise_all` each of them; other turns are prompts."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    learned = frozenset(answers if supervise_all else answers[-1:])
    return _joined(_chat_pieces(chat_tokenizer, turns, learned=learned))


def encode_plain(chat_tokenizer: ChatTokenizer, text: str) -> Encoded:
    """A text without turns: all of it is learned, and its end."""
    begin = (
        [([chat_tokenizer.bos_id], Role.SPECIAL)]
        if chat_tokenizer.begins_plain and chat_tokenizer.bos_id is not None
        else []
    )
    return _joined([*begin, (chat_tokenizer.text(text), Role.RESPONSE), ([chat_tokenizer.eos_id], Role.RESPONSE)])


Piece = tuple[list[int], Role]


def _chat_pieces(chat_tokenizer: ChatTokenizer, turns: Sequence[Turn], *, learned: frozenset[int]) -> list[Piece]:
    form = chat_tokenizer.format
    pieces: list[Piece] = [(chat_tokenizer.special(form.begin), Role.SPECIAL)]
    for index, (role, text) in enumerate(turns):
        content, end = (Role.RESPONSE, Role.RESPONSE) if index in learned else (Role.PROMPT, Role.SPECIAL)
        pieces.append((chat_tokenizer.special(form.heads[role]), Role.SPECIAL))
        pieces.append((chat_tokenizer.text(text), content))
        pieces.append((chat_tokenizer.special(form.tails[role]), end))
        if role == "assistant" and index + 1 < len(turns):
            pieces.append((chat_tokenizer.special(form.between), Role.SPECIAL))
    return pieces


def _joined(pieces: Sequence[Piece]) -> Encoded:
    ids = [i for piece, _ in pieces for i in piece]
    roles = [role for piece, role in pieces for _ in piece]
    return Encoded(np.array(ids, np.int32), np.array(roles, np.uint8))


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
