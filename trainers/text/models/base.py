"""A loaded text-diffusion model of any family: hidden states, head and the trainable embedding of its mask token.

Hidden states and head are separate, so that logits are computed only where needed: `head_features` and `head_weight`
feed a chunked cross entropy; `logits` is the plain reference.
"""

# B batch, L length, D width, T tokens of all documents, N positions, V vocabulary, S queries of a cached step

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainers.core.device import to_device
from trainers.text.models.attention import Cache, Packed, window_mask

MASK_ROW = "mask_row"
"""Attribute of an embedding that holds the mask token's trained row."""


@dataclass
class TextBase:
    """A base model, frozen and in eval mode. Copies share the weights."""

    family: str
    """llada, dream, bert, modernbert, llama, qwen2 or qwen3."""
    model: Any  # transformers has no types that mypy can use
    """The transformers model with its head."""
    tokenizer: Any
    mask_id: int
    eos_id: int
    pad_id: int
    bos_id: int | None
    shift: bool
    """Dream: the output at position i - 1 predicts the token at i."""
    was_causal: bool
    """A causal language model not yet trained to denoise."""
    max_positions: int
    bos_first: bool = False
    """With a shift: trained on prompts too (mask_prompt_loss=false), so inputs begin with a BOS."""

    @property
    def device(self) -> torch.device:
        device: torch.device = input_embedding(self).weight.device
        return device

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)


def body(base: TextBase) -> Any:
    """The network without its head."""
    return base.model.bert if base.family == "bert" else base.model.model


def input_embedding(base: TextBase) -> Any:
    return base.model.get_input_embeddings()


def hidden_packed(base: TextBase, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
    """Hidden states (T, D) of concatenated documents; each attends only to itself, with positions from 0."""
    assert sum(lengths) == len(ids_T)
    positions_T = to_device(torch.cat([torch.arange(length) for length in lengths]), ids_T.device)
    layout = Packed.of(lengths, ids_T.device)
    return _forward(base, ids_T[None], positions_T[None], layout=layout)[0]


def hidden_padded(base: TextBase, ids_BL: Tensor, attention_BL: Tensor | None = None) -> Tensor:
    """Hidden states (B, L, D). `attention_BL` is 0 at padding; None: no padding.

    Positions skip padding, so padding on either side does not change the result.
    """
    is_full = attention_BL is None or bool(attention_BL.all())
    return hidden_masked(base, ids_BL, None if is_full else attention_BL)


def hidden_masked(base: TextBase, ids_BL: Tensor, attention_BL: Tensor | None) -> Tensor:
    """`hidden_padded` that does not look whether there is padding, for which the host would wait for the device."""
    if attention_BL is None:
        positions_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device)[None]
        return _forward(base, ids_BL, positions_BL, mask=_masks(base, None, ids_BL))
    attention_BL = attention_BL.bool()
    positions_BL = (attention_BL.cumsum(1) - 1).clamp(min=0)
    return _forward(base, ids_BL, positions_BL, mask=_masks(base, attention_BL, ids_BL))


def cache_fill(base: TextBase, ids_BL: Tensor, attention_BL: Tensor | None) -> tuple[Tensor, Cache]:
    """Hidden states (B, L, D) of right-padded rows, and their keys and values for `hidden_cached`.

    `attention_BL` is None if there is no padding.
    """
    columns_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device).expand_as(ids_BL)
    cache = Cache(columns_BL, attention_BL)
    return _forward(base, ids_BL, columns_BL, layout=cache), cache


def hidden_cached(base: TextBase, ids_BS: Tensor, columns_BS: Tensor, cache: Cache) -> Tensor:
    """Hidden states (B, S, D) of new tokens at `columns_BS`; replaces these columns in the cache."""
    cache.step_begin(columns_BS)
    return _forward(base, ids_BS, columns_BS, layout=cache)


def head_features(base: TextBase, hidden_ND: Tensor) -> Tensor:
    """The input of the head's matrix: hidden states, transformed first for BERT and ModernBERT."""
    features = hidden_ND
    if base.family == "bert":
        features = base.model.cls.predictions.transform(hidden_ND)
    elif base.family == "modernbert":
        features = base.model.head(hidden_ND)
    return features


def head_weight(base: TextBase) -> tuple[Tensor, Tensor | None]:
    """The head's matrix (V, D) and bias (V,), so that logits = features @ weight.T + bias."""
    head = base.model.get_output_embeddings()
    row = getattr(input_embedding(base), MASK_ROW, None)
    if row is not None and base.model.config.tie_word_embeddings:
        head.weight.data[base.mask_id] = row.row.detach().to(head.weight.dtype)  # used, never trained
    return head.weight, head.bias


