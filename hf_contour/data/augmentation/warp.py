"""One 3x3 matrix moves an image and the contours that were drawn on it.

Coordinates are continuous, `(x, y)`, in pixels: the centre of the pixel in row `i` and column `j` is
`(j + 0.5, i + 0.5)`. An image is scaled first (antialiased when it shrinks) and then warped once; where the warp
only mirrors, turns by quarters and shifts by whole pixels, pixels are moved and never mixed.

Contours are not resampled as images are: their pixels and the links between neighbouring pixels are moved as points
and lines, so that a line stays connected and about one pixel wide at any scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

EDGE_FILL = "edge"
MAX_SIDE = 16_384
# Of ten places for the window of `crop_size`, the first with this share of its pixels inside the image is taken.
ENOUGH_VALID = 0.75
WINDOW_TRIES = 10
Fill = str | tuple[int, int, int]


@dataclass(frozen=True)
class Warp:
    """Where the pixels of an image go.

    Attributes:
        source_size: `(height, width)` of the image.
        scaled_size: `(height, width)` after the scaling that comes first.
        matrix: `(3, 3)`, maps `(x, y, 1)` of the scaled image to the output.
        output_size: `(height, width)` of the output.
    """

    source_size: tuple[int, int]
    scaled_size: tuple[int, int]
    matrix: np.ndarray
    output_size: tuple[int, int]

    @property
    def source_matrix(self) -> np.ndarray:
        """`(3, 3)`, maps `(x, y, 1)` of the image itself, scaling included, to the output."""
        (height, width), (scaled_height, scaled_width) = self.source_size, self.scaled_size
        return self.matrix @ np.diag([scaled_width / width, scaled_height / height, 1.0])

    @property
    def is_scaled(self) -> bool:
        """Whether the image is resized before it is warped."""
        return self.source_size != self.scaled_size

    @property
    def moves_whole_pixels(self) -> bool:
        """Whether, after the scaling, every output pixel is one input pixel: mirrors, quarter turns, whole shifts."""
        top_rows = self.matrix[:2]
        return bool(np.array_equal(top_rows, np.rint(top_rows)) and np.abs(self.matrix[:2, :2]).sum() == 2)


def plan_warp(
    size: tuple[int, int],
    operations: Mapping[str, Any],
    rng: np.random.Generator,
    *,
    crop_size: tuple[int, int] | None = None,
) -> Warp:
    """Compose the geometric operations to one matrix.

    Args:
        size: `(height, width)` of the image.
        operations: as `recipe.draw_operations` gives them; others than geometric ones are passed over.
        rng: draws the place of the window of `crop_size`.
        crop_size: `(height, width)` of the output, or None.
    """
    factor = operations.get("scale", 1.0)
    scaled = tuple(min(MAX_SIDE, max(1, round(side * factor))) for side in size)
    linear = _linear_part(operations)
    source_size = np.array(scaled[::-1], dtype=np.float64)  # (width, height)
    # The canvas just holds the image; the tolerance keeps quarter turns exact.
    canvas = np.maximum(1, np.floor(np.abs(linear) @ source_size + 1e-6))
    shift = np.array(operations.get("translate", (0.0, 0.0)))[::-1]
    offset = canvas / 2 - linear @ source_size / 2 + np.rint(shift * canvas)
    if "crop" in operations:
        fractions, places = np.reshape(operations["crop"], (2, 2))[:, ::-1]
        window = np.maximum(1, np.rint(canvas * fractions))
        offset = offset - np.floor(places * (canvas - window + 1))
        canvas = window
    matrix = np.vstack([np.column_stack([linear, offset]), [0.0, 0.0, 1.0]])
    if crop_size is not None:
        window = np.array(crop_size[::-1], dtype=np.float64)
        matrix[:2, 2] -= _window_origin(matrix, source_size, canvas, window, rng)
        canvas = window
    return Warp(size, (scaled[0], scaled[1]), matrix, (int(canvas[1]), int(canvas[0])))


def _linear_part(operations: Mapping[str, Any]) -> np.ndarray:
    """`(2, 2)` of flips, then shear, then rotation; whole numbers where it is one of the eight symmetries."""
    flips = np.diag([-1.0 if "flip" in operations else 1.0, -1.0 if "flip_vertical" in operations else 1.0])
    shear_y, shear_x = np.tan(np.deg2rad(operations.get("affine", (0.0, 0.0))))
    shear = np.array([[1.0, shear_x], [shear_y, 1.0]])
    angle = np.deg2rad(operations.get("rotate", 0.0))
    # y runs downwards, so this turns counter-clockwise.
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = rotation @ shear @ flips
    nearest = np.rint(linear)
    return np.where(np.abs(linear - nearest) < 1e-12, nearest, linear)


def _window_origin(
    matrix: np.ndarray, source_size: np.ndarray, canvas: np.ndarray, window: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """`(x, y)` of a window: of ten random places the first that mostly shows the image, or the best."""
    spare = canvas - window
    places = np.floor(rng.random((WINDOW_TRIES, 2)) * (np.abs(spare) + 1)) + np.minimum(spare, 0)
    grid = (np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) + 0.5) / 8 * window
    points = places[:, None] + grid[None]  # (tries, 64, 2)
    source = (points - matrix[:2, 2]) @ np.linalg.inv(matrix[:2, :2]).T
    inside = ((source >= 0) & (source <= source_size)).all(axis=-1).mean(axis=-1)
    enough = np.flatnonzero(inside >= ENOUGH_VALID)
    return places[enough[0] if enough.size else inside.argmax()]


def warp_image(image: Image.Image, warp: Warp, *, fill: Fill = EDGE_FILL) -> tuple[Image.Image, np.ndarray]:
    """Warp an image; bicubic, antialiased where it shrinks.

    Args:
        image: RGB, of `warp.source_size`.
        warp: where the pixels go.
        fill: colour of the pixels that lie outside the image: "edge" for that of the nearest pixel of the image's
            border, or `(red, green, blue)` in 0..255.

    Returns:
        The warped image and `(height, width)` bool, False where a pixel lies outside the image.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, h, w) uint8
    shrinks = np.prod(warp.scaled_size) < np.prod(warp.source_size)
    if warp.is_scaled and (shrinks or warp.moves_whole_pixels):
        pixels = transforms.resize(
            pixels, list(warp.scaled_size), interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        matrix = warp.matrix
    else:
        matrix = warp.source_matrix
    if warp.moves_whole_pixels:
        warped, valid = _move_pixels(pixels.numpy(), warp)
    else:
        warped, valid = _sample_pixels(pixels, matrix, warp.output_size)
    if fill != EDGE_FILL and not valid.all():
        warped[:, ~valid] = np.array(fill, dtype=np.uint8)[:, None]
    return Image.fromarray(np.ascontiguousarray(warped.transpose(1, 2, 0))), valid


def warp_annotations(annotations: np.ndarray, warp: Warp) -> np.ndarray:
    """Warp drawn contours exactly: points and lines are moved, not resampled.

    Args:
        annotations: `(num_annotators, height, width)` bool, of `warp.source_size`.
        warp: where the pixels go.

    Returns:
        `(num_annotators, *warp.output_size)` bool; lines stay 8-connected and about one pixel wide.
    """
    if warp.moves_whole_pixels and not warp.is_scaled:
        moved, valid = _move_pixels(annotations, warp)
        return moved & valid
    return _drop_corners(_draw_links(annotations, warp))


def warp_mask(mask: np.ndarray, warp: Warp) -> np.ndarray:
    """Warp `(height, width)` bool to `warp.output_size`: the pixel in which each output pixel's centre lies.

    Pixels from outside the image take the nearest pixel of its border.
    """
    x, y = _source_points(warp.source_matrix, warp.output_size)
    columns, rows = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    return mask[rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)]


