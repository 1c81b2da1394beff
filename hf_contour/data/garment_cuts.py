"""The cuts of garments: outlines and seams as curves in a unit frame.

x runs from the middle of the garment to the right, y from the neck or the waistband downwards; a garment is about 1
high. Men's and women's cuts are drawn from overlapping distributions: broader shoulders, straighter sides and longer
sleeves and shorts on one side; a marked waist, wider necklines and higher rises on the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MEN, WOMEN = 0, 1
Curve = np.ndarray  # (N, 2) points (x, y)


@dataclass(frozen=True)
class GarmentCut:
    """The curves of one garment.

    Attributes:
        article: what it is.
        outline: `(N, 2)`, closed: the last point joins the first.
        seams: `(M, 2)` each, open: collar, placket, sleeve seams, hems, pockets.
    """

    article: str
    outline: Curve
    seams: tuple[Curve, ...]


def draw_cut(label: int, rng: np.random.Generator) -> GarmentCut:
    """Draws an article and its measures.

    Args:
        label: `MEN` or `WOMEN`.
        rng: source of every draw.
    """
    articles, shares = zip(*_ARTICLES[label].items(), strict=True)
    article = str(rng.choice(articles, p=np.array(shares) / sum(shares)))
    return _CUTTERS[article](article, label, rng)


def _measure(label: int, rng: np.random.Generator, men: float, women: float, spread: float) -> float:
    """One measure: the mean of the section's cut, give or take."""
    return float((men, women)[label] + spread * np.clip(rng.standard_normal(), -2, 2))


def _bow(start: Curve, control: Curve, end: Curve, num_points: int = 12) -> Curve:
    """A quadratic Bezier curve, `(num_points, 2)`, both ends included."""
    t = np.linspace(0, 1, num_points)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def _mirror(curve: Curve) -> Curve:
    """The curve on the other side, run through backwards."""
    return (curve * np.array([-1.0, 1.0]))[::-1]


def _both_sides(right: Curve) -> Curve:
    """A closed outline from its right half, which runs from the top middle to the bottom middle."""
    return np.concatenate([right, _mirror(right)])


def _cut_top(article: str, label: int, rng: np.random.Generator) -> GarmentCut:
    """T-shirts, shirts, jackets, vests and dresses: a body, a neckline and sleeves."""
    is_long = article in ("shirt", "jacket")
    shoulder = _measure(label, rng, 0.43, 0.37, 0.025)
    chest = _measure(label, rng, 0.40, 0.355, 0.02)
    waist = chest * _measure(label, rng, 0.97, 0.80, 0.05)
    hem = chest * _measure(label, rng, 0.99, 1.02, 0.05)
    length = _measure(label, rng, 1.0, 0.93, 0.05)
    neck = _measure(label, rng, 0.14, 0.18, 0.025)
    neck_depth = _measure(label, rng, 0.08, 0.16, 0.03)
    sleeve = _measure(label, rng, 0.74, 0.70, 0.05) if is_long else _measure(label, rng, 0.33, 0.22, 0.05)
    if article == "dress":
        length, hem, sleeve = length * 1.25, chest * rng.uniform(1.2, 1.9), rng.uniform(0.06, 0.25)
    if article == "vest":
        neck, neck_depth, shoulder, sleeve = neck + 0.05, neck_depth + 0.08, shoulder - 0.12, 0.0
    if is_long:
        neck, neck_depth = min(neck, 0.16), 0.07
    tip, armpit = np.array([shoulder, 0.07]), np.array([chest, 0.31])
    side = _bow(armpit, np.array([2 * waist - (chest + hem) / 2, 0.6 * length]), np.array([hem, length]), 24)
    neckline = _bow(np.array([0.0, neck_depth]), np.array([neck * 0.9, neck_depth]), np.array([neck, 0.0]))
    arm, seams = _sleeve(tip, armpit, sleeve, label, rng)
    outline = _both_sides(np.concatenate([neckline, arm, side[1:], [[0.0, length]]]))
    seams += [_mirror(seam) for seam in seams]
    seams.append(np.stack([side[-1], _mirror(side)[0]]) - [0.0, 0.045])  # hem
    seams += _closure(article, label, neck, neck_depth, length, chest, rng)
    if article == "dress":
        seams.append(np.array([[-waist, 0.55 * length], [waist, 0.55 * length]]) * [0.97, 1.0])
    return GarmentCut(article, outline, tuple(seams))


def _sleeve(
    tip: Curve, armpit: Curve, length: float, label: int, rng: np.random.Generator
) -> tuple[Curve, list[Curve]]:
    """The outline from shoulder to armpit, and the right sleeve's seams."""
    if length < 0.05:
        return _bow(tip, np.array([tip[0] - 0.02, armpit[1] * 0.8]), armpit), []
    angle = np.deg2rad(rng.uniform(48, 72) if length < 0.5 else rng.uniform(66, 80))
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    width = _measure(label, rng, 0.19, 0.16, 0.015) * (0.75 if length > 0.5 else 1.0)
    outer = tip + length * along
    inner = outer + width * across
    curve = np.concatenate([_bow(tip, tip + np.array([0.05, 0.0]), outer), inner[None], armpit[None]])
    cuff = np.stack([outer, inner]) - 0.035 * along
    armhole = _bow(tip, np.array([tip[0] - 0.06, (tip[1] + armpit[1]) / 2]), armpit)
    return curve, [armhole, cuff]


