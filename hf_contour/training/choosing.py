"""Which recipe suits a data set and a device, for whoever names none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Training images from which on the backbone learns too: a few do not suffice, and many take hours without a GPU.
LEAST_TRAINED = {"cpu": 3000, "accelerator": 1000}
_MOST_ASPECT = 1.5  # of a longer side to a shorter one
_STEP = 8  # pixels


@dataclass(frozen=True)
class Choice:
    """A recipe of the package.

    Attributes:
        recipe: its name.
        reason: why, in words.
    """

    recipe: str
    reason: str


def choose_recipe(num_train: int, *, device: str) -> Choice:
    """The recipe for so many training images on a device, such as `cpu` or `cuda`."""
    least = LEAST_TRAINED["cpu" if device == "cpu" else "accelerator"]
    where = f"{num_train:,} images to train on, device {device}"
    if num_train < least:
        return Choice(
            "own_frozen", f"{where}: the backbone keeps its ImageNet weights (it learns too from {least:,} on)"
        )
    return Choice("own_trained", f"{where}: the backbone learns too (from {least:,} on)")


def fitting_image_size(size: Sequence[int], *, aspect: float) -> list[int]:
    """`[height, width]` of the shape of the images, as many pixels as a size has, in steps of `_STEP`.

    Args:
        size: height and width.
        aspect: height over width of the images; long ones are padded.
    """
    area = size[0] * size[1]
    shape = min(max(aspect, 1 / _MOST_ASPECT), _MOST_ASPECT)
    height, width = math.sqrt(area * shape), math.sqrt(area / shape)
    return [_STEP * round(height / _STEP), _STEP * round(width / _STEP)]
