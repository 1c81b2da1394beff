"""Contours and classes of any images: files, folders, or rows of a data set. A bad image costs only itself."""

import copy
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers.image_utils import SizeDict

from hf_contour.evaluation.run import load_model
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.arguments import PredictionArguments
from hf_contour.inference.inputs import (
    ImageSource,
    PredictionReport,
    data_set_images,
    find_images,
    open_images,
)


def predict(arguments: PredictionArguments) -> PredictionReport:
    """Classify images or draw their contours, with a progress bar.

    Raises:
        FileNotFoundError: If an input is not there.
        ValueError: If the model cannot do what is asked.
    """
    output = Path(arguments.output)
    model = load_model(arguments.model)
    wanted = "contour_extractor" if arguments.contours else "contour_gender"
    if model.config.model_type != wanted:
        raise ValueError(
            f"{arguments.model} holds a {model.config.model_type} model; expected {wanted}. Contours are drawn by "
            "an extractor's folder (--contours), classes come from a classifier's."
        )
    processor = ContourImageProcessor.from_pretrained(arguments.model)
    model = model.to(PartialState(cpu=arguments.cpu).device).eval()
    if arguments.data:
        sources = data_set_images(
            arguments.data, split=arguments.split, rows=arguments.rows, config_name=arguments.data_config
        )
    else:
        sources = find_images(arguments.inputs, outside=output)
    bar = tqdm(sources, desc="images")
    if not arguments.contours:
        return classify_images(model, processor, bar, output, batch_size=arguments.batch_size, top_k=arguments.top_k)
    return draw_contours(
        model,
        processor,
        bar,
        output,
        threshold=arguments.threshold,
        max_side=arguments.max_side,
        with_levels=arguments.levels,
        with_image=arguments.with_image,
    )


@torch.inference_mode()
def draw_contours(
    model: nn.Module,
    processor: ContourImageProcessor,
    sources: Iterable[ImageSource],
    output: Path,
    *,
    threshold: float = 0.5,
    max_side: int = 1024,
    with_levels: bool = False,
    with_image: bool = False,
) -> PredictionReport:
    """Write the contours of images as PNG, at the size of the images, white on black.

    `NAME_contours.png` is the soft map (255 is certain), `NAME_thin.png` the thin map, `NAME_level0.png` and so on the
    levels from fine to coarse, and `NAME_image.png` the photograph beside both maps.

    Args:
        model: a `ContourExtractorForPreTraining` in evaluation mode.
        processor: of the model; images keep their size, as in training.
        sources: the images.
        output: the folder to write to.
        threshold: of the thin map, in (0, 1).
        max_side: longer images are made this long before they are read; 0: never.
        with_levels: also write what each level sees.
        with_image: also write the photograph beside its maps.

    Returns:
        What was done and skipped.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; expected a number between 0 and 1.")
    report = PredictionReport()
    device = next(model.parameters()).device
    for source, image in open_images(sources, report):
        own = processor_for(image, processor, max_side)
        outputs = model(pixel_values=own(image, return_tensors="pt")["pixel_values"].to(device))
        target_sizes = [(image.height, image.width)]
        soft = own.post_process_contours(outputs, target_sizes)[0]
        thin = own.post_process_contours(outputs, target_sizes, threshold=threshold, thin=True)[0]
        maps = {"contours": grey_image(soft), "thin": grey_image(thin)}
        if with_levels:
            size = outputs.logits.shape[-2:]
            levels = level_maps(outputs, size, output_stride=model.config.output_stride)
            for index, level in enumerate(levels):
                maps[f"level{index}"] = grey_image(level).resize(image.size, Image.Resampling.BILINEAR)
        if with_image:
            maps["image"] = beside(image, maps["contours"], maps["thin"])
        for kind, drawn in maps.items():
            path = output / f"{source.stem}_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(path)
        report.num_done += 1
    return report


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
    height, width = size
    maps = []
    for features in outputs.level_features:
        activation = features.float().abs().mean(dim=1, keepdim=True)  # (1, 1, H/s, W/s)
        whole = nn.functional.interpolate(activation, scale_factor=output_stride, mode="bilinear", align_corners=False)
        maps.append(whole[0, 0, :height, :width] / whole.max().clamp_min(1e-12))
    return maps


def grey_image(values: Any) -> Image.Image:
    """A map `(H, W)` in [0, 1], or of booleans, as an 8-bit grey image."""
    array = values.float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float32)
    return Image.fromarray(np.round(array.clip(0, 1) * 255).astype(np.uint8))


def beside(*images: Image.Image) -> Image.Image:
    """Images of one height side by side, in RGB."""
    whole = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    return whole


@torch.inference_mode()
def classify_images(
    model: nn.Module,
    processor: ContourImageProcessor,
    sources: Iterable[ImageSource],
    output: Path,
    *,
    batch_size: int = 32,
    top_k: int = 1,
) -> PredictionReport:
    """Classify images and write a line `file,label,score` for each of the `top_k` labels of each image.

    Args:
        model: a `ContourGenderForImageClassification` in evaluation mode.
        processor: of the model.
        sources: the images.
        output: `.csv`, or `.jsonl` with an object on each line.
        batch_size: images at a time, at least 1.
        top_k: labels of an image, best first, at least 1.

    Returns:
        What was done and skipped.
    """
    if output.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"the output is {output}; expected a name that ends with .csv or .jsonl.")
    if batch_size < 1 or top_k < 1:
        raise ValueError(f"batch_size is {batch_size} and top_k {top_k}; expected at least 1 of each.")
    report = PredictionReport()
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        if output.suffix == ".csv":
            table.writerow(["file", "label", "score"])
        for batch in _batches(open_images(sources, report, opening=processor.opening), batch_size):
            scores = class_scores(model, processor, [image for _, image in batch])
            best = scores.topk(min(top_k, scores.shape[1]))
            for (source, _), values, indices in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
                for value, index in zip(values, indices, strict=True):
                    row = {"file": source.name, "label": model.config.id2label[index], "score": round(value, 6)}
                    if output.suffix == ".csv":
                        table.writerow(row.values())
                    else:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
            report.num_done += len(batch)
    return report


def class_scores(model: nn.Module, processor: ContourImageProcessor, images: Sequence[Image.Image]) -> Tensor:
    """Probabilities `(B, K)`: a softmax, or a sigmoid for each label where an image may have several."""
    pixel_values = processor(list(images), return_tensors="pt")["pixel_values"]
    logits = model(pixel_values=pixel_values.to(next(model.parameters()).device)).logits.float()
    several = model.config.problem_type == "multi_label_classification"
    return logits.sigmoid() if several else logits.softmax(dim=1)


def _batches(
    images: Iterable[tuple[ImageSource, Image.Image]], batch_size: int
) -> Iterator[list[tuple[ImageSource, Image.Image]]]:
    batch: list[tuple[ImageSource, Image.Image]] = []
    for pair in images:
        batch.append(pair)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