def _closure(
    article: str, label: int, neck: float, depth: float, length: float, chest: float, rng: np.random.Generator
) -> list[Curve]:
    """Collar, placket and pocket; a jacket and a shirt button to the right for women and to the left for men."""
    inner = _bow(np.array([-neck, 0.0]), np.array([0.0, 2 * depth + 0.06]), np.array([neck, 0.0]))
    if article not in ("shirt", "jacket"):
        return [inner]
    side = -1.0 if label == WOMEN else 1.0
    edge = side * rng.uniform(0.015, 0.035)
    seams = [np.array([[edge, depth + 0.02], [edge, length]])]
    lapel = rng.uniform(0.28, 0.45) if article == "jacket" else rng.uniform(0.10, 0.15)
    for sign in (-1.0, 1.0):
        points = [[sign * neck, 0.0], [sign * neck * 0.95, lapel * 0.7], [0.0, lapel]]
        seams.append(np.array(points))
    if rng.random() < 0.6:
        left, top, size = chest * 0.35, 0.33 * length, 0.15
        square = [[left, top], [left, top + size], [left + size, top + size], [left + size, top], [left, top]]
        seams.append(np.array(square))
    return seams


def _cut_trousers(article: str, label: int, rng: np.random.Generator) -> GarmentCut:
    """Trousers and shorts: waistband, hips, crotch and two legs."""
    is_short = article == "shorts"
    hips = _measure(label, rng, 0.27, 0.275, 0.015) * (1.35 if is_short else 1.0)
    waist = hips * _measure(label, rng, 0.90, 0.72, 0.05)
    rise = _measure(label, rng, 0.27, 0.31, 0.02) * (1.35 if is_short else 1.0)
    length = _measure(label, rng, 0.80, 0.55, 0.07) if is_short else 1.0
    leg = hips * (_measure(label, rng, 0.92, 0.98, 0.05) if is_short else _measure(label, rng, 0.62, 0.48, 0.08))
    if not is_short and label == WOMEN and rng.random() < 0.25:
        leg = hips * rng.uniform(0.75, 1.0)  # flared
    spread = hips * rng.uniform(0.06, 0.28)
    hip = np.array([hips, 0.65 * rise])
    outer, inner = np.array([spread + leg, length]), np.array([spread, length])
    right = np.concatenate(
        [
            [[0.0, 0.0], [waist, 0.0]],
            _bow(np.array([waist, 0.0]), np.array([hips, 0.2 * rise]), hip),
            _bow(hip, np.array([hips * 0.98, 0.5 * length]), outer)[1:],
            [inner, [0.0, rise]],
        ]
    )
    band = 0.055
    fly = _bow(np.array([0.035, band]), np.array([0.035, 0.6 * rise]), np.array([0.0, 0.75 * rise]))
    pocket = _bow(
        np.array([waist * 0.6, band]), np.array([waist * 0.65, 0.45 * rise]), np.array([hips * 0.97, 0.5 * rise])
    )
    seams = [np.array([[-waist, band], [waist, band]]) * [1.02, 1.0], fly, np.array([[0.0, band], [0.0, rise]])]
    seams += [pocket, _mirror(pocket)]
    hem = np.stack([inner, outer]) - [0.0, 0.035]
    seams += [hem, _mirror(hem)]
    return GarmentCut(article, _both_sides(right), tuple(seams))


def _cut_skirt(article: str, label: int, rng: np.random.Generator) -> GarmentCut:
    """Skirts: a waistband, hips, and a hem from narrow to flared."""
    waist, hips = rng.uniform(0.20, 0.27), rng.uniform(0.30, 0.36)
    length, hem = rng.uniform(0.65, 1.05), hips * rng.uniform(0.85, 1.7)
    edge = np.array([hem, length])
    side = np.concatenate(
        [
            _bow(np.array([waist, 0.0]), np.array([hips, 0.08]), np.array([hips, 0.28])),
            np.array([[(hips + hem) / 2, (0.28 + length) / 2]]),
            edge[None],
        ]
    )
    bottom = _bow(edge, np.array([hem / 2, length + 0.08]), np.array([0.0, length + 0.06]))
    outline = _both_sides(np.concatenate([[[0.0, 0.0]], side, bottom[1:]]))
    seams = [np.array([[-waist, 0.06], [waist, 0.06]]) * [1.05, 1.0]]
    for place in (-0.45, 0.45):
        if hem > 1.15 * hips:  # pleats
            seams.append(np.array([[place * waist, 0.1], [place * hem, length]]))
    return GarmentCut(article, outline, tuple(seams))


_CUTTERS: dict[str, Callable[[str, int, np.random.Generator], GarmentCut]] = {
    "t-shirt": _cut_top,
    "shirt": _cut_top,
    "jacket": _cut_top,
    "vest": _cut_top,
    "dress": _cut_top,
    "trousers": _cut_trousers,
    "shorts": _cut_trousers,
    "skirt": _cut_skirt,
}
_ARTICLES: tuple[dict[str, float], dict[str, float]] = (
    {"t-shirt": 25, "shirt": 22, "jacket": 12, "vest": 9, "trousers": 20, "shorts": 12},
    {"t-shirt": 20, "shirt": 14, "jacket": 10, "vest": 10, "trousers": 16, "shorts": 8, "skirt": 10, "dress": 12},
)
