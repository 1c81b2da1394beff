"""Cloth, light and background of drawn garments; nothing here knows the label or the article."""

import colorsys
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

PATTERNS = {"plain": 0.36, "stripes": 0.2, "checks": 0.14, "dots": 0.12, "melange": 0.18}


@dataclass(frozen=True)
class Cloth:
    """What a garment is made of and how it is lit.

    Attributes:
        pattern: a key of `PATTERNS`.
        colours: `(2, 3)` ground and figure of the pattern, in [0, 1].
        trim, lining: factors on the ground colour for collars and for the inner side.
        period: of the pattern, as a part of the shorter side of the image.
        angle: radians by which the pattern is turned.
        folds, relief, seam: strengths of folds, of light on rounded edges, of stitched lines; 0 is none.
        light: direction, x and y, that the light comes from.
    """

    pattern: str
    colours: np.ndarray
    trim: float
    lining: float
    period: float
    angle: float
    folds: float
    relief: float
    seam: float
    light: tuple[float, float]


@lru_cache(maxsize=8)
def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """`(height, width)` x and y of the pixel centres, in parts of the shorter side."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    short = min(height, width)
    return (x + 0.5) / short, (y + 0.5) / short


def draw_cloth(rng: np.random.Generator) -> tuple[Cloth, np.ndarray]:
    """A cloth, and a background colour `(3,)` that it stands out from."""
    ground, background = _contrasting_colours(rng)
    figure = _lighter_or_darker(ground, rng)
    # All numbers are drawn whatever the pattern, so that one choice does not move the next.
    pattern = str(rng.choice(list(PATTERNS), p=list(PATTERNS.values())))
    turn = float(rng.choice([0.0, np.pi / 2, np.pi / 4], p=[0.5, 0.35, 0.15]))
    light = float(rng.uniform(-2.4, -0.7))
    cloth = Cloth(
        pattern=pattern,
        colours=np.stack([ground, figure]).astype(np.float32),
        trim=float(rng.uniform(0.85, 1.15)),
        lining=float(rng.uniform(0.5, 0.85)),
        period=float(rng.uniform(0.05, 0.14)),
        angle=turn + float(rng.normal(0, 0.03)),
        folds=float(rng.uniform(0.04, 0.14)),
        relief=float(rng.uniform(0.4, 1.0)),
        seam=float(rng.uniform(0.3, 0.6)),
        light=(math.cos(light), math.sin(light)),
    )
    return cloth, background.astype(np.float32)


def _contrasting_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the cloth and of the background, apart enough to be told by eye."""
    for _ in range(32):
        ground = np.array(colorsys.hsv_to_rgb(rng.random(), rng.beta(1.6, 1.8) * 0.85, rng.uniform(0.22, 0.95)))
        if rng.random() < 0.8:
            background = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.16), rng.uniform(0.82, 0.99)))
        else:
            background = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.45), rng.uniform(0.25, 0.7)))
        if np.linalg.norm(ground - background) > 0.38:
            break
    return ground, background


def _lighter_or_darker(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A second colour for the pattern: towards white or black, or another hue of the same brightness."""
    other = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.4, 0.95)))
    target = np.array([1.0, 1.0, 0.97]) if colour.mean() < 0.55 else np.array([0.1, 0.1, 0.16])
    kind, share = rng.random(), rng.uniform(0.35, 0.85)
    return colour + share * ((other if kind < 0.35 else target) - colour)


def weave(cloth: Cloth, grid: tuple[np.ndarray, np.ndarray], turned: float, noise: np.ndarray) -> np.ndarray:
    """The cloth laid flat, `(height, width, 3)` in [0, 1].

    Args:
        cloth: what to weave.
        grid: `(height, width)` x and y of `pixel_grid`, or the same part of both.
        turned: radians by which this panel's cloth is turned, as on a sleeve.
        noise: `(height, width)` in [-1, 1], for the yarn.
    """
    ground, figure = cloth.colours
    tone = 1 + 0.025 * noise
    if cloth.pattern == "plain":
        return ground * tone[..., None]
    if cloth.pattern == "melange":
        share = 0.5 * np.maximum(noise, 0)
    else:
        x, y = grid
        wave = 2 * math.pi / cloth.period
        across, down = wave * math.cos(cloth.angle + turned), wave * math.sin(cloth.angle + turned)
        # Steps about a pixel wide, so that fine patterns do not flicker.
        steepness = 0.35 * cloth.period / float(y[1, 0] - y[0, 0])
        share = _share_of_figure(cloth.pattern, across * x + down * y, across * y - down * x, steepness)
    return (ground + share[..., None] * (figure - ground)) * tone[..., None]


def _share_of_figure(pattern: str, u: np.ndarray, v: np.ndarray, steepness: float) -> np.ndarray:
    """How much of the second colour shows, in [0, 1], at phases u and v of the pattern."""
    if pattern == "stripes":
        return np.clip(0.5 + steepness * np.sin(v), 0, 1)
    if pattern == "checks":
        vertical, horizontal = (np.clip(0.5 + steepness * np.sin(phase), 0, 1) for phase in (u, v))
        return 0.5 * (vertical + horizontal)
    return np.clip(0.5 + steepness * (np.cos(u) + np.cos(v) - 1.1), 0, 1)


def shade(cloth: Cloth, coverage: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Light on the garment, `(height, width)`, a factor around 1: rounded edges and soft folds.

    Args:
        cloth: how strong, and where the light comes from.
        coverage: mode L, the silhouette.
        rng: stream of the cloth.
    """
    width, height = coverage.size
    radius = max(0.035 * min(width, height), 0.7)
    rounded = np.asarray(coverage.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    slope_y, slope_x = np.gradient(rounded)
    relief = -(slope_x * cloth.light[0] + slope_y * cloth.light[1]) * (radius * cloth.relief)
    return 1 + np.clip(relief, -0.3, 0.22) + cloth.folds * smooth_noise(rng, (height, width), (6, 4))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """`(height, width)`, about [-1, 1], with as many bumps down and across as `cells` says."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells[1], cells[0])).astype(np.float32))
    return np.asarray(grid.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def draw_background(colour: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """`(height, width, 3)`: plain, a gradient, or mildly mottled."""
    kind = rng.choice(3, p=[0.35, 0.4, 0.25])
    direction, strength = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.05, 0.16))
    x, y = pixel_grid(*shape)
    if kind == 1:
        tone = 1 + strength * ((x - 0.5) * math.cos(direction) + (y - 0.5) * math.sin(direction))
    elif kind == 2:
        tone = 1 + 0.5 * strength * smooth_noise(rng, shape, (9, 9))
    else:
        tone = np.ones(shape, np.float32)
    return colour * tone[..., None]
