"""Drawn garments, cut for the men's or the women's section, with the exact contours of what was drawn.

The set that comes with the package: it runs anywhere, at once, without a network. Only the shape tells the label;
cloth, colour, light and background come from a stream of random numbers of their own. It is no benchmark.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import binary_dilation, binary_erosion

from hf_contour.data.annotations import png_cell
from hf_contour.data.garments import cloth as garment_cloth
from hf_contour.data.garments.cloth import Cloth
from hf_contour.data.garments.curves import Curve, Garment, Panel
from hf_contour.data.garments.patterns import choose_article, draw_pattern

LABEL_NAMES = ["men", "women"]
SPLIT_SAMPLES = {"train": 1200, "validation": 200, "test": 400}
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096

# Streams of random numbers: what one draws never moves what another draws.
_LABEL, _SHAPE, _POSE, _CLOTH = range(4)


@dataclass(frozen=True)
class GarmentSample:
    """One drawn garment.

    Attributes:
        image: RGB.
        contour: `(height, width)` bool: the outer edge, one pixel wide, and the edges drawn inside it.
        mask: `(height, width)` bool: the silhouette; its pixels with a neighbour outside are the outer edge.
        label: index into `LABEL_NAMES`.
        article: kind of garment.
        attributes: what was drawn, by name; `cut` runs from -1 (men's) to 1 (women's), with overlap.
    """

    image: Image.Image
    contour: np.ndarray
    mask: np.ndarray
    label: int
    article: str
    attributes: dict[str, float | str]


def draw_garment(index: int, *, seed: int = 0, size: tuple[int, int] = (112, 112)) -> GarmentSample:
    """Draw garment number `index` of the endless series of `seed`; the same again whenever it is asked for.

    Of garments 2k and 2k + 1 one is cut for men and one for women.

    Args:
        index: 0 or more.
        seed: 0 or more.
        size: height and width in pixels, each in [16, 4096].

    Raises:
        ValueError: If an argument is outside its range.
    """
    height, width = _checked_size(size)
    if index < 0 or seed < 0:
        raise ValueError(f"index is {index} and seed {seed}; both must be 0 or more.")
    first = int(_stream(seed, index // 2, _LABEL).integers(2))
    label = (first + index) % 2
    shape_rng = _stream(seed, index, _SHAPE)
    garment = draw_pattern(choose_article(label, shape_rng), label, shape_rng)
    _pose(garment, (height, width), _stream(seed, index, _POSE))
    return _render(garment, label, (height, width), _stream(seed, index, _CLOTH))


def embedded_dataset(
    split: str = "train", *, num_samples: int | None = None, seed: int = 0, size: tuple[int, int] = (112, 112)
) -> Dataset:
    """The drawn garments as a data set in memory, with the columns of `load_source` and `article`.

    Args:
        split: `train`, `validation` or `test`; no garment is in two of them.
        num_samples: how many; by default 1200, 200 and 400.
        seed: another seed gives other garments, 0 or more.
        size: height and width in pixels, each in [16, 4096].

    Raises:
        ValueError: If an argument is outside its range.
    """
    if split not in SPLIT_SAMPLES:
        raise ValueError(f"The drawn garments have no split {split!r}; expected one of {list(SPLIT_SAMPLES)}.")
    count = SPLIT_SAMPLES[split] if num_samples is None else num_samples
    if count < 1 or seed < 0:
        raise ValueError(f"num_samples is {num_samples} and seed {seed}; expected at least 1 and at least 0.")
    split_seed = _split_seed(seed, split)
    rows = [_row(draw_garment(index, seed=split_seed, size=size)) for index in range(count)]
    image_feature = ImageFeature(decode=False)
    features = Features(
        {
            "image": image_feature,
            "contours": List(image_feature),
            "label": ClassLabel(names=LABEL_NAMES),
            "article": Value("string"),
        }
    )
    return Dataset.from_list(rows, features=features)


def _split_seed(seed: int, split: str) -> int:
    """A seed of 128 bits, so that series of different splits and seeds do not meet."""
    words = np.random.SeedSequence([seed, *split.encode()]).generate_state(2, np.uint64)
    return int(words[0]) << 64 | int(words[1])


def _stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, purpose)))


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size)
    if len(sides) != 2 or not all(SMALLEST_SIDE <= side <= LARGEST_SIDE and side == int(side) for side in sides):
        raise ValueError(
            f"size is {size}; expected height and width, each a whole number in [{SMALLEST_SIDE}, {LARGEST_SIDE}]."
        )
    return int(sides[0]), int(sides[1])


def _row(sample: GarmentSample) -> dict[str, Any]:
    image, contour = (png_cell(one, compress_level=1) for one in (sample.image, Image.fromarray(sample.contour)))
    return {"image": image, "contours": [contour], "label": sample.label, "article": sample.article}


def _curves(garment: Garment) -> list[Curve]:
    return [panel.outline for panel in garment.panels] + garment.seams + garment.borders


def _pose(garment: Garment, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Move all curves from the pattern to pixels: uneven cloth, turn, shear, perspective, place and size."""
    curves = [*_curves(garment), np.array(garment.buttons, dtype=np.float64).reshape(-1, 2)]
    points = np.concatenate(curves)
    points = points - (points.min(axis=0) + points.max(axis=0)) / 2
    points = points + _unevenness(points, rng)
    turn, shear, stretch = rng.normal(0, 0.08), rng.normal(0, 0.03), np.exp(rng.normal(0, 0.03))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = points @ (rotation @ np.array([[stretch, shear], [0.0, 1 / stretch]])).T
    points = points / (1 + points @ rng.normal(0, 0.025, 2))[:, None]
    cloth_area = sum(_area(panel.outline) for panel in garment.panels if panel.role == "cloth")
    points = _place(points, cloth_area, size, rng)
    parts = np.split(points, np.cumsum([len(curve) for curve in curves])[:-1])
    taken = iter(parts)
    for panel in garment.panels:
        panel.outline = next(taken)
        panel.angle += turn
    garment.seams = [next(taken) for _ in garment.seams]
    garment.borders = [next(taken) for _ in garment.borders]
    garment.buttons = [(float(x), float(y)) for x, y in next(taken)]


