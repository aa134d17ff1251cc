"""What a step of `image_lora` is made of: each parameter of the data has its effect, and draws are pure functions."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from pydantic import ValidationError

from tests.trainers.job import SHA256, picture_make
from trainers.control import Control
from trainers.data import cache as cache_module
from trainers.data.examples import Examples
from trainers.data.image_batches import Draws, MicroBatch, step_batch, validation_batches
from trainers.data.image_dataset import draws_of, plan_of, rows_encode
from trainers.data.image_rows import Rows, class_pictures_missing, rows_read, with_class
from trainers.data.plan import Plan
from trainers.distributed import Processes
from trainers.errors import TrainerError
from trainers.events import EventWriter, Warning_, read_events
from trainers.loop import StepBatch
from trainers.models.base import Base, TextSettings
from trainers.models.families import family_module
from trainers.models.load import load_base
from trainers.params.image_lora import ImageLoraParams
from trainers.site import Site
from trainers.spec import JobSpec
from trainers.tracking import Reporter
from trainers.workspace import Workspace

PLAIN = {"adaptor_name": "tiny", "resolution": 64, "center_crop": True}
SIZES = ((96, 64), (64, 96), (64, 64), (96, 64), (80, 64))


@dataclass(frozen=True)
class Data:
    """A dataset as a job draws from it."""

    base: Base
    rows: Rows
    examples: Examples
    draws: Draws
    plan: Plan
    warnings: list[str]
    cache: Path

    def step(self, step: int, rank: int = 0) -> StepBatch[MicroBatch]:
        return step_batch(self.examples, self.rows.trained, self.draws, self.plan, step, rank, self.rows.of_class)

    def micro(self, steps: int = 4) -> list[MicroBatch]:
        return [micro for step in range(steps) for micro in self.step(step).micro_batches]

    def cached(self, kind: str) -> int:
        return len(list((self.cache / kind).glob("*")))


Make = Callable[..., Data]


@pytest.fixture(scope="module")
def base(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


@pytest.fixture
def make(tmp_path: Path, base: Base, shared_cache: Path) -> Iterator[Make]:
    """Data of folders: the dataset, further ones, class pictures from a dataset or made by the base."""
    closing: list[Callable[[], None]] = []

    def data(
        *folders: Path,
        class_dataset: Path | None = None,
        generated: Path | None = None,
        world_size: int = 1,
        cache: Path = shared_cache,
        **given: Any,
    ) -> Data:
        number = len(closing)
        inputs, out = tmp_path / f"in-{number}", tmp_path / f"out-{number}"
        (inputs / "datasets").mkdir(parents=True)
        out.mkdir()
        links = {"dataset": folders[0], **{f"datasets/{i}": path for i, path in enumerate(folders[1:])}}
        links |= {"class_dataset": class_dataset} if class_dataset else {}
        for name, folder in links.items():
            (inputs / name).symlink_to(folder)

        def ref(name: str) -> dict[str, str]:
            return {"name": name, "key": name, "sha256": SHA256}

        roles: dict[str, Any] = {
            "dataset": ref("first"),
            "model": ref("model"),
            "further_datasets": [ref(f"further {index}") for index in range(len(folders) - 1)],
            "class_dataset": ref("class") if class_dataset else None,
        }
        spec = JobSpec.model_validate(
            {"name": "data", "method": "image_lora", "params": PLAIN | given, "inputs": roles}
        )
        params = spec.params
        assert isinstance(params, ImageLoraParams)
        writer = EventWriter(out / "events.jsonl")
        processes, reporter = Processes(0, 1, torch.device("cpu")), Reporter(writer)
        control = Control(inputs / "control", processes, reporter)
        closing.extend([control.close, writer.close])
        site = Site(Workspace(spec, inputs, out, cache, writer), params, processes, control, reporter)
        rows = rows_read(site)
        if generated:
            rows = with_class(rows, params, generated)
        examples = rows_encode(site, base, rows)
        assert examples
        plan = plan_of(site, base, rows)
        object.__setattr__(plan, "world_size", world_size)
        told = [event.data for event in read_events(out / "events.jsonl")]
        warnings = [event.message for event in told if isinstance(event, Warning_)]
        return Data(base, rows, examples, draws_of(base, params), plan, warnings, cache)

    yield data
    for close in reversed(closing):
        close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pictures(tmp_path / "dataset")


def pictures(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, *, seed: int = 0) -> Path:
    folder.mkdir()
    for index, size in enumerate(sizes):
        picture_make(folder / f"{index}.png", size, seed=seed + index)
        (folder / f"{index}.txt").write_text(f"cat {index}, dog {index}, photo {index}")
    return folder


def assert_same(first: Sequence[MicroBatch], second: Sequence[MicroBatch]) -> None:
    """To the last bit."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("latents_BCHW", "noise_BCHW", "times_B", "sizes_B6", "weights_B"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.text.keys() == other.text.keys()
        assert all(torch.equal(one.text[name], other.text[name]) for name in one.text)


