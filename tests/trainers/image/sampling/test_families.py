"""Every family and task against diffusers' own pipeline around the same components: the same image."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.tolerance import assert_same_image
from trainers.image.models.base import SAMPLERS, Base, TextSettings, scheduler_of
from trainers.image.models.families import load_base
from trainers.image.sampling.sampler import InitImage, sample_images

pytestmark = pytest.mark.numeric

Task = Literal["text_to_image", "image_to_image", "inpainting"]
KINDS = ["sd1", "sd2", "sdxl", "sd3", "flux", "flux_schnell"]
TASKS: list[Task] = ["text_to_image", "image_to_image", "inpainting"]
SIDE, STEPS, SEED = 64, 4, 5
LONG = "a dog and a cat, " * 20
SKIPS = TextSettings(clip_skip=1)


@pytest.fixture(scope="module")
def tiny_bases(tiny_base: Callable[[str], Path]) -> Callable[[str], Base]:
    """Each kind opened once; sampling leaves it as it was."""

    @cache
    def opened(kind: str) -> Base:
        return load_base(tiny_base(kind), torch.float32)

    return opened


def photo(side: int = SIDE) -> Image.Image:
    """Colours that change from place to place."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    return Image.fromarray((np.stack([rows, columns, 1 - rows], axis=-1) * 255).astype(np.uint8))


def half_mask(side: int = SIDE) -> Image.Image:
    """White on the right."""
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (side // 2, 0, side, side))
    return mask


def init_of(task: Task, strength: float) -> InitImage | None:
    if task == "text_to_image":
        return None
    return InitImage(photo(), strength, half_mask() if task == "inpainting" else None)


def draw(base: Base, init: InitImage | None = None, **changes: Any) -> np.ndarray[Any, Any]:
    arguments: dict[str, Any] = {
        "prompts": ["a dog"],
        "negative_prompt": "",
        "seeds": [SEED],
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "width": SIDE,
        "height": SIDE,
        "init": init,
    }
    return np.asarray(sample_images(base, **(arguments | changes))[0], dtype=int)


def pipeline_of(base: Base, task: Task) -> Any:
    """Of diffusers, around the parts of `base`."""
    kind = {"text_to_image": "", "image_to_image": "Img2Img", "inpainting": "Inpaint"}[task]
    cls = getattr(diffusers, base.pipeline_class.replace("Pipeline", f"{kind}Pipeline"))
    return cls(**base.parts(), scheduler=scheduler_of(base.scheduler_config), **base.pipeline_config)


def stock(base: Base, task: Task, strength: float = 0.75, **changes: Any) -> np.ndarray[Any, Any]:
    """What diffusers draws with those components."""
    pipeline = pipeline_of(base, task)
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"prompt": ["a dog"], "num_inference_steps": STEPS, "guidance_scale": 4.0}
    init = init_of(task, strength)
    if init is None:
        arguments |= {"width": SIDE, "height": SIDE}
    else:
        arguments |= {"image": init.image, "strength": strength}
    if init is not None and init.mask is not None:
        arguments |= {"mask_image": init.mask, "width": SIDE, "height": SIDE}
    elif init is not None and base.family == "flux":
        arguments |= {"width": SIDE, "height": SIDE}
    generators = [torch.Generator().manual_seed(SEED)]
    if (base.family, task) == ("sd3", "inpainting"):
        pipeline.vae = WithShift(base.vae)
    image = pipeline(**(arguments | changes), generator=generators).images[0]
    return np.asarray(image, dtype=int)


