"""Encodes chats and texts as token ids, alike in training, preview and sampling, and splits texts by token.

Pieces are tokenized separately: templates may give special tokens, user text never does, so a literal [MASK] or
<|im_end|> in it stays text. The ids of a prompt are a prefix of the ids of a row that begins with it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain, takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from formats.datasets.chats import Turn, turns_of
from trainers.text.models.base import TextBase


class Role(IntEnum):
    """Role of a token. The numbers are stored in caches: append, never renumber."""

    SPECIAL = 0
    """Part of the chat template."""
    PROMPT = 1
    RESPONSE = 2
    """Part of a learned answer or its end token."""
    FILL = 3
    """An additional end token after the answer."""
    BEFORE = 4
    """A BOS prepended when the batch is made."""


@dataclass(frozen=True)
class ChatFormat:
    """Templates around the turns of a chat: head, text, tail."""

    name: str
    begin: str
    """Before the first turn."""
    heads: Mapping[str, str]
    """Before the text, by role."""
    tails: Mapping[str, str]
    """After the text, by role. The assistant's is learned with the answer."""
    between: str
    """After an assistant's tail if another turn follows."""
    needs: tuple[str, ...]
    """Tokens that the vocabulary must contain."""


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
    """Token ids of a row with their roles."""

    ids_L: NDArray[np.int32]
    roles_L: NDArray[np.uint8]


@dataclass(frozen=True)
class ChatTokenizer:
    """A base's tokenizer with its chat format: everything that encoding needs, without the weights."""

    tokenizer: Any
    format: ChatFormat
    eos_id: int
    bos_id: int | None
    begins_plain: bool
    """BERT's plain texts begin with [CLS]."""
    _template_ids: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def special(self, template: str) -> list[int]:
        """Ids of a template, special tokens included; {end} is the end-of-text token. Callers must not mutate them."""
        if template not in self._template_ids:
            self._template_ids[template] = self._tokenize_template(template)
        return self._template_ids[template]

    def text(self, text: str) -> list[int]:
        """Ids of user text, in which nothing is a special token."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return list(ids)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """`text` of each, in one call of the tokenizer."""
        if not texts or not self.tokenizer.is_fast:
            return [self.text(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        ).input_ids
        return ids

    def prepare_threads(self) -> None:
        """Tokenizes the templates and sets the tokenizer's flags for `texts`, which threads must not change."""
        form = self.format
        for template in (form.begin, *form.heads.values(), *form.tails.values(), form.between):
            self.special(template)
        self.text("")

    def digest(self) -> str:
        """SHA-256 of everything that the ids depend on."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        table = backend.to_str() if backend else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(
            repr((table, self.format, self.eos_id, self.bos_id, self.begins_plain)).encode()
        ).hexdigest()

    def _tokenize_template(self, template: str) -> list[int]:
        if template == "{end}":
            return [self.eos_id]
        return list(self.tokenizer(template, add_special_tokens=False).input_ids) if template else []


def chat_tokenizer_of(base: TextBase) -> ChatTokenizer:
    """With the first of the family's format, ChatML and plain whose tokens are all in the vocabulary."""
    vocabulary = base.tokenizer.get_vocab()
    formats = (BY_FAMILY.get(base.family, CHATML), CHATML, PLAIN)
    chat_format = next(f for f in formats if all(token in vocabulary for token in f.needs))
    return ChatTokenizer(
        tokenizer=base.tokenizer,
        format=chat_format,
        eos_id=base.eos_id,
        bos_id=base.bos_id,
        begins_plain=base.family in ("bert", "modernbert"),
    )


def shift_begin(base: TextBase, *, learned: bool) -> list[int]:
    """The token prepended in training with a shift if a text is `learned` from its first token, which it predicts: BOS,
    or the end token if there is none."""
    if not base.shift or not (learned or base.bos_first):
        return []
    return [base.eos_id if base.bos_id is None else base.bos_id]


