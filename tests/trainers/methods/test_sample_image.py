"""The job `sample_image`: its images, what each parameter and input image does to them, what is refused."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tests.tolerance import assert_same_image
from tests.trainers.context import context_make
from tests.trainers.image.sampling.scene import (
    DATASET,
    MODEL,
    Make,
    emitted,
    images,
    photos_make,
    pixels,
    refusal,
    save_adaptor,
    workspace,
)
from tests.trainers.image.sampling.test_families import photo
from trainers.contract.errors import ReasonCode
from trainers.contract.events import Event, EventWriter, Payload, Sample
from trainers.contract.params.sample_image import SampleImageParams
from trainers.contract.spec import JobSpec
from trainers.core.context import ModelCache
from trainers.methods.sample_image import sample


class StoppingWriter(EventWriter):
    """Puts a stop into the control file as soon as `after` progress events were written."""

    def __init__(self, path: Path, control: Path, after: int) -> None:
        super().__init__(path)
        self._control, self._after = control, after

    def emit(self, payload: Payload) -> Event:
        event = super().emit(payload)
        self._after -= event.data.kind == "progress"
        if self._after == 0:
            self._control.write_text(json.dumps({"seq": 3, "command": "stop"}))
        return event


@pytest.fixture(scope="module")
def adaptor(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the training job leaves it, of an adaptor that changes the images."""
    return save_adaptor(tiny_sd, tmp_path_factory.mktemp("product") / "adaptor").parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_make(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def make(tiny_sd: Path, photos: Path, tmp_path: Path) -> Make:
    return partial(workspace, tmp_path, photos, model=tiny_sd)


def test_a_job_leaves_its_images_and_tells_of_each(make: Make) -> None:
    work = make(num_images=2)
    assert sample(work) == "succeeded"
    assert list(images(work)) == ["image-seed-42.png", "image-seed-43.png"]
    kinds = [data.kind for data in emitted(work)]
    assert kinds == ["started", "progress", "progress", "sample", "sample"]
    samples = [data for data in emitted(work) if isinstance(data, Sample)]
    assert [(data.path, data.seed) for data in samples] == [
        ("samples/image-seed-42.png", 42),
        ("samples/image-seed-43.png", 43),
    ]
    assert work.facts["steps"] == 2


def test_an_image_says_how_it_was_made(make: Make, adaptor: Path) -> None:
    work = make([adaptor], prompt="ein Hündchen 🐕", adaptor_scales=[0.5])
    sample(work)
    text = images(work)["image-seed-42.png"].info
    assert text["prompt"] == "ein Hündchen 🐕" and text["seed"] == "42"
    assert json.loads(text["parameters"])["num_inference_steps"] == 2
    assert json.loads(text["base_model"])["sha256"] == MODEL["sha256"]
    assert json.loads(text["adaptors"]) == [{"name": "dog@1", "sha256": "cd" * 32, "scale": 0.5}]


@pytest.mark.numeric
def test_each_image_can_be_made_again_alone_from_its_seed(make: Make) -> None:
    several, alone = make(num_images=3), make(seed=44)
    sample(several)
    sample(alone)
    assert_same_image(pixels(several, "image-seed-44.png"), pixels(alone, "image-seed-44.png"))


@pytest.mark.numeric
def test_equal_jobs_leave_equal_files(make: Make, adaptor: Path) -> None:
    works = [make([adaptor]) for _ in range(2)]
    for work in works:
        sample(work)
    first, second = (work.out / "samples" / "image-seed-42.png" for work in works)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a cat"},
        {"negative_prompt": "a cat"},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"width": 72},
        {"height": 72},
        {"scheduler": "euler"},
        {"mixed_precision": "bf16"},
        {"guidance_rescale": 0.7},
        {"clip_skip": 1},
    ],
)
def test_every_parameter_changes_the_image(make: Make, change: dict[str, Any]) -> None:
    plain, changed = make(), make(**change)
    sample(plain)
    sample(changed)
    one, other = pixels(plain), pixels(changed)
    assert one.shape != other.shape or np.abs(one - other).max() > 0


def test_a_stop_ends_the_job_between_two_steps_and_is_answered(make: Make, adaptor: Path) -> None:
    work = make([adaptor], compare=True, num_inference_steps=4)
    writer = StoppingWriter(work.out / "events.jsonl", work.inputs / "control", after=6)
    stopping = context_make(work.spec, work.inputs, work.out, work.cache, writer)
    assert sample(stopping) == "stopped"
    assert list(images(work)) == ["base-seed-42.png"]
    last = emitted(work)[-1]
    assert (last.kind, last.seq, last.command, last.step) == ("control", 3, "stop", 1)


