"""What drawn garments are made of: panels, seams, smooth curves, and measures drawn for a section.

One unit is about half a metre; x points right, y down, and the middle of the garment stands at x = 0.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Curve: TypeAlias = np.ndarray  # (num_points, 2), x and y

MEN, WOMEN = 0, 1
# The two sections overlap: about one garment in sixty is cut nearer to the other section than to its own.
CUT_SPREAD = 0.47


@dataclass
class Panel:
    """A piece of cloth.

    Attributes:
        outline: closed curve.
        role: `cloth`, `trim` (collar, lapel) or `lining` (the inner side, seen through the neck).
        angle: radians by which its cloth is turned, as on a sleeve.
    """

    outline: Curve
    role: str = "cloth"
    angle: float = 0.0


@dataclass
class Garment:
    """Curves of one garment.

    Attributes:
        article: a key of `garment_patterns.ARTICLES`.
        attributes: what was drawn, by name: neckline, sleeves and so on.
        panels: from back to front; their union is the silhouette.
        seams: open curves that a person would trace: neckline, armhole, placket, pocket, hem.
        borders: open curves that count only where they lie inside the silhouette, as a sleeve before the body.
        buttons: centres, no contours.
    """

    article: str
    attributes: dict[str, float | str] = field(default_factory=dict)
    panels: list[Panel] = field(default_factory=list)
    seams: list[Curve] = field(default_factory=list)
    borders: list[Curve] = field(default_factory=list)
    buttons: list[tuple[float, float]] = field(default_factory=list)


class Cut:
    """Draws measures and details of one garment, given how far it is cut for either section.

    Args:
        label: `MEN` or `WOMEN`.
        rng: stream for everything about the shape.
    """

    def __init__(self, label: int, rng: np.random.Generator):
        section = 1.0 if label == WOMEN else -1.0
        self.rng = rng
        self.position = section + CUT_SPREAD * float(np.clip(rng.normal(), -3, 3))

    def measure(self, men: float, women: float, spread: float) -> float:
        """A length or angle: its mean moves from `men` to `women` with the cut; `spread` is its scatter."""
        position = float(np.clip(self.position, -1.6, 1.6))
        noise = 0.6 * float(np.clip(self.rng.normal(), -2, 2))
        return (men + women) / 2 + (women - men) / 2 * position + spread * noise

    def chance(self, men: float, women: float) -> bool:
        """True with a probability that moves from `men` to `women` with the cut."""
        share = float(np.clip((self.position + 1) / 2, 0, 1))
        return bool(self.rng.random() < men + (women - men) * share)

    def choose(self, **weights: tuple[float, float]) -> str:
        """One of the names, by (men, women) weights."""
        share = float(np.clip((self.position + 1) / 2, 0, 1))
        mixed = np.array([men + (women - men) * share for men, women in weights.values()])
        return str(
            list(weights)[int(np.searchsorted(np.cumsum(mixed) / mixed.sum(), self.rng.random(), side="right"))]
        )


_STEPS = np.linspace(0, 1, 7)[:-1]
# Catmull-Rom: rows are positions on a span, columns the four points around it.
_BASIS = 0.5 * np.stack(
    [
        -_STEPS + 2 * _STEPS**2 - _STEPS**3,
        2 - 5 * _STEPS**2 + 3 * _STEPS**3,
        _STEPS + 4 * _STEPS**2 - 3 * _STEPS**3,
        -(_STEPS**2) + _STEPS**3,
    ],
    axis=1,
)


def smooth(*points: tuple[float, float]) -> Curve:
    """A curve through all points, without corners."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float64)
    windows = np.stack([knots[:-3], knots[1:-2], knots[2:-1], knots[3:]], axis=1)
    return np.concatenate([(_BASIS @ windows).reshape(-1, 2), knots[-1:]])


def straight(*points: tuple[float, float]) -> Curve:
    """The points, joined by straight lines."""
    return np.array(points, dtype=np.float64)


def flipped(curve: Curve) -> Curve:
    """The curve on the other side of the middle."""
    return curve * np.array([-1.0, 1.0])


def closed(*right: Curve) -> Curve:
    """A closed outline from the curves of its right half, which lead from the middle round to the middle."""
    half = np.concatenate(right)
    return np.concatenate([half, flipped(half[::-1])])


def both_sides(*curves: Curve) -> list[Curve]:
    """The curves and their mirror images."""
    return [side for curve in curves for side in (curve, flipped(curve))]
