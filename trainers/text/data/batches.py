"""Micro-batches of text diffusion. Every random draw is a function of (seed, step, position in the global batch)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.loop import StepBatch
from trainers.core.noise import Purpose, permutation
from trainers.text.data.chat import Encoded, Role
from trainers.text.data.dataset import EosPadding, eos_append, response_length
from trainers.text.models.base import TextBase
from trainers.text.objective.corruption import (
    Flags,
    Floats,
    LossNorm,
    NoiseSchedule,
    cart_weights,
    columns_cut,
    cut_columns,
    document_time,
    grid_time,
    mask_draw,
    masked_share,
    norm_scales,
    response_cut,
    scheduler_weight,
)

GRID = 8
"""Number of times at which validation masks each document."""


@dataclass(frozen=True)
class TextPlan:
    """Which documents make up which step. An epoch is a seeded permutation; its last global batch may be shorter."""

    num_documents: int
    batch_size: int
    """Documents per micro-batch and rank."""
    accumulation: int
    world_size: int
    seed: int

    @property
    def batch_documents(self) -> int:
        """Documents of a full global batch."""
        return self.batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_documents / self.batch_documents)

    def documents(self, step: int) -> list[int]:
        """Documents of the global batch of `step` (from 0), by position in the batch."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = permutation(self.num_documents, self.seed, Purpose.ORDER, epoch)
        return order[within * self.batch_documents : (within + 1) * self.batch_documents]

    def epoch(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return step / self.steps_per_epoch

    def shares(self, count: int, rank: int) -> list[range]:
        """Positions of each micro-batch of `rank` in a global batch of `count` documents, without empty ones."""
        starts = range(rank * self.batch_size, count, self.world_size * self.batch_size)
        return [range(start, min(start + self.batch_size, count)) for start in starts]


@dataclass(frozen=True)
class Recipe:
    """All that decides how a document is truncated, padded, masked and weighted at a step."""

    seed: int
    mask_id: int
    eos_id: int
    pad_id: int
    bos_id: int | None
    shift: bool
    """Dream: position i - 1 predicts the token at i, and texts learned from their first token get a BOS."""
    packing: bool
    padding: EosPadding
    mask_prompt_loss: bool
    schedule: NoiseSchedule
    epsilon: float
    antithetic: bool
    weighting: str
    """scheduler, uniform, or cart[...] with `geo_p`."""
    geo_p: float | None
    norm: LossNorm
    cuts_per_batch: bool
    cut_ratio: float


def recipe_base(base: TextBase, params: MaskedTextParams) -> TextBase:
    """The base with the shift and BOS of the parameters' training method."""
    shift = params.training_method == "dream"
    return replace(base, shift=shift, bos_first=shift and not params.mask_prompt_loss)


def family_check(params: MaskedTextParams, base: TextBase) -> None:
    """Raises TrainerError(BAD_PARAMETERS) if the parameters do not suit the base's family."""
    if problem := params.family_problem(base.family):
        raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)


def recipe_of(params: MaskedTextParams, base: TextBase) -> Recipe:
    return Recipe(
        seed=params.seed,
        mask_id=base.mask_id,
        eos_id=base.eos_id,
        pad_id=base.pad_id,
        bos_id=base.bos_id,
        shift=base.shift,
        packing=params.packing,
        padding=EosPadding.parse(params.eos_padding),
        mask_prompt_loss=params.mask_prompt_loss,
        schedule=params.noise_schedule,
        epsilon=params.time_epsilon,
        antithetic=params.antithetic_t,
        weighting=params.weighting,
        geo_p=params.geo_p,
        norm=params.loss_norm_type,
        cuts_per_batch=params.cuts_per_batch,
        cut_ratio=params.cut_ratio,
    )


@dataclass(frozen=True)
class TextMicroBatch:
    """Input of the network, on the CPU. Positions index the flattened tokens, packed or padded."""

    ids: Tensor
    """Noised ids: ids_T of concatenated documents, or ids_BL padded on the right."""
    lengths: tuple[int, ...]
    """Lengths of the documents; if packed, sum(lengths) = T."""
    attention_BL: Tensor | None
    """0 at padding; None if there is none or the documents are packed."""
    read_N: Tensor
    """Position of the hidden state that predicts each masked token."""
    targets_N: Tensor
    weights_N: Tensor
    """fp32; normalised over the global batch, so that the loss is sum(weights * nll)."""
    masked_share_N: Tensor
    """fp32: 1 / masked tokens of the global batch, for the mean nll of masked tokens."""

    @property
    def packed(self) -> bool:
        return self.ids.dim() == 1


