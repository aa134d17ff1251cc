"""Single-file checkpoints: tiny models in the original layout and back, and files that are refused."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from huggingface_hub import constants
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from formats.models.single_file import REPOSITORIES
from tests.tiny_flux import build_tiny_flux
from tests.trainers.core.hub.hub_server import COMMIT, Hub, hub_server
from tests.trainers.image.adaptors.test_jobs import ref
from tests.trainers.image.models.original_layout import flux_original, original, part
from trainers.contract.spec import JobSpec
from trainers.image.models.base import Base
from trainers.image.models.families import load_base
from trainers.job import run

CLIP = "cond_stage_model.transformer."
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "sd35", "flux", "flux_schnell")
TinyBase = Callable[[str], Path]
UNREAD = {"sample_size", "_use_default_values", "_name_or_path", "_diffusers_version", "transformers_version"}
UNREAD |= {"architectures", "dtype", "scale_decoder_outputs", "tie_word_embeddings", "decoder_start_token_id"}
"""Settings by which no network is built: names, what a tiny base's images are, and what T5's decoder would need."""
V_PREDICTION: dict[str, Any] = {"prediction_type": "v_prediction"}


@pytest.fixture(scope="module")
def published(tiny_base: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """Tiny bases with what shapes do not show as the published models have it: heads of 64, norms of 32 groups."""
    folders: dict[str, Path] = {}

    def folder_of(family: str) -> Path:
        if family not in folders:
            folder = tmp_path_factory.mktemp(family) / family
            if family.startswith("flux"):
                build_tiny_flux(folder, schnell=family == "flux_schnell", head_width=32)
            else:
                shutil.copytree(tiny_base(family), folder)
            facts_write(folder, family)
            folders[family] = folder
        return folders[family]

    return folder_of


def facts_write(base: Path, family: str) -> None:
    for path in base.glob("*/config.json"):
        values = json.loads(path.read_text())
        widths = values.get("block_out_channels", [])
        match values.get("_class_name") or values["model_type"]:
            case "UNet2DConditionModel":
                heads = 8 if family == "sd1" else [max(1, width // 64) for width in widths]
                values |= {"norm_num_groups": 32, "attention_head_dim": heads}
            case "AutoencoderKL":
                values |= {"norm_num_groups": min(widths)}
            case "SD3Transformer2DModel" if family == "sd3":
                values |= {"attention_head_dim": 32, "num_attention_heads": 1}
            case "clip_text_model":
                ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
                values |= {"num_attention_heads": max(1, values["hidden_size"] // 64), **ids}
        path.write_text(json.dumps(values))


def imported(
    tmp_path: Path, base: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, **params: Any
) -> tuple[int, Path]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").symlink_to(base)
    file_write(tmp_path, tensors, metadata)
    return imported_file(tmp_path, **params)


def file_write(tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    (tmp_path / "in" / "dataset").mkdir(parents=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, tmp_path / "in" / "dataset" / "adaptor.safetensors", metadata=metadata)


def imported_file(tmp_path: Path, **params: Any) -> tuple[int, Path]:
    roles = {"dataset": ref("file")} | ({} if "repo" in params else {"model": ref("base")})
    spec = {"name": "job", "method": "import_model", "params": {"name": "new", **params}, "inputs": roles}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    return run(tmp_path / "spec.json", tmp_path / "in", tmp_path / "out", tmp_path / "cache"), tmp_path / "out"


def failure(out: Path) -> str:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return str([event["data"]["reason"]["message"] for event in events if event["data"]["kind"] == "failed"][-1])


def networks(base: Base) -> list[Any]:
    return [base.network, base.vae, *base.text_encoders]


def settings(model: Any) -> dict[str, Any]:
    """All that the network is built by, defaults included."""
    values = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    plain = json.loads(json.dumps(values, default=str))
    return {key: value for key, value in plain.items() if key not in UNREAD and value is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_one_file_comes_back_bit_for_bit_with_its_configs(
    published: TinyBase, tmp_path: Path, family: str
) -> None:
    """Beside a base whose own configs are gone, but for the one that tells 1.x from 2.x."""
    base = published(family)
    bare = tmp_path / "bare"
    shutil.copytree(base, bare, ignore=shutil.ignore_patterns("config.json", "scheduler_config.json"))
    shutil.copyfile(base / "text_encoder" / "config.json", bare / "text_encoder" / "config.json")
    tensors = {name: tensor * 2 for name, tensor in original(base, family).items()}
    code, out = imported(tmp_path, bare, tensors, **(V_PREDICTION if family == "sd2" else {}))
    assert code == 0, failure(out)
    sources = json.loads((out / "manifest.json").read_text())["imported"]["parts"]
    parts = [name for name, source in sources.items() if source == "file"]
    assert len(parts) == len(networks(load_base(base, torch.float32)))
    for name in parts:
        weights_compare(part(base, name), part(out / "model", name))
    before, after = load_base(base, torch.float32), load_base(out / "model", torch.float32)
    for old, new in zip(networks(before), networks(after), strict=True):
        assert settings(new) == settings(old), type(old).__name__
    compared = {"prediction_type", "shift", "use_dynamic_shifting", "beta_start", "beta_end", "beta_schedule"}
    same = {key: before.scheduler_config.get(key) for key in compared & set(after.scheduler_config)}
    assert {key: after.scheduler_config[key] for key in same} == same


def weights_compare(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    names = {key.removeprefix("text_model."): key for key in after}
    for key, tensor in before.items():
        assert torch.equal(after[names.pop(key.removeprefix("text_model."))], tensor * 2), key
    assert not names, "there are more tensors than the model came with"


def test_what_the_file_lacks_comes_from_the_base(published: TinyBase, tmp_path: Path) -> None:
    base = published("sd1")
    tensors = {name: tensor + 1 for name, tensor in original(base, "sd1").items() if name.startswith("model.")}
    code, out = imported(tmp_path, base, tensors)
    assert code == 0, failure(out)
    assert all(torch.equal(part(out / "model", "vae")[name], tensor) for name, tensor in part(base, "vae").items())
    assert torch.equal(part(out / "model", "unet")["conv_in.weight"], part(base, "unet")["conv_in.weight"] + 1)


def test_a_bare_flux_network_takes_the_rest_from_the_base(published: TinyBase, tmp_path: Path) -> None:
    base = published("flux")
    code, out = imported(tmp_path, base, flux_original(part(base, "transformer")))
    assert code == 0, failure(out)
    assert load_base(out / "model", torch.float32).family == "flux"


def test_sd3_without_t5_stays_without(published: TinyBase, tmp_path: Path) -> None:
    base = published("sd3_without_t5")
    tensors = {name: tensor for name, tensor in original(published("sd3"), "sd3").items() if "t5xxl" not in name}
    code, out = imported(tmp_path, base, tensors)
    assert code == 0, failure(out)
    assert len(load_base(out / "model", torch.float32).text_encoders) == 2


def test_sd2_that_does_not_say_what_it_predicts_is_asked_for(published: TinyBase, tmp_path: Path) -> None:
    code, out = imported(tmp_path, published("sd2"), original(published("sd2"), "sd2"))
    assert code == 1 and "expected prediction_type=v_prediction (models of 768 pixels) or epsilon" in failure(out)


def test_a_prediction_type_for_a_flow_model_is_refused(published: TinyBase, tmp_path: Path) -> None:
    base = published("flux")
    code, out = imported(tmp_path, base, flux_original(part(base, "transformer")), **V_PREDICTION)
    assert code == 1
    assert failure(out) == "prediction_type='v_prediction' does nothing for Flux.1, a flow model; leave it out"


def test_a_truncated_file_is_refused_with_both_lengths(published: TinyBase, tmp_path: Path) -> None:
    file_write(tmp_path, original(published("sd1"), "sd1"))
    (tmp_path / "in" / "model").symlink_to(published("sd1"))
    file = tmp_path / "in" / "dataset" / "adaptor.safetensors"
    os.truncate(file, file.stat().st_size - 7)
    code, out = imported_file(tmp_path)
    assert code == 1
    assert re.search(r"its tensors need \d+ bytes, the file holds \d+\. The file is cut short", failure(out))


def test_a_file_of_another_family_is_refused(published: TinyBase, tmp_path: Path) -> None:
    code, out = imported(tmp_path, published("sd1"), original(published("sdxl"), "sdxl"))
    assert code == 1
    assert failure(out).startswith("the file is a Stable Diffusion XL checkpoint, but the base is of family sd1")


def test_a_file_that_lacks_weights_is_refused_with_their_part(published: TinyBase, tmp_path: Path) -> None:
    tensors = original(published("sd1"), "sd1")
    del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    code, out = imported(tmp_path, published("sd1"), tensors)
    assert code == 1 and "unet lacks 1 weights" in failure(out)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("sd1", "model.diffusion_model.extra.weight"),
        ("sd3", "model.diffusion_model.extra.weight"),
        ("flux", "model.diffusion_model.extra.weight"),
    ],
)
def test_a_network_with_weights_that_its_family_has_not_is_refused(
    published: TinyBase, tmp_path: Path, family: str, name: str
) -> None:
    code, out = imported(tmp_path, published(family), {**original(published(family), family), name: torch.zeros(2)})
    assert code == 1 and f"the file's {'unet' if family == 'sd1' else 'transformer'} is not that of a" in failure(out)


def test_parts_that_do_not_fit_each_other_are_refused_with_both_widths(published: TinyBase, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in original(published("sd1"), "sd1").items() if not name.startswith(CLIP)}
    crossed = [name for name in tensors if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    tensors |= {name: torch.zeros(tensors[name].shape[0], 64) for name in crossed}
    code, out = imported(tmp_path, published("sd1"), tensors)
    assert code == 1
    assert failure(out) == (
        "text_encoder has hidden_size 32 but the unet has cross_attention_dim 64; they must be equal"
    )


def test_a_file_of_another_kind_is_refused(published: TinyBase, tmp_path: Path) -> None:
    code, out = imported(tmp_path, published("sd1"), {"something": torch.zeros(2)})
    assert code == 1 and "expected a checkpoint of SD 1.x, 2.x, XL, SD3 or Flux.1" in failure(out)


@pytest.fixture
def hub(published: TinyBase, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The repository of the family, with what a real one holds beside the parts of safetensors."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    base = published("sd1")
    files = {path.relative_to(base).as_posix(): path.read_bytes() for path in base.rglob("*") if path.is_file()}
    unused = (
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "sd.safetensors",
        "vae_1_0/x.json",
    )
    with hub_server(files={**files, **dict.fromkeys(unused, b"not to be fetched")}) as hub:
        yield hub


def test_what_the_file_lacks_comes_from_a_hub_and_nothing_else_is_fetched(
    published: TinyBase, tmp_path: Path, hub: Hub
) -> None:
    base = published("sd1")
    file_write(tmp_path, {name: t for name, t in original(base, "sd1").items() if not name.startswith(CLIP)})
    code, out = imported_file(tmp_path, repo="me/tiny", endpoint=hub.url)
    assert code == 0, failure(out)
    assert load_base(out / "model", torch.float32).family == "sd1"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"] == {"endpoint": hub.url, "repo": "me/tiny", "revision": "main", "commit": COMMIT}
    assert manifest["imported"]["parts"] == {
        "unet": "file", "vae": "file", "text_encoder": "hub", "tokenizer": "hub",
    }  # fmt: skip
    assert all(entry["path"].startswith("model/") for entry in manifest["files"])
    fetched = {path.partition(f"{COMMIT}/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert fetched and all(path.startswith(("text_encoder/", "tokenizer/")) for path in fetched)
    assert not any("fp16" in path or path.endswith(".bin") for path in fetched)


@pytest.mark.parametrize(
    ("switch", "params", "code", "message"),
    [
        ({"gated": True}, {}, "repo_gated", "the file lacks text_encoder, tokenizer. me/tiny@main on"),
        (
            {},
            {"repo": "me/none"},
            "repo_not_found",
            "the file lacks text_encoder, tokenizer. There is no model me/none",
        ),
        ({}, {"endpoint": "http://127.0.0.1:1"}, "hub_unreachable", "the file lacks text_encoder, tokenizer. me/tiny"),
        ({"files": {"text_encoder/config.json": b"{}"}}, {}, "bad_base_model", "nor the hub holds tokenizer"),
        ({"files": {"README.md": b""}}, {}, "bad_base_model", "has no file to fetch"),
    ],
)
def test_a_hub_that_does_not_give_the_parts_is_named_with_what_is_missing(
    published: TinyBase,
    tmp_path: Path,
    hub: Hub,
    switch: dict[str, Any],
    params: dict[str, str],
    code: str,
    message: str,
) -> None:
    tensors = original(published("sd1"), "sd1")
    file_write(tmp_path, {name: tensor for name, tensor in tensors.items() if not name.startswith(CLIP)})
    vars(hub).update(switch)
    status, out = imported_file(tmp_path, **{"repo": "me/tiny", "endpoint": hub.url, **params})
    assert status == 1 and message in failure(out), failure(out)
    events = [json.loads(line)["data"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert events[-1]["reason"]["code"] == code


@pytest.mark.parametrize(
    ("params", "roles", "message"),
    [
        ({}, ("dataset",), "comes from inputs.model, a base of its family, or from repo; give one of them"),
        ({"repo": "me/tiny"}, ("dataset", "model"), "inputs.model and repo='me/tiny' both give what the file lacks"),
        ({"revision": "v1"}, ("dataset", "model"), "revision='v1' does nothing without repo"),
        ({"secrets": ["hub"]}, ("dataset", "model"), "does nothing without repo"),
        ({"repo": "../x"}, ("dataset",), "String should match pattern"),
        ({"repo": "me/tiny", "endpoint": "file:///etc"}, ("dataset",), "endpoint"),
    ],
)
def test_one_place_gives_what_the_file_lacks(params: dict[str, Any], roles: tuple[str, ...], message: str) -> None:
    inputs = {role: ref(role) for role in roles}
    with pytest.raises(ValidationError, match=re.escape(message)):
        JobSpec.model_validate(
            {"name": "x", "method": "import_model", "params": {"name": "n", **params}, "inputs": inputs}
        )


def test_the_families_repositories_are_those_that_diffusers_takes() -> None:
    defaults = single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS
    names = {"sd1": "v1", "sd2": "v2", "sdxl": "xl_base", "sd3": "sd3", "flux": "flux-schnell"}
    assert {family: defaults[name]["pretrained_model_name_or_path"] for family, name in names.items()} == REPOSITORIES
