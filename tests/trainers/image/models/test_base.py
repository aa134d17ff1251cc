"""The configs that are read name the schedulers that trainers take."""

from formats.models.image_families import DIFFUSION, FLOW
from trainers.image.models.base import SCHEDULERS


def test_configs_and_trainers_have_the_same_schedulers() -> None:
    assert sorted((*DIFFUSION, FLOW)) == sorted(SCHEDULERS)
