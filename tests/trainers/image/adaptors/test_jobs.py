"""The jobs that make something of an adaptor: import_adaptor, extract_adaptor, merge."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from formats.models.adaptors import clip_skip_of
from tests.tiny_sd import build_tiny_sd
from tests.tiny_sdxl import build_tiny_sdxl
from tests.tolerance import PRODUCT, assert_near, assert_same_image
from tests.trainers.image.adaptors.pairs import in_blocks, random_pair, random_pairs
from trainers.contract.errors import ReasonCode
from trainers.image.adaptors.apply import adaptor_load
from trainers.image.adaptors.file import KOHYA, WEIGHTS, adaptor_read, adaptor_write
from trainers.image.adaptors.pairs import Pairs, layers, update
from trainers.image.models.base import Base
from trainers.image.models.families import load_base
from trainers.job import run
from trainers.methods.adaptors import lower_rank, trigger_of

SHA256 = "1" * 64
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def loaded(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


class Job:
    """A job's folders; the base is linked, the other inputs are written by the test."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root, self.inputs, self.out = root, root / "in", root / "out"
        self.inputs.mkdir(parents=True)
        (self.inputs / "model").symlink_to(base)

    def adaptor(self, index: int = 0) -> Path:
        return self.inputs / "adaptor" / str(index)

    def run(self, method: str, roles: dict[str, Any], **params: Any) -> int:
        inputs = {"model": ref("base"), **roles}
        spec = {"name": "job", "method": method, "params": params, "inputs": inputs}
        (self.root / "spec.json").write_text(json.dumps(spec))
        return run(self.root / "spec.json", self.inputs, self.out, self.root / "cache")

    @property
    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "manifest.json").read_bytes())
        return content

    def failure(self) -> tuple[str, str]:
        events = [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]
        reason = next(e["data"]["reason"] for e in events if e["data"]["kind"] == "failed")
        return reason["code"], reason["message"]


def ref(name: str, **details: Any) -> dict[str, Any]:
    return {"name": f"{name}@1", "key": name, "sha256": SHA256, "details": details}


@pytest.fixture
def job(tmp_path: Path, tiny_sd: Path) -> Job:
    return Job(tmp_path / "job", tiny_sd)


def write(base: Base, folder: Path, pairs: Pairs, **metadata: str) -> Path:
    return adaptor_write(base, folder, pairs, metadata={"base_sha256": SHA256, "trigger_word": "sks"} | metadata)


def image(pipeline: Any) -> NDArray[np.float32]:
    pipeline.set_progress_bar_config(disable=True)
    settings = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    drawn: NDArray[np.float32] = pipeline("a dog", generator=torch.Generator().manual_seed(3), **settings).images[0]
    return drawn


# import_adaptor


