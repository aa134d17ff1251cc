"""How attempts end by themselves: five trainers side by side under one real host."""

import json
from collections.abc import Iterator

import pytest

from tests.worker.conftest import eventually, hosts
from tests.worker.fake_api import Attempt, fake_api

MODES = ("no_manifest", "half_manifest", "crash", "reason", "secrets")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Attempt]]:
    """The attempts by their trainer's mode, all with their end."""
    with fake_api() as api, hosts(tmp_path_factory.mktemp("ends"), api) as start:
        for mode in MODES:
            api.add_job(mode, mode=mode, steps=1)
        start(ANNEAL_SLOTS="5", HF_TOKEN="hf_this_must_not_be_passed_on", HF_HUB_OFFLINE="1")
        eventually(lambda: len(api.attempts) == 5 and all(result.finish for result in api.attempts.values()))
        yield {attempt.claim["job"]["name"]: attempt for attempt in api.attempts.values()}


def test_exit_0_without_a_manifest_has_failed(ends: dict[str, Attempt]) -> None:
    finish = ends["no_manifest"].finish
    assert finish["outcome"] == "failed" and finish["exit_code"] == 0 and finish["reason"]["code"] == "no_manifest"
    assert "training no_manifest" in finish["reason"]["detail"]


def test_a_manifest_that_names_a_missing_file_is_no_success(ends: dict[str, Attempt]) -> None:
    finish = ends["half_manifest"].finish
    assert finish["outcome"] == "failed" and finish["reason"]["code"] == "no_manifest"
    assert "adaptor/weights.safetensors" in finish["reason"]["message"]


def test_a_crash_ends_with_the_end_of_the_log(ends: dict[str, Attempt]) -> None:
    finish = ends["crash"].finish
    assert (finish["outcome"], finish["exit_code"], finish["reason"]["code"]) == ("failed", 3, "internal")
    assert "RuntimeError: it broke" in finish["reason"]["detail"]


def test_the_reason_that_the_trainer_gave_wins(ends: dict[str, Attempt]) -> None:
    finish = ends["reason"].finish
    assert finish["reason"]["code"] == "bad_dataset" and finish["reason"]["message"] == "row 3 has no image"


def test_secrets_never_reach_the_log(ends: dict[str, Attempt]) -> None:
    log = ends["secrets"].log.decode()
    assert "hub token [masked] and ours [masked]" in log and "wandb: [masked]" in log


def test_tokens_never_reach_the_trainer(ends: dict[str, Attempt]) -> None:
    names = json.loads(ends["secrets"].log.decode().splitlines()[-1])
    assert "HF_HUB_OFFLINE" in names and "ANNEAL_ATTEMPT" in names
    assert not {"ANNEAL_WORKER_TOKEN", "HF_TOKEN", "ANNEAL_API_URL"} & set(names)
