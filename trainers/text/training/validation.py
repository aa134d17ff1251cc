"""Validation of text diffusion on a fixed grid: the same times and masks of each held-out row at every evaluation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.core.distributed import Processes
from trainers.text.data.batches import GRID, grid, maskable, validation_batch
from trainers.text.data.chat import Encoded
from trainers.text.data.recipe import Recipe
from trainers.text.objective.corruption import scheduler_weight
from trainers.text.objective.losses import norm_scales
from trainers.text.training.unmasking import Unmasking

SUMS = 4
"""Of each time: nll, hits, masked tokens, training loss."""


@torch.no_grad()
def validate(
    objective: Unmasking, documents: Sequence[Encoded], rows: Sequence[int], recipe: Recipe, processes: Processes
) -> dict[str, float]:
    """nll per maskable token (the scheduler's weight, whatever training uses), its perplexity, accuracy by time, loss.

    Every rank takes its share of the rows and gets the same answer; layer dropout is off meanwhile.
    """
    model = objective.base.model
    training = model.training
    model.eval()
    counts = [int(maskable(documents[row], recipe).sum()) for row in rows]
    scales = norm_scales(counts, recipe.norm)
    sums_GS = torch.zeros(GRID, SUMS, dtype=torch.float64)
    for index in processes.mine(range(len(rows))):
        sums_GS += _of_row(objective, documents, rows[index], recipe, scales[index])
    model.train(training)
    summed = processes.sum(sums_GS.to(processes.device)).cpu()
    return _metrics(summed, recipe, sum(counts))


def _of_row(objective: Unmasking, documents: Sequence[Encoded], row: int, recipe: Recipe, scale: float) -> Tensor:
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