def test_a_kohya_file_becomes_an_adaptor_in_both_formats_with_its_alpha(job: Job, loaded: Base, tmp_path: Path) -> None:
    pairs = random_pairs(loaded, in_blocks, text=True, alpha=3.0)
    metadata = {"trigger_word": "sks", "prediction_type": "v_prediction", "clip_skip": "1"}
    adaptor_write(loaded, tmp_path / "made", pairs, metadata=metadata)
    foreign = job.inputs / "dataset" / "below" / "My LoRA.safetensors"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes((tmp_path / "made" / KOHYA).read_bytes())
    assert job.run("import_adaptor", {"dataset": ref("mine", kind="weights")}, adaptor_name="dog") == 0
    exported = adaptor_read(loaded, job.out / "adaptor")
    layer = pairs["text_encoder"]["encoder.layers.0.self_attn.q_proj"]
    same = exported.pairs["text_encoder"]["encoder.layers.0.self_attn.q_proj"]
    assert same.alpha == 3.0 and torch.equal(same.down, layer.down)
    assert {path.name for path in (job.out / "adaptor").iterdir()} == {WEIGHTS, KOHYA, "README.md"}
    assert exported.metadata["trigger_word"] == "sks" and exported.metadata["prediction_type"] == "v_prediction"
    assert exported.metadata["base_sha256"] == SHA256
    facts = job.manifest
    assert facts["imported"]["format"] == "kohya" and facts["ranks"] == [4] and facts["alphas"] == [3.0]
    assert facts["family"] == "sd1" and facts["prediction_type"] == "v_prediction" and facts["clip_skip"] == 1
    card = (job.out / "adaptor" / "README.md").read_text()
    assert 'prediction_type="v_prediction"' in card and "clip_skip=1" in card and "of the text encoder too" in card
    assert load_file(job.out / "adaptor" / KOHYA).keys() == load_file(tmp_path / "made" / KOHYA).keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k: v * float("nan") for k, v in t.items()}, "NaN or infinite"),
        (lambda t: {k.replace("attn1", "attn7"): v for k, v in t.items()}, "matches no layer of the base model"),
        (lambda t: {k.replace("lora_A.weight", "hada_w1_a"): v for k, v in t.items()}, "of the LoHa format"),
        (lambda t: {k: v[:, :20] for k, v in t.items() if v.shape[1] == 32}, "lacks its other half"),
    ],
)
def test_a_file_that_does_not_fit_fails_the_import_with_its_reason(
    job: Job, loaded: Base, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str
) -> None:
    pair = random_pair(layers(loaded.network)[LAYER])
    (job.inputs / "dataset").mkdir()
    tensors = {f"unet.{LAYER}.lora_A.weight": pair.down, f"unet.{LAYER}.lora_B.weight": pair.up}
    save_file({k: v.contiguous() for k, v in change(tensors).items()}, job.inputs / "dataset" / "x.safetensors")
    assert job.run("import_adaptor", {"dataset": ref("mine")}, adaptor_name="dog") == 1
    code, message = job.failure()
    assert code == ReasonCode.BAD_ADAPTOR and words in message
    assert not (job.out / "adaptor").exists()


def test_an_adaptor_of_sdxl_is_refused_by_a_base_of_sd1(job: Job, tmp_path: Path) -> None:
    sdxl = load_base(build_tiny_sdxl(tmp_path / "sdxl"), torch.float32)
    adaptor_write(sdxl, tmp_path / "made", random_pairs(sdxl, in_blocks), metadata={})
    (tmp_path / "made" / WEIGHTS).unlink()
    (job.inputs / "dataset").symlink_to(tmp_path / "made")
    assert job.run("import_adaptor", {"dataset": ref("mine")}, adaptor_name="dog") == 1
    assert "is for Stable Diffusion XL; the base model is Stable Diffusion 1.x" in job.failure()[1]


@pytest.mark.parametrize(
    ("metadata", "trigger"),
    [
        ({"modelspec.trigger_phrase": "zwx"}, "zwx"),
        ({"ss_tag_frequency": json.dumps({"10_dog": {"zwx dog": 10, "grass": 4}})}, "zwx dog"),
        ({"ss_tag_frequency": json.dumps({"10_dog": {"one": 10, "two": 10}})}, ""),
        ({"ss_tag_frequency": "[1, 2"}, ""),
        ({}, ""),
    ],
)
def test_the_trigger_is_taken_from_an_unambiguous_header(metadata: dict[str, str], trigger: str) -> None:
    assert trigger_of(metadata) == trigger


@pytest.mark.parametrize(
    ("metadata", "family", "skip"),
    [
        ({"clip_skip": "2"}, "sdxl", 2),
        ({"clip_skip": "2", "ss_clip_skip": "1"}, "sd1", 2),
        ({"ss_clip_skip": "2"}, "sd1", 1),
        ({"ss_clip_skip": "1"}, "sd1", 0),
        ({"ss_clip_skip": "None"}, "sd1", 0),
        ({"ss_clip_skip": "0"}, "sd1", 0),
        ({"ss_clip_skip": "2"}, "sdxl", 0),
        ({"clip_skip": "2"}, "flux", 0),
        ({"clip_skip": "-2"}, "sd1", 0),
        ({}, "sd1", 0),
    ],
)
def test_clip_skip_is_counted_as_in_diffusers(metadata: dict[str, str], family: str, skip: int) -> None:
    """sd-scripts' 2 is the layer before the last; it has no such setting for SDXL."""
    assert clip_skip_of(metadata, family) == skip


