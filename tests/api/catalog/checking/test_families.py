"""Which family a base model is of, and which parts it must bring."""

import json
from typing import Any

import pytest

from api.catalog.checking.model import check
from api.catalog.checking.report import Refused
from formats.models.image_families import FAMILIES, WITHOUT_WEIGHTS, family_of
from tests.api.actors import Files, base_model, safetensors
from tests.api.catalog.checking.conftest import WorkOf
from tests.api.catalog.checking.test_weights import weights

TOKENIZER = {"tokenizer.json": b"{}"}


def pipeline_model(name: str, configs: dict[str, dict[str, Any]] | None = None, **index: Any) -> Files:
    """A folder with every part of the pipeline `name`; `index` changes model_index.json."""
    parts = {part: classes[0] for part, classes in FAMILIES[str(family_of(name))].parts.items()}
    named = {"_class_name": name, **{part: ["library", local] for part, local in parts.items()}, **index}
    files: Files = {"model_index.json": json.dumps(named).encode()}
    for part in parts:
        if named[part] == [None, None]:
            continue
        file = "config.json" if part.startswith(WITHOUT_WEIGHTS) else "model.safetensors"
        files[f"{part}/{file}"] = b"{}" if file == "config.json" else safetensors()
    return files | {f"{part}/config.json": json.dumps(config).encode() for part, config in (configs or {}).items()}


@pytest.mark.parametrize(
    ("name", "configs", "family"),
    [
        ("StableDiffusionPipeline", {"text_encoder": {"hidden_size": 768}}, "sd1"),
        (
            "StableDiffusionPipeline",
            {"text_encoder": {"hidden_size": 1024}, "unet": {"cross_attention_dim": 1024}},
            "sd2",
        ),
        ("StableDiffusionXLPipeline", {}, "sdxl"),
        ("StableDiffusion3Pipeline", {}, "sd3"),
        ("FluxPipeline", {}, "flux"),
    ],
)
def test_the_family_is_found_in_the_folder(work_of: WorkOf, name: str, configs: Any, family: str) -> None:
    details = check(work_of(pipeline_model(name, configs)))
    assert (details["family"], details["pipeline"]) == (family, name)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("StableDiffusionXLPipeline", "text_encoder_2"),
        ("StableDiffusion3Pipeline", "transformer"),
        ("FluxPipeline", "tokenizer_2"),
    ],
)
def test_a_part_that_the_family_needs_is_missed(work_of: WorkOf, name: str, part: str) -> None:
    files = {path: data for path, data in pipeline_model(name).items() if not path.startswith(f"{part}/")}
    with pytest.raises(Refused, match=f"names the part {part}, but there is no file below"):
        check(work_of(files))


def test_a_part_of_another_class_is_refused(work_of: WorkOf) -> None:
    files = pipeline_model("FluxPipeline", text_encoder_2=["transformers", "CLIPTextModel"])
    with pytest.raises(Refused, match="expected text_encoder_2 to be T5EncoderModel"):
        check(work_of(files))


def test_a_scheduler_that_no_trainer_knows_is_refused(work_of: WorkOf) -> None:
    files = pipeline_model("StableDiffusionPipeline", scheduler=["diffusers", "FooScheduler"])
    with pytest.raises(Refused, match=r"expected scheduler to be DDIMScheduler or .*, got \['diffusers', 'Foo"):
        check(work_of(files))


def test_a_scheduler_of_another_objective_is_refused(work_of: WorkOf) -> None:
    files = pipeline_model("FluxPipeline")
    files["scheduler/scheduler_config.json"] = b'{"_class_name": "DDIMScheduler"}'
    message = "scheduler_config.json: expected _class_name to be FlowMatchEulerDiscreteScheduler, got 'DDIMScheduler'"
    with pytest.raises(Refused, match=message):
        check(work_of(files))


def test_stable_diffusion_3_may_come_without_its_t5(work_of: WorkOf) -> None:
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    assert check(work_of(pipeline_model("StableDiffusion3Pipeline", **absent)))["family"] == "sd3"


