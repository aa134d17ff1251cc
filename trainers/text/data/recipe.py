"""How a masked text training makes its batches, and which bases it accepts."""

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
    """What decides how a document is seen at a step."""

    seed: int
    mask_id: int
    eos_id: int
    pad_id: int
    bos_id: int | None
    shift: bool
    """Dream: the token of position i is predicted at i - 1, and texts that are learned from their start get a BOS."""
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
    """The base as the recipe reads it: with Dream's shift or without, and so with a BOS before prompts or without."""
    shift = params.training_method == "dream"
    return replace(base, shift=shift, bos_first=shift and not params.mask_prompt_loss)


def family_check(params: MaskedTextParams, base: TextBase) -> None:
    """As the spec, which need not know the base model's family."""
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