@dataclass(frozen=True)
class Noised:
    """A document of a batch with its mask."""

    ids_L: NDArray[np.int32]
    maskable_L: Flags
    masked_L: Flags
    weights_L: Floats
    """0 where not masked; not normalised."""

    def noised_ids(self, mask_id: int) -> NDArray[np.int32]:
        return np.where(self.masked_L, np.int32(mask_id), self.ids_L)


def text_step_batch(
    documents: Sequence[Encoded], rows: Sequence[int], recipe: Recipe, plan: TextPlan, step: int, rank: int
) -> StepBatch[TextMicroBatch]:
    """This rank's micro-batches of `step` (from 0). `rows` maps the plan's documents to `documents`."""
    batch = prepare_batch([documents[rows[index]] for index in plan.documents(step)], recipe, step)
    micro_batches = noised_micro_batches(batch, recipe, step, plan.shares(len(batch), rank))
    tokens = sum(len(document.ids_L) for document in batch)
    return StepBatch(micro_batches, count=1, units=tokens, epoch=plan.epoch(step + 1), documents=len(batch))


def noised_micro_batches(
    batch: Sequence[Encoded], recipe: Recipe, step: int, shares: Sequence[range]
) -> list[TextMicroBatch]:
    """Noises a global batch and collates those of its documents that each of `shares` names."""
    noised = [document_noised(document, recipe, step, b, len(batch)) for b, document in enumerate(batch)]
    scales = norm_scales([int(document.maskable_L.sum()) for document in noised], recipe.norm)
    num_masked = sum(int(document.masked_L.sum()) for document in noised)
    width = max(len(document.ids_L) for document in noised)
    return [
        collate([noised[b] for b in share], [scales[b] for b in share], recipe, num_masked, width) for share in shares
    ]


def prepare_batch(batch: Sequence[Encoded], recipe: Recipe, step: int) -> list[Encoded]:
    """The documents of a global batch at their final lengths: first end tokens are added, then responses are cut.

    In this order no end token follows a cut response.
    """
    fills = recipe.padding.fill_in_batch([len(document.ids_L) for document in batch])
    batch = [eos_append(document, count, recipe.eos_id) for document, count in zip(batch, fills, strict=True)]
    responses = [response_length(document) for document in batch]
    lengths = [len(document.ids_L) for document in batch]
    if recipe.cuts_per_batch:
        limit = response_cut(recipe.seed, step, responses)
        lengths = [length - max(0, response - limit) for length, response in zip(lengths, responses, strict=True)]
        responses = [min(response, limit) for response in responses]
    if recipe.cut_ratio:
        lengths = cut_columns(lengths, columns_cut(recipe.seed, step, recipe.cut_ratio, responses))
    cut = [Encoded(d.ids_L[:length], d.roles_L[:length]) for d, length in zip(batch, lengths, strict=True)]
    return [_with_bos(document, recipe) for document in cut] if _needs_bos(cut, recipe) else cut


def document_noised(document: Encoded, recipe: Recipe, step: int, position: int, batch_size: int) -> Noised:
    """Draws time and mask of the document at `position` of a batch."""
    time = document_time(recipe.seed, step, position, batch_size, epsilon=recipe.epsilon, antithetic=recipe.antithetic)
    return noised_at(document, recipe, time, mask_draw(recipe.seed, Purpose.MASK, step, position, len(document.ids_L)))


def noised_at(document: Encoded, recipe: Recipe, time: float, draw_L: Floats) -> Noised:
    """The document at `time`: masked where the draw is below p(t) and the token is maskable."""
    maskable_L = maskable(document, recipe)
    masked_L = (draw_L < masked_share(time, recipe.schedule)) & maskable_L
    if recipe.geo_p is not None:
        weights_L = cart_weights(masked_L, recipe.geo_p)
    else:
        weight = scheduler_weight(time, recipe.schedule) if recipe.weighting == "scheduler" else 1.0
        weights_L = np.where(masked_L, weight, 0.0)
    return Noised(document.ids_L, maskable_L, masked_L, weights_L)