def test_a_base_of_another_family_is_refused(make: Make) -> None:
    work = make()
    (work.inputs / "model").unlink()
    (work.inputs / "model").mkdir()
    (work.inputs / "model" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert refusal(work).reason.code == ReasonCode.BAD_BASE_MODEL


def test_an_image_is_painted_from_another(make: Make) -> None:
    weak, strong = (make(input_image="photo.png", strength=strength, num_inference_steps=4) for strength in (0.25, 1.0))
    for work in (weak, strong):
        assert sample(work) == "succeeded"
    assert pixels(weak).shape == (64, 64, 3) and not np.array_equal(pixels(weak), pixels(strong))
    info = images(weak)["image-seed-42.png"].info
    assert json.loads(info["input"]) == {"name": "photos@1", "sha256": "12" * 32}
    assert json.loads(info["parameters"])["input_image"] == "photo.png"


def test_strength_defaults_to_four_fifths_and_to_one_with_a_mask(make: Make) -> None:
    for params, steps in (({}, 8), ({"mask_image": "right.png"}, 10)):
        work = make(input_image="photo.png", num_inference_steps=10, **params)
        sample(work)
        assert [data.total for data in emitted(work) if data.kind == "progress"] == [steps] * steps


def test_a_mask_keeps_what_is_black_to_the_pixel(make: Make) -> None:
    work = make(input_image="photo.png", mask_image="right.png")
    sample(work)
    original = np.asarray(photo(64), dtype=int)
    assert np.array_equal(pixels(work)[:, :32], original[:, :32])
    assert not np.array_equal(pixels(work)[:, 32:], original[:, 32:])


def test_the_size_is_the_input_images_unless_one_is_asked_for(make: Make) -> None:
    native, sized = make(input_image="tall.png"), make(input_image="tall.png", width=64, height=80)
    for work in (native, sized):
        sample(work)
    assert pixels(native).shape == (96, 72, 3) and pixels(sized).shape == (80, 64, 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"input_image": "none.png"},
            r"input_image='none.png' is not a file of the dataset; it has photo.png, right.png",
        ),
        ({"input_image": "../photos0/photo.png"}, "is not a file of the dataset"),
        ({"input_image": "/etc/passwd"}, "is not a file of the dataset"),
        ({"input_image": "text.txt"}, "input_image text.txt cannot be read as an image"),
        ({"input_image": "photo.png", "mask_image": "small.png"}, "mask_image small.png has 32 x 32 pixels, but"),
    ],
)
def test_an_input_that_cannot_be_used_is_named(make: Make, params: dict[str, Any], message: str) -> None:
    assert re.search(message, str(refusal(make(**params))))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mask_image": "right.png"}, "mask_image='right.png' needs input_image"),
        ({"strength": 0.5}, "strength=0.5 needs input_image"),
        ({"intermediate_every": 2}, "intermediate_every=2 shows nothing in 2 denoising steps"),
        ({"guidance_scale": 1.0, "negative_prompt": "a cat"}, "negative_prompt='a cat' does nothing with guidance_"),
        ({"guidance_scale": 1.0, "guidance_rescale": 0.7}, "guidance_rescale=0.7 does nothing with guidance_scale=1"),
    ],
)
def test_parameters_that_would_do_nothing_are_refused(make: Make, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**params)


def test_less_than_one_step_is_refused_but_for_flow_models_which_round_up() -> None:
    params = SampleImageParams(prompt="x", input_image="a.png", strength=0.3, num_inference_steps=2)
    assert "strength=0.3 of num_inference_steps=2 is less than one step" in params.family_problem("sdxl")
    assert not params.family_problem("sd3") and not params.family_problem("flux")
    shown = SampleImageParams(
        prompt="x", input_image="a.png", strength=0.6, num_inference_steps=4, intermediate_every=2
    )
    assert "intermediate_every=2 shows nothing in 2 denoising steps" in shown.family_problem("sd1")
    assert not shown.family_problem("sd3")


def test_an_input_image_needs_its_dataset_and_a_dataset_its_image() -> None:
    job = {"name": "try", "method": "sample_image", "inputs": {"model": MODEL}}
    with pytest.raises(
        ValidationError, match=r"input_image='a.png' names a file of the job's dataset, but it has none"
    ):
        JobSpec.model_validate(job | {"params": {"prompt": "x", "input_image": "a.png"}})
    with pytest.raises(ValidationError, match=r"there is a dataset, but input_image is empty"):
        JobSpec.model_validate(job | {"params": {"prompt": "x"}, "inputs": {"model": MODEL, "dataset": DATASET}})