@pytest.mark.parametrize("method", ["import_adaptor", "extract_adaptor"])
def test_no_metadata_leaves_only_how_to_use_in_the_kohya_file(job: Job, loaded: Base, method: str) -> None:
    folder = job.inputs / "dataset" if method == "import_adaptor" else job.adaptor()
    write(loaded, folder, random_pairs(loaded, in_blocks), clip_skip="1")
    if method == "import_adaptor":
        (folder / KOHYA).unlink()
    roles = {"dataset": ref("x", kind="weights")} if method == "import_adaptor" else {"adaptors": [ref("x")]}
    scale = {} if method == "import_adaptor" else {"scale": 0.5}
    assert job.run(method, roles, adaptor_name="dog", no_metadata=True, **scale) == 0
    with safe_open(job.out / "adaptor" / KOHYA, framework="pt") as file:
        assert set(file.metadata()) <= {"format", "base_sha256", "clip_skip", "prediction_type"}


# extract_adaptor


def test_extraction_at_full_rank_and_another_scale_scales_the_update(job: Job, loaded: Base) -> None:
    pairs = random_pairs(loaded, in_blocks)
    write(loaded, job.adaptor() / "adaptor", pairs, prediction_type="epsilon", clip_skip="1")
    assert job.run("extract_adaptor", {"adaptors": [ref("dog")]}, adaptor_name="half", scale=0.5) == 0
    exported = adaptor_read(loaded, job.out / "adaptor")
    assert torch.equal(update(exported.pairs["unet"][LAYER]), 0.5 * update(pairs["unet"][LAYER]))
    assert exported.metadata["trigger_word"] == "sks" and job.manifest["relative_error"] == 0
    assert exported.metadata["clip_skip"] == "1" and job.manifest["clip_skip"] == 1
    assert "from_config" not in (job.out / "adaptor" / "README.md").read_text(), "the base is of epsilon itself"


def test_a_lower_rank_is_the_best_approximation_and_its_error_is_reported(job: Job, loaded: Base) -> None:
    pairs = {"unet": {LAYER: random_pair(layers(loaded.network)[LAYER])}}
    write(loaded, job.adaptor(), pairs)
    assert job.run("extract_adaptor", {"adaptors": [ref("dog")]}, adaptor_name="thin", rank=2) == 0
    exported = adaptor_read(loaded, job.out / "adaptor").pairs["unet"][LAYER]
    full_update = update(pairs["unet"][LAYER])
    left, values, right = torch.linalg.svd(full_update)
    assert exported.rank == 2 and exported.scaling == pairs["unet"][LAYER].scaling
    assert_near(update(exported), left[:, :2] * values[:2] @ right[:2], PRODUCT)
    expected = float(values[2:].norm() / values.norm())
    assert job.manifest["relative_error"] == pytest.approx(expected, rel=1e-4)
    assert job.manifest["worst_layer"] == f"unet.{LAYER}"


def test_convolutions_and_dora_are_cut_too(loaded: Base) -> None:
    name = "down_blocks.0.resnets.0.conv1"
    pair = random_pair(layers(loaded.network)[name], dora=True)
    cut = lower_rank(pair, 1)
    assert cut.down.shape == (1, *pair.down.shape[1:]) and cut.up.shape == (pair.up.shape[0], 1, 1, 1)
    assert cut.magnitude_O is not None and torch.equal(cut.magnitude_O, pair.magnitude_O)  # type: ignore[arg-type]
    _, values, _ = torch.linalg.svd(update(pair).flatten(1))
    missed = (update(pair) - update(cut)).norm()
    assert missed.item() == pytest.approx(values[1:].norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"rank": 5}, "rank=5 is more than the adaptor's rank of 4"),
        ({}, "which would copy the adaptor"),
        ({"scale": 0.0}, "would leave nothing"),
    ],
)
def test_an_invalid_extraction_is_refused(job: Job, loaded: Base, params: dict[str, Any], words: str) -> None:
    write(loaded, job.adaptor(), {"unet": {LAYER: random_pair(layers(loaded.network)[LAYER])}})
    assert job.run("extract_adaptor", {"adaptors": [ref("dog")]}, adaptor_name="x", **params) == 1
    code, message = job.failure()
    assert code == ReasonCode.BAD_PARAMETERS and words in message


