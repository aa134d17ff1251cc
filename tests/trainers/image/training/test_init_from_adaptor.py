"""Training that goes on from an adaptor: what can hold it, what cannot."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.job import SHA256, Job, adaptor_of, give, job_make, refusal
from trainers.image.adaptors.load import adaptor_read
from trainers.image.adaptors.pairs import update
from trainers.image.models.families import load_base


@pytest.fixture(scope="module")
def adaptor(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, shared_cache: Path) -> Path:
    """What a job left that another goes on from."""
    job = job_make(tmp_path_factory.mktemp("before") / "job", tiny_sd, shared_cache)
    assert job.spec(max_train_steps=1, lora_r=4, lora_alpha=8, adam_weight_decay=0).run() == 0
    return job.out


def going_on(job: Job, adaptor: Path, count: int = 1, **params: Any) -> Job:
    for index in range(count):
        (job.inputs / "adaptor").mkdir(exist_ok=True)
        shutil.copytree(adaptor, job.inputs / "adaptor" / str(index))
    settings = {"lora_r": 4, "lora_alpha": 8, "max_train_steps": 1, "learning_rate": 1e-7, "adam_weight_decay": 0}
    ref = {"name": "before@1", "key": "adaptor", "sha256": SHA256}
    return give(job.spec(**{**settings, **params}), adaptors=[ref] * count)


def test_its_pairs_are_the_start(adaptor: Path, job: Job) -> None:
    assert going_on(job, adaptor).run() == 0
    before = load_file(adaptor / "adaptor" / "pytorch_lora_weights.safetensors")
    after = adaptor_of(job)
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[key], value, atol=1e-6) for key, value in before.items())
    assert any(value.abs().max() > 1e-3 for key, value in before.items() if "lora_B" in key)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        pytest.param({"lora_alpha": 16}, "another lora_alpha / lora_r", marks=pytest.mark.slow),
        ({"lora_r": 8, "lora_alpha": 16}, "get a higher rank"),
        pytest.param({"lora_r": 8, "lora_alpha": 8}, "get a higher rank", marks=pytest.mark.slow),
        ({"lora_targets": "attention+ff"}, "layers begin without an update"),
        pytest.param({"train_text_encoder": True}, "layers begin without an update", marks=pytest.mark.slow),
    ],
)
def test_what_can_hold_it_begins_with_its_update(
    params: dict[str, Any], said: str, adaptor: Path, job: Job, tiny_sd: Path
) -> None:
    """An imported file of rank 2, or of alpha 1, can go on, though no job can be told to train such a one."""
    assert going_on(job, adaptor, **params).run() == 0
    assert any(said in warning.message for warning in job.of_kind("warning"))
    base = load_base(tiny_sd, torch.float32)
    before, after = (adaptor_read(base, folder / "adaptor").pairs for folder in (adaptor, job.out))
    for part, by_layer in after.items():
        for layer, pair in by_layer.items():
            was = before.get(part, {}).get(layer)
            expected = update(was) if was else torch.zeros_like(update(pair))
            assert torch.allclose(update(pair), expected, atol=1e-6), layer


@pytest.mark.parametrize(
    ("trained", "params", "said"),
    [
        ({}, {"use_dora": True}, "set use_dora=false"),
        ({}, {"prediction_type": "v_prediction"}, "prediction_type=epsilon"),
        ({"lora_r": 8}, {}, "has rank 8 on unet.down_blocks.0"),
        ({"lora_targets": "attention+ff"}, {}, "widen lora_targets"),
    ],
)
def test_parameters_that_cannot_hold_it_are_named(
    trained: dict[str, Any], params: dict[str, Any], said: str, adaptor: Path, make_job: Callable[..., Job]
) -> None:
    source = adaptor
    if trained:
        before = make_job("trained").spec(**{"max_train_steps": 1, "lora_r": 4, "lora_alpha": 8, **trained})
        assert before.run() == 0
        source = before.out
    assert said in refusal(going_on(make_job("going on"), source, **params))


def test_only_one_can_be_the_start(adaptor: Path, job: Job) -> None:
    assert "got 2" in refusal(going_on(job, adaptor, count=2))


def test_one_of_another_base_is_refused(adaptor: Path, job: Job) -> None:
    going_on(job, adaptor)
    give(job, model={"name": "other", "key": "model", "sha256": "1" * 64})
    assert job.run() == 1
    assert job.failure().reason.code == "bad_adaptor"
