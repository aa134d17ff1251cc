"""The job `sample_image` with adaptors: scales, comparisons, trigger words, and which base each belongs to."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests.tiny_parts import ATTENTION
from tests.tolerance import assert_same_image
from tests.trainers.image.sampling.scene import (
    ADAPTOR,
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
from trainers.contract.errors import ReasonCode
from trainers.contract.events import Sample
from trainers.contract.params.sample_image import SampleImageParams
from trainers.contract.spec import InputRef
from trainers.core.context import ModelCache
from trainers.core.lora import attach
from trainers.image.adaptors.file import adaptor_save
from trainers.image.models.families import load_base
from trainers.image.models.stable_diffusion import SD1
from trainers.image.sampling.sample_writer import columns_of
from trainers.job import run
from trainers.methods.sample_image import sample

SKIPPING: dict[str, dict[str, str]] = {"plain": {}, "skipping": {"clip_skip": "1"}}


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


def test_an_adaptor_changes_the_image_by_its_scale(make: Make, adaptor: Path) -> None:
    scales = [None, [0.0], [0.5], [1.0]]
    drawn = []
    for scale in scales:
        work = make([adaptor], adaptor_scales=scale) if scale else make()
        sample(work)
        drawn.append(pixels(work))
    assert np.array_equal(drawn[0], drawn[1])
    half, full = (np.abs(drawn[0] - image).mean() for image in drawn[2:])
    assert half > 0 and full > 0 and not np.array_equal(drawn[2], drawn[3])


def test_without_scales_every_adaptor_is_at_one(make: Make, adaptor: Path) -> None:
    implicit, explicit = make([adaptor]), make([adaptor], adaptor_scales=[1.0])
    sample(implicit)
    sample(explicit)
    assert np.array_equal(pixels(implicit), pixels(explicit))


def test_the_weights_folder_alone_serves_as_well_as_the_whole_product(make: Make, adaptor: Path) -> None:
    full, alone = make([adaptor]), make([adaptor / "adaptor"])
    sample(full)
    sample(alone)
    assert np.array_equal(pixels(full), pixels(alone))


@pytest.mark.numeric
def test_two_adaptors_at_half_scale_are_one_at_full_scale(make: Make, adaptor: Path) -> None:
    two, one = make([adaptor, adaptor], adaptor_scales=[0.5, 0.5]), make([adaptor])
    sample(two)
    sample(one)
    assert_same_image(pixels(two), pixels(one))


@pytest.mark.numeric
def test_a_comparison_draws_base_adaptor_and_trigger_from_the_same_seeds(make: Make, adaptor: Path) -> None:
    work = make([adaptor], {"trigger_word": "sks"}, compare=True, num_images=2)
    assert sample(work) == "succeeded"
    names = [f"{label}-seed-{seed}.png" for label in ("adaptor", "adaptor-trigger", "base") for seed in (42, 43)]
    assert list(images(work)) == sorted([*names, "comparison.png"])
    assert images(work)["adaptor-trigger-seed-42.png"].info["prompt"] == "sks, a dog"
    bare, adapted = make(), make([adaptor])
    sample(bare)
    sample(adapted)
    assert_same_image(pixels(work, "base-seed-42.png"), pixels(bare))
    assert_same_image(pixels(work, "adaptor-seed-42.png"), pixels(adapted))
    assert json.loads(images(work)["base-seed-42.png"].info["adaptors"]) == []


def test_the_comparison_sheet_has_a_row_for_each_seed_and_a_column_for_each_way(make: Make, adaptor: Path) -> None:
    work = make([adaptor], {"trigger_word": "sks"}, compare=True, num_images=2)
    sample(work)
    sheet = images(work)["comparison.png"]
    assert sheet.width > 3 * 256 and sheet.height > 2 * 256
    last = [data for data in emitted(work) if isinstance(data, Sample)][-1]
    assert (last.path, last.label) == ("samples/comparison.png", "comparison")


def test_progress_counts_the_steps_of_all_columns(make: Make, adaptor: Path) -> None:
    work = make([adaptor], compare=True)
    sample(work)
    progress = [(data.done, data.total) for data in emitted(work) if data.kind == "progress"]
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
        (["cat"], "a category", ["a category", "a category", "cat, a category"]),
        (["<c+t>"], "a <c+t>, red", ["a <c+t>, red", "a <c+t>, red"]),
    ],
)
def test_trigger_words_are_put_before_the_prompt_once(triggers: list[str], prompt: str, prompts: list[str]) -> None:
    adaptors = tuple(InputRef.model_validate(ADAPTOR | {"details": {"trigger_word": word}}) for word in triggers)
    columns = columns_of(SampleImageParams(prompt=prompt, compare=True), adaptors)
    assert [column.prompt for column in columns] == prompts


def test_an_adaptor_file_that_names_another_base_is_refused(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    folder = save_adaptor(tiny_sd, tmp_path / "other", base_sha256="ef" * 32)
    error = refusal(make([folder]))
    assert error.reason.code == ReasonCode.BAD_ADAPTOR
    assert "efefefefefef" in str(error) and "abababababab" in str(error) and "dog@1" in str(error)


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


@pytest.mark.numeric
def test_without_a_clip_skip_the_image_has_that_of_the_training(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    plain, skipping = (save_adaptor(tiny_sd, tmp_path / name, **header) for name, header in SKIPPING.items())
    works = [make([plain], clip_skip=1), make([skipping]), make([plain, skipping], adaptor_scales=[0.0, 1.0])]
    works += [make([plain]), make([skipping], clip_skip=0)]
    for work in works:
        sample(work)
    requested, trained, second, *without = (pixels(work) for work in works)
    assert np.array_equal(requested, trained)
    assert_same_image(requested, second)
    assert np.array_equal(*without) and not np.array_equal(requested, without[0])


def test_adaptors_of_different_prediction_types_are_refused(make: Make, tiny_sd: Path, tmp_path: Path) -> None:
    folders = [save_adaptor(tiny_sd, tmp_path / kind, prediction_type=kind) for kind in ("epsilon", "v_prediction")]
    assert "disagree on the prediction type" in str(refusal(make(folders)))


def test_an_adaptor_of_the_text_encoder_counts_and_is_taken_off_again(
    make: Make, tiny_sd: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_sd, torch.float32)
    encoder = base.text_encoders[0]
    with torch.no_grad():
        for parameter in attach(base.network, r=4, alpha=8, dropout=0.0, seed=1, targets=ATTENTION):
            parameter.mul_(0)
        for parameter in attach(encoder, r=4, alpha=8, dropout=0.0, seed=2, targets=SD1.text_targets(encoder)):
            parameter.add_(0.3)
    adaptor_save(base, tmp_path / "words", metadata={})
    models = ModelCache()
    bare, work, after = (
        make(models=models),
        make([tmp_path / "words"], models=models, compare=True),
        make(models=models),
    )
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


def test_an_adaptor_that_was_refused_leaves_nothing_on_the_base_model(
    make: Make, adaptor: Path, tmp_path: Path
) -> None:
    models = ModelCache()
    first, bad, third = make(models=models), make([adaptor, tmp_path], models=models), make(models=models)
    sample(first)
    assert refusal(bad).reason.code == ReasonCode.BAD_ADAPTOR
    sample(third)
    assert np.array_equal(pixels(first), pixels(third))
