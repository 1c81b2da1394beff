"""Contours of images, drawn at the size of the images."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.image_utils import SizeDict

from hf_contour.evaluation.run import load_model
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError, open_image
from hf_contour.inference.arguments import PredictionArguments
from hf_contour.inference.classification import model_config, printable_error
from hf_contour.inference.output import MAPS
from hf_contour.inference.parts import Item

NAME_LENGTH = 100  # characters of an image's name that its maps keep


class ContourDrawing:
    """Writes the contours of images as PNG, white on black, and gives a row for each with the names of the files.

    `NAME_contours.png` is the soft map (255 is certain), `NAME_thin.png` the thin map, `NAME_level0.png` and so on the
    levels from fine to coarse, and `NAME_image.png` the photograph beside both maps. A row has `id`, a column for each
    kind of map with its path in the output folder, and `error`.

    Args:
        arguments: of the prediction; `model` is the folder of an extractor with its single-channel layer.
        output: the output folder.
        device: where PyTorch runs.
    """

    def __init__(self, arguments: PredictionArguments, output: Path, device: torch.device):
        self.output, self.arguments, self.device = output, arguments, device
        folder = Path(arguments.model)
        config = model_config(folder, "contour_extractor")
        self.num_levels = len(config["backbone_levels"] if config.get("backbone") else config["hidden_sizes"])
        self.model = load_model(str(folder)).to(device).eval()
        self.processor = ContourImageProcessor.from_pretrained(folder)
        self.part = 0

    @property
    def columns(self) -> dict[str, type]:
        """Name and type of each column."""
        levels = [f"level{index}" for index in range(self.num_levels)] if self.arguments.levels else []
        kinds = ["contours", "thin", *levels, *(["image"] if self.arguments.with_image else [])]
        return {"id": str, **dict.fromkeys(kinds, str), "error": str}

    def __call__(self, items: Sequence[tuple[str, Item]]) -> list[dict[str, Any]]:
        """Draws images, each with the place of its maps below the output folder, without suffix."""
        return [self._row(stem, item) for stem, item in items]

    def _row(self, stem: str, item: Item) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(self.columns) | {"id": item.id}
        try:
            image = open_image(item.source(), **self.processor.opening_whole)
        except ImageReadError as error:
            return row | {"error": printable_error(error, item)}
        for kind, drawn in self.maps(image).items():
            path = self.output / f"{stem}_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(path)
            row[kind] = path.relative_to(self.output).as_posix()
        return row

    @torch.inference_mode()
    def maps(self, image: Image.Image) -> dict[str, Image.Image]:
        """The maps of an RGB image, by their kinds, at its size."""
        own = processor_for(image, self.processor, self.arguments.max_side)
        outputs = self.model(pixel_values=own(image, return_tensors="pt")["pixel_values"].to(self.device))
        target_sizes = [(image.height, image.width)]
        soft = own.post_process_contours(outputs, target_sizes)[0]
        thin = own.post_process_contours(outputs, target_sizes, threshold=self.arguments.threshold, thin=True)[0]
        maps = {"contours": grey_image(soft), "thin": grey_image(thin)}
        if self.arguments.levels:
            levels = level_maps(outputs, outputs.logits.shape[-2:], output_stride=self.model.config.output_stride)
            for index, level in enumerate(levels):
                maps[f"level{index}"] = grey_image(level).resize(image.size, Image.Resampling.BILINEAR)
        if self.arguments.with_image:
            maps["image"] = beside(image, maps["contours"], maps["thin"])
        return maps


def map_stem(part: int, row: int, name: str) -> str:
    """Where the maps of a row go below the output folder: part, row, and so much of its name as any disk takes."""
    base = Path(re.split(r"[/\\]|::", name)[-1]).stem
    plain = re.sub(r"[^\w.-]", "_", base)[-NAME_LENGTH:]
    while len(plain.encode()) > NAME_LENGTH:
        plain = plain[1:]
    return f"{MAPS}/{part:06d}/{row:06d}_{plain}"


def processor_for(image: Image.Image, processor: ContourImageProcessor, max_side: int) -> ContourImageProcessor:
    """The processor with a size that keeps the image's own, or brings its longer side to `max_side`."""
    longer = max(image.size)
    own = copy.copy(processor)
    own.do_resize, own.do_pad = bool(max_side) and longer > max_side, False
    if own.do_resize:
        height, width = (max(round(side * max_side / longer), 1) for side in (image.height, image.width))
        own.size = SizeDict(height=height, width=width)
    return own


def level_maps(outputs: Any, size: Sequence[int], *, output_stride: int) -> list[Tensor]:
    """What each level sees, from fine to coarse: `(H, W)` in [0, 1] each.

    The probability of the level's own single-channel map where the model has them, else the mean absolute activation
    relative to its highest value.

    Args:
        outputs: of a `ContourExtractorForPreTraining`, one image.
        size: height and width of the model's input.
        output_stride: pixels of the input to a pixel of the levels.
    """
    if outputs.side_logits is not None:
        return [logits[0, 0].float().sigmoid() for logits in outputs.side_logits]
    return [activation_map(features, size, stride=output_stride) for features in outputs.level_features]


def activation_map(features: Tensor, size: Sequence[int], *, stride: int) -> Tensor:
    """`(1, C, h, w)` of an image padded to a multiple of `stride`, to `(H, W)` in 0..1."""
    padded = [-(-side // stride) * stride for side in size]
    strength = features.float().abs().mean(dim=1, keepdim=True)
    whole = nn.functional.interpolate(strength, size=padded, mode="bilinear", align_corners=False)[0, 0]
    return (whole / whole.max().clamp_min(1e-12))[: size[0], : size[1]].cpu()


def grey_image(values: Any) -> Image.Image:
    """A map `(H, W)` in [0, 1], or of booleans, as an 8-bit grey image."""
    array = values.float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float32)
    return Image.fromarray(np.round(array.clip(0, 1) * 255).astype(np.uint8))


def beside(*images: Image.Image) -> Image.Image:
    """Images of one height side by side, in RGB."""
    return Image.fromarray(np.hstack([np.asarray(image.convert("RGB")) for image in images]))