@pytest.mark.parametrize(
    ("family", "params", "message"),
    [
        ("sd3", {"width": 72}, "width=72 must be a multiple of 16"),
        ("flux", {"height": 72}, "height=72 must be a multiple of 16"),
        ("sd3", {"scheduler": "ddim"}, "scheduler=ddim is none of the family sd3; choose default or euler"),
        ("sdxl", {"max_sequence_length": 9}, "max_sequence_length is for T5"),
        ("flux", {"negative_prompt": "a cat"}, "negative_prompt='a cat' does nothing for Flux"),
        ("flux", {"clip_skip": 1}, "clip_skip=1 does nothing for Flux"),
        ("flux", {"guidance_rescale": 0.5}, "guidance_rescale=0.5 does nothing for Flux"),
        ("sdxl", {"width": 72, "clip_skip": 1, "scheduler": "lms"}, ""),
        ("flux", {"scheduler": "euler", "guidance_scale": 2.0, "max_sequence_length": 64}, ""),
    ],
)
def test_options_that_a_family_lacks_are_refused_at_submit(family: str, params: dict[str, Any], message: str) -> None:
    sized = SampleImageParams.model_validate({"prompt": "a dog"} | params)
    assert sized.family_problem(family).startswith(message) and bool(sized.family_problem(family)) == bool(message)
    model = MODEL | {"details": {"family": family}}
    job = {"name": "x", "method": "sample_image", "params": {"prompt": "a dog"} | params, "inputs": {"model": model}}
    if message:
        with pytest.raises(ValidationError, match=message):
            JobSpec.model_validate(job)
    else:
        JobSpec.model_validate(job)


def test_what_only_the_model_tells_is_refused_at_run(make: Make, tiny_base: Callable[[str], Path]) -> None:
    error = refusal(make(model=tiny_base("flux_schnell"), guidance_scale=3.5, width=64, height=64))
    assert error.reason.code == ReasonCode.BAD_PARAMETERS and "guidance_scale=3.5 does nothing" in str(error)
    error = refusal(make(model=tiny_base("flux"), negative_prompt="a cat", width=64, height=64))
    assert "negative_prompt='a cat' does nothing for Flux" in str(error)


def test_without_a_guidance_each_family_has_its_own(make: Make, tiny_base: Callable[[str], Path]) -> None:
    for kind, guidance in (("sd1", 7.5), ("flux", 3.5)):
        works = [
            make(model=tiny_base(kind), width=64, height=64, **more) for more in ({}, {"guidance_scale": guidance})
        ]
        for work in works:
            sample(work)
        assert np.array_equal(pixels(works[0]), pixels(works[1]))


def test_the_denoising_is_shown_while_it_goes_on(make: Make) -> None:
    work = make(num_inference_steps=5, intermediate_every=2, num_images=2)
    assert sample(work) == "succeeded"
    samples = [data for data in emitted(work) if isinstance(data, Sample)]
    names = [f"samples/steps/image-seed-{seed}-step-000{step}.png" for step in (2, 4) for seed in (42, 43)]
    assert [data.path for data in samples[:4]] == names
    assert [data.details["denoising_step"] for data in samples[:4]] == [2, 2, 4, 4]
    assert work.facts["steps"] == 2 and samples[-1].step == 2
    shown = [np.asarray(Image.open(work.out / data.path), dtype=int) for data in samples]
    early, late, end = shown[0], shown[2], shown[4]
    assert 0 < np.abs(late - end).mean() < np.abs(early - end).mean()
    kinds = [data.kind for data in emitted(work)]
    assert kinds.index("sample") < len(kinds) - 1 - kinds[::-1].index("progress"), "while the steps go on"


def test_the_next_job_finds_the_base_model_as_it_was(make: Make, adaptor: Path) -> None:
    models = ModelCache()
    first, second, third = make(models=models), make([adaptor], models=models), make(models=models)
    for work in (first, second, third):
        assert sample(work) == "succeeded"
    assert [data.details["was_in_memory"] for work in (first, second, third) for data in emitted(work)[:1]] == [
        False,
        True,
        True,
    ]
    assert np.array_equal(pixels(first), pixels(third)) and not np.array_equal(pixels(first), pixels(second))
