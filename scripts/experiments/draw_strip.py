"""Draw what extractors see of garments that the package draws, level by level: model_cards/strip.png.

    python scripts/experiments/draw_strip.py --models model_cards/contour-extractor-*

Seconds. Columns: image, annotated edge map, each extractor, and the levels of the last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import refuse_hub_ids, run_tool
from PIL import Image, ImageDraw, ImageOps

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.flags import needed, setting
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.contours import grey_image, level_maps
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining

HEADER = 16  # pixels
GAP = 2


@dataclass
class StripArguments:
    """What to draw."""

    models: list[str] = needed("folders of extractors; the levels of the last one are drawn")
    garments: list[int] = setting([3, 8], "which garments, a row for each")
    side: int = setting(192, "height and width of an image")
    seed: int = setting(0, "seed of the garments")
    output: str = setting("model_cards/strip.png", "file to write")


def main(arguments: StripArguments) -> None:
    """Draw and say what stands where."""
    print(f"{arguments.output}: {', '.join(draw_strip(arguments))}")


def draw_strip(settings: StripArguments) -> list[str]:
    """Writes a PNG with a row for each drawn garment and a column for each thing to see; lines are black on white.

    Columns: the image, the contours that were drawn with it, the soft map of each extractor, and the levels of the
    last extractor from fine texture to outline (method, row 7: shallow maps carry texture, deep maps outline).

    Returns:
        The titles of the columns.
    """
    folders, path, side = refuse_hub_ids(settings.models), Path(settings.output), settings.side
    models = {folder.resolve().name: ContourExtractorForPreTraining.from_pretrained(folder) for folder in folders}
    processors = {folder.resolve().name: ContourImageProcessor.from_pretrained(folder) for folder in folders}
    rows, titles = [], ["image", "drawn"]
    for index in settings.garments:
        sample = draw_garment(index, seed=settings.seed, size=(side, side))
        drawn = Image.fromarray(sample.contour)
        titles, tiles = ["image", "drawn"], [sample.image, ImageOps.invert(drawn.convert("L"))]
        for name, model in models.items():
            pixels = processors[name](sample.image, do_resize=False, do_pad=False, return_tensors="pt")
            with torch.inference_mode():
                outputs = model(**pixels)
            titles.append(name.removeprefix("contour-extractor-"))
            tiles.append(ImageOps.invert(grey_image(outputs.logits[0, 0].sigmoid())))
        levels = level_maps(outputs, (side, side), output_stride=model.config.output_stride)
        titles += [f"level {number}" for number in range(len(levels))]
        tiles += [ImageOps.invert(grey_image(level)) for level in levels]
        rows.append(tiles)
    path.parent.mkdir(parents=True, exist_ok=True)
    lay_out(rows, titles).save(path, optimize=True)
    return titles


def lay_out(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Images of one size in rows and columns, with the titles above the columns; RGB."""
    width, height = rows[0][0].size
    canvas = Image.new("RGB", (len(titles) * (width + GAP), HEADER + len(rows) * (height + GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((column * (width + GAP) + 2, 2), title, fill="black")
        for row, tiles in enumerate(rows):
            canvas.paste(tiles[column], (column * (width + GAP), HEADER + row * (height + GAP)))
    return canvas


if __name__ == "__main__":
    run_tool(StripArguments, main, description=__doc__)
