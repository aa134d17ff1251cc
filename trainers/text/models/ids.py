"""Which ids mask, end, pad and begin a text: our mark, the config, the tokenizer, the family's own, in this order."""

from typing import Any

from trainers.text.models.family import SpecialIds, TextFamily


def ids_of(
    family: TextFamily, mark: dict[str, Any], raw: dict[str, Any], tokenizer: Any, vocab_size: int
) -> SpecialIds:
    """Mask is None where a causal checkpoint has none yet; every other family has one."""
    eos = _first(
        mark.get("eos_id"),
        tokenizer.eos_token_id,
        tokenizer.sep_token_id,
        _one(raw.get("eos_token_id")),
        _within(family.ids.eos, vocab_size),
        0,
    )
    return SpecialIds(
        mask=_first(
            mark.get("mask_id"),
            raw.get("mask_token_id"),
            tokenizer.mask_token_id,
            _of_token(tokenizer, family.mask_token),
            _within(family.ids.mask, vocab_size),
        ),
        eos=eos,
        pad=_first(
            mark.get("pad_id"),
            tokenizer.pad_token_id,
            raw.get("pad_token_id"),
            _within(family.ids.pad, vocab_size),
            eos,
        ),
        bos=_first(
            mark.get("bos_id"),
            tokenizer.bos_token_id,
            tokenizer.cls_token_id,
            _of_token(tokenizer, family.bos_token),  # before the config: Dream's says the end of text there
            _within(family.ids.bos, vocab_size),
            _one(raw.get("bos_token_id")),
        ),
    )


def ids_tell(tokenizer: Any, ids: SpecialIds) -> None:
    """Lets `tokenizer` know the mask, where its vocabulary has that token under no role."""
    if tokenizer.mask_token_id is None and ids.mask is not None and ids.mask < len(tokenizer):
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(ids.mask)


def _of_token(tokenizer: Any, token: str | None) -> int | None:
    return tokenizer.get_vocab().get(token) if token else None


def _one(value: Any) -> int | None:
    """Some configs list several ends; the first is the one that is trained on."""
    return value[0] if isinstance(value, list) and value else value if isinstance(value, int) else None


def _first(*values: int | None) -> int | None:
    return next((int(value) for value in values if value is not None), None)


def _within(value: int | None, vocab_size: int) -> int | None:
    return value if value is not None and value < vocab_size else None
