"""Measure false contours along the border, and draw what extractors see of garments laid flat.

    python scripts/experiments/border_lines.py --models model_cards/contour-extractor-* --data ../shared/data/shops

Writes model_cards/results/border_lines.json and model_cards/contours_hm.png (contours only, no photograph). About two
minutes on one core. The mean contour value in the outer pixels of photographs is set beside the mean inside; on plain
images, which have no contour, the highest value counts.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from common import refuse_hub_ids, run_tool, write_results
from numpy.typing import NDArray
from PIL import Image

from hf_contour.data.sources import load_source
from hf_contour.flags import needed, setting
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining

PLAIN_SIZES = ((96, 64), (101, 77), (320, 480), (333, 500))
PLAIN_LEVELS = (0, 128, 255)  # of each channel: 27 colours


@dataclass
class BorderArguments:
    """What to measure."""

    models: list[str] = needed("folders of extractors")
    data: str = needed("photographs")
    data_config: str = setting("hm", "configuration of the data")
    split: str = setting("validation", "split of the data")
    num_images: int = setting(60, "photographs, the first of the split")
    num_drawn: int = setting(8, "photographs whose contours are drawn")
    margin: int = setting(4, "outer pixels that count as the border")
    output: str = setting("model_cards/results/border_lines.json", "results file")
    drawing: str = setting("model_cards/contours_hm.png", "drawing")


def main(arguments: BorderArguments) -> None:
    """Measure, draw, print and write."""
    torch.set_num_threads(1)
    rows = load_source(arguments.data, split=arguments.split, config_name=arguments.data_config)
    images = rows.select(range(arguments.num_images)).cast_column("image", datasets.Image())["image"]
    results, strips = {}, []
    for folder in refuse_hub_ids(arguments.models):
        model = ContourExtractorForPreTraining.from_pretrained(folder).eval()
        processor = ContourImageProcessor.from_pretrained(folder)
        maps = [edge_probs(model, processor, image) for image in images]
        results[folder.resolve().name] = {**border_means(maps, arguments.margin), **highest_on_plain(model, processor)}
        strips.append(np.hstack([fitted(one) for one in maps[: arguments.num_drawn]]))
        print(folder.resolve().name, results[folder.resolve().name])
    Image.fromarray(np.vstack(strips)).save(arguments.drawing)
    write_results(arguments.output, arguments, {"models": results})


@torch.inference_mode()
def edge_probs(
    model: ContourExtractorForPreTraining, processor: ContourImageProcessor, image: Image.Image
) -> NDArray[np.float32]:
    """`(height, width)` contour values in [0, 1] of an image at its own size."""
    inputs = processor(image, do_resize=False, do_pad=False, return_tensors="pt")
    return model(**inputs).logits[0, 0].sigmoid().numpy()


def border_means(maps: list[NDArray[np.float32]], margin: int) -> dict[str, float]:
    """Mean value in the outer `margin` pixels, and inside of them, over all maps."""
    outer, inner = [], []
    for one in maps:
        inside = np.zeros(one.shape, dtype=bool)
        inside[margin:-margin, margin:-margin] = True
        outer.append(one[~inside].mean())
        inner.append(one[inside].mean())
    return {"border_mean": float(np.mean(outer)), "inside_mean": float(np.mean(inner))}


def highest_on_plain(model: ContourExtractorForPreTraining, processor: ContourImageProcessor) -> dict[str, Any]:
    """The highest contour value on plain images, and the colour and size that it is found at."""
    found = []
    for colour, (height, width) in itertools.product(itertools.product(PLAIN_LEVELS, repeat=3), PLAIN_SIZES):
        plain = Image.new("RGB", (width, height), colour)
        found.append((float(edge_probs(model, processor, plain).max()), colour, (height, width)))
    value, colour, size = max(found)
    return {"plain_highest": value, "plain_colour": list(colour), "plain_size": list(size)}


def fitted(edge_map: NDArray[np.float32], height: int = 240, width: int = 160) -> NDArray[np.uint8]:
    """A map as ink on paper, fitted into a cell."""
    cell = Image.new("L", (width, height), 255)
    ink = Image.fromarray((255 * (1 - edge_map)).astype(np.uint8))
    ink.thumbnail((width, height))
    cell.paste(ink, ((width - ink.width) // 2, (height - ink.height) // 2))
    return np.asarray(cell)


if __name__ == "__main__":
    run_tool(BorderArguments, main, description=__doc__)