def _move_pixels(planes: np.ndarray, warp: Warp) -> tuple[np.ndarray, np.ndarray]:
    """Gather whole pixels; outside, the nearest pixel of the border.

    Args:
        planes: `(channels, *warp.scaled_size)`.
        warp: one that moves whole pixels.

    Returns:
        `(channels, *warp.output_size)` and `(*warp.output_size)` bool.
    """
    height, width = warp.output_size
    linear, offset = warp.matrix[:2, :2], warp.matrix[:2, 2]
    if linear[0, 0] == 0:  # x and y change places
        planes, linear = planes.transpose(0, 2, 1), linear[:, ::-1]
    columns = np.rint((np.arange(width) + 0.5 - offset[0]) * linear[0, 0] - 0.5).astype(np.int64)
    rows = np.rint((np.arange(height) + 0.5 - offset[1]) * linear[1, 1] - 0.5).astype(np.int64)
    inside = [(index >= 0) & (index < size) for index, size in zip((rows, columns), planes.shape[1:], strict=True)]
    rows, columns = rows.clip(0, planes.shape[1] - 1), columns.clip(0, planes.shape[2] - 1)
    return planes.take(rows, axis=1).take(columns, axis=2), inside[0][:, None] & inside[1][None, :]


def _sample_pixels(
    pixels: torch.Tensor, matrix: np.ndarray, output_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Sample `(3, h, w)` uint8 with bicubic weights at the points that `matrix` maps to the output's pixel centres."""
    height, width = output_size
    x, y = _source_points(matrix, output_size)
    source_height, source_width = pixels.shape[1:]
    # 1e-6: an image's own border pixel must not fall outside through rounding.
    valid = (np.abs(2 * x - source_width) <= source_width + 1e-6) & (
        np.abs(2 * y - source_height) <= source_height + 1e-6
    )
    grid = np.empty((1, height, width, 2), dtype=np.float32)  # grid_sample counts both sides from -1 to 1
    grid[0, ..., 0], grid[0, ..., 1] = x * (2 / source_width) - 1, y * (2 / source_height) - 1
    warped = grid_sample(
        pixels[None].float(), torch.from_numpy(grid), mode="bicubic", padding_mode="border", align_corners=False
    )
    return warped[0].round_().clamp_(0, 255).to(torch.uint8).numpy(), valid


def _source_points(matrix: np.ndarray, output_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """`x` and `y`, `(height, width)` each, of the points that `matrix` maps to the output's pixel centres."""
    height, width = output_size
    (a, b, c), (d, e, f) = np.linalg.inv(matrix)[:2]
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    return a * columns + (b * rows + c), d * columns + (e * rows + f)


def _draw_links(annotations: np.ndarray, warp: Warp) -> np.ndarray:
    """Move every drawn pixel and every link between two drawn neighbours, and draw them in the output.

    A diagonal link is left out where two straight links already join its ends (enlarged, the three would be a filled
    triangle), and four pixels in a square are drawn as a filled square, so that wide lines get no holes.
    """
    matrix = warp.source_matrix
    patch, left, top = _needed_part(annotations, warp)
    padded = np.pad(patch, ((0, 0), (0, 1), (1, 1)))  # a free row below and columns beside: no link runs off the edge
    drawn = padded.ravel()
    rows, columns = padded.shape[1:]
    flat = np.flatnonzero(drawn)
    plane, within = np.divmod(flat, rows * columns)
    y, x = np.divmod(within, columns)
    x, y = x + (left - 1 + 0.5), y + (top + 0.5)

    canvas = np.zeros((annotations.shape[0], *warp.output_size), dtype=bool)
    start = _cells(x, y, matrix)
    _mark(canvas, plane, *start)
    right, below = drawn[flat + 1], drawn[flat + columns]
    below_right, below_left = drawn[flat + columns + 1], drawn[flat + columns - 1]
    links = {
        (1, 0): right,
        (0, 1): below,
        (1, 1): below_right & ~(right | below),
        (-1, 1): below_left & ~(drawn[flat - 1] | below),
    }
    for (step_x, step_y), linked in links.items():
        chosen = np.flatnonzero(linked)
        ends = _cells(x[chosen] + step_x, y[chosen] + step_y, matrix)
        _mark_between(canvas, plane[chosen], (start[0][chosen], start[1][chosen]), ends)
    squares = np.flatnonzero(right & below & below_right)
    _mark_squares(canvas, plane[squares], (x[squares], y[squares]), matrix)
    return canvas


def _needed_part(annotations: np.ndarray, warp: Warp) -> tuple[np.ndarray, int, int]:
    """The part of the annotations that the output can show, two pixels more on each side, and its left and top."""
    height, width = warp.output_size
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    x, y, _ = np.linalg.inv(warp.source_matrix) @ corners
    left, right = (int(value) for value in np.clip([x.min() - 2, x.max() + 3], 0, warp.source_size[1]))
    top, bottom = (int(value) for value in np.clip([y.min() - 2, y.max() + 3], 0, warp.source_size[0]))
    return annotations[:, top:bottom, left:right], left, top


def _cells(x: np.ndarray, y: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of the output pixel in which each point `(x, y)` falls."""
    (a, b, c), (d, e, f) = matrix[:2]
    return np.floor(a * x + (b * y + c)).astype(np.int64), np.floor(d * x + (e * y + f)).astype(np.int64)


def _mark(canvas: np.ndarray, plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Set the pixels of `canvas` `(planes, height, width)` that lie inside it."""
    height, width = canvas.shape[1:]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    canvas.reshape(-1)[((plane * height + y) * width + x)[inside]] = True


def _mark_between(
    canvas: np.ndarray, plane: np.ndarray, start: tuple[np.ndarray, np.ndarray], end: tuple[np.ndarray, np.ndarray]
) -> None:
    """Set the pixels between two cells, one for each step along the longer side (the ends are set already)."""
    run, rise = end[0] - start[0], end[1] - start[1]
    steps = np.maximum(np.abs(run), np.abs(rise))
    for step in range(1, int(steps.max(initial=0))):
        longer = steps > step
        share = step / steps[longer]
        x = start[0][longer] + np.rint(run[longer] * share).astype(np.int64)
        y = start[1][longer] + np.rint(rise[longer] * share).astype(np.int64)
        _mark(canvas, plane[longer], x, y)


def _mark_squares(
    canvas: np.ndarray, plane: np.ndarray, corner: tuple[np.ndarray, np.ndarray], matrix: np.ndarray
) -> None:
    """Fill the unit squares whose upper left corners are given, with points less than a pixel apart."""
    stretch = float(np.linalg.norm(matrix[:2, :2], ord=2))
    count = int(np.ceil(stretch * np.sqrt(2)))  # a square grid finer than 1/sqrt(2) misses no pixel at any angle
    for step_x in np.linspace(0, 1, count + 1):
        for step_y in np.linspace(0, 1, count + 1):
            _mark(canvas, plane, *_cells(corner[0] + step_x, corner[1] + step_y, matrix))


def _drop_corners(canvas: np.ndarray) -> np.ndarray:
    """Remove pixels that only thicken a step of a line.

    Such a pixel has a neighbour above or below and one to the side, which touch each other diagonally, and nothing on
    its other three sides, so the line stays connected without it. No two neighbours can go in one pass.
    """
    padded = np.pad(canvas, ((0, 0), (1, 1), (1, 1)))
    down, flat = padded.shape[2], padded.reshape(-1)
    margin = down + 1
    inner = flat[margin:-margin]

    def neighbour(offset: int) -> np.ndarray:
        return flat[margin + offset : flat.size - margin + offset]

    for vertical in (-down, down):
        for sideways in (1, -1):
            needed = neighbour(vertical) & neighbour(sideways)
            free = neighbour(-vertical) | neighbour(-sideways) | neighbour(-vertical - sideways)
            inner &= ~needed | free
    return padded[:, 1:-1, 1:-1].copy()
