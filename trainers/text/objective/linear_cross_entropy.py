"""Cross entropy of a linear head that never holds all logits: it computes a chunk of rows at a time.

Legend: N scored tokens, D width, V vocabulary, C rows of a chunk. Products and sums are in fp32 for every dtype.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Maximum number of logits in memory, by device."""
SLICE_ROWS = 8192
"""Rows of a half-precision head that the CPU converts to fp32 at a time."""


class Predicted(NamedTuple):
    nll_N: Tensor
    """-log p(target), fp32."""
    hit_N: Tensor
    """bool: the target is the most likely token."""


def linear_cross_entropy(
    features_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, *, suppress: int | None = None
) -> Tensor:
    """nll_N = logsumexp(features W^T + b) - (features W^T + b)[target], in fp32; equal to the unchunked form.

    Gradients are exact, for those of features, weight and bias that require one. Under autocast both factors are
    rounded to its dtype. The softmax leaves out the token `suppress`.
    """
    dtype = _factors_dtype(features_ND)
    with torch.autocast(features_ND.device.type, enabled=False):
        nll_N: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            features_ND, weight_VD, bias_V, targets_N, suppress, dtype
        )
    return nll_N


@torch.no_grad()
def linear_predicted(
    features_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, *, suppress: int | None = None
) -> Predicted:
    """The same nll_N without gradients, and whether each target is the most likely token."""
    dtype = _factors_dtype(features_ND)
    if dtype is not None:
        features_ND, weight_VD = features_ND.to(dtype), weight_VD.to(dtype)
    nll_N = torch.empty(len(targets_N), device=features_ND.device)
    hit_N = torch.empty(len(targets_N), dtype=torch.bool, device=features_ND.device)
    with torch.autocast(features_ND.device.type, enabled=False):
        for rows in _chunks(features_ND, weight_VD):
            logits_CV = _logits(features_ND[rows], weight_VD, bias_V, suppress)
            nll_N[rows] = _nll(logits_CV, targets_N[rows])
            hit_N[rows] = logits_CV.argmax(-1) == targets_N[rows]
    return Predicted(nll_N, hit_N)


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward computes the features' gradient too if the head is frozen; else backward recomputes the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        features_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        suppress: int | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        ctx.suppress, ctx.with_bias, ctx.dtype = suppress, bias_V is not None, dtype
        ctx.frozen = not ctx.needs_input_grad[1] and not ctx.needs_input_grad[2]
        slopes_ND = torch.empty_like(features_ND, dtype=torch.float32) if ctx.frozen else None
        saved = [features_ND, weight_VD, targets_N, *([] if bias_V is None else [bias_V])]
        features_ND, weight_VD = features_ND.to(dtype), weight_VD.to(dtype)
        nll_N = torch.empty(len(targets_N), device=features_ND.device)
        for rows in _chunks(features_ND, weight_VD):
            logits_CV = _logits(features_ND[rows], weight_VD, bias_V, suppress)
            nll_N[rows] = _nll(logits_CV, targets_N[rows])
            if slopes_ND is not None and ctx.needs_input_grad[0]:
                slopes_ND[rows] = _times_weight(_slopes(logits_CV, targets_N[rows]), weight_VD)
        ctx.save_for_backward(*([slopes_ND] if ctx.frozen else saved))
        return nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.frozen:
            return ctx.saved_tensors[0] * grad_N[:, None], None, None, None, None, None
        features_ND, weight_VD, targets_N, *rest = ctx.saved_tensors
        bias_V = rest[0] if ctx.with_bias else None
        features_ND, weight_VD = features_ND.to(ctx.dtype), weight_VD.to(ctx.dtype)
        grad_features_ND = torch.empty_like(features_ND, dtype=torch.float32)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None else None
        for rows in _chunks(features_ND, weight_VD):
            logits_CV = _logits(features_ND[rows], weight_VD, bias_V, ctx.suppress)
            slopes_CV = _slopes(logits_CV, targets_N[rows]).mul_(grad_N[rows, None])
            grad_features_ND[rows] = _times_weight(slopes_CV, weight_VD)
            _add_outer(grad_weight_VD, slopes_CV, features_ND[rows])
            if grad_bias_V is not None:
                grad_bias_V += slopes_CV.sum(0)
        return grad_features_ND, grad_weight_VD, grad_bias_V, None, None, None


def _factors_dtype(features_ND: Tensor) -> torch.dtype | None:
    """Autocast's dtype; None if autocast is off."""
    device = features_ND.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _chunks(features_ND: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    size = max(16, CHUNK_LOGITS.get(features_ND.device.type, 1 << 27) // len(weight_VD))
    return (slice(start, start + size) for start in range(0, len(features_ND), size))


def _logits(features_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, suppress: int | None) -> Tensor:
    """logits_CV in fp32."""
    logits_CV = _product(features_CD, weight_VD)
    if bias_V is not None:
        logits_CV += bias_V
    if suppress is not None:
        logits_CV[:, suppress] = -torch.inf
    return logits_CV


def _nll(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    return torch.logsumexp(logits_CV, -1) - logits_CV.gather(1, targets_C[:, None])[:, 0]


def _slopes(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """d nll / d logits = softmax - onehot; overwrites the logits."""
    slopes_CV = torch.softmax(logits_CV, -1)
    slopes_CV[torch.arange(len(targets_C), device=targets_C.device), targets_C] -= 1
    return slopes_CV


def _product(features_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """features W^T in fp32."""
    if weight_VD.dtype == torch.float32:
        return features_CD.float() @ weight_VD.T
    if weight_VD.device.type == "cuda":
        return torch.mm(features_CD.to(weight_VD.dtype), weight_VD.T, out_dtype=torch.float32)
    features_CD = features_CD.float()
    return torch.cat([features_CD @ piece.float().T for piece in torch.split(weight_VD, SLICE_ROWS)], -1)


def _times_weight(slopes_CV: Tensor, weight_VD: Tensor) -> Tensor:
    """slopes W in fp32."""
    if weight_VD.dtype == torch.float32:
        return slopes_CV @ weight_VD
    if weight_VD.device.type == "cuda":
        return torch.mm(slopes_CV.to(weight_VD.dtype), weight_VD, out_dtype=torch.float32)
    pieces = zip(torch.split(slopes_CV, SLICE_ROWS, -1), torch.split(weight_VD, SLICE_ROWS), strict=True)
    total_CD = torch.zeros(len(slopes_CV), weight_VD.shape[1], device=slopes_CV.device)
    for slopes_CS, piece_SD in pieces:
        total_CD += slopes_CS @ piece_SD.float()
    return total_CD


def _add_outer(total_VD: Tensor, slopes_CV: Tensor, features_CD: Tensor) -> None:
    """total += slopes^T features, in fp32."""
    if features_CD.dtype != torch.float32 and features_CD.device.type == "cuda":
        total_VD += torch.mm(slopes_CV.to(features_CD.dtype).T, features_CD, out_dtype=torch.float32)
    else:
        total_VD.addmm_(slopes_CV.T, features_CD.float())
