"""Images without something: without the top quarter, without skin tones, without colour.

Where something is taken out stands the ground: the median colour of the image's border. Shapes: H x W pixels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_contour.data.augmentation.wearer import is_skin

Pixels = NDArray[np.uint8]


def ground_colour(pixels: Pixels) -> NDArray[np.uint8]:
    """Median colour of the outermost pixels of `(H, W, 3)`: `(3,)` uint8."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.median(border, axis=0).astype(np.uint8)


def without_top(pixels: Pixels) -> Pixels:
    """The upper quarter, where a wearer's head is, as ground."""
    changed = pixels.copy()
    changed[: len(pixels) // 4] = ground_colour(pixels)
    return changed


def without_skin(pixels: Pixels) -> Pixels:
    """Skin-toned pixels as ground."""
    changed = pixels.copy()
    changed[is_skin(pixels)] = ground_colour(pixels)
    return changed


def without_colour(pixels: Pixels) -> Pixels:
    """All channels their luma."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


LEFT_OUT: dict[str, Callable[[Pixels], Pixels]] = {
    "top quarter": without_top,
    "skin tones": without_skin,
    "colour": without_colour,
}
