"""The recipe of a masked text training: the resolved parameters that its batches depend on."""

from dataclasses import dataclass, replace

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.text.data.documents import EosPadding
from trainers.text.models.base import TextBase
from trainers.text.objective.corruption import (
    LossNorm,
    NoiseSchedule,
)


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
