"""Draws captioned images of one coloured shape from a closed vocabulary.

Every image is 64 x 64 RGB. Shapes are signed distance fields in pixels (negative inside), so that edges are
anti-aliased by distance and an outline is the same field at another threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

# H height, W width, 3 channels; images_HW3 are float32 in 0..255 until they are rounded
Array = NDArray[np.float32]
Field = Callable[[Array, Array, float], Array]

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 170, 70),
    "blue": (50, 100, 235),
    "purple": (150, 50, 180),
}
BACKGROUNDS = {"white": (248, 248, 248), "black": (8, 8, 8)}
SIZES = {"small": 8.0, "large": 13.0}
PLACES = {"top left": (18, 18), "top right": (46, 18), "bottom left": (18, 46), "bottom right": (46, 46)}


def cross_field(x: Array, y: Array, r: float) -> Array:
    """Two bars, each 0.7 r wide."""
    arm = 0.35 * r
    across = np.maximum(np.abs(x) - r, np.abs(y) - arm)
    return np.minimum(across, np.maximum(np.abs(x) - arm, np.abs(y) - r))


def triangle_field(x: Array, y: Array, r: float) -> Array:
    """Apex up; fills the box of half side r."""
    slanted = (2 * np.abs(x) - (y + r)) / 5**0.5
    return np.maximum(slanted, y - r)


SHAPES: dict[str, Field] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - r,
    "triangle": triangle_field,
    "diamond": lambda x, y, r: (np.abs(x) + np.abs(y) - r) / 2**0.5,
    "cross": cross_field,
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r,
}


@dataclass(frozen=True)
class Scene:
    """One combination of the closed vocabulary."""

    size: str
    colour: str
    shape: str
    place: str
    background: str

    @property
    def short_caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} at the {self.place}"

    @property
    def caption(self) -> str:
        return f"{self.short_caption} on a {self.background} background"


def all_scenes() -> list[Scene]:
    return [Scene(*words) for words in product(SIZES, COLOURS, SHAPES, PLACES, BACKGROUNDS)]


def split_scenes(num_held_back: int = 200, seed: int = 7) -> tuple[list[Scene], list[Scene]]:
    """Scenes to train on, and those that training never sees in any image."""
    scenes = all_scenes()
    order = np.random.default_rng(seed).permutation(len(scenes))
    held_back = [scenes[i] for i in order[:num_held_back]]
    return [scenes[i] for i in order[num_held_back:]], held_back


def draw_scene(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(64, 64, 3) image of the scene, with slight jitter of place, size and colours."""
    distance = scene_field(scene, rng)
    image = flat(jittered(BACKGROUNDS[scene.background], rng))
    return rounded(painted(image, distance, jittered(COLOURS[scene.colour], rng)))


def scene_field(scene: Scene, rng: np.random.Generator) -> Array:
    """(64, 64) distance in pixels to the scene's shape."""
    x, y = np.array(PLACES[scene.place]) + rng.uniform(-2, 2, 2)
    return field(scene.shape, float(x), float(y), SIZES[scene.size] + float(rng.uniform(-0.7, 0.7)))


def field(shape: str, x: float, y: float, radius: float, degrees: float = 0.0) -> Array:
    """(64, 64) distance to a shape centred at (x, y) pixels."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    dx, dy = columns - x, rows - y
    return SHAPES[shape]((cos * dx + sin * dy).astype(np.float32), (cos * dy - sin * dx).astype(np.float32), radius)


def flat(colour: Array) -> Array:
    return np.tile(colour, (SIDE, SIDE, 1))


def jittered(colour: tuple[int, int, int], rng: np.random.Generator, amount: float = 7.0) -> Array:
    return (np.array(colour) + rng.uniform(-amount, amount, 3)).astype(np.float32)


def painted(image: Array, distance: Array, colour: Array) -> Array:
    """The image with `colour` laid over every pixel that the field covers."""
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    return (image * (1 - cover) + colour * cover).astype(np.float32)


def rounded(image: Array) -> NDArray[np.uint8]:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
