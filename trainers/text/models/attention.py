"""Bidirectional attention for padded rows, packed documents and cached steps.

Registered with transformers under `NAME`, so that its models call it; the `layout` argument of their forward selects
the token layout. Without a layout it is transformers' SDPA.
"""

# B batch, H heads, T tokens of all documents, L length of a row, S queries of a cached step, D width of a head

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainers.core.device import to_device

NAME = "anneal"


class Layout(Protocol):
    """How tokens are arranged, if not in padded rows, and attention over them."""

    def attend(
        self,
        layer: int,
        query_BHSD: Tensor,
        key_BHSD: Tensor,
        value_BHSD: Tensor,
        *,
        dropout: float,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        """Output (B, H, S, D); keys and values may have fewer heads. `window`: the maximum of |i - j|."""
        ...


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Called by transformers' attention classes; never causal, also if `module.is_causal` is true."""
    if layout is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=False
        )
        return out, None
    if torch.is_autocast_enabled(query.device.type):  # the rope of fp32 weights leaves fp32, which varlen cannot take
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    window = None if sliding_window is None else sliding_window - 1  # transformers adds one for flash attention
    out = layout.attend(module.layer_idx, query, key, value, dropout=dropout, scale=scaling, window=window)
    return out.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class Packed:
    """Documents concatenated in one row of T tokens; each attends only to itself."""

    lengths: tuple[int, ...]
    bounds: Tensor
    """int32 (documents + 1,) on the tokens' device: start offsets."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Packed":
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(tuple(lengths), to_device(bounds, device))

    def attend(
        self,
        layer: int,  # noqa: ARG002 - all layers alike
        query_BHSD: Tensor,
        key_BHSD: Tensor,
        value_BHSD: Tensor,
        *,
        dropout: float,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        half = query_BHSD.dtype in (torch.float16, torch.bfloat16)
        if query_BHSD.is_cuda and half and not dropout:
            return self._varlen(query_BHSD, key_BHSD, value_BHSD, scale, window)
        return self._by_length(query_BHSD, key_BHSD, value_BHSD, dropout, scale, window)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
        query_THD, key_THD, value_THD = (x[0].transpose(0, 1) for x in (query, key, value))
        longest = max(self.lengths)
        options: dict[str, Any] = {}  # torch 2.11 may lack those that most models do not need
        if window is not None:
            options["window_size"] = (window, window)
        if query_THD.shape[1] != key_THD.shape[1]:
            options["enable_gqa"] = True
        out_THD = varlen_attn(
            query_THD,
            key_THD,
            value_THD,
            self.bounds,
            self.bounds,
            longest,
            longest,
            scale=scale,
            **options,
        )
        assert isinstance(out_THD, Tensor)
        return out_THD.transpose(0, 1)[None]

    def _by_length(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None, window: int | None
    ) -> Tensor:
        """The plain version: documents of equal length form a batch, without masks between documents."""
        pieces = [torch.split(x[0], list(self.lengths), dim=1) for x in (query, key, value)]
        groups: dict[int, list[int]] = defaultdict(list)
        for document, length in enumerate(self.lengths):
            groups[length].append(document)
        out: dict[int, Tensor] = {}
        for length, documents in groups.items():
            batch = [torch.stack([piece[d] for d in documents]) for piece in pieces]
            mask = None if window is None else window_mask(length, window, query.device)
            outputs = sdpa(*batch, mask=mask, dropout=dropout, scale=scale)
            out.update(zip(documents, outputs.unbind(0), strict=True))
        return torch.cat([out[d] for d in range(len(self.lengths))], dim=1)[None]


@dataclass
class Cache:
    """Keys and values of complete rows; a step recomputes some columns and attends to the cached others."""

    columns_BS: Tensor
    """Columns that this step computes."""
    attention_BL: Tensor | None
    """bool: not padding; None: no padding."""
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    """Masks of this step by window."""

    def step_begin(self, columns_BS: Tensor) -> None:
        """The next forward pass computes `columns_BS` and replaces them in place."""
        self.columns_BS = columns_BS
        self.masks = {}

    def attend(
        self,
        layer: int,
        query_BHSD: Tensor,
        key_BHSD: Tensor,
        value_BHSD: Tensor,
        *,
        dropout: float,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        if layer not in self.keys:
            self.keys[layer], self.values[layer] = key_BHSD, value_BHSD
        else:
            where = self.columns_BS[:, None, :, None].expand_as(key_BHSD)
            self.keys[layer].scatter_(2, where, key_BHSD)
            self.values[layer].scatter_(2, where, value_BHSD)
        if window not in self.masks:
            self.masks[window] = self._mask(window, self.keys[layer].shape[2])
        mask = self.masks[window]
        return sdpa(query_BHSD, self.keys[layer], self.values[layer], mask=mask, dropout=dropout, scale=scale)

    def _mask(self, window: int | None, length: int) -> Tensor | None:
        if window is None:
            return None if self.attention_BL is None else self.attention_BL[:, None, None, :]
        columns_L = torch.arange(length, device=self.columns_BS.device)
        near_BSL = (self.columns_BS[:, :, None] - columns_L).abs() <= window
        return (near_BSL if self.attention_BL is None else near_BSL & self.attention_BL[:, None, :])[:, None]


def sdpa(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """SDPA with grouped queries: several query heads may share a key-value head."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out: Tensor = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out


def window_mask(length: int, window: int, device: torch.device) -> Tensor | None:
    """bool (L, L), true where |i - j| <= window; None if that is true everywhere."""
    if length <= window + 1:
        return None
    columns_L = torch.arange(length, device=device)
    return (columns_L[:, None] - columns_L).abs() <= window


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
