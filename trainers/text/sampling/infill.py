"""Texts with gaps as token ids: [MASK] is one mask, [MASK:5] five; everything else is what a person wrote."""

import re

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.data.chat import ChatTokenizer, chat_tokenizer_of, shift_begin
from trainers.text.models.base import TextBase

GAP = re.compile(r"\[MASK(?::(\d{1,4}))?\]")
BLANKS = ("\u2581", "\u0120")
"""How SentencePiece and byte-level BPE write a blank; some of their tokenizers put one before every text."""
ANCHOR = "\n"
"""Written before a text that goes on, and taken off again: no word is joined with it."""


def infill_ids(base: TextBase, text: str) -> list[int]:
    """Ids of a whole text, as a training on plain texts has it: begin where the family has one, and end."""
    chat_tokenizer = chat_tokenizer_of(base)
    ids = shift_begin(base, learned=True)
    if chat_tokenizer.begins_plain and chat_tokenizer.bos_id is not None:
        ids.append(chat_tokenizer.bos_id)
    write = _Writer(chat_tokenizer)
    last = 0
    for gap in GAP.finditer(text):
        before = text[last : gap.start()]
        ids += write(before.removesuffix(" ") if write.carries_space else before, begins=last == 0)
        ids += [base.mask_id] * int(gap[1] or 1)
        last = gap.end()
    ids += [*write(text[last:], begins=last == 0), chat_tokenizer.eos_id]
    if base.mask_id not in ids:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"expected [MASK] or [MASK:n] with n above 0 in {text[:60]!r}")
    return ids


class _Writer:
    """Ids of the texts between gaps, each as it stands in the whole: only what begins it gets a blank of its own."""

    def __init__(self, chat_tokenizer: ChatTokenizer) -> None:
        self._tongue = chat_tokenizer
        self._adds_space = _first_piece(chat_tokenizer, "a").startswith(BLANKS)
        bare, spaced = self("a", begins=False), self(" a", begins=False)
        self.carries_space = self._adds_space or (len(spaced) == len(bare) == 1 and spaced != bare)
        """Whether a space belongs to the token of the word after it, so that one before a gap is the gap's."""

    def __call__(self, text: str, *, begins: bool) -> list[int]:
        if begins or not text or not self._adds_space:
            return self._tongue.text(text)
        anchor = self._tongue.text(ANCHOR)
        ids = self._tongue.text(ANCHOR + text)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
        return self._tongue.text(text.removeprefix(" "))


def _first_piece(chat_tokenizer: ChatTokenizer, text: str) -> str:
    pieces = chat_tokenizer.tokenizer.convert_ids_to_tokens(chat_tokenizer.text(text))
    return str(pieces[0]) if pieces else ""
