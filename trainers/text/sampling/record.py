"""A denoised text as an artifact: what was asked, what came, and which token was committed at which step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.atomic import json_write
from trainers.text.models.base import TextBase
from trainers.text.models.token_texts import token_texts
from trainers.text.sampling.texts import Text


def text_record(base: TextBase, text: Text, facts: Mapping[str, Any]) -> dict[str, Any]:
    """`tokens` in order, each {id, text, step}; step is -1 for what was given. `mask` is how a gap is shown.

    The texts of the tokens joined are the whole text, special tokens included.
    """
    tokens = [
        {"id": token, "text": shown, "step": step}
        for token, shown, step in zip(text.ids, token_texts(base.tokenizer, text.ids), text.trace, strict=True)
    ]
    mask = str(base.tokenizer.convert_ids_to_tokens(base.mask_id))
    return {"text": text.text, "steps": text.steps, "mask": mask, "tokens": tokens, **facts}


def text_write(path: Path, base: TextBase, text: Text, facts: Mapping[str, Any]) -> None:
    json_write(path, text_record(base, text, facts))
