import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import TextSettings, scheduler_of
from trainers.image.models.families import encode_image, family_of, load_base
from trainers.image.models.stable_diffusion import SD1


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base to spoil."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        load_base(folder, torch.float32)
    assert caught.value.reason.code == ReasonCode.BAD_BASE_MODEL
    return str(caught.value)


def test_a_base_is_whole_frozen_and_in_eval_mode(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, torch.float32)
    assert base.family == "sd1"
    assert base.scheduler_config["_class_name"] == "DDIMScheduler"
    for part in (base.network, base.vae, base.text_encoders[0]):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_part_has_the_requested_dtype(tiny_sd: Path, dtype: torch.dtype) -> None:
    base = load_base(tiny_sd, dtype)
    for part in (base.network, base.vae, base.text_encoders[0]):
        assert {parameter.dtype for parameter in part.parameters()} == {dtype}


def test_weights_stored_in_fp16_are_read_as_fp32_without_passing_through_fp16_again(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {key: value.half() for key, value in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    base = load_base(folder, torch.float32)
    state = base.network.state_dict()
    assert all(state[key].dtype == torch.float32 and torch.equal(state[key], halves[key].float()) for key in halves)


def test_the_pipeline_shares_the_live_parts(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, torch.float32)
    pipeline = base.pipeline()
    assert pipeline.unet is base.network and pipeline.vae is base.vae and pipeline.text_encoder is base.text_encoders[0]


def test_text_is_encoded_to_77_states(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, torch.float32)
    empty, dog = (text["prompt"] for text in SD1.encode_text(base, ["", "a dog"], TextSettings()))
    assert empty.shape == dog.shape == (77, 32)
    assert torch.equal(dog, SD1.encode_text(base, ["a dog"], TextSettings())[0]["prompt"])
    assert not torch.equal(empty, dog)


def test_images_are_encoded_to_the_moments_of_the_vae(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, torch.bfloat16)
    mean, logvar = encode_image(base, torch.zeros(2, 3, 64, 48))
    assert mean.shape == logvar.shape == (2, 4, 8, 6)
    assert mean.dtype == logvar.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("KandinskyPipeline", "found KandinskyPipeline"),
        (None, "found no _class_name"),
    ],
)
def test_another_family_is_refused_by_its_name(folder: Path, name: str | None, present: str) -> None:
    edit(folder / "model_index.json", _class_name=name)
    message = refusal(folder)
    assert present in message and "expected Stable Diffusion 1.x" in message


def test_stable_diffusion_2_is_told_apart_by_its_text_encoder(folder: Path) -> None:
    assert family_of(folder).name == "sd1"
    edit(folder / "text_encoder" / "config.json", hidden_size=1024)
    assert family_of(folder).name == "sd2"


def test_an_inpainting_unet_is_refused(folder: Path) -> None:
    edit(folder / "unet" / "config.json", in_channels=9)
    assert "the unet takes 9 channels but the vae gives 4" in refusal(folder)


def test_a_unet_for_another_text_encoder_is_refused_with_both_widths(folder: Path) -> None:
    edit(folder / "unet" / "config.json", cross_attention_dim=768)
    message = refusal(folder)
    assert "hidden_size 32" in message and "cross_attention_dim 768" in message


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    assert f"the base model lacks {part};" in refusal(folder)


def test_a_folder_without_an_index_is_refused_with_its_content(tmp_path: Path) -> None:
    assert "found none" in refusal(tmp_path)
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    assert "found the single file v1-5.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_an_index_that_is_no_json_object_is_refused(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content)
    assert refusal(folder).startswith(("model_index.json is not JSON", "model_index.json: expected a JSON object"))


def test_pickle_weights_are_never_loaded(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    message = refusal(folder)
    assert "found diffusion_pytorch_model.bin, which is pickle and never loaded" in message


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_truncated_file_is_refused_with_the_part(folder: Path, part: str) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(folder).startswith(f"{part} cannot be read")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_weight_is_named_and_never_initialised(folder: Path, part: str) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    gone = sorted(tensors)[0]
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    message = refusal(folder)
    assert message.startswith(part) and gone.split(".")[-2] in message


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    (path,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(path)
    tensors["conv_in.bias"] = torch.zeros(7)
    save_file(tensors, path, metadata={"format": "pt"})
    assert "unet" in refusal(folder)


def test_half_precision_variant_files_alone_are_enough(folder: Path) -> None:
    for part in ("unet", "vae", "text_encoder"):
        (path,) = (folder / part).glob("*.safetensors")
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert load_base(folder, torch.float32).network.dtype == torch.float32


def test_an_unknown_scheduler_is_refused_with_the_known(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="MagicScheduler")
    message = refusal(folder)
    assert "_class_name is 'MagicScheduler'" in message and "DDIMScheduler" in message


def test_an_unknown_prediction_type_is_refused(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert "expected prediction_type epsilon or v_prediction, found sample" in refusal(folder)


def test_a_scheduler_that_would_ignore_zero_terminal_betas_is_refused(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", rescale_betas_zero_snr=True)
    assert "which PNDMScheduler would ignore" in refusal(folder)


def test_code_in_the_folder_is_never_executed(folder: Path) -> None:
    marker = folder / "EXECUTED"
    (folder / "unet" / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    edit(folder / "model_index.json", unet=["evil", "Evil"])
    edit(folder / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    assert load_base(folder, torch.float32).family == "sd1"
    assert not marker.exists()


CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}


@pytest.mark.parametrize("sampler", ["default", "ddim", "euler", "dpm++_2m"])
def test_every_sampler_keeps_betas_prediction_type_and_spacing(sampler: str) -> None:
    default, chosen = scheduler_of(CONFIG), scheduler_of(CONFIG, sampler)
    assert torch.equal(default.betas, chosen.betas)
    assert chosen.config.prediction_type == "v_prediction"
    assert chosen.config.timestep_spacing == "leading"  # PNDM's own default; Euler's would be linspace
    assert chosen.config.steps_offset == 1


@pytest.mark.parametrize("sampler", ["default", "ddim", "euler", "dpm++_2m"])
def test_a_zero_terminal_base_is_sampled_from_the_last_timestep(sampler: str) -> None:
    config = CONFIG | {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "timestep_spacing": "leading"}
    scheduler = scheduler_of(config, sampler)
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == 999
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6


def test_ddim_never_clips_latents() -> None:
    assert scheduler_of(CONFIG, "ddim").config.clip_sample is False