def maskable(document: Encoded, recipe: Recipe) -> Flags:
    """M: with mask_prompt_loss the response and its end tokens, else everything except a prepended BOS."""
    not_bos_L: Flags = document.roles_L != Role.BEFORE
    response_L: Flags = document.roles_L >= Role.RESPONSE
    return not_bos_L & response_L if recipe.mask_prompt_loss else not_bos_L


def validation_batch(documents: Sequence[Encoded], row: int, recipe: Recipe) -> tuple[TextMicroBatch, list[Noised]]:
    """A micro-batch of one document at GRID fixed times with fixed masks, and its noised copies."""
    (document,) = prepare_batch([documents[row]], replace(recipe, cuts_per_batch=False, cut_ratio=0.0), 0)
    length = len(document.ids_L)
    noised = [
        noised_at(document, recipe, time, mask_draw(recipe.seed, Purpose.VALIDATION_MASK, row, index, length))
        for index, time in enumerate(grid(recipe))
    ]
    return collate(noised, [1.0] * GRID, recipe, 1, length), noised


def grid(recipe: Recipe) -> list[float]:
    """The times of validation."""
    return [grid_time(index, GRID, epsilon=recipe.epsilon) for index in range(GRID)]


def collate(
    batch: Sequence[Noised], scales: Sequence[float], recipe: Recipe, num_masked: int, longest: int
) -> TextMicroBatch:
    """Concatenates or pads the documents; pads to `longest` of the global batch if end tokens fill the batch."""
    lengths = tuple(len(document.ids_L) for document in batch)
    width = longest if recipe.padding.kind == "supervised" else max(lengths)
    starts = np.cumsum([0, *lengths[:-1]]) if recipe.packing else width * np.arange(len(batch))
    masked = [np.flatnonzero(document.masked_L) for document in batch]
    read = [np.where(columns > 0, columns - 1, 0) if recipe.shift else columns for columns in masked]
    weights = [d.weights_L[columns] * scale for d, columns, scale in zip(batch, masked, scales, strict=True)]
    count = sum(len(columns) for columns in masked)
    return TextMicroBatch(
        ids=_packed(batch, recipe) if recipe.packing else _padded(batch, recipe, width),
        lengths=lengths,
        attention_BL=None if recipe.packing or set(lengths) == {width} else _attention(lengths, width),
        read_N=torch.from_numpy(np.concatenate([columns + start for columns, start in zip(read, starts, strict=True)])),
        targets_N=torch.from_numpy(
            np.concatenate([d.ids_L[columns] for d, columns in zip(batch, masked, strict=True)]).astype(np.int64)
        ),
        weights_N=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
        masked_share_N=torch.full((count,), 1 / max(1, num_masked)),
    )


def _packed(batch: Sequence[Noised], recipe: Recipe) -> Tensor:
    return torch.from_numpy(np.concatenate([d.noised_ids(recipe.mask_id) for d in batch]).astype(np.int64))


def _padded(batch: Sequence[Noised], recipe: Recipe, width: int) -> Tensor:
    ids_BL = np.full((len(batch), width), recipe.pad_id, np.int64)
    for row_L, document in zip(ids_BL, batch, strict=True):
        row_L[: len(document.ids_L)] = document.noised_ids(recipe.mask_id)
    return torch.from_numpy(ids_BL)


def _attention(lengths: Sequence[int], width: int) -> Tensor:
    return (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()


def _needs_bos(batch: Sequence[Encoded], recipe: Recipe) -> bool:
    """With Dream's shift: whether a document is learned from its first token, which needs a BOS to predict it."""
    return recipe.shift and any(bool(maskable(document, recipe)[0]) for document in batch)


def _with_bos(document: Encoded, recipe: Recipe) -> Encoded:
    bos_id = recipe.eos_id if recipe.bos_id is None else recipe.bos_id
    return Encoded(
        np.concatenate([np.array([bos_id], np.int32), document.ids_L]),
        np.concatenate([np.array([Role.BEFORE], np.uint8), document.roles_L]),
    )