def logits(base: TextBase, hidden: Tensor) -> Tensor:
    """All logits at once, without shift: the reference for chunked computation."""
    weight_VD, bias_V = head_weight(base)
    features = head_features(base, hidden)
    return nn.functional.linear(features, weight_VD.to(features.dtype), bias_V)


def dropout_set(base: TextBase, probability: float) -> None:
    """Sets every dropout of the network, attention's included, except LoRA's."""
    for name, module in base.model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
            module.p = probability
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = probability


def _forward(
    base: TextBase, ids_BL: Tensor, positions_BL: Tensor, *, mask: Any = None, layout: Packed | Cache | None = None
) -> Tensor:
    extra = {} if layout is None else {"layout": layout}
    if "bert" not in base.family:
        extra["use_cache"] = False  # type: ignore[assignment]
    if layout is not None:
        mask = _unmasked(base)
    out: Tensor = body(base)(input_ids=ids_BL, attention_mask=mask, position_ids=positions_BL, **extra)[0]
    return out


def _masks(base: TextBase, attention_BL: Tensor | None, ids_BL: Tensor) -> Any:
    """bool masks that broadcast over heads and queries; (B, 1, L, L) only if a window requires it."""
    full = None if attention_BL is None else attention_BL[:, None, None, :]
    if base.family != "modernbert":
        return full
    near_LL = window_mask(ids_BL.shape[1], base.model.config.sliding_window, ids_BL.device)
    near = full if near_LL is None else near_LL[None, None] if full is None else near_LL & full
    return {"full_attention": full, "sliding_attention": near}


def _unmasked(base: TextBase) -> Any:
    return {"full_attention": None, "sliding_attention": None} if base.family == "modernbert" else None


class MaskRow(nn.Module):
    """The mask token's embedding as a separate trainable parameter, while the embedding matrix stays frozen.

    A causal base never saw the token, and LoRA alone cannot train its row. With tied embeddings the head uses the
    trained row too, as in PEFT, but never trains it.
    """

    def __init__(self, embedding: Any, mask_id: int) -> None:
        super().__init__()
        self.mask_id = mask_id
        row_D = embedding.weight[mask_id].detach()
        self.row = nn.Parameter(row_D.float().clone())
        self.original = nn.Buffer(row_D.clone(), persistent=False)
        self.handle = embedding.register_forward_hook(self._replace)

    def _replace(self, _embedding: Any, inputs: tuple[Tensor], hidden_BLD: Tensor) -> Tensor:
        masked_BL1 = (inputs[0] == self.mask_id)[..., None]
        return torch.where(masked_BL1, self.row.to(hidden_BLD.dtype), hidden_BLD)


def mask_row_of(base: TextBase) -> MaskRow | None:
    """The mask row of `base`, or None."""
    return getattr(input_embedding(base), MASK_ROW, None)


def mask_row_attach(base: TextBase) -> MaskRow:
    """The mask row of `base`; if it has none, adds one with the matrix's values."""
    embedding = input_embedding(base)
    if (existing := mask_row_of(base)) is not None:
        return existing
    row = MaskRow(embedding, base.mask_id)
    setattr(embedding, MASK_ROW, row)
    return row


@torch.no_grad()
def mask_row_load(base: TextBase, trained_D: Tensor, scale: float) -> None:
    """Adds `scale` times an adaptor's change of the row; the changes of several adaptors add up."""
    row = mask_row_attach(base)
    change = trained_D.to(row.original.device, torch.float32) - row.original.float()
    row.row.add_(scale * change)
    row.row.requires_grad_(False)


@torch.no_grad()
def mask_row_merge(base: TextBase) -> None:
    """Copies the row into the matrix and removes it from the embedding."""
    if (row := mask_row_of(base)) is not None:
        _row_detach(base, row, row.row)


@torch.no_grad()
def mask_row_remove(base: TextBase) -> None:
    """Removes the row from the embedding and restores the matrix."""
    if (row := mask_row_of(base)) is not None:
        _row_detach(base, row, row.original)


def _row_detach(base: TextBase, row: MaskRow, values_D: Tensor) -> None:
    embedding = input_embedding(base)
    embedding.weight[base.mask_id] = values_D.to(embedding.weight.dtype)
    row.handle.remove()
    delattr(embedding, MASK_ROW)
