import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainers.contract.params import params_class
from trainers.contract.spec import JobSpec, Resources, canonical_json, folder_digest, spec_load

SHA = "ab" * 32
MODEL = {"name": "tiny@1", "key": "models/1", "sha256": SHA}


def body(**changes: Any) -> dict[str, Any]:
    return {
        "name": "try",
        "method": "sample_image",
        "params": {"prompt": "a dog"},
        "inputs": {"model": MODEL},
    } | changes


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(body(**changes))


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**changes)
    return str(caught.value)


def test_a_spec_survives_a_round_trip_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(spec(resources={"accelerators": [2, 0], "strategy": "ddp"}).model_dump_json())
    read = spec_load(path)
    assert read == spec(resources={"accelerators": [2, 0], "strategy": "ddp"})
    assert read.params.model_dump()["prompt"] == "a dog"


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"params": {"prompt": "a dog", "colour": "red"}},
        {"inputs": {"model": MODEL, "colour": "red"}},
        {"inputs": {"model": MODEL | {"colour": "red"}}},
        {"resources": {"colour": "red"}},
    ],
)
def test_an_unknown_key_is_refused_at_every_depth(changes: dict[str, Any]) -> None:
    assert "colour" in refusal(**changes)


def test_an_unknown_method_is_refused_with_a_list_of_known_ones() -> None:
    message = refusal(method="image_magic")
    assert "unknown method 'image_magic'" in message
    assert "image_lora" in message and "sample_image" in message


def test_params_of_another_method_are_refused() -> None:
    assert "adaptor_name" in refusal(params={"adaptor_name": "dog"})


def test_a_needed_input_that_is_missing_is_named() -> None:
    assert "method sample_image needs inputs.model" in refusal(inputs={})


def test_an_input_without_use_is_refused() -> None:
    message = refusal(inputs={"model": MODEL, "class_dataset": MODEL})
    assert "method sample_image has no use for inputs.class_dataset" in message


def test_adaptor_scales_must_be_one_for_each_adaptor() -> None:
    message = refusal(
        params={"prompt": "a dog", "adaptor_scales": [1, 0.5]}, inputs={"model": MODEL, "adaptors": [MODEL]}
    )
    assert "adaptor_scales has 2 values for 1 adaptors" in message


def test_a_digest_that_is_not_sha256_is_refused() -> None:
    assert "sha256" in refusal(inputs={"model": MODEL | {"sha256": "abc"}})


def test_the_digest_is_the_sha256_of_the_sorted_compact_json() -> None:
    text = json.dumps(spec().model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    assert spec().digest() == hashlib.sha256(text.encode()).hexdigest()
    assert JobSpec.model_validate(dict(reversed(list(body().items())))).digest() == spec().digest()


def test_the_digest_does_not_depend_on_the_checkpoint() -> None:
    resumed = spec(inputs={"model": MODEL, "checkpoint": MODEL | {"key": "jobs/7/checkpoints/step-00000100"}})
    assert resumed.digest() == spec().digest()


def test_the_digest_of_a_listed_spec_does_not_depend_on_parameters_that_are_newer() -> None:
    """A trainer compares with what the API recorded when it queued the job, perhaps some releases ago."""
    content = spec().model_dump(mode="json")
    assert JobSpec.model_validate(content).digest(exclude_unset=True) == spec().digest()
    del content["params"]["guidance_rescale"]  # as if it were newer
    recorded = hashlib.sha256(canonical_json(content)).hexdigest()
    assert JobSpec.model_validate(content).digest(exclude_unset=True) == recorded
    resumed = {**content, "inputs": {**content["inputs"], "checkpoint": MODEL}}
    assert JobSpec.model_validate(resumed).digest(exclude_unset=True) == recorded


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"params": {"prompt": "a cat"}},
        {"inputs": {"model": MODEL | {"sha256": "cd" * 32}}},
        {"resources": {"strategy": "ddp", "processes": 2}},
    ],
)
def test_the_digest_depends_on_everything_else(changes: dict[str, Any]) -> None:
    assert spec(**changes).digest() != spec().digest()


def test_single_strategy_with_several_accelerators_names_both_fields_and_the_way_out() -> None:
    with pytest.raises(ValidationError) as caught:
        Resources(accelerators=4)
    message = str(caught.value)
    assert "strategy='single'" in message and "accelerators=4" in message and "choose strategy='ddp'" in message


