"""Gives a causal checkpoint the mask token that it never had."""

from dataclasses import replace
from typing import Any

import torch

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.models.family import SpecialIds

TOKEN = "<|mask|>"


def mask_token_make(model: Any, tokenizer: Any, ids: SpecialIds) -> SpecialIds:
    """Adds the token to `tokenizer`; its row is a spare one of `model`, or a new one that is the mean of all others.

    Both the embedding and the head get the row, so that their sizes stay equal.
    """
    rows, known = int(model.config.vocab_size), len(tokenizer)
    if known > rows:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the tokenizer has {known} tokens but the network {rows} rows; expected at most as many",
        )
    tokenizer.add_special_tokens({"mask_token": TOKEN})
    if known == rows:
        _grow(model, rows)
    return replace(ids, mask=int(tokenizer.mask_token_id))


@torch.no_grad()
def _grow(model: Any, rows: int) -> None:
    means = [layer.weight.float().mean(0) for layer in _ends(model)]
    model.resize_token_embeddings(rows + 1, mean_resizing=False)
    for layer, mean in zip(_ends(model), means, strict=True):
        layer.weight[rows] = mean.to(layer.weight.dtype)


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()
