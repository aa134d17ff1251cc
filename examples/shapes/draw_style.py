"""Writes the adaptor's dataset: 24 images, with captions, of a style that the base was not trained on.

The style: a navy ground and a thick white outline around the shape. The captions do not name it; the trigger
word does, and the trainer puts that in front of every caption.

    python -m examples.shapes.draw_style
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.shapes.draw import COLOURS, Scene, flat, jittered, painted, rounded, scene_field, split_scenes

NAVY = (24, 36, 110)
WHITE = (248, 248, 248)
OUTLINE_WIDTH = 3.5
NUM_IMAGES = 24
FOLDER = Path(__file__).parent / "style"


def main() -> None:
    """Draws the dataset into `style/`; the same bytes each time."""
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(24)
    lines = []
    for i, scene in enumerate(style_scenes()):
        name = f"{i:02d}.png"
        Image.fromarray(draw_styled(scene, rng)).save(FOLDER / name)
        lines.append(json.dumps({"file_name": name, "text": scene.short_caption}))
    (FOLDER / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def style_scenes() -> list[Scene]:
    """24 scenes of the training part; every shape four times, every colour four times."""
    train, _ = split_scenes()
    colours = list(COLOURS)
    shapes = ["circle", "square", "triangle", "diamond", "cross", "ring"]
    combinations = [(shapes[i % 6], colours[(i % 6 + i // 6) % 6]) for i in range(NUM_IMAGES)]
    order = np.random.default_rng(5).permutation(len(train))
    scenes = [train[i] for i in order]
    return [next(s for s in scenes if (s.shape, s.colour) == pair) for pair in combinations]


def draw_styled(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(64, 64, 3) image of the scene in the style; the scene's own background is not used."""
    distance = scene_field(scene, rng)
    ground = flat(jittered(NAVY, rng))
    outlined = painted(ground, distance - OUTLINE_WIDTH, jittered(WHITE, rng))
    return rounded(painted(outlined, distance, jittered(COLOURS[scene.colour], rng)))


if __name__ == "__main__":
    main()