def latents_differ(first: Data, second: Data) -> bool:
    pairs = zip(first.micro(), second.micro(), strict=True)
    return any(not torch.equal(one.latents_BCHW, other.latents_BCHW) for one, other in pairs)


class TestCaches:
    def test_without_them_every_bit_is_the_same(self, make: Make, folder: Path, tmp_path: Path) -> None:
        settings = {"center_crop": False, "random_flip": True, "train_batch_size": 2, "caption_shuffle": True}
        kept = make(folder, cache=tmp_path / "kept", **settings)
        fresh = make(folder, cache=tmp_path / "fresh", cache_latents=False, cache_text_embeddings=False, **settings)
        assert_same(kept.micro(), fresh.micro())
        assert (kept.examples.needs_vae, kept.examples.needs_text_encoders) == (False, False)
        assert (fresh.examples.needs_vae, fresh.examples.needs_text_encoders) == (True, True)
        assert min(kept.cached("latents"), kept.cached("embeddings")) > 0
        assert fresh.cached("latents") == fresh.cached("embeddings") == 0
        assert kept.warnings == fresh.warnings == []

    def test_what_memory_does_not_hold_is_read_from_the_disk(
        self, make: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = make(folder, cache=tmp_path / "own")
        monkeypatch.setattr(cache_module, "HELD_BYTES", 0)
        read = make(folder, cache=tmp_path / "own")
        assert_same(held.micro(), read.micro())
        assert held.examples.digest() == read.examples.digest()
        for path in (read.cache / "latents").glob("*"):
            path.unlink()  # somebody clears the cache of the host while the job goes on
        assert_same(held.micro(), read.micro())

    def test_the_settings_of_texts_are_part_of_their_keys(self, make: Make, folder: Path) -> None:
        plain, skipped = make(folder), make(folder, clip_skip=1)
        (one, other) = (next(iter(data.micro(1))).text["prompt"] for data in (plain, skipped))
        assert not torch.equal(one, other)


class TestAugmentation:
    @pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
    def test_each_kind_of_jitter_changes_the_pictures_alone(self, kind: str, make: Make, folder: Path) -> None:
        others = {f"color_jitter_{name}": 0.0 for name in ("brightness", "contrast", "saturation", "hue")}
        changed = make(folder, color_jitter=True, **(others | {f"color_jitter_{kind}": 0.5}))
        plain = make(folder)
        assert latents_differ(changed, plain)
        for one, other in zip(changed.micro(), plain.micro(), strict=True):
            assert torch.equal(one.noise_BCHW, other.noise_BCHW)
            assert torch.equal(one.times_B, other.times_B)

    def test_jitter_switches_off_the_cache_of_latents_only_and_says_so(
        self, make: Make, folder: Path, tmp_path: Path
    ) -> None:
        data = make(folder, cache=tmp_path / "own", color_jitter=True)
        (warning,) = data.warnings
        assert warning.startswith("color_jitter changes pictures at every draw, so latents are not cached")
        assert data.cached("latents") == 0
        assert data.cached("embeddings") > 0
        assert data.examples.needs_vae
        assert_same(data.micro(), data.micro())

    def test_rotation_turns_the_stated_share_by_the_stated_angle(self, make: Make, folder: Path) -> None:
        never = make(folder, random_rotation=True, rotation_prob=0.0)
        always = make(folder, random_rotation=True, rotation_prob=1.0)
        wider = make(folder, random_rotation=True, rotation_prob=1.0, rotation_degrees=45)
        assert not latents_differ(never, make(folder))
        assert latents_differ(always, never)
        assert latents_differ(always, wider)
        assert "random_rotation changes pictures at every draw" in always.warnings[0]
        assert never.warnings == []

    def test_held_out_pictures_are_not_changed(self, make: Make, folder: Path) -> None:
        plain, jittered = make(folder, validation_split=0.4), make(folder, validation_split=0.4, color_jitter=True)
        found = [validation_batches(data.examples, data.rows.held_out, data.draws, 3) for data in (plain, jittered)]
        assert_same(*found)
        assert len(found[0]) == 2
        assert found[0][0].times_B.tolist() == [166, 500, 833]


class TestTexts:
    def test_a_trained_text_encoder_gets_token_ids_and_it_is_said(
        self, make: Make, folder: Path, tmp_path: Path
    ) -> None:
        kept = make(folder, train_batch_size=2)
        ids = make(folder, cache=tmp_path / "own", train_batch_size=2, train_text_encoder=True)
        assert ids.warnings == [
            "train_text_encoder changes embeddings at every step, so they are not cached: captions are embedded anew"
        ]
        assert ids.cached("embeddings") == 0
        assert ids.cached("latents") > 0
        for one, other in zip(kept.micro(), ids.micro(), strict=True):
            assert all(name.startswith("ids/") for name in other.text)
            embedded = family_module("sd1").embed(ids.base, other.text, TextSettings())["prompt"]
            assert torch.allclose(embedded, one.text["prompt"], atol=1e-5)

    def test_a_shuffled_caption_comes_in_other_orders_behind_what_is_kept(self, make: Make, folder: Path) -> None:
        shuffled = make(folder, caption_shuffle=True, keep_tokens=1, trigger_word="sks")
        assert shuffled.examples.rows[0].texts == ["sks, cat 0, dog 0, photo 0", "sks, cat 0, photo 0, dog 0"]
        plain = make(folder, trigger_word="sks")
        steps = range(20)
        differ = [
            not torch.equal(*(data.step(step).micro_batches[0].text["prompt"] for data in (shuffled, plain)))
            for step in steps
        ]
        assert 4 < sum(differ) < 16

    def test_a_dropped_caption_leaves_the_trigger_word(self, make: Make, folder: Path) -> None:
        data = make(folder, caption_dropout_rate=1.0, trigger_word="sks", caption_shuffle=True)
        assert all(torch.equal(micro.text["prompt"][0], data.examples.texts["sks"]["prompt"]) for micro in data.micro())


class TestDatasets:
    def test_an_epoch_sees_each_dataset_as_often_as_it_repeats(self, make: Make, folder: Path, tmp_path: Path) -> None:
        other = pictures(tmp_path / "other", SIZES[:2], seed=50)
        data = make(folder, other, repeats=[1, 3])
        assert data.plan.steps_per_epoch == 5 + 2 * 3
        seen = Counter(row for step in range(11) for row in map(data.rows.trained.__getitem__, data.plan.rows(step)))
        assert [seen[place] for place in range(7)] == [1, 1, 1, 1, 1, 3, 3]
        assert data.rows.pictures[5].where == "further 0: 0.png"
        assert_same(make(folder, repeats=[1]).micro(), make(folder).micro())

    def test_a_count_of_repeats_that_does_not_fit_is_refused(self, make: Make, folder: Path) -> None:
        with pytest.raises(ValidationError, match="repeats has 2 values for 1 datasets"):
            make(folder, repeats=[1, 2])

    def test_what_is_wrong_with_a_further_dataset_begins_with_its_name(
        self, make: Make, folder: Path, tmp_path: Path
    ) -> None:
        other = pictures(tmp_path / "other", SIZES[:2])
        (other / "1.txt").unlink()
        with pytest.raises(TrainerError, match="further 0: 1 of 2 pictures have no caption"):
            make(folder, other)

    def test_parquet_gives_the_very_batches_of_the_folder(self, make: Make, folder: Path, tmp_path: Path) -> None:
        paths = sorted(folder.glob("*.png"))
        rows = [
            {"bild": {"bytes": path.read_bytes(), "path": path.name}, "titel": path.with_suffix(".txt").read_text()}
            for path in paths
        ]
        (tmp_path / "hub" / "data").mkdir(parents=True)
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", row_group_size=2)
        data = make(tmp_path / "hub", image_column="bild", caption_column="titel")
        assert_same(data.micro(5), make(folder).micro(5))


class TestBuckets:
    SETTINGS: ClassVar[dict[str, Any]] = {"aspect_ratio_buckets": True, "center_crop": False}

    def test_a_micro_batch_has_the_shape_of_its_pictures(self, make: Make, folder: Path) -> None:
        data = make(folder, train_batch_size=5, **self.SETTINGS)
        (step,) = (data.step(0),)
        shapes = sorted(tuple(micro.latents_BCHW.shape) for micro in step.micro_batches)
        assert step.count == step.units == 5
        assert shapes == [(1, 4, 7, 9), (1, 4, 8, 8), (1, 4, 10, 6), (2, 4, 6, 10)]

    def test_the_shares_of_any_split_are_what_one_large_batch_sees(self, make: Make, folder: Path) -> None:
        whole = make(folder, train_batch_size=4, **self.SETTINGS)
        parts = make(folder, train_batch_size=1, gradient_accumulation_steps=2, world_size=2, **self.SETTINGS)
        for step in range(4):
            shares = [parts.step(step, rank) for rank in range(2)]
            assert {share.count for share in shares} == {whole.step(step).count}
            assert seen([micro for share in shares for micro in share.micro_batches]) == seen(
                list(whole.step(step).micro_batches)
            )

    def test_sdxl_is_told_sizes_and_crop(self, make: Make, folder: Path) -> None:
        data = make(folder, train_batch_size=5, **self.SETTINGS)
        sizes = torch.cat([micro.sizes_B6 for micro in data.step(0).micro_batches])
        assert sizes.dtype == torch.float32
        assert Counter(tuple(row[:2]) for row in sizes.tolist()) == {(64, 96): 2, (96, 64): 1, (64, 64): 1, (64, 80): 1}
        assert Counter(tuple(row[4:]) for row in sizes.tolist()) == {(48, 80): 2, (80, 48): 1, (64, 64): 1, (56, 72): 1}

    def test_steps_may_be_asked_for_in_any_order(self, make: Make, folder: Path) -> None:
        settings = {"train_batch_size": 2, "random_flip": True, "color_jitter": True, **self.SETTINGS}
        data, resumed = make(folder, **settings), make(folder, **settings)
        whole = [data.step(step).micro_batches for step in range(5)]
        assert_same(resumed.step(3).micro_batches, whole[3])
        assert_same(resumed.step(1).micro_batches, whole[1])


def seen(batches: Sequence[MicroBatch]) -> Counter[tuple[float, ...]]:
    """One fingerprint a sample."""
    return Counter(
        (time.item(), *latent.flatten()[:3].tolist(), *noise.flatten()[:3].tolist())
        for micro in batches
        for time, latent, noise in zip(micro.times_B, micro.latents_BCHW, micro.noise_BCHW, strict=True)
    )


class TestPriorPreservation:
    SETTINGS: ClassVar[dict[str, Any]] = {
        "prior_preservation": True,
        "class_prompt": "photo of cat",
        "num_class_images": 3,
    }

    @pytest.fixture
    def of_class(self, tmp_path: Path) -> Path:
        folder = pictures(tmp_path / "class", ((64, 64),) * 4, seed=90)
        for path in folder.glob("*.txt"):
            path.unlink()
        return folder

    def test_pictures_and_class_pictures_are_counted_apart(self, make: Make, folder: Path, of_class: Path) -> None:
        data = make(folder, class_dataset=of_class, train_batch_size=2, prior_weight=0.5, **self.SETTINGS)
        assert len(data.rows.class_pictures) == 3
        for step in range(3):
            batch = data.step(step)
            instances, of_the_class = batch.micro_batches
            count = 1 if step == 2 else 2  # 5 pictures: the last batch of the epoch is short
            assert (batch.count, batch.units) == (1, 2 * count)
            assert instances.weights_B.tolist() == [1 / count] * count
            assert of_the_class.weights_B.tolist() == [0.5 / count] * count
            prompt = data.examples.texts["photo of cat"]["prompt"]
            assert all(torch.equal(embedding, prompt) for embedding in of_the_class.text["prompt"])

    def test_the_pictures_are_drawn_as_without_it(self, make: Make, folder: Path, of_class: Path) -> None:
        plain, prior = make(folder), make(folder, class_dataset=of_class, **self.SETTINGS)
        for step in range(5):
            one, other = plain.step(step).micro_batches[0], prior.step(step).micro_batches[0]
            assert torch.equal(one.latents_BCHW, other.latents_BCHW)
            assert torch.equal(one.noise_BCHW, other.noise_BCHW)

    def test_generated_pictures_fill_up_what_the_dataset_lacks(
        self, make: Make, folder: Path, of_class: Path, tmp_path: Path
    ) -> None:
        made = pictures(tmp_path / "made", ((64, 64),) * 9, seed=70)
        data = make(folder, class_dataset=of_class, generated=made, **(self.SETTINGS | {"num_class_images": 6}))
        assert [picture.source.parent.name for picture in data.rows.class_pictures] == [  # type: ignore[union-attr]
            *["class_dataset"] * 4,
            *["made"] * 2,
        ]
        missing = make(folder, class_dataset=of_class, **(self.SETTINGS | {"num_class_images": 6}))
        params = ImageLoraParams.model_validate(PLAIN | self.SETTINGS | {"num_class_images": 6})
        assert class_pictures_missing(missing.rows, params) == 2

    def test_class_captions_are_never_dropped(self, make: Make, folder: Path, of_class: Path) -> None:
        data = make(folder, class_dataset=of_class, caption_dropout_rate=1.0, **self.SETTINGS)
        _, of_the_class = data.step(0).micro_batches
        assert torch.equal(of_the_class.text["prompt"][0], data.examples.texts["photo of cat"]["prompt"])

    def test_ranks_share_what_one_process_sees(self, make: Make, folder: Path, of_class: Path) -> None:
        one = make(folder, class_dataset=of_class, train_batch_size=2, **self.SETTINGS)
        two = make(folder, class_dataset=of_class, train_batch_size=1, world_size=2, **self.SETTINGS)
        for step in range(4):
            shares = [micro for rank in range(2) for micro in two.step(step, rank).micro_batches]
            assert seen(shares) == seen(list(one.step(step).micro_batches))


class TestMaskedLoss:
    @pytest.fixture
    def masked(self, tmp_path: Path) -> Path:
        folder = tmp_path / "masked"
        folder.mkdir()
        for name in ("a", "b"):
            image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
            image.paste((0, 0, 255, 255), (0, 0, 64, 16))
            image.save(folder / f"{name}.png")
            image.getchannel("A").save(folder / f"{name}-mask.png")
        rows = [{"file_name": f"{name}.png", "text": name, "maske": f"{name}-mask.png"} for name in ("a", "b")]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder

    @pytest.mark.parametrize(
        "settings", [{"masked_loss": "alpha"}, {"masked_loss": "mask_column", "mask_column": "maske"}]
    )
    def test_the_loss_is_weighted_in_latent_resolution(self, settings: Any, make: Make, masked: Path) -> None:
        data = make(masked, unmasked_weight=0.25, train_batch_size=2, **settings)
        (micro,) = data.step(0).micro_batches
        assert micro.mask_B1HW is not None
        assert micro.mask_B1HW.shape == (2, 1, 8, 8)
        assert torch.equal(micro.mask_B1HW[0, 0, :, 0], torch.tensor([1.0] * 2 + [0.25] * 6))
        fresh = make(masked, unmasked_weight=0.25, train_batch_size=2, cache_latents=False, **settings)
        assert torch.equal(fresh.step(0).micro_batches[0].mask_B1HW, micro.mask_B1HW)  # type: ignore[arg-type]

    def test_pictures_without_alpha_are_said(self, make: Make, folder: Path) -> None:
        data = make(folder, masked_loss="alpha")
        assert data.warnings == [
            "5 pictures have no alpha channel, so all of them counts; the first is 0.png",
        ]
        mask = data.step(0).micro_batches[0].mask_B1HW
        assert mask is not None
        assert mask.min() == 1

    def test_no_mask_is_asked_for_by_default(self, make: Make, folder: Path) -> None:
        assert make(folder).step(0).micro_batches[0].mask_B1HW is None


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("name", "count", "settings"),
    [
        ("images/pd_photos", 12, {"aspect_ratio_buckets": True}),
        ("images/noto_emoji", 64, {"masked_loss": "alpha"}),
        ("images/dreambooth/dog", 5, {"aspect_ratio_buckets": True, "random_flip": True}),
        ("images/dreambooth/backpack_dog", 5, {"color_jitter": True}),
        ("images/dreambooth/grey_sloth_plushie", 5, {"random_rotation": True}),
        ("hostile/images_parquet", 5, {"aspect_ratio_buckets": True}),
    ],
)
def test_an_epoch_of_every_shared_set_is_drawn(
    name: str, count: int, settings: Any, make: Make, shared_data: Path
) -> None:
    data = make(shared_data / name, train_batch_size=4, **settings)
    batches = [data.step(step) for step in range(data.plan.steps_per_epoch)]
    micro = [micro for batch in batches for micro in batch.micro_batches]
    assert sum(batch.count for batch in batches) == sum(len(one.times_B) for one in micro) == count
    assert all(torch.isfinite(one.latents_BCHW).all() for one in micro)
    assert (len({one.latents_BCHW.shape[1:] for one in micro}) > 1) == (name == "images/pd_photos")
    if name == "images/noto_emoji":
        assert all(one.mask_B1HW is not None and one.mask_B1HW.min() < 0.2 < one.mask_B1HW.max() for one in micro)
