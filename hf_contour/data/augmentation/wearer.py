"""Augmentation that leaves less of the wearer, the ground and the colours to learn from, and keeps the outline.

The draws come from a generator of their own, so that recipes without these operations draw what they always drew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import correlate, label

# In the order in which they are applied.
WEARER_OPERATIONS = ("cut_top", "cut_bottom", "exchange_ground", "erase_skin", "erase_top", "erase", "grey", "smooth")
WEARER_BOUNDS = {
    "cut_top_fraction": (0.0, 0.9),
    "cut_bottom_fraction": (0.0, 0.9),
    "erase_top_fraction": (0.01, 1.0),
    "erase_fraction": (0.01, 1.0),
    "smooth_size": (1.0, 31.0),
}
_OF_GROUND = frozenset({"exchange_ground", "erase_skin", "erase_top", "erase"})
GROUND_TOLERANCE = 24  # most that a channel of the ground differs from its colour
PLAIN_SHARE = 0.6  # least share of the frame that has the ground's colour
FRAME = 2  # pixels at the border that the ground is told by
# Chrominance of skin in YCbCr; Chai and Ngan, "Face segmentation using skin-color map" (1999).
SKIN_CB, SKIN_CR = (77, 127), (133, 173)
MOST_SKIN = 0.4  # a larger share of the pixels is no skin but a garment of its colour


@dataclass
class Scene:
    """An image on its way through the operations.

    Attributes:
        pixels: `(height, width, 3)` uint8.
        annotations: `(num_annotators, height, width)` bool, or None.
        valid: `(height, width)` bool, False where nothing is to be learnt; None if everywhere is.
    """

    pixels: np.ndarray
    annotations: np.ndarray | None
    valid: np.ndarray | None


def draw_wearer_operations(recipe: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Draw which operations happen and how; the number of draws is always the same.

    Returns:
        By name: the fraction that is cut, `[height fraction, width fraction, y place, x place]` of a box, the colour
        of the ground, the size of the filter in pixels, or True.
    """
    return drawn_of(WEARER_OPERATIONS, recipe, rng, _amount)


def drawn_of(
    names: Sequence[str], recipe: Any, rng: np.random.Generator, amount: Callable[[Any, str, np.ndarray], Any]
) -> dict[str, Any]:
    """Which operations of a recipe happen, each with what `amount` makes of four uniform numbers."""
    chances, amounts = rng.random(len(names)), rng.random((len(names), 4))
    happening = (place for place, name in enumerate(names) if chances[place] < getattr(recipe, name))
    return {names[place]: amount(recipe, names[place], amounts[place]) for place in happening}


def _amount(recipe: Any, name: str, uniform: np.ndarray) -> Any:
    if name in ("cut_top", "cut_bottom"):
        return float(_between(getattr(recipe, f"{name}_fraction"), uniform[0]))
    if name in ("erase", "erase_top"):
        sides = [float(_between(getattr(recipe, f"{name}_fraction"), value)) for value in uniform[:2]]
        # At the top the box lies about the middle, where heads are.
        places = [0.0, 0.25 + 0.5 * float(uniform[3])] if name == "erase_top" else uniform[2:].tolist()
        return [*sides, *places]
    if name == "exchange_ground":
        return [int(value * 256) for value in uniform[:3]]
    if name == "smooth":
        return 2 * int(_between(recipe.smooth_size, uniform[0]) // 2) + 1
    return True


def _between(ends: tuple[float, float], uniform: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * uniform


def hide_wearer(scene: Scene, operations: Mapping[str, Any]) -> Scene:
    """Apply the operations; those that find nothing to do leave the image as it is."""
    pixels, annotations, valid = scene.pixels, scene.annotations, scene.valid
    height = len(pixels)
    top = round(height * operations.get("cut_top", 0.0))
    bottom = min(height, max(top + 1, height - round(height * operations.get("cut_bottom", 0.0))))
    rows = np.s_[min(top, height - 1) : bottom]
    pixels = pixels[rows]
    annotations = None if annotations is None else annotations[:, rows]
    valid = None if valid is None else valid[rows]
    ground = find_ground(pixels) if _OF_GROUND & operations.keys() else None
    fill = ground[1] if ground else pixels.reshape(-1, 3).mean(axis=0)
    if "exchange_ground" in operations and ground:
        fill = np.array(operations["exchange_ground"], dtype=np.float64)
        pixels = _with_other_ground(pixels, *ground, fill)
    erased = _erased(pixels, operations)
    if erased.any():
        pixels = np.where(erased[..., None], np.rint(fill).astype(np.uint8), pixels)
        if annotations is not None:  # what was drawn there is not to be seen, and its absence no ground
            valid = ~erased if valid is None else valid & ~erased
    if "grey" in operations:
        pixels = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)
    if "smooth" in operations:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(operations["smooth"])))
    return Scene(pixels, annotations, valid)


def find_ground(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The plain ground of an image.

    Args:
        pixels: `(height, width, 3)` uint8.

    Returns:
        `(height, width)` bool, what has the ground's colour and is joined to the border, and the colour, `(3,)`; None
        where the frame has no colour that most of it shares.
    """
    frame = np.ones(pixels.shape[:2], dtype=bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    colour = np.median(pixels[frame], axis=0)
    similar = (np.abs(pixels - colour) <= GROUND_TOLERANCE).all(axis=2)
    if similar[frame].mean() < PLAIN_SHARE:
        return None
    parts, _ = label(similar)  # by four neighbours
    return similar & np.isin(parts, parts[similar & frame]), colour


def _with_other_ground(pixels: np.ndarray, ground: np.ndarray, colour: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The ground in another colour, its shades kept, mixed in over a pixel at its edge."""
    share = correlate(ground.astype(np.float32), np.ones((3, 3)), mode="nearest") / 9
    share = np.where(ground, np.maximum(share, 0.5), np.minimum(share, 0.5))
    return np.rint(pixels + share[..., None] * (other - colour)).clip(0, 255).astype(np.uint8)


def _erased(pixels: np.ndarray, operations: Mapping[str, Any]) -> np.ndarray:
    """`(height, width)` bool: skin and boxes that are to be filled."""
    height, width = pixels.shape[:2]
    erased = np.zeros((height, width), dtype=bool)
    if "erase_skin" in operations:
        skin = is_skin(pixels)
        if skin.mean() <= MOST_SKIN:
            erased |= skin
    for name in ("erase_top", "erase"):
        if name in operations:
            fractions, places = np.reshape(operations[name], (2, 2))
            sides = np.maximum(1, np.rint(fractions * (height, width))).astype(int)
            y, x = np.floor(places * (np.array([height, width]) - sides + 1)).astype(int)
            erased[y : y + sides[0], x : x + sides[1]] = True
    return erased


def is_skin(pixels: np.ndarray) -> np.ndarray:
    """`(height, width)` bool: pixels with the chrominance of skin; garments of that colour have it too."""
    _, cb, cr = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("YCbCr")), -1, 0)
    return (cb >= SKIN_CB[0]) & (cb <= SKIN_CB[1]) & (cr >= SKIN_CR[0]) & (cr <= SKIN_CR[1])
