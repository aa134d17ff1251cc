"""What each image and caption becomes in `image_lora`: encoded, cached, changed at each draw, dropped, masked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainers.image.data.scene import Data, Make, assert_same, data_maker, images
from trainers.core import cache as cache_module
from trainers.image.data.batches import validation_batches
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import image_family, load_base


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


def latents_differ(first: Data, second: Data) -> bool:
    pairs = zip(first.micro(), second.micro(), strict=True)
    return any(not torch.equal(one.latents_BCHW, other.latents_BCHW) for one, other in pairs)


class TestCaches:
    def test_caches_do_not_change_any_bit(self, make: Make, folder: Path, tmp_path: Path) -> None:
        settings = {"center_crop": False, "random_flip": True, "train_batch_size": 2, "caption_shuffle": True}
        cached_data = make(folder, cache=tmp_path / "cached_data", **settings)
        fresh = make(folder, cache=tmp_path / "fresh", cache_latents=False, cache_text_embeddings=False, **settings)
        assert_same(cached_data.micro(), fresh.micro())
        assert (cached_data.examples.needs_vae, cached_data.examples.needs_text_encoders) == (False, False)
        assert (fresh.examples.needs_vae, fresh.examples.needs_text_encoders) == (True, True)
        assert min(cached_data.cached("latents"), cached_data.cached("embeddings")) > 0
        assert fresh.cached("latents") == fresh.cached("embeddings") == 0
        assert cached_data.warnings == fresh.warnings == []

    def test_the_cache_reads_from_disk_what_memory_does_not_hold(
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

    def test_text_settings_are_part_of_cache_keys(self, make: Make, folder: Path) -> None:
        plain, skipped = make(folder), make(folder, clip_skip=1)
        (one, other) = (next(iter(data.micro(1))).text["prompt"] for data in (plain, skipped))
        assert not torch.equal(one, other)


class TestAugmentation:
    @pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
    def test_each_kind_of_jitter_changes_the_images_alone(self, kind: str, make: Make, folder: Path) -> None:
        others = {f"color_jitter_{name}": 0.0 for name in ("brightness", "contrast", "saturation", "hue")}
        changed = make(folder, color_jitter=True, **(others | {f"color_jitter_{kind}": 0.5}))
        plain = make(folder)
        assert latents_differ(changed, plain)
        for one, other in zip(changed.micro(), plain.micro(), strict=True):
            assert torch.equal(one.noise_BCHW, other.noise_BCHW)
            assert torch.equal(one.times_B, other.times_B)

    def test_jitter_turns_off_only_the_latent_cache_with_a_warning(
        self, make: Make, folder: Path, tmp_path: Path
    ) -> None:
        data = make(folder, cache=tmp_path / "own", color_jitter=True)
        (warning,) = data.warnings
        assert warning.startswith("color_jitter changes images at every draw, so latents are not cached")
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
        assert "random_rotation changes images at every draw" in always.warnings[0]
        assert never.warnings == []

    def test_held_out_images_are_not_changed(self, make: Make, folder: Path) -> None:
        plain, jitter = make(folder, validation_split=0.4), make(folder, validation_split=0.4, color_jitter=True)
        held_out = [validation_batches(data.examples, data.rows.held_out, data.draws, 3) for data in (plain, jitter)]
        assert_same(*held_out)
        assert len(held_out[0]) == 2
        assert held_out[0][0].times_B.tolist() == [166, 500, 833]


class TestTexts:
    def test_a_trained_text_encoder_gets_token_ids_and_a_warning(
        self, make: Make, folder: Path, tmp_path: Path
    ) -> None:
        cached_data = make(folder, train_batch_size=2)
        ids = make(folder, cache=tmp_path / "own", train_batch_size=2, train_text_encoder=True)
        assert ids.warnings == [
            "train_text_encoder changes embeddings at every step, so they are not cached: captions are embedded anew"
        ]
        assert ids.cached("embeddings") == 0
        assert ids.cached("latents") > 0
        for one, other in zip(cached_data.micro(), ids.micro(), strict=True):
            assert all(name.startswith("ids/") for name in other.text)
            embedded = image_family("sd1").embed(ids.base, other.text, TextSettings())["prompt"]
            assert torch.allclose(embedded, one.text["prompt"], atol=1e-5)

    def test_a_shuffled_caption_changes_order_behind_its_fixed_part(self, make: Make, folder: Path) -> None:
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

    def test_images_without_alpha_give_a_warning(self, make: Make, folder: Path) -> None:
        data = make(folder, masked_loss="alpha")
        assert data.warnings == [
            "5 images have no alpha channel, so all of them counts; the first is 0.png",
        ]
        mask = data.step(0).micro_batches[0].mask_B1HW
        assert mask is not None
        assert mask.min() == 1

    def test_masks_are_off_by_default(self, make: Make, folder: Path) -> None:
        assert make(folder).step(0).micro_batches[0].mask_B1HW is None
