"""Accelerators that parameters name become the job's resources."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.accounts.models import Project
from api.catalog.models import Dataset, DatasetVersion, PretrainedModel, PretrainedModelVersion
from tests.api.conftest import host_make
from tests.api.world import World, file_entry, version_make

pytestmark = pytest.mark.django_db
JOBS = "/api/v1/jobs"


@pytest.fixture
def ask(project: Project, user: APIClient) -> Any:
    """`ask({params}, resources)` posts a masked_text job: its answer."""
    dataset = Dataset.objects.create(project=project, name="sums")
    files = [file_entry("rows.jsonl", b"{}")]
    version_make(DatasetVersion, dataset, "datasets/1", files, details={"kind": "text"})
    model = PretrainedModel.objects.create(project=project, name="bert")
    details = {"max_positions": 512}
    version_make(PretrainedModelVersion, model, "models/1", [*files], family="bert", details=details)

    def post(params: dict[str, Any], resources: Any = None, path: str = JOBS, **more: Any) -> Any:
        body = {
            "method": "masked_text",
            "params": {"adaptor_name": "sums", **params},
            "dataset": "sums",
            "model": "bert",
        }
        return user.post(path, {**body, "resources": resources, **more}, format="json")

    return post


def resources(answer: Any) -> tuple[Any, str]:
    assert answer.status_code == 201, answer.content
    data = answer.json()["resources"]
    return data["accelerators"], data["strategy"]


def test_auto_is_one_of_the_free_accelerators_where_the_pool_has_any(ask: Any) -> None:
    assert resources(ask({})) == (0, "single")
    host_make(accelerators=2)
    assert resources(ask({})) == (1, "single")
    assert resources(ask({}, {"accelerators": 2, "strategy": "ddp"})) == (2, "ddp")


def test_a_list_is_exactly_these(ask: Any) -> None:
    assert resources(ask({"gpu_ids": "2"})) == ([2], "single")
    assert resources(ask({"gpu_ids": "0,2"})) == ([0, 2], "ddp")
    assert resources(ask({"gpu_ids": "0,2"}, {"accelerators": [2, 0]})) == ([0, 2], "ddp")
    assert resources(ask({"gpu_ids": "0,2"}, {"accelerators": 2})) == ([0, 2], "ddp")


def test_the_cpu_has_no_accelerator_and_cuda_needs_one(ask: Any) -> None:
    host_make(accelerators=1)
    assert resources(ask({"train_device": "cpu"})) == (0, "single")
    assert resources(ask({"train_device": "cuda"})) == (1, "single")


@pytest.mark.parametrize(
    ("params", "requested"),
    [
        ({"gpu_ids": "0,1"}, {"accelerators": 1}),
        ({"gpu_ids": "0,1"}, {"accelerators": [0, 2], "strategy": "ddp"}),
        ({"train_device": "cpu"}, {"accelerators": 1}),
        ({"train_device": "cuda"}, {"accelerators": 0}),
    ],
)
def test_resources_that_say_something_else_are_refused(ask: Any, params: Any, requested: Any) -> None:
    for path, more in ((JOBS, {}), ("/api/v1/templates", {"name": "sums"})):
        answer = ask(params, requested, path, **more)
        assert (answer.status_code, [*answer.json()["fields"]]) == (400, ["resources.accelerators"])


def test_a_rerun_on_another_device_gets_that_device(ask: Any, user: APIClient) -> None:
    job = ask({"gpu_ids": "0,1"}).json()
    again = f"{JOBS}/{job['id']}/rerun"
    assert resources(user.post(again, {}, format="json")) == ([0, 1], "ddp")
    changed = {"params": {"gpu_ids": "auto", "train_device": "cpu"}}
    assert resources(user.post(again, changed, format="json")) == (0, "single")


def test_a_length_above_the_positions_of_the_base_is_refused_at_submit(ask: Any) -> None:
    answer = ask({"max_length": 1024})
    assert answer.status_code == 400
    assert "max_length=1024 is more than the 512 positions of bert@1" in answer.json()["message"]
    assert ask({"max_length": 512}).status_code == 201


def test_a_base_model_of_another_family_is_refused_at_submit(ask: Any) -> None:
    PretrainedModelVersion.objects.update(family="sdxl")
    answer = ask({})
    assert answer.status_code == 400 and "but bert@1 is of the family sdxl" in answer.json()["message"]


def test_what_does_nothing_with_the_family_of_the_base_is_refused_at_submit(world: World, user: APIClient) -> None:
    def problem_of(family: str, **params: Any) -> str:
        PretrainedModelVersion.objects.update(family=family)
        data = {**world.request, "params": {**world.request["params"], **params}}
        answer = user.post(JOBS, data, format="json")
        return "" if answer.status_code == 201 else str(answer.json()["message"])

    assert "resolution=520 must be a multiple of 16 for Flux.1; choose 512" in problem_of("flux", resolution=520)
    assert problem_of("sd1", resolution=520) == ""
    assert "snr_gamma=5.0 does nothing with Stable Diffusion 3" in problem_of("sd3", snr_gamma=5)
    assert "timestep_shift" in problem_of("sdxl", timestep_shift=3.0)
