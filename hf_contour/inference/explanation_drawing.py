"""An explanation as one image: what went in, where the evidence lies, what the extractor finds, what it is worth."""

from collections.abc import Iterable
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hf_contour.inference.explain import Explanation
from hf_contour.inference.faithfulness import Faithfulness

TILE = 220  # pixels of a tile's longer side
GAP, HEADER, LINE = 8, 18, 17
FOR, AGAINST = (214, 39, 40), (31, 119, 180)  # red speaks for the class, blue against it
GREY = (150, 150, 150)


def draw_explanation(explanation: Explanation) -> Image.Image:
    """The whole explanation as an RGB image about 1,000 pixels wide."""
    size = ImageOps.contain(explanation.image, (TILE, TILE)).size
    first = [("image", explanation.image.resize(size, Image.Resampling.LANCZOS))]
    titles = {"both": f"speaks for {explanation.label}", "image": "of it: backbones", "contour": "of it: contours"}
    scale = heat_scale(explanation.heat_maps.values())
    first += [
        (titles[name], overlay(explanation.image, heat, scale=scale).resize(size, Image.Resampling.LANCZOS))
        for name, heat in explanation.heat_maps.items()
    ]
    first.append(("deletion, insertion", draw_curves(explanation.faithfulness, size=(TILE, size[1]))))
    second = [(name, contour_image(values).resize(size)) for name, values in explanation.contours.items()]
    rows = [row for row in (first, second) if row]
    width = max(sum(tile.width + GAP for _, tile in row) + GAP for row in rows)
    lines = [part for line in explanation.text.splitlines() for part in wrap(line, width // 8)]
    height = len(rows) * (size[1] + HEADER + GAP) + len(lines) * LINE + 2 * GAP
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    top = 0
    for row in rows:
        left = GAP
        for title, tile in row:
            draw.text((left, top + 2), title, fill="black", font=font)
            canvas.paste(tile, (left, top + HEADER))
            left += tile.width + GAP
        top += size[1] + HEADER + GAP
    for number, line in enumerate(lines):
        draw.text((GAP, top + number * LINE), line, fill="black", font=font)
    return canvas


def heat_scale(heats: Iterable[np.ndarray]) -> float:
    """The strength that is drawn in full: the 99th percentile over all maps, above 0."""
    values = np.concatenate([np.abs(heat).ravel() for heat in heats])
    return max(float(np.quantile(values, 0.99)), 1e-12)


def overlay(image: Image.Image, heat: np.ndarray, *, scale: float) -> Image.Image:
    """A heat map over the greyed image: red for, blue against.

    Args:
        image: RGB.
        heat: `(height, width)`.
        scale: strength that is drawn in full.
    """
    ground = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32) * 0.5 + 127
    strength = np.clip(np.abs(heat) / scale, 0, 1)[..., None] * 0.85
    colour = np.where(heat[..., None] >= 0, np.asarray(FOR, np.float32), np.asarray(AGAINST, np.float32))
    return Image.fromarray(np.round(ground * (1 - strength) + colour * strength).clip(0, 255).astype(np.uint8))


def contour_image(values: np.ndarray) -> Image.Image:
    """A map `(height, width)` in 0..1, black on white."""
    return Image.fromarray(np.round(255 * (1 - values.clip(0, 1))).astype(np.uint8)).convert("RGB")


def draw_curves(found: Faithfulness, *, size: tuple[int, int]) -> Image.Image:
    """Deletion in blue and insertion in red; the mean heights of random orders as grey lines."""
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    width, height = size[0] - 1, size[1] - 1
    draw.rectangle((0, 0, width, height), outline=GREY)
    for area in (found.random_deletion_area, found.random_insertion_area):
        draw.line([(0, height * (1 - area)), (width, height * (1 - area))], fill=GREY)
    for curve, colour in ((found.deletion, AGAINST), (found.insertion, FOR)):
        steps = len(curve) - 1
        points = [(width * step / steps, height * (1 - value)) for step, value in enumerate(curve)]
        draw.line(points, fill=colour, width=2)
    return canvas