def prompt_ids(base: TextBase, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids of a prompt up to the assistant's answer. Raises ValueError if the turns are invalid or the last is not the
    user's."""
    turns = [Turn("user", prompt)] if isinstance(prompt, str) else turns_of(list(prompt))
    if turns[-1].role != "user":
        raise ValueError(f"expected the last turn to be the user's, got {turns[-1].role}")
    chat_tokenizer = chat_tokenizer_of(base)
    pieces = _chat_pieces(chat_tokenizer, turns, chat_tokenizer.text, learned=frozenset())
    return [
        *shift_begin(base, learned=False),
        *(i for piece, _ in pieces for i in piece),
        *chat_tokenizer.special(chat_tokenizer.format.heads["assistant"]),
    ]


TextIds = Callable[[str], list[int]]
"""Ids of user text: `ChatTokenizer.text`, or a lookup of texts that are tokenized already."""


def encode_rows(chat_tokenizer: ChatTokenizer, rows: Sequence[Sequence[Turn]], *, supervise_all: bool) -> list[Encoded]:
    """`encode_plain` or `encode_chat` of each row, with all texts tokenized in one call."""
    texts = list(dict.fromkeys(turn.text for turns in rows for turn in turns))
    ids_of = dict(zip(texts, chat_tokenizer.texts(texts), strict=True)).__getitem__
    return [
        encode_plain(chat_tokenizer, turns[0].text, ids_of)
        if turns[0].role == ""
        else encode_chat(chat_tokenizer, turns, supervise_all=supervise_all, ids_of=ids_of)
        for turns in rows
    ]


def encode_chat(
    chat_tokenizer: ChatTokenizer, turns: Sequence[Turn], *, supervise_all: bool, ids_of: TextIds | None = None
) -> Encoded:
    """Encodes a dialogue. The last answer is learned, or with `supervise_all` every answer; other turns are prompts."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    learned = frozenset(answers if supervise_all else answers[-1:])
    return _joined(_chat_pieces(chat_tokenizer, turns, ids_of or chat_tokenizer.text, learned=learned))


def encode_plain(chat_tokenizer: ChatTokenizer, text: str, ids_of: TextIds | None = None) -> Encoded:
    """Encodes a text without turns, which is learned completely with its end token."""
    begin = (
        [([chat_tokenizer.bos_id], Role.SPECIAL)]
        if chat_tokenizer.begins_plain and chat_tokenizer.bos_id is not None
        else []
    )
    ids = (ids_of or chat_tokenizer.text)(text)
    return _joined([*begin, (ids, Role.RESPONSE), ([chat_tokenizer.eos_id], Role.RESPONSE)])


Piece = tuple[list[int], Role]


def _chat_pieces(
    chat_tokenizer: ChatTokenizer, turns: Sequence[Turn], ids_of: TextIds, *, learned: frozenset[int]
) -> list[Piece]:
    form = chat_tokenizer.format
    pieces: list[Piece] = [(chat_tokenizer.special(form.begin), Role.SPECIAL)]
    for index, (role, text) in enumerate(turns):
        content, end = (Role.RESPONSE, Role.RESPONSE) if index in learned else (Role.PROMPT, Role.SPECIAL)
        pieces.append((chat_tokenizer.special(form.heads[role]), Role.SPECIAL))
        pieces.append((ids_of(text), content))
        pieces.append((chat_tokenizer.special(form.tails[role]), end))
        if role == "assistant" and index + 1 < len(turns):
            pieces.append((chat_tokenizer.special(form.between), Role.SPECIAL))
    return pieces


def _joined(pieces: Sequence[Piece]) -> Encoded:
    lengths = [len(ids) for ids, _ in pieces]
    ids_L = np.fromiter(chain.from_iterable(ids for ids, _ in pieces), np.int32, sum(lengths))
    return Encoded(ids_L, np.repeat(np.array([role for _, role in pieces], np.uint8), lengths))


WINDOW = 64
"""Tokens decoded at a time, so that the time is linear in the length of the text."""
CONTEXT = 8
"""Tokens of a window before the first one that it assigns."""
INCOMPLETE = "\ufffd"
"""Replaces bytes of a character that later tokens may complete."""


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The complete text, special tokens included, without cleaning up spaces."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; joined they equal `decoded`. A character of several tokens goes to the last.

    Tokens decode differently alone than in context, so windows of tokens are decoded.
    """
    text = decoded(tokenizer, ids)
    ends: list[int] = []
    start = context = 0
    before, end = "", 0
    for stop in range(1, len(ids) + 1):
        window = decoded(tokenizer, ids[context:stop]).rstrip(INCOMPLETE)
        added = window[len(before) :] if window.startswith(before) else ""
        base = ends[start - 1] if start else 0
        matched = _common_prefix(added, text[base : base + len(added)])
        end = max(end, base + matched)
        ends.append(end)
        is_prefix = matched == len(added) and window.startswith(before)
        if is_prefix and stop - context >= WINDOW and (clean := _clean_context(tokenizer, ids, stop, text[:end])):
            start, context, before = stop, *clean
        elif not is_prefix and stop - context >= WINDOW:
            start, context, before = 0, 0, ""  # broken bytes: decode from the start until the texts agree
    if ends:
        ends[-1] = len(text)
    return [text[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def _clean_context(tokenizer: Any, ids: Sequence[int], stop: int, text: str) -> tuple[int, str] | None:
    """The first context before `stop` whose tokens decode alone as in `text`, and their text; None if there is none."""
    for context in range(stop - CONTEXT, stop):
        context_text = decoded(tokenizer, ids[context:stop])
        if context_text and INCOMPLETE not in context_text and text.endswith(context_text):
            return context, context_text
    return None


def _common_prefix(one: str, other: str) -> int:
    """Length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
