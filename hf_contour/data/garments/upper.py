"""Patterns of shirts, jackets, dresses and other garments with a bodice.

Each builder adds its curves to a garment; `Bodice` and `Sleeve` hold the measures that they share.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hf_contour.data.garments.curves import Curve, Cut, Garment, Panel, both_sides, closed, flipped, smooth, straight

LONG_SLEEVE = 0.7  # from this length on, a sleeve hangs from the underarm


@dataclass
class Bodice:
    """Measures of an upper garment; widths are half widths."""

    neck: float
    neck_depth: float
    shoulder: float
    slope: float
    chest: float
    waist: float
    hip: float
    length: float
    armhole: float
    waist_height: float = 0.62  # part of the length
    hem_drop: float = 0.03

    def side(self) -> Curve:
        """From the underarm to the hem."""
        waist_y = self.armhole + (self.waist_height * self.length - self.armhole) * 0.9
        return smooth((self.chest, self.armhole), (self.waist, waist_y), (self.hip, self.length))

    def armhole_curve(self) -> Curve:
        """From the tip of the shoulder to the underarm."""
        middle = (min(self.shoulder, self.chest) - 0.035, self.slope + 0.55 * (self.armhole - self.slope))
        return smooth((self.shoulder, self.slope), middle, (self.chest, self.armhole))

    def hem(self, raised: float = 0.0) -> Curve:
        """From the side to the middle; `raised` moves it up, for a band."""
        y, width = self.length - raised, self.hip + (self.waist - self.hip) * raised * 0.5
        return smooth((width, y), (0.55 * width, y + 0.8 * self.hem_drop), (0.0, y + self.hem_drop))

    def back_neck(self) -> Curve:
        """From the middle to the side of the neck."""
        dip = 0.05 + 0.15 * self.neck
        return smooth((0.0, dip), (0.6 * self.neck, 0.7 * dip), (self.neck, 0.0))


def _bodice(cut: Cut, *, slim: float = 0.0, length: float = 0.0) -> Bodice:
    """Measures of an upper garment for the cut; `slim` below 0 is wider, `length` is added."""
    chest = cut.measure(0.52, 0.45, 0.018) - slim
    return Bodice(
        neck=cut.measure(0.16, 0.19, 0.015),
        neck_depth=cut.measure(0.13, 0.22, 0.04),
        shoulder=cut.measure(0.47, 0.385, 0.018),
        slope=cut.measure(0.11, 0.09, 0.012),
        chest=chest,
        waist=chest * cut.measure(0.985, 0.83, 0.045),
        hip=chest * cut.measure(0.985, 1.03, 0.035),
        length=cut.measure(1.38, 1.22, 0.06) + length,
        armhole=cut.measure(0.48, 0.42, 0.02),
        hem_drop=float(cut.rng.uniform(0.01, 0.05)),
    )


def _add_torso(garment: Garment, body: Bodice) -> None:
    shoulder = straight((body.neck, 0.0), (body.shoulder, body.slope))
    outline = closed(body.back_neck(), shoulder, body.armhole_curve(), body.side(), body.hem())
    garment.panels.append(Panel(outline))


@dataclass
class Sleeve:
    """Measures of a sleeve.

    Attributes:
        length: along the outer side.
        cuff: width of the end.
        angle: radians from hanging straight down.
        puff: how far the sleeve swells in the middle.
    """

    length: float
    cuff: float
    angle: float
    puff: float = 0.0


def _add_sleeves(garment: Garment, body: Bodice, cut: Cut, sleeve: Sleeve) -> None:
    """Two sleeves of the same cut, each hanging in its own way."""
    for side in (1.0, -1.0):
        lean = sleeve.angle + float(np.clip(cut.rng.normal(0, 0.05), -0.1, 0.1))
        along, inward = np.array([np.sin(lean), np.cos(lean)]), np.array([-np.cos(lean), np.sin(lean)])
        tip, underarm = np.array([body.shoulder, body.slope]), np.array([body.chest, body.armhole])
        if sleeve.length > LONG_SLEEVE:
            inner = underarm + (sleeve.length - (underarm - tip) @ along) * along
            outer, swell_out = inner - sleeve.cuff * inward, underarm - 0.95 * sleeve.cuff * inward
        else:
            outer = tip + sleeve.length * along
            inner, swell_out = _outside_of(body, outer + sleeve.cuff * inward), tip + 0.55 * sleeve.length * along
        swell_out = swell_out - (sleeve.puff + 0.015) * inward
        swell_in = (inner + underarm) / 2 + 0.6 * sleeve.puff * inward
        top = smooth(tuple(tip), tuple(swell_out), tuple(outer))
        under = smooth(tuple(underarm), tuple(swell_in), tuple(inner))
        armhole, mirror = body.armhole_curve(), np.array([side, 1.0])
        outline = np.concatenate([top, under[::-1], armhole[::-1]]) * mirror
        garment.panels.append(Panel(outline, angle=-side * lean))
        garment.seams.append(armhole * mirror)
        garment.borders.append(under * mirror)
        if garment.attributes.get("cuffs") == "banded":
            share = min(0.09 / sleeve.length, 0.3)
            garment.seams.append(straight(_between(outer, tip, share), _between(inner, underarm, share)) * mirror)


def _outside_of(body: Bodice, end: Curve) -> Curve:
    """The inner end of a sleeve, moved out where a short sleeve would end inside the body."""
    return np.array([max(end[0], body.chest + 0.05), max(end[1], body.armhole + 0.02)])


def _between(start: Curve, end: Curve, share: float) -> tuple[float, float]:
    x, y = start + share * (end - start)
    return float(x), float(y)


def _add_neckline(garment: Garment, body: Bodice, kind: str, *, rib: bool) -> None:
    """An opening without a collar: the lining at the back and the edge at the front."""
    curves = [_neckline(kind, body.neck, body.neck_depth, 0.0)]
    if rib:
        drop = 0.055 * body.slope / (body.shoulder - body.neck)
        curves.append(_neckline(kind, body.neck + 0.055, body.neck_depth + 0.055, drop))
    garment.panels.append(Panel(np.concatenate([closed(body.back_neck(), curves[0])]), role="lining"))
    garment.seams.extend(np.concatenate([curve, flipped(curve[::-1])]) for curve in curves)
    garment.attributes["neckline"] = kind


def _neckline(kind: str, width: float, depth: float, top: float) -> Curve:
    """Right half of the front edge, from the shoulder to the middle."""
    if kind == "v":
        return straight((width, top), (0.0, depth * 1.45))
    if kind == "square":
        return straight((width, top), (width * 0.93, depth), (0.0, depth))
    return smooth((width, top), (0.85 * width, 0.55 * depth), (0.45 * width, 0.93 * depth), (0.0, depth))


def _add_collar(garment: Garment, body: Bodice, cut: Cut, *, spread: float, stand: float) -> tuple[float, float]:
    """A turned-down collar; returns the point in front where it closes."""
    front = (0.0, 0.10 + 0.35 * body.neck_depth)
    tip = (0.13 + spread, front[1] + 0.10 + 0.4 * spread)
    neck, outer = (body.neck - 0.01, -stand), (body.neck + 0.06, 0.035)
    back = smooth((0.0, -stand - 0.02), (0.6 * body.neck, -stand - 0.015), neck)
    inner = smooth(neck, (0.55 * body.neck, 0.5 * front[1]), front)
    garment.panels.append(Panel(closed(back, inner), role="lining"))
    leaf = np.concatenate([inner, straight(tip, outer)])
    garment.panels.extend(Panel(side, role="trim") for side in both_sides(leaf))
    garment.seams.extend(both_sides(inner, straight(front, tip, outer)))
    garment.borders.extend(both_sides(straight(outer, neck)))
    garment.attributes["neckline"] = "collar"
    return front


def _add_placket(garment: Garment, cut: Cut, top: float, bottom: float, *, spacing: float = 0.17) -> None:
    """A closing with buttons; men's and women's sections button on opposite sides."""
    side = 1.0 if cut.chance(0.93, 0.07) else -1.0
    garment.seams.append(straight((0.045 * side, top), (0.045 * side, bottom)))
    garment.buttons.extend((0.0, float(y)) for y in np.arange(top + 0.07, bottom - 0.06, spacing))
    garment.attributes["buttons"] = "right" if side > 0 else "left"


def _add_pocket(garment: Garment, x: float, y: float, width: float, height: float, *, pointed: bool = False) -> None:
    """A patch pocket with its top left corner at (x, y)."""
    foot = [(x + width, y + height), (x + width / 2, y + height * (1.2 if pointed else 1.0)), (x, y + height)]
    garment.seams.append(straight((x, y), (x + width, y), *foot, (x, y)))


def _add_hem_band(garment: Garment, body: Bodice, height: float) -> None:
    half = body.hem(raised=height)
    garment.seams.append(np.concatenate([half, flipped(half[::-1])]))


def _short_sleeves(garment: Garment, body: Bodice, cut: Cut) -> None:
    length, cuff = cut.measure(0.46, 0.27, 0.06), cut.measure(0.36, 0.27, 0.025)
    _add_sleeves(garment, body, cut, Sleeve(max(length, 0.14), cuff, angle=cut.measure(0.72, 0.62, 0.09)))


def _long_sleeves(garment: Garment, body: Bodice, cut: Cut, *, wide: float = 0.0, puff: float = 0.0) -> None:
    length, cuff = cut.measure(1.18, 1.05, 0.05), cut.measure(0.21, 0.17, 0.015) + wide
    angle = max(cut.measure(0.31, 0.31, 0.05), 0.22)
    _add_sleeves(garment, body, cut, Sleeve(length, cuff, angle, puff))


def _t_shirt(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut)
    garment.attributes["cuffs"] = "banded" if cut.chance(0.4, 0.3) else "plain"
    _add_torso(garment, body)
    _short_sleeves(garment, body, cut)
    kind = cut.choose(round=(0.8, 0.55), v=(0.2, 0.3), square=(0.0, 0.15))
    _add_neckline(garment, body, kind, rib=cut.chance(0.8, 0.4))
    if cut.chance(0.3, 0.1):
        _add_pocket(garment, 0.13, 0.42, 0.17, 0.18)


def _shirt(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut, length=0.06)
    body.hem_drop = cut.measure(0.12, 0.09, 0.03)
    garment.attributes["cuffs"] = "banded"
    _add_torso(garment, body)
    if cut.chance(0.7, 0.75):
        _long_sleeves(garment, body, cut)
    else:
        _short_sleeves(garment, body, cut)
    front = _add_collar(garment, body, cut, spread=cut.measure(0.05, 0.02, 0.015), stand=0.05)
    _add_placket(garment, cut, front[1], body.length + body.hem_drop)
    if cut.chance(0.65, 0.25):
        _add_pocket(garment, 0.14, 0.45, 0.18, 0.18, pointed=cut.chance(0.5, 0.5))


def _polo(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut)
    garment.attributes["cuffs"] = "banded"
    _add_torso(garment, body)
    _short_sleeves(garment, body, cut)
    front = _add_collar(garment, body, cut, spread=cut.measure(0.05, 0.01, 0.02), stand=0.035)
    bottom = front[1] + cut.measure(0.26, 0.34, 0.05)
    _add_placket(garment, cut, front[1], bottom, spacing=0.10)
    garment.seams.append(straight((-0.045, front[1] + 0.05), (-0.045, bottom), (0.045, bottom), (0.045, front[1])))


def _jumper(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut, slim=-0.02, length=-0.04)
    body.hip *= 0.93
    garment.attributes["cuffs"] = "banded"
    _add_torso(garment, body)
    _long_sleeves(garment, body, cut, wide=0.03, puff=max(cut.measure(0.0, 0.025, 0.02), 0.0))
    _add_neckline(garment, body, cut.choose(round=(0.65, 0.6), v=(0.35, 0.4)), rib=True)
    _add_hem_band(garment, body, 0.11)


def _jacket(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut, slim=-0.02, length=0.06)
    zipped = cut.chance(0.45, 0.4)
    garment.attributes["cuffs"] = "banded" if zipped else "plain"
    garment.attributes["front"] = "zip" if zipped else "lapels"
    if zipped:
        body.length -= 0.12
    _add_torso(garment, body)
    _long_sleeves(garment, body, cut, wide=0.04)
    if zipped:
        _add_zip_front(garment, body, cut)
    else:
        _add_lapels(garment, body, cut)


def _add_zip_front(garment: Garment, body: Bodice, cut: Cut) -> None:
    front = _add_collar(garment, body, cut, spread=0.0, stand=0.09)
    garment.seams.append(straight((0.0, front[1]), (0.0, body.length + body.hem_drop)))
    height = body.length * cut.measure(0.62, 0.66, 0.02)
    garment.seams.extend(both_sides(straight((0.22, height + 0.2), (0.30, height))))
    _add_hem_band(garment, body, 0.10)


def _add_lapels(garment: Garment, body: Bodice, cut: Cut) -> None:
    """The crossing front of a blazer, with flap pockets."""
    closing = (0.0, cut.measure(0.66, 0.74, 0.06))
    peak = (cut.measure(0.27, 0.22, 0.02), 0.30)
    neck, notch = (body.neck, -0.01), (0.20, 0.20)
    collar_tip = (body.neck + 0.09, 0.17)
    right = straight(neck, (body.neck + 0.07, 0.04), collar_tip, notch, peak)
    lapel = np.concatenate([right, smooth(peak, (0.6 * peak[0], 0.62 * closing[1] + 0.1), closing)])
    garment.panels.append(Panel(closed(body.back_neck(), straight(closing)), role="lining"))
    garment.panels.extend(Panel(side, role="trim") for side in both_sides(lapel))
    garment.seams.extend(both_sides(lapel, straight(neck, closing)))
    garment.seams.append(straight(closing, (0.0, body.length + body.hem_drop)))
    side = 1.0 if cut.chance(0.93, 0.07) else -1.0
    garment.buttons.extend((0.05 * side, closing[1] + step) for step in (0.05, 0.21))
    pocket_y, inner = body.length * 0.70, 0.14
    for left in (inner, -inner - 0.2):
        _add_pocket(garment, left, pocket_y, 0.2, 0.07)
    garment.attributes["neckline"] = "lapels"


def _tank_top(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut, slim=0.02)
    body.shoulder = body.neck + cut.measure(0.15, 0.07, 0.02)
    body.neck_depth = cut.measure(0.22, 0.30, 0.05)
    body.slope = 0.03
    _add_torso(garment, body)
    _add_neckline(garment, body, cut.choose(round=(0.9, 0.6), v=(0.1, 0.25), square=(0.0, 0.15)), rib=False)
    if cut.chance(0.3, 0.3):
        _add_hem_band(garment, body, 0.06)


def _blouse(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut, slim=0.01, length=-0.04)
    body.hip *= cut.measure(1.0, 1.16, 0.06)
    body.neck_depth += 0.05
    garment.attributes["cuffs"] = "banded"
    _add_torso(garment, body)
    puff = max(cut.measure(0.03, 0.09, 0.03), 0.0)
    if cut.chance(0.8, 0.55):
        _long_sleeves(garment, body, cut, puff=puff)
    else:
        _add_sleeves(garment, body, cut, Sleeve(0.34, 0.25, 0.62, puff))
    if cut.chance(0.6, 0.35):
        front = _add_collar(garment, body, cut, spread=0.03, stand=0.03)
        _add_placket(garment, cut, front[1], body.length + body.hem_drop)
    else:
        _add_neckline(garment, body, cut.choose(round=(0.4, 0.35), v=(0.6, 0.4), square=(0.0, 0.25)), rib=False)
        waist = body.length * body.waist_height
        garment.seams.append(smooth((-body.waist, waist), (0.0, waist + 0.03), (body.waist, waist)))


def _dress(garment: Garment, cut: Cut) -> None:
    body = _bodice(cut, slim=0.02, length=0.75)
    body.waist = body.chest * cut.measure(0.97, 0.76, 0.05)
    body.hip = body.chest * cut.measure(1.05, 1.5, 0.18)
    body.waist_height = 0.42
    body.neck_depth += 0.04
    sleeves = cut.choose(none=(0.0, 0.45), short=(0.3, 0.4), long=(0.7, 0.15))
    if sleeves == "none":
        body.shoulder = body.neck + 0.10
        body.slope = 0.03
    garment.attributes["sleeves"] = sleeves
    _add_torso(garment, body)
    if sleeves == "short":
        _short_sleeves(garment, body, cut)
    elif sleeves == "long":
        _long_sleeves(garment, body, cut)
    _add_neckline(garment, body, cut.choose(round=(0.6, 0.45), v=(0.4, 0.35), square=(0.0, 0.2)), rib=False)
    if cut.chance(0.1, 0.8):
        waist = body.armhole + (body.waist_height * body.length - body.armhole) * 0.9
        garment.seams.append(smooth((-body.waist, waist), (0.0, waist + 0.03), (body.waist, waist)))


UPPER_BUILDERS: dict[str, Callable[[Garment, Cut], None]] = {
    "t-shirt": _t_shirt,
    "shirt": _shirt,
    "polo": _polo,
    "jumper": _jumper,
    "jacket": _jacket,
    "tank top": _tank_top,
    "blouse": _blouse,
    "dress": _dress,
}