class WithShift(torch.nn.Module):
    """The VAE for a pipeline that forgets the shift when it decodes: diffusers 0.42's inpainting with SD3."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae, self.config, self.encode = vae, vae.config, vae.encode
        self.dtype, self.device = vae.dtype, vae.device

    def decode(self, latents: torch.Tensor, **options: Any) -> Any:
        return self.vae.decode(latents + self.config.shift_factor, **options)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_image_is_that_of_diffusers_pipeline(tiny_bases: Callable[[str], Base], kind: str, task: Task) -> None:
    base = tiny_bases(kind)
    ours, reference = draw(base, init_of(task, 0.75)), stock(base, task)
    if task == "inpainting":
        assert np.array_equal(ours[:, : SIDE // 2], np.asarray(photo(), dtype=int)[:, : SIDE // 2]), "outside the mask"
        ours, reference = ours[:, SIDE // 2 :], reference[:, SIDE // 2 :]
    assert_same_image(ours, reference)
    assert ours.std() > 0


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("task", ["image_to_image", "inpainting"])
@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3", "flux"])
def test_a_part_of_a_step_counts_as_in_diffusers(
    tiny_bases: Callable[[str], Base], kind: str, task: Task, strength: float
) -> None:
    """Flow models round 4 x 0.3, 4 x 0.6 and 4 x 0.9 up, the others down."""
    base = tiny_bases(kind)
    changed = np.s_[:, SIDE // 2 :] if task == "inpainting" else np.s_[:]
    ours, reference = draw(base, init_of(task, strength)), stock(base, task, strength)
    assert_same_image(ours[changed], reference[changed])


@pytest.mark.parametrize("scheduler", ["default", *SAMPLERS])
@pytest.mark.parametrize("task", ["image_to_image", "inpainting"])
def test_every_scheduler_starts_from_an_image_as_diffusers_does(
    tiny_bases: Callable[[str], Base], scheduler: str, task: Task
) -> None:
    base = tiny_bases("sd1")
    pipeline = pipeline_of(base, task)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler_of(base.scheduler_config, scheduler)
    init = init_of(task, 0.75)
    assert init is not None
    masked = {"mask_image": init.mask, "width": SIDE, "height": SIDE} if init.mask else {}
    reference = pipeline(
        prompt=["a dog"],
        image=init.image,
        strength=0.75,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(SEED)],
        **masked,
    ).images[0]
    ours, expected = draw(base, init, scheduler=scheduler), np.asarray(reference, dtype=int)
    if init.mask:
        ours, expected = ours[:, SIDE // 2 :], expected[:, SIDE // 2 :]
    if scheduler == "euler_a" and init.mask:
        assert ours.std() > 0  # diffusers draws once more from the generator, for a masked image that it does not use
    else:
        assert_same_image(ours, expected)


@pytest.mark.parametrize("task", TASKS)
def test_full_strength_equals_diffusers(tiny_bases: Callable[[str], Base], task: Task) -> None:
    base = tiny_bases("sdxl")
    ours, reference = draw(base, init_of(task, 1.0)), stock(base, task, strength=1.0)
    right = np.s_[:, SIDE // 2 :] if task == "inpainting" else np.s_[:]
    assert_same_image(ours[right], reference[right])


@pytest.mark.parametrize(
    ("kind", "ours", "reference"),
    [
        ("sd1", {"negative_prompt": "a cat"}, {"negative_prompt": ["a cat"]}),
        ("sdxl", {"negative_prompt": "a cat"}, {"negative_prompt": ["a cat"]}),
        ("sd3", {"negative_prompt": "a cat"}, {"negative_prompt": ["a cat"]}),
        ("sd1", {"guidance_rescale": 0.7}, {"guidance_rescale": 0.7}),
        ("sdxl", {"guidance_rescale": 0.7}, {"guidance_rescale": 0.7}),
        ("sdxl", {"settings": SKIPS}, {"clip_skip": 1}),
        ("sd3", {"settings": TextSettings(max_sequence_length=8)}, {"max_sequence_length": 8}),
        ("flux", {"settings": TextSettings(max_sequence_length=8)}, {"max_sequence_length": 8}),
        ("flux", {"guidance_scale": 1.5}, {"guidance_scale": 1.5}),
        ("sd2", {"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ("sd1", {"width": 96}, {"width": 96}),
        ("flux", {"width": 96}, {"width": 96}),
        ("sd3", {"height": 96}, {"height": 96}),
    ],
)
def test_a_setting_changes_the_image_as_it_does_in_diffusers(
    tiny_bases: Callable[[str], Base], kind: str, ours: dict[str, Any], reference: dict[str, Any]
) -> None:
    base = tiny_bases(kind)
    changed = draw(base, **ours)
    assert_same_image(changed, stock(base, "text_to_image", **reference))
    plain = draw(base)
    assert changed.shape != plain.shape or np.abs(changed - plain).max() > 0


def test_clip_skip_changes_the_image(tiny_bases: Callable[[str], Base]) -> None:
    """Not against diffusers: its Stable Diffusion 1 pipeline cannot skip layers of transformers 5's CLIP."""
    assert np.abs(draw(tiny_bases("sd1"), settings=SKIPS) - draw(tiny_bases("sd1"))).max() > 0


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_words_past_77_tokens_count(tiny_bases: Callable[[str], Base], kind: str) -> None:
    base = tiny_bases(kind)
    long, longer = draw(base, prompts=[LONG]), draw(base, prompts=[LONG + "a red cat"])
    assert np.abs(long - longer).max() > 0
    assert np.abs(longer - stock(base, "text_to_image", prompt=[LONG + "a red cat"])).max() > 0, "diffusers cuts it"


