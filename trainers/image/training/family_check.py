"""Parameters of `image_lora` against the family of the base model: a value that would do nothing is refused."""

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.image.models.base import Base


def family_check(base: Base, params: ImageLoraParams) -> None:
    """Raises TrainerError(BAD_PARAMETERS) that names the parameter, its value and the family.

    The API asks the same at submit, where it knows the family; what only the network's config says is asked here.
    """
    problem = params.family_problem(base.family)
    default = type(params).model_fields["flux_guidance"].default
    if base.family == "flux" and not base.network.config.guidance_embeds and params.flux_guidance != default:
        said = f"flux_guidance={params.flux_guidance!r} does nothing with this Flux model"
        problem = problem or f"{said}, which has no guidance embedding; leave flux_guidance at its default"
    if problem:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)
