"""Random drawings for the autoencoder only: any colours, outlines, stripes, gradients, strokes.

They teach it to reconstruct styles that the denoiser never sees, so that an adaptor can learn one later.
"""

import numpy as np
from numpy.typing import NDArray

from examples.shapes.draw import SHAPES, SIDE, Array, all_scenes, field, flat, painted, rounded, scene_field


def draw_random(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(64, 64, 3) image with a random ground and up to three random things on it."""
    image = random_ground(rng)
    for _ in range(int(rng.integers(1, 4))):
        add = random_stroke if rng.random() < 0.2 else random_shape
        image = add(image, rng)
    return rounded(image)


def draw_outlined(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(64, 64, 3) upright shape of any colour with a light outline of any colour on a dark ground of any colour."""
    scenes = all_scenes()
    distance = scene_field(scenes[int(rng.integers(len(scenes)))], rng)
    ground = flat(rng.uniform(0, 140, 3).astype(np.float32))
    outlined = painted(ground, distance - rng.uniform(1.5, 3.5), rng.uniform(120, 255, 3).astype(np.float32))
    return rounded(painted(outlined, distance, random_colour(rng)))


def random_colour(rng: np.random.Generator) -> Array:
    return rng.uniform(0, 255, 3).astype(np.float32)


def random_ground(rng: np.random.Generator) -> Array:
    """A flat colour, a gradient or stripes."""
    ground = flat(random_colour(rng))
    kind = rng.random()
    if kind < 0.7:
        return ground
    x, y = np.cos(rng.uniform(0, np.pi)), np.sin(rng.uniform(0, np.pi))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    along = (columns * x + rows * y).astype(np.float32)
    if kind < 0.85:
        share = ((along - along.min()) / np.ptp(along).clip(1))[..., None]
        return (ground * (1 - share) + random_colour(rng) * share).astype(np.float32)
    width = rng.uniform(12, 32)
    stripes = np.abs(along % width - width / 2) - width / 4
    return painted(ground, stripes.astype(np.float32), random_colour(rng))


def random_shape(image: Array, rng: np.random.Generator) -> Array:
    """A turned shape; half the time with an outline of another colour."""
    shape = str(rng.choice(list(SHAPES)))
    degrees = 0.0 if rng.random() < 0.5 else float(rng.uniform(0, 360))
    x, y = rng.uniform(6, SIDE - 6, 2)
    distance = field(shape, float(x), float(y), float(rng.uniform(5, 20)), degrees)
    if rng.random() < 0.5:
        image = painted(image, distance - rng.uniform(1, 4), random_colour(rng))
    return painted(image, distance, random_colour(rng))


def random_stroke(image: Array, rng: np.random.Generator) -> Array:
    """A line of random width from edge to edge."""
    x, y = rng.uniform(0, SIDE, 2)
    angle = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    across = np.abs((columns - x) * np.sin(angle) - (rows - y) * np.cos(angle))
    return painted(image, (across - rng.uniform(1, 4)).astype(np.float32), random_colour(rng))
