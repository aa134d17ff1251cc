"""The example's drawings, measures, tokenizer and committed base."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTokenizer

from cli.requests import yaml_load
from examples.shapes.draw import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    all_scenes,
    draw_scene,
    split_scenes,
)
from examples.shapes.draw_style import draw_styled, style_scenes
from examples.shapes.measure import Pixels, read_image, shows_style
from examples.shapes.tokenizer import WORDS, new_tokenizer
from examples.shapes.train_vae import to_tensor
from trainers.contract.params.image_lora import ImageLoraParams

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "shapes"
BASE = FOLDER / "base"
MAX_BASE_BYTES = 12_000_000
needs_base = pytest.mark.skipif(not BASE.exists(), reason="examples/shapes/base is not trained yet")


def test_vocabulary_is_closed_and_within_its_limits() -> None:
    assert len({*COLOURS, *BACKGROUNDS}) <= 8
    assert len(SHAPES) <= 6
    assert len(SIZES) <= 2
    assert len(PLACES) <= 4


def test_drawing_is_the_same_for_the_same_seed_and_varies_with_it() -> None:
    scene = all_scenes()[0]
    first, again, other = (draw_scene(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_held_back_scenes_are_200_and_never_trained_on() -> None:
    train, held_back = split_scenes()
    assert len(held_back) == 200
    assert not {*train} & {*held_back}
    assert {*train} | {*held_back} == {*all_scenes()}
    assert split_scenes() == (train, held_back)


def test_caption_names_all_that_the_scene_has() -> None:
    scene = Scene("large", "red", "circle", "top left", "white")
    assert scene.caption == "a large red circle at the top left on a white background"
    assert scene.short_caption == "a large red circle at the top left"


def test_measure_reads_every_scene_as_it_was_drawn() -> None:
    rng = np.random.default_rng(0)
    for scene in all_scenes():
        result = read_image(draw_scene(scene, rng))
        assert (result.size, result.colour, result.shape, result.place, result.background) == (
            scene.size,
            scene.colour,
            scene.shape,
            scene.place,
            scene.background,
        )


def test_measure_finds_nothing_in_an_empty_image() -> None:
    result = read_image(np.full((64, 64, 3), 250, np.uint8))
    assert (result.colour, result.shape, result.background) == ("none", "none", "white")


def test_style_is_seen_in_styled_images_and_in_no_other() -> None:
    rng = np.random.default_rng(1)
    scenes = all_scenes()
    assert all(shows_style(draw_styled(scene, rng)) for scene in scenes)
    assert not any(shows_style(draw_scene(scene, rng)) for scene in scenes)


def test_style_needs_ground_and_outline_both() -> None:
    scene, rng = all_scenes()[0], np.random.default_rng(2)
    styled = draw_styled(scene, rng)
    navy_alone = np.tile(styled[:1, :1], (64, 64, 1))
    assert not shows_style(navy_alone)
    assert not shows_style(np.where(styled == navy_alone, np.uint8(8), styled))


def test_style_dataset_is_what_the_script_draws() -> None:
    lines = [json.loads(line) for line in (FOLDER / "style/metadata.jsonl").read_text("utf-8").splitlines()]
    rng = np.random.default_rng(24)
    assert len(lines) == 24
    for line, scene in zip(lines, style_scenes(), strict=True):
        drawn = draw_styled(scene, rng)
        assert line["text"] == scene.short_caption
        assert np.array_equal(np.asarray(Image.open(FOLDER / "style" / line["file_name"])), drawn)
        assert shows_style(drawn)


def test_template_is_valid_and_its_captions_lack_the_trigger() -> None:
    template = yaml_load(FOLDER / "template.yaml")
    params = ImageLoraParams.model_validate(template["params"])
    assert template["method"] == params.method
    assert params.resolution == 64
    assert params.trigger_word
    assert params.trigger_word not in (FOLDER / "style/metadata.jsonl").read_text("utf-8")
    assert not params.warnings()


@pytest.mark.parametrize("word", WORDS)
def test_each_word_of_the_vocabulary_is_one_token(word: str) -> None:
    assert len(new_tokenizer()(word).input_ids) == 3


def test_words_cover_every_caption_and_other_text_still_tokenizes() -> None:
    tokenizer = new_tokenizer()
    assert all({*scene.caption.split()} <= {*WORDS} for scene in all_scenes())
    ids = tokenizer("blprnt, naïve 漢字").input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids[1:-1]).split()[0].startswith("blprnt")


@needs_base
def test_committed_base_is_at_most_12_megabytes_of_safetensors() -> None:
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BASE_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


@needs_base
def test_committed_base_loads_with_our_own_tokenizer() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, local_files_only=True)
    texts = [*(scene.caption for scene in all_scenes()[::37]), "blprnt, a ring", ""]
    expected = new_tokenizer()(texts, padding="max_length").input_ids
    for tokenizer in (pipeline.tokenizer, CLIPTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)):
        assert tokenizer(texts, padding="max_length").input_ids == expected
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64


@needs_base
def test_committed_autoencoder_keeps_scenes_and_style_readable() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, local_files_only=True)
    rng = np.random.default_rng(3)
    scenes = split_scenes()[1][:12]
    back = round_trip(pipeline, [draw_scene(scene, rng) for scene in scenes])
    agree = [
        (result.colour, result.shape) == (scene.colour, scene.shape)
        for scene, result in zip(scenes, map(read_image, back), strict=True)
    ]
    assert np.mean(agree) >= 0.9
    styled = round_trip(pipeline, [draw_styled(scene, rng) for scene in scenes])
    assert np.mean([shows_style(image) for image in styled]) >= 0.9


def round_trip(pipeline: StableDiffusionPipeline, images: list[Pixels]) -> list[Pixels]:
    """The images after the autoencoder."""
    with torch.no_grad():
        latents = pipeline.vae.encode(to_tensor(np.stack(images))).latent_dist.mean
        decoded = pipeline.image_processor.postprocess(pipeline.vae.decode(latents).sample, output_type="np")
    return list(np.round(decoded * 255).astype(np.uint8))
