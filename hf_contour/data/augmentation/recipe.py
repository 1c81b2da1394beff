"""Augmentation of images with their drawn contours: one recipe, used while training and to write larger data sets.

Every random choice is drawn from the generator that is passed in, and `sample_rng` makes that generator from (seed,
epoch, index of the sample) alone, so workers, processes and restarts do not change a sample.

The operations are those that the method names (flip, rotate, crop, scale, translate, affine, noise, brightness,
contrast, sharpen, and resolution), applied in this order: flips, scale, affine (shear), rotate, translate, crop,
`crop_size`; then resolution, brightness, contrast, sharpen, noise. Before all of them come those of `wearer`, which
take away what should not be learnt from: the wearer, the ground, colour and texture.

Source: CN113298092B, the optional part of step S2 and module M307.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from hf_contour.data.augmentation.warp import EDGE_FILL, MAX_SIDE, plan_warp, warp_annotations, warp_image, warp_mask
from hf_contour.data.augmentation.wearer import (
    WEARER_BOUNDS,
    WEARER_OPERATIONS,
    Scene,
    draw_wearer_operations,
    drawn_of,
    hide_wearer,
)

OPERATIONS = (
    "flip",
    "flip_vertical",
    "scale",
    "affine",
    "rotate",
    "translate",
    "crop",
    "resolution",
    "brightness",
    "contrast",
    "sharpen",
    "noise",
)
GEOMETRIC = frozenset(OPERATIONS[:7])

# Range of each range field: the values that both ends must lie in.
_BOUNDS = {
    "scale_factor": (0.05, 20.0),
    "affine_degrees": (-40.0, 40.0),  # beyond 45 degrees on both axes the image would turn inside out
    "rotate_degrees": (-360.0, 360.0),
    "translate_fraction": (-1.0, 1.0),
    "crop_fraction": (0.01, 1.0),
    "resolution_factor": (0.01, 1.0),
    "brightness_factor": (0.0, 10.0),
    "contrast_factor": (0.0, 10.0),
    "sharpen_factor": (0.0, 20.0),
    "noise_std": (0.0, 1.0),
    "frame_shift": (-1.0, 1.0),
    **WEARER_BOUNDS,
}


@dataclass(frozen=True)
class AugmentationRecipe:
    """What may happen to an image; plain YAML values. Every operation is off by default.

    The field with an operation's name is the probability of it, 0 to 1; the range `(lowest, highest)` beside it is
    drawn from uniformly when it happens.

    Attributes:
        flip: mirror left to right.
        flip_vertical: mirror top to bottom.
        scale: enlarge or shrink, sides kept in proportion.
        scale_factor: factor, drawn uniformly on a logarithmic scale: halving is as likely as doubling.
        affine: shear.
        affine_degrees: shear angle, drawn for x and y separately.
        rotate: turn about the centre, onto a canvas that holds the whole turned image.
        rotate_degrees: angle, counter-clockwise.
        rotate_step: 0, or degrees: the angle is the lowest plus a whole number of steps. `[0, 270]` with step 90
            turns by quarters, `[0, 337.5]` with step 22.5 is the sixteen angles of HED.
        translate: shift by whole pixels.
        translate_fraction: shift as a fraction of the side, drawn for x and y separately.
        crop: cut out a window.
        crop_fraction: side of the window as a fraction of the side, drawn for height and width separately.
        crop_size: `(height, width)` of every augmented image, a window drawn after all of the above (of several
            places, one that mostly shows the image); larger than the image, it is padded. None keeps the size.
        fill: colour of pixels from outside the image, which are also marked as not valid: "edge" repeats the
            nearest pixel of the border, so that no artificial edge is made; or `(red, green, blue)` in 0..255.
        resolution: shrink and enlarge again, so that detail is lost.
        resolution_factor: factor of the shrinking.
        brightness: multiply the values.
        brightness_factor: 1 leaves the image as it is.
        contrast: move values from or to the mean grey.
        contrast_factor: 1 leaves the image as it is.
        sharpen: sharpen (factor above 1) or blur (below 1).
        sharpen_factor: 1 leaves the image as it is.
        noise: add Gaussian noise, drawn for every channel.
        noise_std: standard deviation, as a fraction of the range of values.
        frame: make the outermost one or two pixels darker or lighter, as resizing and scanning leave them; it is no
            contour.
        frame_shift: by how much, as a fraction of the range of values.
        cut_top: cut the top away, where a wearer's head is.
        cut_top_fraction: what is cut, as a fraction of the height.
        cut_bottom: cut the bottom away, where legs are.
        cut_bottom_fraction: what is cut, as a fraction of the height.
        exchange_ground: give a plain ground (joined to the border, of one colour) another colour.
        erase_skin: fill what has the colour of skin with the ground's colour, or the mean where there is no plain
            ground; if it is more than 40 % of the image it is a garment, and left.
        erase_top: fill a box at the top, about the middle, likewise.
        erase_top_fraction: sides of the box as fractions of the image's.
        erase: fill a box anywhere, likewise. Contours in filled places are not counted.
        erase_fraction: sides of the box as fractions of the image's.
        grey: take the colours away.
        smooth: take texture away by a median filter, which keeps outlines.
        smooth_size: side of the filter in pixels, made odd.
    """

    flip: float = 0.0
    flip_vertical: float = 0.0
    scale: float = 0.0
    scale_factor: tuple[float, float] = (0.75, 1.33)
    affine: float = 0.0
    affine_degrees: tuple[float, float] = (-10.0, 10.0)
    rotate: float = 0.0
    rotate_degrees: tuple[float, float] = (-15.0, 15.0)
    rotate_step: float = 0.0
    translate: float = 0.0
    translate_fraction: tuple[float, float] = (-0.1, 0.1)
    crop: float = 0.0
    crop_fraction: tuple[float, float] = (0.7, 1.0)
    crop_size: tuple[int, int] | None = None
    fill: str | tuple[int, int, int] = EDGE_FILL
    resolution: float = 0.0
    resolution_factor: tuple[float, float] = (0.25, 1.0)
    brightness: float = 0.0
    brightness_factor: tuple[float, float] = (0.7, 1.3)
    contrast: float = 0.0
    contrast_factor: tuple[float, float] = (0.7, 1.3)
    sharpen: float = 0.0
    sharpen_factor: tuple[float, float] = (1.0, 2.0)
    noise: float = 0.0
    noise_std: tuple[float, float] = (0.0, 0.05)
    frame: float = 0.0
    frame_shift: tuple[float, float] = (-0.15, 0.15)
    cut_top: float = 0.0
    cut_top_fraction: tuple[float, float] = (0.1, 0.35)
    cut_bottom: float = 0.0
    cut_bottom_fraction: tuple[float, float] = (0.1, 0.35)
    exchange_ground: float = 0.0
    erase_skin: float = 0.0
    erase_top: float = 0.0
    erase_top_fraction: tuple[float, float] = (0.1, 0.3)
    erase: float = 0.0
    erase_fraction: tuple[float, float] = (0.1, 0.35)
    grey: float = 0.0
    smooth: float = 0.0
    smooth_size: tuple[float, float] = (3.0, 7.0)

    def __post_init__(self) -> None:
        for name in (*OPERATIONS, *WEARER_OPERATIONS):
            _check_number(name, getattr(self, name), 0.0, 1.0)
        for name, (lowest, highest) in _BOUNDS.items():
            object.__setattr__(self, name, _checked_range(name, getattr(self, name), lowest, highest))
        _check_number("rotate_step", self.rotate_step, 0.0, 360.0)
        if self.crop_size is not None:
            object.__setattr__(self, "crop_size", _checked_integers("crop_size", self.crop_size, 2, 1, MAX_SIDE))
        if self.fill != EDGE_FILL:
            object.__setattr__(self, "fill", _checked_integers("fill", self.fill, 3, 0, 255))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AugmentationRecipe":
        """A recipe from YAML or JSON values.

        Raises:
            ValueError: If a field is unknown or its value impossible; the message names the field.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                close = get_close_matches(str(name), known, n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"Known fields: {', '.join(known)}."
                raise ValueError(f"The augmentation recipe has the unknown field {name!r}. {hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict`, YAML and JSON take."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class AugmentedSample:
    """An augmented image.

    Attributes:
        image: RGB.
        annotations: `(num_annotators, height, width)` bool, or None if there were none.
        valid: `(height, width)` bool, False for pixels from outside the image; None if there are none.
        operations: what was done, by name, with the values drawn; JSON values.
    """

    image: Image.Image
    annotations: np.ndarray | None
    valid: np.ndarray | None
    operations: dict[str, Any]


class Augmentation:
    """Applies a recipe to an image and, with the same geometry, to the contours drawn on it."""

    def __init__(self, recipe: AugmentationRecipe) -> None:
        self.recipe = recipe

    def __call__(
        self,
        image: Image.Image,
        annotations: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        valid: np.ndarray | None = None,
    ) -> AugmentedSample:
        """Augment one image.

        Args:
            image: RGB.
            annotations: `(num_annotators, height, width)` bool of the image's size, or None.
            rng: source of every draw; see `sample_rng`.
            valid: `(height, width)` bool, False where the image itself is padding; None if nowhere.

        Raises:
            ValueError: If the annotations have another size than the image.
        """
        size = (image.height, image.width)
        if annotations is not None and annotations.shape[1:] != size:
            raise ValueError(
                f"annotations are {annotations.shape[1]}x{annotations.shape[2]}, the image {size[0]}x{size[1]} "
                "(height x width); draw contours at the size of their image."
            )
        hidden: dict[str, Any] = {}
        if any(getattr(self.recipe, name) for name in WEARER_OPERATIONS):
            # A child of the generator: what the others draw stays as it is without these operations.
            hidden = draw_wearer_operations(self.recipe, rng.spawn(1)[0])
        if hidden:
            scene = hide_wearer(Scene(np.asarray(image), annotations, valid), hidden)
            image, annotations, valid = Image.fromarray(scene.pixels), scene.annotations, scene.valid
            size = (image.height, image.width)
        operations = draw_operations(self.recipe, rng)
        if self.recipe.crop_size is not None or GEOMETRIC & operations.keys():
            warp = plan_warp(size, operations, rng, crop_size=self.recipe.crop_size)
            image, inside = warp_image(image, warp, fill=self.recipe.fill)
            inside = inside if valid is None else inside & warp_mask(valid, warp)
            valid = None if inside.all() else inside
            annotations = None if annotations is None else warp_annotations(annotations, warp)
        image = _change_values(image, operations, rng)
        if self.recipe.frame:
            image, operations = _framed(image, operations, self.recipe, rng.spawn(1)[0])
        return AugmentedSample(image, annotations, valid, {**hidden, **operations})


def _framed(
    image: Image.Image, operations: dict[str, Any], recipe: AugmentationRecipe, rng: np.random.Generator
) -> tuple[Image.Image, dict[str, Any]]:
    """The image with its outermost pixels shifted, if the draw says so."""
    if rng.random() >= recipe.frame:
        return image, operations
    width, shift = int(rng.integers(1, 3)), float(rng.uniform(*recipe.frame_shift))
    pixels = np.asarray(image).astype(np.float32)
    inside = pixels[width:-width, width:-width].copy()
    pixels += 255 * shift
    pixels[width:-width, width:-width] = inside
    framed = Image.fromarray((np.clip(pixels, 0, 255) + 0.5).astype(np.uint8))
    return framed, {**operations, "frame": [width, shift]}


def sample_rng(seed: int, epoch: int, index: int, purpose: str = "augment") -> np.random.Generator:
    """The generator of one sample in one epoch; the same in every worker, process and run.

    Args:
        seed: of the run, 0 to 2**64 - 1, as are `epoch` and `index`.
        epoch: number of the pass over the data, from 0.
        index: row of the sample in its source.
        purpose: what the draws are for; different purposes draw independently.
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("index", index)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}; it must lie in 0 to 2**64 - 1.")
    purpose_number = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    # Two words each: a bare list of numbers over 32 bits would run into one another.
    words = [word for value in (seed, epoch, index, purpose_number) for word in (value & 0xFFFFFFFF, value >> 32)]
    return np.random.default_rng(np.random.SeedSequence(words))


def draw_operations(recipe: AugmentationRecipe, rng: np.random.Generator) -> dict[str, Any]:
    """Draw which operations happen and how strongly.

    The number of draws is always the same, so that one operation's settings do not change what the others draw.

    Returns:
        For each operation that happens, by name: True for flips, factor, degrees, fractions, `[height fraction, width
        fraction, y place, x place]` for crop, standard deviation.
    """
    return drawn_of(OPERATIONS, recipe, rng, _amount)


def _amount(recipe: AugmentationRecipe, name: str, uniform: np.ndarray) -> Any:
    """Turn four uniform numbers into the strength of the operation."""
    if name in ("flip", "flip_vertical"):
        return True
    suffixes = ("factor", "degrees", "fraction", "std")
    lowest, highest = next(
        getattr(recipe, f"{name}_{suffix}") for suffix in suffixes if hasattr(recipe, f"{name}_{suffix}")
    )
    if name == "scale":
        return float(lowest * (highest / lowest) ** uniform[0])
    if name == "rotate" and recipe.rotate_step:
        count = int((highest - lowest) / recipe.rotate_step + 1e-9) + 1
        return float(lowest + recipe.rotate_step * int(uniform[0] * count))
    values = [float(lowest + (highest - lowest) * value) for value in uniform]
    if name == "crop":
        return values[:2] + [float(value) for value in uniform[2:]]
    return values[:2] if name in ("affine", "translate") else values[0]


def _change_values(image: Image.Image, operations: Mapping[str, Any], rng: np.random.Generator) -> Image.Image:
    """Apply the operations that change values, not places."""
    if "resolution" in operations:
        size = [image.height, image.width]
        small = [max(1, round(side * operations["resolution"])) for side in size]
        image = transforms.resize(image, small, interpolation=InterpolationMode.BILINEAR, antialias=True)
        image = transforms.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    if "brightness" in operations:
        image = transforms.adjust_brightness(image, operations["brightness"])
    if "contrast" in operations:
        image = transforms.adjust_contrast(image, operations["contrast"])
    if "sharpen" in operations:
        image = transforms.adjust_sharpness(image, operations["sharpen"])
    if "noise" in operations:
        noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32)
        noisy = np.asarray(image) + noise * np.float32(255 * operations["noise"])
        image = Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8))
    return image


def _check_number(name: str, value: Any, lowest: float, highest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise ValueError(f"{name} is {value!r}; it must be a number from {lowest:g} to {highest:g}.")


def _checked_range(name: str, value: Any, lowest: float, highest: float) -> tuple[float, float]:
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        raise ValueError(f"{name} is {value!r}; it must be two numbers, [lowest, highest].")
    for end in value:
        _check_number(name, end, lowest, highest)
    if value[0] > value[1]:
        raise ValueError(f"{name} is {value!r}; the first number must not be larger than the second.")
    return float(value[0]), float(value[1])


def _checked_integers(name: str, value: Any, count: int, lowest: int, highest: int) -> tuple[int, ...]:
    sequence = isinstance(value, (list, tuple)) and len(value) == count
    if not sequence or not all(type(one) is int and lowest <= one <= highest for one in value):
        raise ValueError(f"{name} is {value!r}; it must be {count} whole numbers from {lowest} to {highest}.")
    return tuple(value)
