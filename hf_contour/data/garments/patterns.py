"""Outlines of garments: from an article and a cut to the curves that a tailor would draw.

One unit is about half a metre; x points right, y down, and the middle of the garment stands at x = 0. How far a
garment is cut for the men's (-1) or the women's (+1) section is one number, the cut. Shapes know nothing of cloth
and colour.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hf_contour.data.garments.curves import Cut, Garment, Panel, both_sides, closed, smooth, straight
from hf_contour.data.garments.upper import UPPER_BUILDERS

# How often each article hangs in the men's and in the women's section.
ARTICLES: dict[str, tuple[float, float]] = {
    "t-shirt": (0.19, 0.12),
    "shirt": (0.17, 0.10),
    "polo": (0.12, 0.06),
    "jumper": (0.10, 0.09),
    "jacket": (0.12, 0.10),
    "tank top": (0.06, 0.07),
    "trousers": (0.14, 0.13),
    "shorts": (0.07, 0.06),
    "blouse": (0.015, 0.08),
    "dress": (0.005, 0.10),
    "skirt": (0.01, 0.09),
}


def draw_pattern(article: str, label: int, rng: np.random.Generator) -> Garment:
    """Cut one garment.

    Args:
        article: a key of `ARTICLES`.
        label: `MEN` or `WOMEN`.
        rng: stream for everything about the shape.
    """
    cut = Cut(label, rng)
    garment = Garment(article, {"cut": cut.position})
    _BUILDERS[article](garment, cut)
    return garment


def choose_article(label: int, rng: np.random.Generator) -> str:
    """An article, as often as it hangs in the section of the label."""
    weights = np.array([shares[label] for shares in ARTICLES.values()])
    return list(ARTICLES)[int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), side="right"))]


@dataclass
class Legs:
    """Measures of trousers; widths are half widths, of one leg below the crotch."""

    waist: float
    hip: float
    rise: float
    length: float
    knee: float
    hem: float
    stance: float  # x of the middle of the foot


def _trousers(garment: Garment, cut: Cut) -> None:
    taper = cut.choose(straight=(0.6, 0.25), tapered=(0.35, 0.4), flared=(0.05, 0.35))
    hem = {"straight": 0.165, "tapered": 0.12, "flared": 0.225}[taper]
    legs = Legs(
        waist=cut.measure(0.385, 0.315, 0.018),
        hip=cut.measure(0.425, 0.435, 0.015),
        rise=cut.measure(0.50, 0.56, 0.03),
        length=cut.measure(1.95, 1.82, 0.09),
        knee=cut.measure(0.185, 0.15, 0.012),
        hem=hem + cut.measure(0.012, -0.012, 0.012),
        stance=float(cut.rng.uniform(0.27, 0.33)),
    )
    garment.attributes["legs"] = taper
    _add_legs(garment, legs, cut)


def _shorts(garment: Garment, cut: Cut) -> None:
    length = max(cut.measure(1.02, 0.70, 0.08), 0.62)
    legs = Legs(
        waist=cut.measure(0.385, 0.32, 0.018),
        hip=cut.measure(0.43, 0.44, 0.015),
        rise=cut.measure(0.47, 0.50, 0.025),
        length=length,
        knee=0.0,
        hem=cut.measure(0.235, 0.25, 0.015),
        stance=cut.measure(0.275, 0.30, 0.012),
    )
    _add_legs(garment, legs, cut)
    if cut.chance(0.3, 0.4):
        foot = straight((legs.stance - legs.hem, length - 0.07), (legs.stance + legs.hem, length - 0.07))
        garment.seams.extend(both_sides(foot))


def _add_legs(garment: Garment, legs: Legs, cut: Cut) -> None:
    """Both legs, the waistband, the fly and the pockets."""
    legs.stance = max(legs.stance, legs.hem + 0.035)
    outer = [(legs.waist, 0.0), (legs.hip, 0.36)]
    inner = [(0.0, legs.rise)]
    if legs.knee:
        knee_x = 0.5 * (legs.stance + 0.235)
        outer.append((knee_x + legs.knee, 1.08))
        inner.insert(0, (max(knee_x - legs.knee, 0.03), 1.08))
    outer.append((legs.stance + legs.hem, legs.length))
    inner.insert(0, (legs.stance - legs.hem, legs.length))
    top = smooth((0.0, 0.03), (0.6 * legs.waist, 0.02), (legs.waist, 0.0))
    garment.panels.append(Panel(closed(top, smooth(*outer), smooth(*inner))))
    band = cut.measure(0.085, 0.095, 0.012)
    width = legs.waist + (legs.hip - legs.waist) * band / 0.36
    waistband = smooth((-width, band), (0.0, band + 0.03), (width, band))
    side = 1.0 if cut.chance(0.9, 0.2) else -1.0
    fly = smooth((0.075 * side, band + 0.03), (0.07 * side, 0.6 * legs.rise), (0.0, 0.78 * legs.rise))
    garment.seams.extend([waistband, straight((0.0, band + 0.03), (0.0, legs.rise)), fly])
    garment.buttons.append((0.0, 0.5 * band + 0.02))
    if cut.chance(0.9, 0.65):
        garment.seams.extend(both_sides(smooth((0.58 * width, band), (0.68 * width, 0.22), (legs.hip - 0.01, 0.30))))


def _skirt(garment: Garment, cut: Cut) -> None:
    waist, length = cut.measure(0.38, 0.30, 0.02), cut.measure(1.05, 0.95, 0.2)
    hip = max(cut.measure(0.42, 0.43, 0.02), waist + 0.03)
    hem = cut.measure(0.47, 0.58, 0.10)
    drop = float(cut.rng.uniform(0.03, 0.09))
    top = smooth((0.0, 0.03), (0.6 * waist, 0.02), (waist, 0.0))
    side = smooth((waist, 0.0), (hip, 0.33), (hem, max(length, 0.6)))
    foot = smooth((hem, max(length, 0.6)), (0.55 * hem, max(length, 0.6) + 0.8 * drop), (0.0, max(length, 0.6) + drop))
    garment.panels.append(Panel(closed(top, side, foot)))
    width = waist + (hip - waist) * 0.3
    garment.seams.append(smooth((-width, 0.09), (0.0, 0.12), (width, 0.09)))
    pleats = int(cut.rng.choice([0, 2, 4, 6], p=[0.4, 0.2, 0.2, 0.2]))
    for place in np.linspace(-0.7, 0.7, pleats):
        garment.seams.append(straight((place * width, 0.115), (place * hem, max(length, 0.6) + 0.7 * drop)))
    garment.attributes["pleats"] = str(pleats)


_BUILDERS: dict[str, Callable[[Garment, Cut], None]] = {
    **UPPER_BUILDERS,
    "trousers": _trousers,
    "shorts": _shorts,
    "skirt": _skirt,
}
