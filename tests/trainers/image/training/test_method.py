"""What a whole job of `image_lora` does with the parameters that are not about its data: effect by effect."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.tiny_parts import ATTENTION
from tests.trainers.job import Job, adaptor_of, job_make
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.checkpoint import checkpoint_load
from trainers.core.lora import TRAINED, attach, lora_layers
from trainers.core.optim import ema_decay_at
from trainers.image.models import families
from trainers.image.models.families import load_base
from trainers.image.training.compiling import blocks_compile
from trainers.image.training.drawing import class_image_draw
from trainers.image.training.lora_setup import pairs_attach

QUIET: dict[str, Any] = {"max_train_steps": 2}
EVALUATION: dict[str, Any] = {"eval_prompt": "a cat", "eval_num_inference_steps": 1, "eval_every_steps": 2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, shared_cache: Path) -> Job:
    """Two steps with nothing special."""
    job = job_make(tmp_path_factory.mktemp("plain") / "job", tiny_sd, shared_cache)
    assert job.spec(**QUIET, keep_checkpoints=5, checkpoint_every_steps=1).run() == 0
    return job


def weights_at(job: Job, step: int) -> dict[str, Tensor]:
    return checkpoint_load(job.out / "checkpoints" / f"step-{step:08d}").tensors["weights"]


class TestText:
    def test_text_encoder_pairs_have_their_own_learning_rate(self, plain: Job, make_job: Callable[..., Job]) -> None:
        job = make_job("usual").spec(**QUIET, train_text_encoder=True)
        assert job.run() == 0
        metrics = job.of_kind("step")[0].metrics
        assert metrics["learning_rate/network"] == metrics["learning_rate"] == 1e-2
        assert metrics["learning_rate/text_encoder"] == pytest.approx(1e-3)
        assert {key.split(".")[0] for key in adaptor_of(job)} == {"unet", "text_encoder"}
        assert list(job.losses().values()) != list(plain.losses().values())

    def test_text_encoder_learning_rate_does_not_affect_the_network(self, make_job: Callable[..., Job]) -> None:
        moved = []
        for rate in (1e-4, 1e-2):
            job = make_job(str(rate)).spec(max_train_steps=1, train_text_encoder=True, text_encoder_learning_rate=rate)
            assert job.run() == 0
            ups = {key: value for key, value in adaptor_of(job).items() if "lora_B" in key}
            moved.append(
                {part: sum(v.abs().sum().item() for k, v in ups.items() if k.startswith(part)) for part in PARTS}
            )
        assert moved[1]["text_encoder."] == pytest.approx(100 * moved[0]["text_encoder."], rel=1e-3)
        assert moved[1]["unet."] == pytest.approx(moved[0]["unet."])


PARTS = ("unet.", "text_encoder.")


class TestEma:
    def test_the_average_is_exported_and_the_raw_weights_stay(
        self, make_job: Callable[..., Job], tiny_sd: Path
    ) -> None:
        held_out: dict[str, Any] = {"validation_split": 0.25, "eval_every_steps": 2}
        common = {**QUIET, "keep_checkpoints": 5, "checkpoint_every_steps": 1, **EVALUATION, **held_out}
        raw, averaged = make_job("raw").spec(**common), make_job("averaged").spec(**common, use_ema=True)
        assert raw.run() == averaged.run() == 0
        assert averaged.losses() == raw.losses()
        assert all(torch.equal(value, weights_at(raw, 2)[key]) for key, value in weights_at(averaged, 2).items())
        average = start_of(tiny_sd)
        for step in (1, 2):
            decay = ema_decay_at(0.9999, step)
            average = {k: decay * v + (1 - decay) * weights_at(averaged, step)[k] for k, v in average.items()}
        exported = adaptor_of(averaged)
        assert all(torch.allclose(exported[key], value, atol=1e-7) for key, value in average.items())
        assert not torch.equal(
            exported[(key := next(k for k in exported if "lora_B" in k))], weights_at(averaged, 2)[key]
        )
        for kind in ("step-00000000-0.png", "step-00000002-0.png"):
            same = (raw.out / "samples" / kind).read_bytes() == (averaged.out / "samples" / kind).read_bytes()
            assert same == (kind == "step-00000000-0.png")
        losses = [[event.metrics["loss"] for event in job.of_kind("validation")] for job in (raw, averaged)]
        assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


def start_of(base: Path) -> dict[str, Tensor]:
    return pairs_attach(load_base(base, torch.float32), ImageLoraParams(adaptor_name="tiny")).state()


@contextmanager
def counted(name: str) -> Iterator[list[int]]:
    """Forward calls of modules of a class, while they train."""
    calls = [0]

    def count(module: nn.Module, _inputs: Any) -> None:
        calls[0] += type(module).__name__ == name and module.training

    handle = register_module_forward_pre_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


class TestMemory:
    def test_checkpointing_computes_blocks_twice_to_the_same_losses(
        self, plain: Job, make_job: Callable[..., Job]
    ) -> None:
        calls_by_mode = {}
        for on in (False, True):
            job = make_job(str(on)).spec(**QUIET, gradient_checkpointing=on)
            with counted("ResnetBlock2D") as calls:
                assert job.run() == 0
            assert job.losses() == plain.losses()
            calls_by_mode[on] = calls[0]
        assert calls_by_mode[True] > 1.5 * calls_by_mode[False] > 0

    @pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.02), ("nf4", 0.2)])
    def test_a_quantised_base_trains_near_the_plain_one(
        self, kind: str, tolerance: float, plain: Job, make_job: Callable[..., Job]
    ) -> None:
        job = make_job().spec(**QUIET, base_quantization=kind, **EVALUATION)
        assert job.run() == 0
        assert job.losses() != plain.losses()
        assert list(job.losses().values()) == pytest.approx(list(plain.losses().values()), rel=tolerance)
        assert {value.dtype for value in adaptor_of(job).values()} == {torch.float32}

    def test_missing_xformers_is_reported_with_its_extra(self, job: Job) -> None:
        if importable("xformers"):
            pytest.skip("xformers is installed here")
        assert job.spec(**QUIET, attention="xformers").run() == 1
        assert job.failure().reason.code == "missing_library"
        assert "xformers" in job.failure().reason.message

    def test_compile_is_refused_on_the_cpu_where_gradients_would_be_wrong(self, job: Job) -> None:
        assert job.spec(**QUIET, compile=True).run() == 1
        assert job.failure().reason.code == "bad_parameters"
        assert "compile=true needs an accelerator" in job.failure().reason.message

    @pytest.mark.accelerator
    def test_a_compiled_network_has_the_gradients_of_the_plain_one(self, tiny_sd: Path) -> None:
        if not torch.cuda.is_available():
            pytest.skip("compares gradients on a GPU, and there is none")
        plain, compiled = (gradients(tiny_sd, compile_=flag) for flag in (False, True))
        for name, gradient in plain.items():
            assert torch.allclose(compiled[name], gradient, rtol=1e-3, atol=1e-6), name


def gradients(folder: Path, *, compile_: bool) -> dict[str, Tensor]:
    """Of every LoRA pair for one fixed input, on the GPU."""
    network = load_base(folder, torch.float32, "cuda").network
    parameters = attach(network, r=8, alpha=8, dropout=0.0, seed=0, targets=ATTENTION)
    if compile_:
        blocks_compile(network, dynamic=False)
    draw = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=draw).cuda(), torch.randn(1, 77, 32, generator=draw).cuda()
    network(x, torch.tensor([500]).cuda(), encoder_hidden_states=text, return_dict=False)[0].square().mean().backward()
    return {str(index): value.grad for index, value in enumerate(parameters) if value.grad is not None}


def importable(library: str) -> bool:
    try:
        __import__(library)
    except ImportError:
        return False
    return True


class TestPrior:
    def test_the_base_makes_class_images_once_per_host(self, plain: Job, tmp_path: Path, tiny_sd: Path) -> None:
        settings = {**QUIET, "prior_preservation": True, "class_prompt": "photo of dog", "num_class_images": 1}
        first, second = (job_make(tmp_path / name, tiny_sd, tmp_path / "cache") for name in ("first", "second"))
        assert first.spec(**settings).run() == 0
        inodes = {path: path.stat().st_ino for path in (tmp_path / "cache" / "class_images").rglob("*.png")}
        assert len(inodes) == 1
        assert first.losses() != plain.losses()
        assert first.of_kind("started")[0].details["class_images"] == 1
        assert second.spec(**settings, prior_weight=0.5, lora_r=4).run() == 0
        assert {path: path.stat().st_ino for path in inodes} == inodes
        assert len(list((tmp_path / "cache" / "class_images").rglob("*.png"))) == 1

    @pytest.mark.parametrize(("family", "guidance"), [("flux", 3.5), ("sdxl", 7.5)])
    def test_class_images_use_the_guidance_of_the_family(
        self, family: str, guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requests: list[dict[str, Any]] = []

        def drawn(_: Any, **settings: Any) -> list[Image.Image]:
            requests.append(settings)
            return [Image.new("RGB", (8, 8))]

        monkeypatch.setattr("trainers.image.training.drawing.sample_images", drawn)
        params = ImageLoraParams(adaptor_name="a", prior_preservation=True, class_prompt="a dog")
        class_image_draw(tmp_path / "a.png", SimpleNamespace(family=family), params, 3)  # type: ignore[arg-type]
        assert (requests[0]["guidance_scale"], requests[0]["seeds"]) == (guidance, [3])

    def test_class_images_use_the_prediction_type_of_the_base(self, tmp_path: Path, tiny_sd: Path) -> None:
        settings = {**QUIET, "prior_preservation": True, "class_prompt": "photo of dog", "num_class_images": 1}
        for name, more in (("first", {}), ("second", {"prediction_type": "v_prediction"})):
            assert job_make(tmp_path / name, tiny_sd, tmp_path / "cache").spec(**settings, **more).run() == 0
        assert len(list((tmp_path / "cache" / "class_images").rglob("*.png"))) == 1


class TestOutputs:
    @pytest.mark.parametrize("by_epochs", [False, True])
    def test_the_kohya_file_has_the_resolved_parameters(self, make_job: Callable[..., Job], by_epochs: bool) -> None:
        """As sd-scripts does: with defaults filled in, and nothing that did not count."""
        length = {"num_train_epochs": 2, "max_train_steps": None} if by_epochs else {"max_train_steps": 3}
        settings = {"learning_rate": None, "lr_scheduler": "cosine", "train_text_encoder": True, **length}
        job = make_job().spec(**settings)
        assert job.run() == 0
        with safe_open(job.out / "adaptor" / "kohya.safetensors", framework="pt") as file:
            header = file.metadata()
        assert (
            header["ss_learning_rate"] == header["ss_unet_lr"] == "0.0001" and header["ss_text_encoder_lr"] == "1e-05"
        )
        assert header["ss_lr_warmup_steps"] == "50" and header["ss_resolution"] == "(64, 64)"
        assert header["ss_max_train_steps"] == header["ss_steps"] == str(job.manifest["steps"])
        assert header.get("ss_num_epochs") == ("2" if by_epochs else None)
        assert "ss_huber_c" not in header and "ss_huber_schedule" not in header

    def test_no_metadata_removes_the_training_from_the_kohya_file(self, make_job: Callable[..., Job]) -> None:
        calls_by_mode = []
        for silent in (False, True):
            job = make_job(str(silent)).spec(max_train_steps=1, no_metadata=silent, clip_skip=1)
            assert job.run() == 0
            with safe_open(job.out / "adaptor" / "kohya.safetensors", framework="pt") as file:
                calls_by_mode.append({key for key in file.metadata() if key.startswith("ss_")})
                assert file.metadata()["clip_skip"] == "1", "without it the images would be others"
        assert calls_by_mode[0] and not calls_by_mode[1]

    def test_seconds_of_training_and_evaluating_are_reported(self, job: Job) -> None:
        assert job.spec(**QUIET, **EVALUATION).run() == 0
        seconds = job.manifest["seconds"]
        assert seconds["training"] > 0 and seconds["evaluating"] > 0 and seconds["saving"] > 0

    def test_much_evaluation_is_warned_of_with_its_share(self, job: Job) -> None:
        assert job.spec(**QUIET, **EVALUATION).run() == 0
        (warning,) = job.of_kind("warning")
        assert warning.message == "sample images every 2 steps take 50% of the network's forwards"

    def test_an_adaptor_that_cannot_be_saved_fails_the_job(self, job: Job) -> None:
        job.out.mkdir()
        (job.out / "adaptor").write_text("in the way")
        assert job.spec(**QUIET).run() == 1
        assert not (job.out / "manifest.json").exists()
        assert job.failure()

    def test_an_evaluation_loads_nothing_again(
        self, job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        real, loaded = families.part_load, []

        def counting(cls: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
            loaded.append(part)
            return real(cls, folder, part, dtype)

        for module in ("trainers.image.models.stable_diffusion", "trainers.image.models.families"):
            monkeypatch.setattr(f"{module}.part_load", counting)
        assert job.spec(**QUIET, **EVALUATION).run() == 0
        assert sorted(loaded) == ["text_encoder", "unet", "vae"]
        assert len(job.of_kind("sample")) == 2
        lines = capfd.readouterr().out.splitlines()
        assert [line for line in lines if not re.match(r"\d+ steps$|step \d", line)] == []


@pytest.mark.parametrize("kind", ["sd2", "sdxl", "sd3", "flux"])
def test_every_family_trains_samples_and_exports(
    kind: str, tiny_base: Callable[[str], Path], tmp_path: Path, shared_cache: Path
) -> None:
    job = job_make(tmp_path / "job", tiny_base(kind), shared_cache).spec(**QUIET, **EVALUATION, train_text_encoder=True)
    assert job.run() == 0
    assert job.manifest["outcome"] == "succeeded"
    assert job.of_kind("started")[0].details["family"] == kind
    assert all(loss > 0 for loss in job.losses().values()) and len(job.losses()) == 2
    first, last = (job.out / "samples" / f"step-0000000{step}-0.png" for step in (0, 2))
    assert first.read_bytes() != last.read_bytes()
    assert sum(value.abs().sum().item() for key, value in adaptor_of(job).items() if "lora_B" in key) > 0
    assert any(key.startswith("text_encoder.") for key in adaptor_of(job))


def test_convolutions_and_dora_change_what_is_learnt(plain: Job, make_job: Callable[..., Job], tiny_sd: Path) -> None:
    curves = {tuple(plain.losses().values())}
    for name, params in {
        "targets": {"lora_targets": "attention+ff"},
        "convolutions": {"conv_rank": 4},
        "dora": {"use_dora": True},
    }.items():
        job = make_job(name).spec(**QUIET, **params)
        assert job.run() == 0
        curves.add(tuple(job.losses().values()))
    assert len(curves) == 4
    assert lora_layers(load_base(tiny_sd, torch.float32).network, TRAINED) == []