def test_processes_that_contradict_the_accelerators_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValidationError) as caught:
        Resources(accelerators=(0, 1), strategy="ddp", processes=3)
    message = str(caught.value)
    assert "processes=3" in message and "(2)" in message and "leave it empty" in message


@pytest.mark.parametrize("accelerators", [-1, 65, (0, 0), (), (-1, 2)])
def test_impossible_accelerators_are_refused(accelerators: Any) -> None:
    with pytest.raises(ValidationError, match="accelerators must be"):
        Resources(accelerators=accelerators, strategy="ddp")


@pytest.mark.parametrize(
    ("resources", "processes"),
    [
        (Resources(), 1),
        (Resources(accelerators=1), 1),
        (Resources(accelerators=4, strategy="ddp"), 4),
        (Resources(accelerators=(1, 3), strategy="ddp"), 2),
        (Resources(strategy="ddp", processes=2), 2),
    ],
)
def test_the_number_of_processes_follows_from_the_resources(resources: Resources, processes: int) -> None:
    assert resources.num_processes == processes


def test_canonical_json_has_one_form_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


def test_a_folder_digest_depends_on_paths_sizes_and_digests_alone() -> None:
    files = [{"path": "b", "size": 1, "sha256": SHA}, {"path": "a", "size": 2, "sha256": SHA}]
    other_order = [dict(file, mtime=7) for file in reversed(files)]
    assert folder_digest(files) == folder_digest(other_order)
    assert folder_digest(files) != folder_digest([{**files[0], "size": 3}, files[1]])


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().name = "other"  # type: ignore[misc]


def test_a_spec_as_json_holds_all_defaults_so_that_a_later_default_changes_no_old_job() -> None:
    stored = json.loads(spec().model_dump_json())
    assert stored["params"]["num_inference_steps"] == 30
    assert stored["resources"] == {"accelerators": 0, "strategy": "single", "processes": None}


def test_a_base_model_of_another_family_is_refused_with_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params_class("sample_image"), "model_families", ("sd1", "sdxl"))
    message = refusal(inputs={"model": MODEL | {"details": {"family": "llada"}}})
    assert "takes base models of the families sd1, sdxl, but tiny@1 is of the family llada" in message
    assert spec(inputs={"model": MODEL | {"details": {"family": "sdxl"}}}).inputs.model


def test_a_length_above_the_positions_of_the_base_model_is_refused() -> None:
    rows = {"name": "sums@1", "key": "datasets/1", "sha256": SHA, "details": {"kind": "text"}}
    bert = MODEL | {"details": {"family": "bert", "max_positions": 512}}
    requests = {"method": "masked_text", "inputs": {"model": bert, "dataset": rows}}
    message = refusal(**requests, params={"adaptor_name": "sums", "max_length": 513})
    assert "max_length=513 is more than the 512 positions of tiny@1" in message
    assert spec(**requests, params={"adaptor_name": "sums", "max_length": 512})


def test_every_dataset_of_a_job_must_be_of_the_kind_that_its_method_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    method = params_class("sample_image")
    monkeypatch.setattr(method, "accepts", ("dataset", "further_datasets", "class_dataset"))
    monkeypatch.setattr(method, "dataset_kind", "images")
    rows = {"name": "sums@1", "key": "datasets/1", "sha256": SHA, "details": {"kind": "text"}}
    for arguments in ({"dataset": rows}, {"further_datasets": [rows]}, {"class_dataset": rows}):
        assert "needs a dataset of images, but sums@1 holds text" in refusal(inputs={"model": MODEL, **arguments})


def test_further_datasets_are_refused_where_a_method_reads_none() -> None:
    dataset = {"name": "shapes@1", "key": "datasets/1", "sha256": SHA}
    assert "no use for inputs.further_datasets" in refusal(inputs={"model": MODEL, "further_datasets": [dataset]})
    assert "no use for inputs.class_dataset" in refusal(inputs={"model": MODEL, "class_dataset": dataset})


def test_repeats_are_one_for_each_dataset() -> None:
    shapes = {"name": "shapes@1", "key": "datasets/1", "sha256": SHA}
    requests = {"method": "image_lora", "inputs": {"model": MODEL, "dataset": shapes, "further_datasets": [shapes]}}
    assert "repeats has 1 values for 2 datasets" in refusal(**requests, params={"adaptor_name": "a", "repeats": [2]})
    assert spec(**requests, params={"adaptor_name": "a", "repeats": [2, 1]}).inputs.further_datasets


