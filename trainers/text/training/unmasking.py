"""The objective of text diffusion, predicting masked tokens, and its validation on a fixed grid of times.

Only hidden states of masked positions go through the head.
"""

# D width, N masked tokens, V vocabulary, G times of the validation grid, S sums of each

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.core.device import to_device
from trainers.core.distributed import Processes
from trainers.text.data.batches import GRID, Recipe, TextMicroBatch, grid, maskable, validation_batch
from trainers.text.data.chat import Encoded
from trainers.text.models.base import TextBase, head_features, head_weight, hidden_masked, hidden_packed
from trainers.text.objective.corruption import norm_scales, scheduler_weight
from trainers.text.objective.linear_cross_entropy import Predicted, linear_cross_entropy, linear_predicted


@dataclass(frozen=True)
class Unmasking:
    """Computes a micro-batch's part of the loss; `weights_N` include the normalisation over the global batch."""

    base: TextBase
    device: torch.device
    dtype: torch.dtype
    """Autocast dtype; float32 disables autocast."""
    suppress: int | None
    """A token that the softmax leaves out."""

    def __call__(self, batch: TextMicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        with self._precision():
            features_ND = self._features(batch)
            weight_VD, bias_V = head_weight(self.base)
            targets_N = to_device(batch.targets_N, self.device)
            nll_N = linear_cross_entropy(features_ND, weight_VD, bias_V, targets_N, suppress=self.suppress)
        mean = (nll_N.detach() * to_device(batch.masked_share_N, self.device)).sum()
        return (nll_N * to_device(batch.weights_N, self.device)).sum(), {"masked_nll": mean}

    @torch.no_grad()
    def predicted(self, batch: TextMicroBatch) -> Predicted:
        """nll of the masked tokens and whether each is predicted correctly, without gradients."""
        with self._precision():
            features_ND = self._features(batch)
            weight_VD, bias_V = head_weight(self.base)
            targets_N = to_device(batch.targets_N, self.device)
            return linear_predicted(features_ND, weight_VD, bias_V, targets_N, suppress=self.suppress)

    def _features(self, batch: TextMicroBatch) -> Tensor:
        ids = to_device(batch.ids, self.device)
        if batch.packed:
            hidden_TD = hidden_packed(self.base, ids, batch.lengths)
        else:
            attention_BL = None if batch.attention_BL is None else to_device(batch.attention_BL, self.device)
            hidden_TD = hidden_masked(self.base, ids, attention_BL).flatten(0, 1)
        return head_features(self.base, hidden_TD[to_device(batch.read_N, self.device)])

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


SUMS = 4
"""Sums for each time: nll, correct predictions, masked tokens, training loss."""


@torch.no_grad()
def validate(
    objective: Unmasking, documents: Sequence[Encoded], rows: Sequence[int], recipe: Recipe, processes: Processes
) -> dict[str, float]:
    """Validation metrics: nll per maskable token (with the scheduler's weight), its perplexity, accuracy by time, loss.

    Each rank computes its share of the rows; all ranks return the same result. Dropout is disabled.
    """
    model = objective.base.model
    training = model.training
    model.eval()
    counts = [int(maskable(documents[row], recipe).sum()) for row in rows]
    scales = norm_scales(counts, recipe.norm)
    sums_GS = torch.zeros(GRID, SUMS, dtype=torch.float64)
    for index in processes.share(range(len(rows))):
        sums_GS += _row_sums(objective, documents, rows[index], recipe, scales[index])
    model.train(training)
    summed = processes.sum(sums_GS.to(processes.device)).cpu()
    return _metrics(summed, recipe, sum(counts))


def _row_sums(objective: Unmasking, documents: Sequence[Encoded], row: int, recipe: Recipe, scale: float) -> Tensor:
    batch, noised = validation_batch(documents, row, recipe)
    nll_N, hit_N = (values.cpu().double() for values in objective.predicted(batch))
    losses_N = nll_N * batch.weights_N.double() * scale / GRID
    sizes = [int(document.masked_L.sum()) for document in noised]
    parts = zip(*(torch.split(values, sizes) for values in (nll_N, hit_N, losses_N)), sizes, strict=True)
    return torch.tensor([[float(n.sum()), float(h.sum()), float(s), float(w.sum())] for n, h, w, s in parts]).double()


def _metrics(sums_GS: Tensor, recipe: Recipe, num_maskable: int) -> dict[str, float]:
    times = grid(recipe)
    weights_G = torch.tensor([scheduler_weight(time, recipe.schedule) for time in times], dtype=torch.float64)
    nll = float((weights_G * sums_GS[:, 0]).sum()) / (GRID * max(1, num_maskable))
    hits_G, masked_G = sums_GS[:, 1], sums_GS[:, 2]
    accuracy = {
        f"accuracy/t={time:.2f}": float(hits / masked)
        for time, hits, masked in zip(times, hits_G, masked_G, strict=True)
        if masked
    }
    return {
        "loss": float(sums_GS[:, 3].sum()),
        "nll": nll,
        "perplexity": math.exp(min(nll, 80.0)),
        "accuracy": float(hits_G.sum() / masked_G.sum().clamp(min=1)),
        **accuracy,
    }
