import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests.trainers.test_sampler_families import half_mask, photo
from trainers.adaptors.save import adaptor_save
from trainers.errors import ReasonCode, TrainerError
from trainers.events import Event, EventWriter, Payload, Sample, read_events
from trainers.kept import Kept
from trainers.lora import attach
from trainers.methods.sample_image import sample
from trainers.models import sd1
from trainers.models.load import load_base
from trainers.params.sample_image import SampleImageParams
from trainers.run import run
from trainers.samplers.columns import columns_of
from trainers.spec import InputRef, JobSpec
from trainers.workspace import Workspace

MODEL = {"name": "tiny@1", "key": "models/1", "sha256": "ab" * 32}
DATASET = {"name": "photos@1", "key": "datasets/1", "sha256": "12" * 32}
ADAPTOR = {"name": "dog@1", "key": "adaptors/1", "sha256": "cd" * 32}
Make = Callable[..., Workspace]


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
    """A folder as the training job leaves it, of an adaptor that changes the pictures."""
    return save_adaptor(tiny_sd, tmp_path_factory.mktemp("product") / "adaptor").parent


def save_adaptor(tiny_sd: Path, folder: Path, **metadata: str) -> Path:
    base = load_base(tiny_sd, torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attach(base.network, r=4, alpha=8, dropout=0.0, seed=1):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    adaptor_save(base, folder, metadata=metadata)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset to start from: a photo, an upright one, and masks."""
    folder = tmp_path_factory.mktemp("photos")
    photo(64).save(folder / "photo.png")
    photo(64).resize((72, 100)).save(folder / "tall.png")
    half_mask(64).save(folder / "right.png")
    half_mask(32).save(folder / "small.png")
    (folder / "text.txt").write_text("no picture")
    return folder


@pytest.fixture
def make(tiny_sd: Path, photos: Path, tmp_path: Path) -> Make:
    """A workspace whose `in/` links the inputs, as the worker does."""

    def build(
        adaptors: list[Path] | None = None,
        details: dict[str, Any] | None = None,
        model: Path = tiny_sd,
        kept: Kept | None = None,
        **params: Any,
    ) -> Workspace:
        folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        for name in ("in/adaptor", "out", "cache"):
            (folder / name).mkdir(parents=True)
        (folder / "in/model").symlink_to(model)
        (folder / "in/dataset").symlink_to(photos)
        for index, path in enumerate(adaptors or []):
            (folder / "in/adaptor" / str(index)).symlink_to(path)
        refs = [ADAPTOR | {"details": details or {}} for _ in adaptors or []]
        spec = {
            "name": "try",
            "method": "sample_image",
            "params": {"prompt": "a dog", "num_inference_steps": 2} | params,
            "inputs": {"model": MODEL, "adaptors": refs} | ({"dataset": DATASET} if "input_image" in params else {}),
        }
        events = EventWriter(folder / "out/events.jsonl")
        told = JobSpec.model_validate(spec)
        return Workspace(told, folder / "in", folder / "out", folder / "cache", events, kept=kept or Kept())

    return build


def pictures(work: Workspace) -> dict[str, Image.Image]:
    return {path.name: Image.open(path) for path in sorted((work.out / "samples").iterdir())}


def pixels(work: Workspace, name: str = "picture-seed-42.png") -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(work.out / "samples" / name).convert("RGB"), dtype=int)


def told(work: Workspace) -> list[Any]:
    return [event.data for event in read_events(work.out / "events.jsonl")]


def refusal(work: Workspace) -> TrainerError:
    with pytest.raises(TrainerError) as caught:
        sample(work)
    return caught.value


def test_a_job_leaves_its_pictures_and_tells_of_each(make: Make) -> None:
    work = make(num_images=2)
    assert sample(work) == "succeeded"
    assert list(pictures(work)) == ["picture-seed-42.png", "picture-seed-43.png"]
    kinds = [data.kind for data in told(work)]
    assert kinds == ["started", "progress", "progress", "sample", "sample"]
    samples = [data for data in told(work) if isinstance(data, Sample)]
    assert [(data.path, data.seed) for data in samples] == [
        ("samples/picture-seed-42.png", 42),
        ("samples/picture-seed-43.png", 43),
    ]
    assert work.facts["steps"] == 2


def test_a_picture_says_how_it_was_made(make: Make, adaptor: Path) -> None:
    work = make([adaptor], prompt="ein Hündchen 🐕", adaptor_scales=[0.5])
    sample(work)
    text = pictures(work)["picture-seed-42.png"].info
    assert text["prompt"] == "ein Hündchen 🐕" and text["seed"] == "42"
    assert json.loads(text["parameters"])["num_inference_steps"] == 2
    assert json.loads(text["base_model"])["sha256"] == MODEL["sha256"]
    assert json.loads(text["adaptors"]) == [{"name": "dog@1", "sha256": "cd" * 32, "scale": 0.5}]


def test_each_picture_can_be_made_again_alone_from_its_seed(make: Make) -> None:
    several, alone = make(num_images=3), make(seed=44)
    sample(several)
    sample(alone)
    assert np.abs(pixels(several, "picture-seed-44.png") - pixels(alone, "picture-seed-44.png")).max() <= 1


def test_equal_jobs_leave_equal_files(make: Make, adaptor: Path) -> None:
    works = [make([adaptor]) for _ in range(2)]
    for work in works:
        sample(work)
    first, second = (work.out / "samples" / "picture-seed-42.png" for work in works)
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
def test_every_parameter_changes_the_picture(make: Make, change: dict[str, Any]) -> None:
    plain, changed = make(), make(**change)
    sample(plain)
    sample(changed)
    one, other = pixels(plain), pixels(changed)
    assert one.shape != other.shape or np.abs(one - other).max() > 0


def test_an_adaptor_changes_the_picture_by_its_scale(make: Make, adaptor: Path) -> None:
    scales = [None, [0.0], [0.5], [1.0]]
    drawn = []
    for scale in scales:
        work = make([adaptor], adaptor_scales=scale) if scale else make()
        sample(work)
        drawn.append(pixels(work))
    assert np.array_equal(drawn[0], drawn[1])
    half, whole = (np.abs(drawn[0] - picture).mean() for picture in drawn[2:])
    assert half > 0 and whole > 0 and not np.array_equal(drawn[2], drawn[3])


def test_without_scales_every_adaptor_is_at_one(make: Make, adaptor: Path) -> None:
    implicit, explicit = make([adaptor]), make([adaptor], adaptor_scales=[1.0])
    sample(implicit)
    sample(explicit)
    assert np.array_equal(pixels(implicit), pixels(explicit))


def test_the_weights_folder_alone_serves_as_well_as_the_whole_product(make: Make, adaptor: Path) -> None:
    whole, alone = make([adaptor]), make([adaptor / "adaptor"])
    sample(whole)
    sample(alone)
    assert np.array_equal(pixels(whole), pixels(alone))


def test_two_adaptors_at_half_scale_are_one_at_full_scale(make: Make, adaptor: Path) -> None:
    two, one = make([adaptor, adaptor], adaptor_scales=[0.5, 0.5]), make([adaptor])
    sample(two)
    sample(one)
    assert np.abs(pixels(two) - pixels(one)).max() <= 2


def test_a_comparison_draws_base_adaptor_and_trigger_from_the_same_seeds(make: Make, adaptor: Path) -> None:
    work = make([adaptor], {"trigger_word": "sks"}, compare=True, num_images=2)
    assert sample(work) == "succeeded"
    names = [f"{label}-seed-{seed}.png" for label in ("adaptor", "adaptor-trigger", "base") for seed in (42, 43)]
    assert list(pictures(work)) == sorted([*names, "comparison.png"])
    assert pictures(work)["adaptor-trigger-seed-42.png"].info["prompt"] == "sks, a dog"
    bare, adapted = make(), make([adaptor])
    sample(bare)
    sample(adapted)
    assert np.abs(pixels(work, "base-seed-42.png") - pixels(bare)).max() <= 1
    assert np.abs(pixels(work, "adaptor-seed-42.png") - pixels(adapted)).max() <= 1
    assert json.loads(pictures(work)["base-seed-42.png"].info["adaptors"]) == []


def test_the_comparison_sheet_has_a_row_for_each_seed_and_a_column_for_each_way(make: Make, adaptor: Path) -> None:
    work = make([adaptor], {"trigger_word": "sks"}, compare=True, num_images=2)
    sample(work)
    sheet = pictures(work)["comparison.png"]
    assert sheet.width > 3 * 256 and sheet.height > 2 * 256
    last = [data for data in told(work) if isinstance(data, Sample)][-1]
    assert (last.path, last.label) == ("samples/comparison.png", "comparison")


def test_progress_counts_the_steps_of_all_columns(make: Make, adaptor: Path) -> None:
    work = make([adaptor], compare=True)
    sample(work)
    progress = [(data.done, data.total) for data in told(work) if data.kind == "progress"]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_comparison_without_adaptor_is_refused(make: Make) -> None:
    with pytest.raises(ValidationError, match=r"inputs\.adaptors is empty"):
        make(compare=True)


@pytest.mark.parametrize(
    ("triggers", "prompt", "prompts"),
    [
        ([""], "a dog", ["a dog", "a dog"]),
        (["sks"], "a dog", ["a dog", "a dog", "sks, a dog"]),
        (["sks"], "sks dog", ["sks dog", "sks dog"]),
        (["sks", "zwx"], "a dog", ["a dog", "a dog", "sks, zwx, a dog"]),
        (["sks", "sks"], "a dog", ["a dog", "a dog", "sks, a dog"]),
    ],
)
def test_trigger_words_are_put_before_the_prompt_once(triggers: list[str], prompt: str, prompts: list[str]) -> None:
    adaptors = tuple(InputRef.model_validate(ADAPTOR | {"details": {"trigger_word": word}}) for word in triggers)
    columns = columns_of(SampleImageParams(prompt=prompt, compare=True), adaptors)
    assert [column.prompt for column in columns] == prompts


def test_an_adaptor_of_another_base_is_refused_with_both_digests(make: Make, adaptor: Path) -> None:
    error = refusal(make([adaptor], {"base_sha256": "ef" * 32}))
    assert error.reason.code == ReasonCode.BAD_ADAPTOR
    assert "efefefefefef" in str(error) and "abababababab" in str(error) and "dog@1" in str(error)


def test_an_adaptor_file_that_names_another_base_is_refused(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    folder = save_adaptor(tiny_sd, tmp_path / "other", base_sha256="ef" * 32)
    assert "efefefefefef" in str(refusal(make([folder])))


def test_an_adaptor_of_this_base_is_taken(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    folder = save_adaptor(tiny_sd, tmp_path / "this", base_sha256=MODEL["sha256"])
    assert sample(make([folder], {"base_sha256": MODEL["sha256"]})) == "succeeded"


def test_a_prediction_type_stored_with_the_adaptor_is_honoured(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    plain = save_adaptor(tiny_sd, tmp_path / "plain")
    override = save_adaptor(tiny_sd, tmp_path / "override", prediction_type="v_prediction")
    works = [make([plain]), make([override]), make([plain], {"prediction_type": "v_prediction"})]
    for work in works:
        sample(work)
    assert not np.array_equal(pixels(works[0]), pixels(works[1]))
    assert np.array_equal(pixels(works[1]), pixels(works[2]))


def test_adaptors_of_different_prediction_types_are_refused(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    folders = [save_adaptor(tiny_sd, tmp_path / kind, prediction_type=kind) for kind in ("epsilon", "v_prediction")]
    assert "disagree on the prediction type" in str(refusal(make(folders)))


def test_a_stop_ends_the_job_between_two_steps_and_is_answered(make: Make, adaptor: Path) -> None:
    work = make([adaptor], compare=True, num_inference_steps=4)
    writer = StoppingWriter(work.out / "events.jsonl", work.inputs / "control", after=6)
    stopping = Workspace(work.spec, work.inputs, work.out, work.cache, writer)
    assert sample(stopping) == "stopped"
    assert list(pictures(work)) == ["base-seed-42.png"]
    last = told(work)[-1]
    assert (last.kind, last.seq, last.command, last.step) == ("control", 3, "stop", 1)


def test_an_adaptor_of_the_text_encoder_counts_and_is_taken_off_again(
    make: Make, tiny_sd: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_sd, torch.float32)
    encoder = base.text_encoders[0]
    with torch.no_grad():
        for parameter in attach(base.network, r=4, alpha=8, dropout=0.0, seed=1):
            parameter.mul_(0)
        for parameter in attach(encoder, r=4, alpha=8, dropout=0.0, seed=2, targets=sd1.text_targets(encoder)):
            parameter.add_(0.3)
    adaptor_save(base, tmp_path / "words", metadata={})
    kept = Kept()
    bare, work, after = make(kept=kept), make([tmp_path / "words"], kept=kept, compare=True), make(kept=kept)
    for one in (bare, work, after):
        assert sample(one) == "succeeded"
    assert np.array_equal(pixels(work, "base-seed-42.png"), pixels(bare)), "off in the column of the base"
    assert not np.array_equal(pixels(work, "adaptor-seed-42.png"), pixels(bare))
    assert np.array_equal(pixels(after), pixels(bare)), "gone for the next job"


def test_a_trained_adaptor_draws_in_a_job_what_it_drew_in_training(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "train" / "in" / "dataset"
    dataset.mkdir(parents=True)
    (dataset.parent / "model").symlink_to(tiny_sd)
    Image.new("RGB", (64, 64), "red").save(dataset / "red.png")
    (dataset / "red.txt").write_text("a red square")
    params = {"adaptor_name": "red", "resolution": 64, "max_train_steps": 2, "learning_rate": 0.05, "lora_r": 4}
    evaluation = {"eval_prompt": "a dog", "eval_num_inference_steps": 2, "eval_every_steps": 2}
    inputs = {"model": MODEL, "dataset": ADAPTOR}
    spec = {"name": "train", "method": "image_lora", "params": params | evaluation, "inputs": inputs}
    (tmp_path / "train" / "spec.json").write_text(json.dumps(spec))
    folders = [tmp_path / "train" / name for name in ("spec.json", "in", "out", "cache")]
    assert run(*folders) == 0
    work = make([tmp_path / "train" / "out"])
    assert sample(work) == "succeeded"
    trained, fresh = (tmp_path / "train" / "out" / "samples" / f"step-0000000{step}-0.png" for step in (2, 0))
    assert np.array_equal(pixels(work), np.asarray(Image.open(trained), dtype=int))
    assert not np.array_equal(pixels(work), np.asarray(Image.open(fresh), dtype=int))


def test_a_base_of_another_family_is_refused(make: Make) -> None:
    work = make()
    (work.inputs / "model").unlink()
    (work.inputs / "model").mkdir()
    (work.inputs / "model" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert refusal(work).reason.code == ReasonCode.BAD_BASE_MODEL


def test_a_picture_is_painted_from_another(make: Make) -> None:
    weak, strong = (make(input_image="photo.png", strength=strength, num_inference_steps=4) for strength in (0.25, 1.0))
    for work in (weak, strong):
        assert sample(work) == "succeeded"
    assert pixels(weak).shape == (64, 64, 3) and not np.array_equal(pixels(weak), pixels(strong))
    info = pictures(weak)["picture-seed-42.png"].info
    assert json.loads(info["input"]) == {"name": "photos@1", "sha256": "12" * 32}
    assert json.loads(info["parameters"])["input_image"] == "photo.png"


def test_without_a_strength_a_fifth_of_the_picture_is_kept_and_with_a_mask_nothing(make: Make) -> None:
    for params, steps in (({}, 8), ({"mask_image": "right.png"}, 10)):
        work = make(input_image="photo.png", num_inference_steps=10, **params)
        sample(work)
        assert [data.total for data in told(work) if data.kind == "progress"] == [steps] * steps


def test_a_mask_keeps_what_is_black_to_the_pixel(make: Make) -> None:
    work = make(input_image="photo.png", mask_image="right.png")
    sample(work)
    original = np.asarray(photo(64), dtype=int)
    assert np.array_equal(pixels(work)[:, :32], original[:, :32])
    assert not np.array_equal(pixels(work)[:, 32:], original[:, 32:])


def test_the_size_is_the_input_pictures_unless_one_is_asked_for(make: Make) -> None:
    own, asked = make(input_image="tall.png"), make(input_image="tall.png", width=64, height=80)
    for work in (own, asked):
        sample(work)
    assert pixels(own).shape == (96, 72, 3) and pixels(asked).shape == (80, 64, 3)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"input_image": "none.png"}, r"input_image='none.png' is no file of the dataset; it has photo.png, right.png"),
        ({"input_image": "../photos0/photo.png"}, "is no file of the dataset"),
        ({"input_image": "/etc/passwd"}, "is no file of the dataset"),
        ({"input_image": "text.txt"}, "input_image text.txt cannot be read as a picture"),
        ({"input_image": "photo.png", "mask_image": "small.png"}, "mask_image small.png has 32 x 32 pixels, but"),
    ],
)
def test_an_input_that_cannot_be_used_is_named(make: Make, params: dict[str, Any], said: str) -> None:
    assert re.search(said, str(refusal(make(**params))))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"mask_image": "right.png"}, "mask_image='right.png' needs input_image"),
        ({"strength": 0.5}, "strength=0.5 needs input_image"),
        ({"input_image": "photo.png", "strength": 0.3}, "strength=0.3 of num_inference_steps=2 is less than one step"),
        ({"intermediate_every": 2}, "intermediate_every=2 shows nothing in 2 denoising steps"),
        ({"guidance_scale": 1.0, "negative_prompt": "a cat"}, "negative_prompt='a cat' does nothing with guidance_"),
        ({"guidance_scale": 1.0, "guidance_rescale": 0.7}, "guidance_rescale=0.7 does nothing with guidance_scale=1"),
    ],
)
def test_parameters_that_would_do_nothing_are_refused(make: Make, params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make(**params)


def test_an_input_picture_needs_its_dataset_and_a_dataset_its_picture() -> None:
    job = {"name": "try", "method": "sample_image", "inputs": {"model": MODEL}}
    with pytest.raises(ValidationError, match=r"input_image='a.png' names a file of inputs.dataset, which is empty"):
        JobSpec.model_validate(job | {"params": {"prompt": "x", "input_image": "a.png"}})
    with pytest.raises(ValidationError, match=r"inputs.dataset is there, but input_image is empty"):
        JobSpec.model_validate(job | {"params": {"prompt": "x"}, "inputs": {"model": MODEL, "dataset": DATASET}})


@pytest.mark.parametrize(
    ("family", "params", "said"),
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
def test_what_a_family_cannot_take_is_said_at_submit(family: str, params: dict[str, Any], said: str) -> None:
    asked = SampleImageParams.model_validate({"prompt": "a dog"} | params)
    assert asked.family_problem(family).startswith(said) and bool(asked.family_problem(family)) == bool(said)
    model = MODEL | {"details": {"family": family}}
    job = {"name": "x", "method": "sample_image", "params": {"prompt": "a dog"} | params, "inputs": {"model": model}}
    if said:
        with pytest.raises(ValidationError, match=said):
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
    samples = [data for data in told(work) if isinstance(data, Sample)]
    names = [f"samples/steps/picture-seed-{seed}-step-000{step}.png" for step in (2, 4) for seed in (42, 43)]
    assert [data.path for data in samples[:4]] == names
    assert [data.details["denoising_step"] for data in samples[:4]] == [2, 2, 4, 4]
    assert work.facts["steps"] == 2 and samples[-1].step == 2
    shown = [np.asarray(Image.open(work.out / data.path), dtype=int) for data in samples]
    early, late, end = shown[0], shown[2], shown[4]
    assert 0 < np.abs(late - end).mean() < np.abs(early - end).mean()
    kinds = [data.kind for data in told(work)]
    assert kinds.index("sample") < len(kinds) - 1 - kinds[::-1].index("progress"), "while the steps go on"


def test_the_next_job_finds_the_base_model_as_it_was(make: Make, adaptor: Path) -> None:
    kept = Kept()
    first, second, third = make(kept=kept), make([adaptor], kept=kept), make(kept=kept)
    for work in (first, second, third):
        assert sample(work) == "succeeded"
    assert [data.details["was_in_memory"] for work in (first, second, third) for data in told(work)[:1]] == [
        False,
        True,
        True,
    ]
    assert np.array_equal(pixels(first), pixels(third)) and not np.array_equal(pixels(first), pixels(second))


def test_an_adaptor_that_was_refused_leaves_nothing_on_the_base_model(
    make: Make, adaptor: Path, tmp_path: Path
) -> None:
    kept = Kept()
    first, bad, third = make(kept=kept), make([adaptor, tmp_path], kept=kept), make(kept=kept)
    sample(first)
    assert refusal(bad).reason.code == ReasonCode.BAD_ADAPTOR
    sample(third)
    assert np.array_equal(pixels(first), pixels(third))