def test_a_class_dataset_that_would_do_nothing_is_refused() -> None:
    shapes = {"name": "shapes@1", "key": "datasets/1", "sha256": SHA}
    requests = {"method": "image_lora", "inputs": {"model": MODEL, "dataset": shapes, "class_dataset": shapes}}
    assert "nothing with prior_preservation=false" in refusal(**requests, params={"adaptor_name": "a"})
    prior = {"adaptor_name": "a", "prior_preservation": True, "class_prompt": "a dog"}
    assert spec(**requests, params=prior).inputs.class_dataset


def test_an_adaptor_of_another_base_model_is_refused_with_all_three_names() -> None:
    base = {"name": "sd15@2", "key": "models/2", "sha256": "ab" * 32}
    trained_on = {"base_sha256": "cd" * 32, "base_name": "sd15@1"}

    def told(details: dict[str, str]) -> str:
        adaptor = {"name": "dog@1", "key": "adaptors/1", "sha256": "12" * 32, "details": details}
        return refusal(inputs={"model": base, "adaptors": [adaptor]})

    assert "the base model is sd15@2, but the adaptor dog@1 was trained on sd15@1" in told(trained_on)
    assert "was trained on another one (cdcdcdcdcdcd)" in told({"base_sha256": "cd" * 32})


@pytest.mark.parametrize(
    ("method", "params"),
    [("extract_adaptor", {"adaptor_name": "half", "scale": 0.5}), ("image_lora", {"adaptor_name": "more"})],
)
def test_a_method_of_one_adaptor_takes_no_second(method: str, params: dict[str, Any]) -> None:
    ref = {"name": "x@1", "key": "x/1", "sha256": "ab" * 32}
    inputs = {"model": ref, "adaptors": [ref, ref]} | ({"dataset": ref} if method == "image_lora" else {})
    assert f"method {method} takes 1 adaptor, got 2" in refusal(method=method, params=params, inputs=inputs)


@pytest.mark.parametrize(
    ("training_method", "family", "fitting"),
    [
        ("bert", "llada", "llada"),
        ("llada", "modernbert", "bert"),
        ("dream", "llada", "llada"),
        ("bert", "qwen3", "llada or dream"),
    ],
)
def test_a_training_method_that_the_base_model_is_not_for_names_those_that_are(
    training_method: str, family: str, fitting: str
) -> None:
    model = {"name": "m@1", "key": "m/1", "sha256": "ab" * 32, "details": {"family": family}}
    inputs = {"model": model, "dataset": {"name": "d@1", "key": "d/1", "sha256": "ab" * 32}}
    params = {"adaptor_name": "a", "training_method": training_method}
    message = refusal(method="masked_text", params=params, inputs=inputs)
    assert f"the base model is of the family {family}; choose {fitting}" in message


def test_an_unknown_parameter_suggests_the_closest_known_one() -> None:
    with pytest.raises(ValidationError) as caught:
        spec(params={"prompt": "a dog", "num_inference_step": 4, "zzz": 1, "seed": -1})
    reported = {error["loc"]: error["msg"] for error in caught.value.errors()}
    assert reported[("params", "num_inference_step")] == "is not known here; did you mean num_inference_steps?"
    assert set(reported) == {("params", name) for name in ("num_inference_step", "zzz", "seed")}
    assert "did you mean" not in reported[("params", "zzz")]


@pytest.mark.parametrize(
    ("method", "kind", "former", "other"),
    [("image_lora", "images", "pictures", "rows"), ("masked_text", "text", "rows", "pictures")],
)
def test_specs_of_older_jobs_keep_the_former_names_of_dataset_kinds(
    method: str, kind: str, former: str, other: str
) -> None:
    def job(kind: str) -> dict[str, Any]:
        dataset = {"name": "old@1", "key": "datasets/1", "sha256": SHA, "details": {"kind": kind}}
        inputs = {"model": MODEL, "dataset": dataset}
        return {"method": method, "inputs": inputs, "params": {"adaptor_name": "a"}}

    assert spec(**job(former)).inputs.dataset
    assert f"needs a dataset of {kind}" in refusal(**job(other))