# merge


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.numeric
def test_a_merged_base_draws_what_the_adaptors_do_side_by_side(
    job: Job, loaded: Base, tiny_sd: Path, dora: bool
) -> None:
    first = random_pairs(loaded, in_blocks, dora=dora, text=True)
    second = random_pairs(loaded, lambda name, _: name.endswith("to_q"), dora=dora)
    live = load_base(tiny_sd, torch.float32)
    for index, (pairs, scale) in enumerate(((first, 0.5), (second, 1.25))):
        write(loaded, job.adaptor(index) / "adaptor", pairs)
        adaptor_load(live, job.adaptor(index) / "adaptor", name=f"a{index}", scale=scale)
    assert job.run("merge", {"adaptors": [ref("a"), ref("b")]}, name="fused", scales=[0.5, 1.25]) == 0
    stock: Any = StableDiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        job.out / "model", use_safetensors=True
    )
    drawn = image(stock)
    assert_same_image(drawn, image(live.pipeline()))
    assert np.abs(drawn - image(copy.deepcopy(loaded).pipeline())).max() > 0.01
    assert job.manifest["merged"][1]["scale"] == 1.25
    assert "model/model_index.json" in {file["path"] for file in job.manifest["files"]}


def test_a_merge_writes_the_prediction_type_of_the_adaptors(job: Job, loaded: Base) -> None:
    pairs = {"unet": {LAYER: random_pair(layers(loaded.network)[LAYER])}}
    write(loaded, job.adaptor(), pairs, prediction_type="v_prediction")
    assert job.run("merge", {"adaptors": [ref("a")]}, name="fused") == 0
    config = json.loads((job.out / "model" / "scheduler" / "scheduler_config.json").read_bytes())
    assert config["prediction_type"] == "v_prediction" != loaded.scheduler_config["prediction_type"]
    assert load_base(job.out / "model", torch.float32).family == "sd1"


def test_a_merge_keeps_the_dtype_of_the_base(tmp_path: Path, loaded: Base) -> None:
    half = loaded.pipeline()
    half.save_pretrained(tmp_path / "half")
    unet = tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(unet).items()}, unet)
    job = Job(tmp_path / "job", tmp_path / "half")
    write(loaded, job.adaptor(), {"unet": {LAYER: random_pair(layers(loaded.network)[LAYER])}})
    assert job.run("merge", {"adaptors": [ref("a")]}, name="fused") == 0
    merged = load_file(job.out / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in merged.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("metadata", "scales", "words"),
    [
        ([{"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}], [], "disagree on the prediction type"),
        ([{}, {"base_sha256": "2" * 64}], [], "was trained on the base model 222222222222"),
        ([{}, {}], [1.0], "scales has 1 values for 2 adaptors"),
    ],
)
def test_adaptors_that_do_not_go_together_are_not_merged(
    job: Job, loaded: Base, metadata: list[dict[str, str]], scales: list[float], words: str
) -> None:
    for index, entries in enumerate(metadata):
        write(loaded, job.adaptor(index), {"unet": {LAYER: random_pair(layers(loaded.network)[LAYER])}}, **entries)
    assert job.run("merge", {"adaptors": [ref("a"), ref("b")]}, name="fused", scales=scales) == 1
    assert words in job.failure()[1]
    assert not (job.out / "model").exists()


def test_a_merge_beyond_half_precision_is_refused_by_layer(tmp_path: Path, loaded: Base) -> None:
    folder = build_tiny_sd(tmp_path / "half")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: value.half() for key, value in load_file(unet).items()}, unet)
    job = Job(tmp_path / "job", folder)
    pair = random_pair(layers(loaded.network)[LAYER], alpha=4e8)
    write(loaded, job.adaptor(), {"unet": {LAYER: pair}})
    assert job.run("merge", {"adaptors": [ref("a")]}, name="fused") == 1
    assert f"unet.{LAYER} would have values beyond torch.float16" in job.failure()[1]