@pytest.mark.parametrize(
    ("name", "configs", "message"),
    [
        (
            "StableDiffusionXLPipeline",
            {
                "unet": {"cross_attention_dim": 2048},
                "text_encoder": {"hidden_size": 768},
                "text_encoder_2": {"hidden_size": 1024},
            },
            "is 2048, but text_encoder/config.json hidden_size and that of text_encoder_2 says 1792",
        ),
        (
            "StableDiffusion3Pipeline",
            {"transformer": {"joint_attention_dim": 4096}, "text_encoder_3": {"d_model": 2048}},
            "joint_attention_dim is 4096, but text_encoder_3/config.json d_model says 2048",
        ),
        (
            "FluxPipeline",
            {"transformer": {"in_channels": 64}, "vae": {"latent_channels": 4}},
            "in_channels is 64, but vae/config.json latent_channels x 4 says 16",
        ),
        (
            "FluxPipeline",
            {"transformer": {"pooled_projection_dim": 768}, "text_encoder": {"hidden_size": 512}},
            "pooled_projection_dim is 768, but the width of the CLIP encoders' pooled text says 512",
        ),
    ],
)
def test_parts_of_different_models_are_refused(work_of: WorkOf, name: str, configs: Any, message: str) -> None:
    with pytest.raises(Refused) as caught:
        check(work_of(pipeline_model(name, configs)))
    assert message in str(caught.value)


def text_model(model_type: Any = "llama", **config: Any) -> Files:
    reported = {"model_type": model_type, **config}
    return {"config.json": json.dumps(reported).encode(), "model.safetensors": safetensors(), **TOKENIZER}


@pytest.mark.parametrize("name", ["LLaDA", "Dream", "bert", "modernbert", "llama", "qwen2", "qwen3"])
def test_a_language_model_is_known_by_its_model_type(work_of: WorkOf, name: str) -> None:
    length = "max_sequence_length" if name == "LLaDA" else "max_position_embeddings"
    details = check(work_of(text_model("llada" if name == "LLaDA" else name, **{length: 512})))
    assert (details["family"], details["max_positions"]) == (name.lower(), 512)
    assert details["was_causal"] is (name in ("llama", "qwen2", "qwen3"))


def test_a_model_that_our_job_saved_says_what_it_is(work_of: WorkOf) -> None:
    files = text_model("llama", diffusion={"family": "llada", "was_causal": False}, max_position_embeddings=64)
    details = check(work_of(files))
    assert (details["family"], details["was_causal"], details["max_positions"]) == ("llada", False, 64)


@pytest.mark.parametrize("model_type", ["gpt2", None, 5, ["llama"]])
def test_another_kind_of_language_model_is_refused_with_a_list_of_the_known(work_of: WorkOf, model_type: Any) -> None:
    with pytest.raises(Refused, match=r"model_type is .*, expected one of llada, dream, bert, modernbert, llama"):
        check(work_of(text_model(model_type)))


def test_a_language_model_needs_its_tokenizer(work_of: WorkOf) -> None:
    files = {path: data for path, data in text_model().items() if path not in TOKENIZER}
    with pytest.raises(Refused, match="expected the tokenizer") as caught:
        check(work_of({**files, "vocab.json": b"{}"}))
    assert "vocab.json with merges.txt" in str(caught.value)


def test_an_embedding_of_another_width_is_refused(work_of: WorkOf) -> None:
    file = weights(**{"model.embed_tokens.weight": ("F16", (4, 6), bytes(48))})
    with pytest.raises(Refused, match=r"is 6 wide, but config\.json says hidden_size 8"):
        check(work_of({**text_model(hidden_size=8), "model.safetensors": file}))


def sharded(weight_map: dict[str, Any]) -> Files:
    files = {path: data for path, data in text_model().items() if path != "model.safetensors"}
    index = json.dumps({"weight_map": weight_map}).encode()
    return {**files, "model.safetensors.index.json": index, "model-1.safetensors": safetensors()}


def test_a_sharded_model_is_complete_with_its_index(work_of: WorkOf) -> None:
    assert check(work_of(sharded({"weight": "model-1.safetensors"})))["family"] == "llama"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            {"weight": "model-1.safetensors", "more": "model-2.safetensors"},
            "names 2 files, but model-2.safetensors did not",
        ),
        (
            {"weight": "model-1.safetensors", "more": "model-1.safetensors"},
            "tensor 'more' is not in model-1.safetensors",
        ),
        ({"weight": 5}, "weight_map names 5, expected a .safetensors file beside the index"),
        ({}, "expected weight_map"),
    ],
)
def test_an_index_that_does_not_match_is_refused(work_of: WorkOf, places: Any, message: str) -> None:
    with pytest.raises(Refused, match=message):
        check(work_of(sharded(places)))


def test_a_folder_that_is_no_model_is_told_what_was_expected(work_of: WorkOf) -> None:
    files = {path: data for path, data in base_model().items() if path != "model_index.json"}
    with pytest.raises(Refused, match=r"model_index\.json, or a language model with config\.json"):
        check(work_of(files))