def test_a_long_negative_prompt_goes_with_a_short_prompt(tiny_bases: Callable[[str], Base]) -> None:
    base = tiny_bases("sd1")
    assert np.abs(draw(base, negative_prompt=LONG + "red") - draw(base, negative_prompt=LONG)).max() > 0


@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_lower_strength_keeps_more_of_the_image(tiny_bases: Callable[[str], Base], kind: str) -> None:
    base, original = tiny_bases(kind), np.asarray(photo(), dtype=int)
    weak, strong = (draw(base, init_of("image_to_image", strength)) for strength in (0.25, 1.0))
    assert np.abs(weak - strong).max() > 0
    progress: list[tuple[int, int]] = []
    draw(base, init_of("image_to_image", 0.5), on_progress=lambda done, total: progress.append((done, total)))
    assert progress == [(1, 2), (2, 2)] and original.shape == weak.shape


def test_only_the_masked_area_is_repainted(tiny_bases: Callable[[str], Base]) -> None:
    base = tiny_bases("sd1")
    full, half = (
        draw(base, InitImage(photo(), 1.0, mask)) for mask in (Image.new("L", (SIDE, SIDE), 255), half_mask())
    )
    original = np.asarray(photo(), dtype=int)
    assert np.array_equal(half[:, :32], original[:, :32]) and not np.array_equal(half[:, 32:], original[:, 32:])
    assert not np.array_equal(full[:, :32], original[:, :32])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_an_image_does_not_depend_on_its_neighbours(tiny_bases: Callable[[str], Base], kind: str, task: Task) -> None:
    base = tiny_bases(kind)
    together = sample_images(
        base,
        prompts=["a dog", "a cat"],
        negative_prompt="",
        seeds=[9, SEED],
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        width=SIDE,
        height=SIDE,
        init=init_of(task, 0.75),
    )
    alone = draw(base, init_of(task, 0.75), prompts=["a cat"])
    assert_same_image(together[1], alone)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("sdxl", torch.float16), ("sd3", torch.bfloat16), ("flux", torch.bfloat16)]
)
@pytest.mark.slow
def test_half_precision_gives_nearly_the_same_image(
    tiny_base: Callable[[str], Path], tiny_bases: Callable[[str], Base], kind: str, dtype: torch.dtype
) -> None:
    half = load_base(tiny_base(kind), dtype)
    for task in TASKS:
        close = np.abs(draw(half, init_of(task, 0.75)) - draw(tiny_bases(kind), init_of(task, 0.75)))
        assert 0 < close.mean() < 8
