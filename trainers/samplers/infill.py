"""Texts with gaps as token ids: [MASK] is one mask, [MASK:5] five; everything else is what a person wrote."""

import re

from trainers.data.chat import Tongue, shift_begin, tongue_of
from trainers.errors import ReasonCode, TrainerError
from trainers.models.text_base import TextBase

GAP = re.compile(r"\[MASK(?::(\d{1,4}))?\]")


def infill_ids(base: TextBase, text: str) -> list[int]:
    """Ids of a whole text, as a training on plain texts has it: begin where the family has one, and end."""
    tongue = tongue_of(base)
    ids = shift_begin(base, learned=True)
    if tongue.begins_plain and tongue.bos_id is not None:
        ids.append(tongue.bos_id)
    last, carries_space = 0, _carries_space(tongue)
    for gap in GAP.finditer(text):
        before = text[last : gap.start()]
        ids += tongue.text(before.removesuffix(" ") if carries_space else before)
        ids += [base.mask_id] * int(gap[1] or 1)
        last = gap.end()
    ids += [*tongue.text(text[last:]), tongue.eos_id]
    if base.mask_id not in ids:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"expected [MASK] or [MASK:n] with n above 0 in {text[:60]!r}")
    return ids


def _carries_space(tongue: Tongue) -> bool:
    """Whether a space belongs to the token of the word after it, so that one before a gap is the gap's."""
    bare, spaced = tongue.text("a"), tongue.text(" a")
    return len(spaced) == len(bare) == 1 and spaced != bare