def _unevenness(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth displacement, `(num_points, 2)`: cloth never lies as it was cut, and curves that meet still meet."""
    lengths, angles = rng.uniform(1.5, 7.0, (4, 1)), rng.uniform(0, 2 * np.pi, 4)
    waves = lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    phases, pushes = rng.uniform(0, 2 * np.pi, 4), rng.normal(0, 0.0065, (4, 2))
    return np.sin(points @ waves.T + phases) @ pushes


def _place(points: np.ndarray, cloth_area: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cover 22 to 40 % of the image where its sides allow it, with a border of a pixel or more.

    The area, not the length, is drawn: narrow garments would cover less, and colours would tell of it.
    """
    room = np.array([size[1], size[0]]) - 2 * max(1.5, 0.02 * min(size))
    low, high = points.min(axis=0), points.max(axis=0)
    wanted = np.sqrt(rng.uniform(0.22, 0.40) * size[0] * size[1] / cloth_area)
    scale = min(float(wanted), rng.uniform(0.90, 0.98) * float(np.min(room / (high - low))))
    free = room - scale * (high - low)
    corner = (np.array([size[1], size[0]]) - room) / 2 + free * rng.uniform(0.15, 0.85, 2)
    return (points - low) * scale + corner


def _area(outline: Curve) -> float:
    """Area within a closed curve, by the shoelace formula."""
    x, y = outline.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _render(garment: Garment, label: int, size: tuple[int, int], rng: np.random.Generator) -> GarmentSample:
    """Paint the placed curves, and trace their edges."""
    brush = _Brush(size)
    silhouette = brush.fill([panel.outline for panel in garment.panels])
    mask = np.asarray(silhouette) >= 128
    cloth, background_colour = garment_cloth.draw_cloth(rng)
    canvas = garment_cloth.draw_background(background_colour, size, rng)
    canvas *= _shadow(silhouette, cloth)[..., None]
    noise = rng.random(size, dtype=np.float32) * 2 - 1
    for panel in garment.panels:
        _lay(canvas, panel, cloth, noise, brush)
    inside = np.asarray(silhouette, dtype=np.float32) / 255
    light = 1 + inside * (garment_cloth.shade(cloth, silhouette, rng) - 1)
    stitches = np.asarray(brush.lines(garment.seams + garment.borders, garment.buttons), dtype=np.float32) / 255
    canvas *= (light * (1 - cloth.seam * stitches * inside))[..., None]
    pixels = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return GarmentSample(
        image=Image.fromarray(pixels),
        contour=_contour(garment, mask),
        mask=mask,
        label=label,
        article=garment.article,
        attributes=garment.attributes,
    )


def _lay(canvas: np.ndarray, panel: Panel, cloth: Cloth, noise: np.ndarray, brush: "_Brush") -> None:
    """Lay one panel on the image, `(height, width, 3)`, in place."""
    height, width = noise.shape
    left, top = np.floor(panel.outline.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(panel.outline.max(axis=0)).astype(int) + 2
    window = np.s_[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    share = np.asarray(brush.fill([panel.outline]), dtype=np.float32)[window][..., None] / 255
    x, y = garment_cloth.pixel_grid(height, width)
    woven = garment_cloth.weave(cloth, (x[window], y[window]), panel.angle, noise[window])
    woven *= {"cloth": 1.0, "trim": cloth.trim, "lining": cloth.lining}[panel.role]
    canvas[window] += share * (woven - canvas[window])


def _shadow(silhouette: Image.Image, cloth: Cloth) -> np.ndarray:
    """Factor on the background, `(height, width)`: the garment lies a little above it."""
    short = min(silhouette.size)
    soft = np.asarray(silhouette.filter(ImageFilter.GaussianBlur(0.025 * short)), dtype=np.float32) / 255
    moved = tuple(-round(0.02 * short * float(part)) for part in cloth.light)
    return 1 - 0.22 * np.roll(soft, (moved[1], moved[0]), axis=(0, 1))


class _Brush:
    """Draws curves finer than the image, then averages: soft edges."""

    def __init__(self, size: tuple[int, int]):
        self.height, self.width = size
        self.fineness = 3 if min(size) <= 160 else 2

    def _canvas(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        canvas = Image.new("L", (self.width * self.fineness, self.height * self.fineness))
        return canvas, ImageDraw.Draw(canvas)

    def fill(self, outlines: list[Curve]) -> Image.Image:
        """Coverage of each pixel by any of the outlines, mode L."""
        canvas, pen = self._canvas()
        for outline in outlines:
            # The pen counts from the middle of the first pixel, curves from its corner.
            pen.polygon((outline * self.fineness - 0.5).ravel().tolist(), fill=255)
        return canvas.reduce(self.fineness)

    def lines(self, curves: list[Curve], dots: list[tuple[float, float]]) -> Image.Image:
        """Coverage of each pixel by stitched lines and buttons, mode L."""
        canvas, pen = self._canvas()
        thickness = max(0.008 * min(self.width, self.height), 0.6) * self.fineness
        for curve in curves:
            pen.line((curve * self.fineness - 0.5).ravel().tolist(), fill=255, width=max(round(thickness), 1))
        for x, y in dots:
            radius = 1.1 * thickness
            centre_x, centre_y = x * self.fineness, y * self.fineness
            pen.ellipse([centre_x - radius, centre_y - radius, centre_x + radius, centre_y + radius], fill=255)
        return canvas.reduce(self.fineness)


def _contour(garment: Garment, mask: np.ndarray) -> np.ndarray:
    """`(height, width)` bool: the edge of the mask, and the seams inside it."""
    outer = outer_edge(mask)
    borders = _traced(garment.borders, mask.shape) & ~binary_dilation(outer, np.ones((3, 3)))
    return outer | ((_traced(garment.seams, mask.shape) | borders) & mask)


def outer_edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with one of four neighbours outside it, `(height, width)` bool."""
    return mask & ~binary_erosion(mask)


def _traced(curves: list[Curve], shape: tuple[int, ...]) -> np.ndarray:
    """One pixel wide, `(height, width)` bool."""
    canvas = Image.new("L", (shape[1], shape[0]))
    pen = ImageDraw.Draw(canvas)
    for curve in curves:
        pen.line((curve - 0.5).ravel().tolist(), fill=1)
    return np.asarray(canvas) > 0
