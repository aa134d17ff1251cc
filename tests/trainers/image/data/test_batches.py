"""Which images and draws make up a step of `image_lora`: repeats, buckets, class images, times; in any split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pytest
import torch
from pyarrow import parquet
from pydantic import ValidationError

from tests.trainers.image.data.scene import PLAIN, SIZES, Make, assert_same, data_maker, images
from trainers.contract.errors import TrainerError
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.losses import cosmap_weight, shifted_time
from trainers.core.noise import Purpose, integer, split, uniform
from trainers.image.data.batches import DdpmTimes, FlowTimes, MicroBatch, Plan, times_of
from trainers.image.data.dataset import class_images_missing
from trainers.image.models.base import Base
from trainers.image.models.families import load_base


@pytest.fixture(scope="module")
def base(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


@pytest.fixture
def make(tmp_path: Path, base: Base, shared_cache: Path) -> Iterator[Make]:
    with data_maker(tmp_path, base, shared_cache) as maker:
        yield maker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return images(tmp_path / "dataset")


class TestDatasets:
    def test_an_epoch_sees_each_dataset_as_often_as_it_repeats(self, make: Make, folder: Path, tmp_path: Path) -> None:
        other = images(tmp_path / "other", SIZES[:2], seed=50)
        data = make(folder, other, repeats=[1, 3])
        assert data.plan.steps_per_epoch == 5 + 2 * 3
        rows_drawn = Counter(
            row for step in range(11) for row in map(data.rows.trained.__getitem__, data.plan.rows(step))
        )
        assert [rows_drawn[place] for place in range(7)] == [1, 1, 1, 1, 1, 3, 3]
        assert data.rows.images[5].where == "further 0: 0.png"
        assert_same(make(folder, repeats=[1]).micro(), make(folder).micro())

    def test_a_count_of_repeats_that_does_not_fit_is_refused(self, make: Make, folder: Path) -> None:
        with pytest.raises(ValidationError, match="repeats has 2 values for 1 datasets"):
            make(folder, repeats=[1, 2])

    def test_errors_in_a_further_dataset_begin_with_its_name(self, make: Make, folder: Path, tmp_path: Path) -> None:
        other = images(tmp_path / "other", SIZES[:2])
        (other / "1.txt").unlink()
        with pytest.raises(TrainerError, match="further 0: 1 of 2 images have no caption"):
            make(folder, other)

    def test_parquet_gives_the_same_batches_as_a_folder(self, make: Make, folder: Path, tmp_path: Path) -> None:
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

    def test_a_micro_batch_has_the_shape_of_its_images(self, make: Make, folder: Path) -> None:
        data = make(folder, train_batch_size=5, **self.SETTINGS)
        (step,) = (data.step(0),)
        shapes = sorted(tuple(micro.latents_BCHW.shape) for micro in step.micro_batches)
        assert step.count == step.units == 5
        assert shapes == [(1, 4, 7, 9), (1, 4, 8, 8), (1, 4, 10, 6), (2, 4, 6, 10)]

    def test_any_division_of_a_batch_gives_the_samples_of_one_large_batch(self, make: Make, folder: Path) -> None:
        undivided = make(folder, train_batch_size=4, **self.SETTINGS)
        parts = make(folder, train_batch_size=1, gradient_accumulation_steps=2, world_size=2, **self.SETTINGS)
        for step in range(4):
            shares = [parts.step(step, rank) for rank in range(2)]
            assert {share.count for share in shares} == {undivided.step(step).count}
            assert rows_drawn([micro for share in shares for micro in share.micro_batches]) == rows_drawn(
                list(undivided.step(step).micro_batches)
            )

    def test_sdxl_gets_sizes_and_crop(self, make: Make, folder: Path) -> None:
        data = make(folder, train_batch_size=5, **self.SETTINGS)
        sizes = torch.cat([micro.sizes_B6 for micro in data.step(0).micro_batches])
        assert sizes.dtype == torch.float32
        assert Counter(tuple(row[:2]) for row in sizes.tolist()) == {(64, 96): 2, (96, 64): 1, (64, 64): 1, (64, 80): 1}
        assert Counter(tuple(row[4:]) for row in sizes.tolist()) == {(48, 80): 2, (80, 48): 1, (64, 64): 1, (56, 72): 1}

    def test_steps_may_be_drawn_in_any_order(self, make: Make, folder: Path) -> None:
        settings = {"train_batch_size": 2, "random_flip": True, "color_jitter": True, **self.SETTINGS}
        data, resumed = make(folder, **settings), make(folder, **settings)
        undivided = [data.step(step).micro_batches for step in range(5)]
        assert_same(resumed.step(3).micro_batches, undivided[3])
        assert_same(resumed.step(1).micro_batches, undivided[1])


def rows_drawn(batches: Sequence[MicroBatch]) -> Counter[tuple[float, ...]]:
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
        folder = images(tmp_path / "class", ((64, 64),) * 4, seed=90)
        for path in folder.glob("*.txt"):
            path.unlink()
        return folder

    def test_images_and_class_images_are_counted_apart(self, make: Make, folder: Path, of_class: Path) -> None:
        data = make(folder, class_dataset=of_class, train_batch_size=2, prior_weight=0.5, **self.SETTINGS)
        assert len(data.rows.class_images) == 3
        for step in range(3):
            batch = data.step(step)
            instances, of_the_class = batch.micro_batches
            count = 1 if step == 2 else 2  # 5 images: the last batch of the epoch is short
            assert (batch.count, batch.units) == (1, 2 * count)
            assert instances.weights_B.tolist() == [1 / count] * count
            assert of_the_class.weights_B.tolist() == [0.5 / count] * count
            prompt = data.examples.texts["photo of cat"]["prompt"]
            assert all(torch.equal(embedding, prompt) for embedding in of_the_class.text["prompt"])

    def test_the_images_are_drawn_as_without_it(self, make: Make, folder: Path, of_class: Path) -> None:
        plain, prior = make(folder), make(folder, class_dataset=of_class, **self.SETTINGS)
        for step in range(5):
            one, other = plain.step(step).micro_batches[0], prior.step(step).micro_batches[0]
            assert torch.equal(one.latents_BCHW, other.latents_BCHW)
            assert torch.equal(one.noise_BCHW, other.noise_BCHW)

    def test_generated_class_images_complete_those_of_the_dataset(
        self, make: Make, folder: Path, of_class: Path, tmp_path: Path
    ) -> None:
        generated = images(tmp_path / "generated", ((64, 64),) * 9, seed=70)
        data = make(folder, class_dataset=of_class, generated=generated, **(self.SETTINGS | {"num_class_images": 6}))
        assert [image.source.parent.name for image in data.rows.class_images] == [  # type: ignore[union-attr]
            *["class_dataset"] * 4,
            *["generated"] * 2,
        ]
        missing = make(folder, class_dataset=of_class, **(self.SETTINGS | {"num_class_images": 6}))
        params = ImageLoraParams.model_validate(PLAIN | self.SETTINGS | {"num_class_images": 6})
        assert class_images_missing(missing.rows, params) == 2

    def test_class_captions_are_never_dropped(self, make: Make, folder: Path, of_class: Path) -> None:
        data = make(folder, class_dataset=of_class, caption_dropout_rate=1.0, **self.SETTINGS)
        _, of_the_class = data.step(0).micro_batches
        assert torch.equal(of_the_class.text["prompt"][0], data.examples.texts["photo of cat"]["prompt"])

    def test_ranks_share_the_samples_of_one_process(self, make: Make, folder: Path, of_class: Path) -> None:
        one = make(folder, class_dataset=of_class, train_batch_size=2, **self.SETTINGS)
        two = make(folder, class_dataset=of_class, train_batch_size=1, world_size=2, **self.SETTINGS)
        for step in range(4):
            shares = [micro for rank in range(2) for micro in two.step(step, rank).micro_batches]
            assert rows_drawn(shares) == rows_drawn(list(one.step(step).micro_batches))


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


SPLITS = ((1, 1, 6), (2, 3, 1), (3, 1, 2), (6, 1, 1))
"""(batch size, accumulation, ranks) that all make global batches of 6."""
SHAPES = ["square"] * 11 + ["tall"] * 7 + ["wide"] * 2


def micro_batches(plan: Plan, step: int) -> list[list[range]]:
    """[rank]."""
    shapes = [plan.shapes[row] if plan.shapes else "square" for row in plan.rows(step)]
    return [plan.micro_batches(shapes)[rank :: plan.world_size] for rank in range(plan.world_size)]


def test_every_position_has_one_rank_and_micro_batch_whatever_the_split() -> None:
    for batch_size, accumulation, world_size in ((1, 1, 1), (2, 3, 2), (3, 1, 4), (5, 2, 1)):
        plan = Plan(23, batch_size, accumulation, world_size, seed=1)
        for step in range(plan.steps_per_epoch):
            shares = micro_batches(plan, step)
            assert sorted(p for share in shares for micro in share for p in micro) == list(range(len(plan.rows(step))))
            assert all(len(share) <= accumulation for share in shares)
            assert all(0 < len(micro) <= batch_size for share in shares for micro in share)


def test_an_epoch_sees_every_row_once_and_the_next_in_another_order() -> None:
    plan = Plan(10, 3, 1, 1, seed=1)
    epochs = [[row for step in range(4 * e, 4 * e + 4) for row in plan.rows(step)] for e in range(2)]
    assert plan.steps_per_epoch == 4
    assert len(plan.rows(3)) == 1
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_held_out_rows_are_chosen_by_the_seed() -> None:
    trained, held_out = split(10, 0.25, seed=1)
    assert len(held_out) == 2
    assert sorted(trained + held_out) == list(range(10))
    assert split(10, 0.25, seed=2)[1] != held_out
    assert split(10, 0.0, seed=1)[1] == []
    assert len(split(3, 0.01, seed=1)[1]) == 1


class TestShapes:
    @pytest.mark.parametrize("parts", SPLITS)
    def test_a_micro_batch_has_one_shape_and_an_epoch_sees_every_row_once(self, parts: tuple[int, int, int]) -> None:
        plan = Plan(20, *parts, seed=3, shapes=SHAPES)
        rows_drawn = [row for step in range(plan.steps_per_epoch) for row in plan.rows(step)]
        assert sorted(rows_drawn) == list(range(20))
        for step in range(plan.steps_per_epoch):
            rows = plan.rows(step)
            for micro in (micro for share in micro_batches(plan, step) for micro in share):
                assert len({SHAPES[rows[position]] for position in micro}) == 1
                assert len(micro) <= parts[0]

    def test_samples_of_a_step_depend_on_the_global_batch_alone(self) -> None:
        plans = [Plan(20, *parts, seed=3, shapes=SHAPES) for parts in SPLITS]
        rows_drawn = [[plan.rows(step) for step in range(12)] for plan in plans]
        assert all(rows == rows_drawn[0] for rows in rows_drawn)
        assert Plan(20, 3, 1, 1, seed=3, shapes=SHAPES).rows(0) != rows_drawn[0][0]

    def test_only_the_rest_of_each_shape_shares_a_global_batch(self) -> None:
        plan = Plan(20, 2, 2, 1, seed=3, shapes=SHAPES)
        mixed = [len({SHAPES[row] for row in plan.rows(step)}) > 1 for step in range(plan.steps_per_epoch)]
        assert plan.steps_per_epoch == 5
        assert mixed == [False, False, False, True, True]  # 11 = 4 + 4 + 3, 7 = 4 + 3, 2

    def test_one_shape_gives_the_plain_order(self) -> None:
        plain, sorted_ = Plan(7, 2, 1, 1, seed=3), Plan(7, 2, 1, 1, seed=3, shapes=["square"] * 7)
        assert [plain.rows(step) for step in range(8)] == [sorted_.rows(step) for step in range(8)]


def test_each_batch_has_class_images_in_even_rotation() -> None:
    plan = Plan(5, 2, 1, 1, seed=3, num_class_rows=3)
    rows_drawn = [plan.class_rows(step) for step in range(9)]
    assert [len(rows) for rows in rows_drawn] == [2, 2, 1] * 3
    flat = [row for rows in rows_drawn for row in rows]
    assert set(Counter(flat).values()) == {5}
    assert all(sorted(flat[start : start + 3]) == [0, 1, 2] for start in range(0, 15, 3))
    assert [Plan(5, 1, 2, 1, seed=3, num_class_rows=3).class_rows(step) for step in range(9)] == rows_drawn


pytestmark = pytest.mark.numeric

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def base_of(family: str) -> Base:
    return Base(family, None, None, (), (), SD)


def params(**overrides: Any) -> ImageLoraParams:
    return ImageLoraParams(adaptor_name="a", **overrides)


def flow(sampling: Any, shift: float = 1.0) -> FlowTimes:
    return FlowTimes(sampling, lambda _height, _width: shift)


def drawn(times: FlowTimes, count: int = 2000) -> torch.Tensor:
    return torch.tensor([times.draw(7, step, 0, 8, 8)[0] for step in range(count)])


def test_ddpm_draws_whole_timesteps_of_the_bases_own_schedule() -> None:
    times = times_of(base_of("sd1"), params())
    assert isinstance(times, DdpmTimes)
    assert times.draw(7, 3, 1, 8, 8) == (integer(1000, 7, Purpose.TIMESTEP, 3, 1), 1.0)
    assert [times.fixed(share, 8, 8) for share in (0.125, 0.375, 0.625, 0.875)] == [125, 375, 625, 875]


def test_each_sampling_draws_from_its_own_density() -> None:
    uniform_, normal, mode = (drawn(flow(name)) for name in ("uniform", "logit_normal", "mode"))
    quartiles = torch.tensor([0.25, 0.5, 0.75])
    assert torch.allclose(uniform_.quantile(quartiles), quartiles, atol=0.03)
    assert torch.allclose(normal.quantile(quartiles), torch.sigmoid(torch.tensor([-0.6745, 0, 0.6745])), atol=0.03)
    assert mode.std() < uniform_.std() - 0.03  # heavy in the middle
    for times in (uniform_, normal, mode):
        assert times.min() > 0 and times.max() <= 1


def test_cosmap_draws_uniformly_and_weighs() -> None:
    time, weight = flow("cosmap").draw(7, 3, 0, 8, 8)
    assert time == 1 - uniform(7, Purpose.TIMESTEP, 3, 0)
    assert weight == cosmap_weight(time)
    assert flow("cosmap", shift=3.0).draw(7, 3, 0, 8, 8) == (shifted_time(time, 3.0), weight)
    assert all(flow(name).draw(7, 3, 0, 8, 8)[1] == 1.0 for name in ("uniform", "logit_normal", "mode"))


@pytest.mark.parametrize(
    ("family", "overrides", "shift"),
    [
        ("sd3", None, 3.0),
        ("flux", None, 3.1581929),  # exp(1.15) at 128 x 128 latents: 4096 tokens
        ("sd3", 1.0, 1.0),
        ("flux", 2.0, 2.0),
    ],
)
def test_the_shift_is_the_familys_or_the_parameter(family: str, overrides: float | None, shift: float) -> None:
    times = times_of(base_of(family), params(timestep_shift=overrides))
    assert isinstance(times, FlowTimes)
    assert times.fixed(0.5, 128, 128) == pytest.approx(shifted_time(0.5, shift))
    plain, _ = flow("logit_normal").draw(7, 3, 0, 128, 128)
    assert times.draw(7, 3, 0, 128, 128)[0] == pytest.approx(shifted_time(plain, shift))


def test_the_shift_of_flux_grows_with_the_image() -> None:
    times = times_of(base_of("flux"), params())
    assert times.fixed(0.5, 32, 32) < times.fixed(0.5, 64, 64) < times.fixed(0.5, 64, 128)


def test_the_requested_timestep_sampling_is_used() -> None:
    times = times_of(base_of("sd3"), params(timestep_sampling="mode"))
    assert isinstance(times, FlowTimes) and times.sampling == "mode"
