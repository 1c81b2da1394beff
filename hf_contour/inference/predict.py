"""Contours and classes of any pictures: files, folders, or rows of a data set. A bad picture costs only itself."""

import copy
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
from hf_contour.inference.inputs import (
    PictureSource,
    PredictionReport,
    data_set_pictures,
    find_pictures,
    open_pictures,
)


@dataclass
class PredictionArguments:
    """What to predict, of what, and where to; `help` describes each."""

    model: str = field(metadata={"help": "folder of a classifier, or of an extractor with --contours"})
    output: str = field(metadata={"help": "table (.csv, .jsonl), or folder with --contours"})
    inputs: list[str] = field(default_factory=list, metadata={"help": "pictures and folders"})
    data: str | None = field(default=None, metadata={"help": "data set in the place of --inputs"})
    data_config: str | None = field(default=None, metadata={"help": "its configuration, where it has several"})
    split: str = field(default="test", metadata={"help": "split of the data set"})
    rows: list[int] | None = field(default=None, metadata={"help": "rows of the split, from 0; default: all"})
    contours: bool = field(default=False, metadata={"help": "draw contours instead of classifying"})
    threshold: float = field(default=0.5, metadata={"help": "of the thin map"})
    levels: bool = field(default=False, metadata={"help": "with --contours: also draw what each level sees"})
    with_picture: bool = field(default=False, metadata={"help": "with --contours: also the picture beside its maps"})
    max_side: int = field(
        default=1024, metadata={"help": "with --contours: read longer pictures this small; 0: never"}
    )
    batch_size: int = field(default=32, metadata={"help": "pictures classified at a time"})
    top_k: int = field(default=1, metadata={"help": "labels written for each picture"})
    cpu: bool = field(default=False, metadata={"help": "run on the CPU even where there is an accelerator"})

    def __post_init__(self) -> None:
        if bool(self.inputs) == bool(self.data):
            raise ValueError("give pictures with --inputs, or a data set with --data, and not both.")
        if not self.contours and (self.levels or self.with_picture):
            raise ValueError("--levels and --with_picture draw beside contours; add --contours.")


def predict(arguments: PredictionArguments) -> PredictionReport:
    """Classify pictures or draw their contours, with a progress bar.

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
        sources = data_set_pictures(
            arguments.data, split=arguments.split, rows=arguments.rows, config_name=arguments.data_config
        )
    else:
        sources = find_pictures(arguments.inputs, outside=output)
    bar = tqdm(sources, desc="pictures")
    if not arguments.contours:
        return classify_pictures(model, processor, bar, output, batch_size=arguments.batch_size, top_k=arguments.top_k)
    return draw_contours(
        model,
        processor,
        bar,
        output,
        threshold=arguments.threshold,
        max_side=arguments.max_side,
        with_levels=arguments.levels,
        with_picture=arguments.with_picture,
    )


@torch.inference_mode()
def draw_contours(
    model: nn.Module,
    processor: ContourImageProcessor,
    sources: Iterable[PictureSource],
    output: Path,
    *,
    threshold: float = 0.5,
    max_side: int = 1024,
    with_levels: bool = False,
    with_picture: bool = False,
) -> PredictionReport:
    """Write the contours of pictures as PNG, at the size of the pictures, white on black.

    `NAME_contours.png` is the soft map (255 is certain), `NAME_thin.png` the thin map, `NAME_level0.png` and so on the
    levels from fine to coarse, and `NAME_picture.png` the photograph beside both maps.

    Args:
        model: a `ContourExtractorForPreTraining` in evaluation mode.
        processor: of the model; pictures keep their size, as in training.
        sources: the pictures.
        output: the folder to write to.
        threshold: of the thin map, in (0, 1).
        max_side: longer pictures are made this long before they are read; 0: never.
        with_levels: also write what each level sees.
        with_picture: also write the photograph beside its maps.

    Returns:
        What was done and skipped.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; expected a number between 0 and 1.")
    report = PredictionReport()
    device = next(model.parameters()).device
    for source, picture in open_pictures(sources, report):
        own = processor_for(picture, processor, max_side)
        outputs = model(pixel_values=own(picture, return_tensors="pt")["pixel_values"].to(device))
        target_sizes = [(picture.height, picture.width)]
        soft = own.post_process_contours(outputs, target_sizes)[0]
        thin = own.post_process_contours(outputs, target_sizes, threshold=threshold, thin=True)[0]
        maps = {"contours": grey_picture(soft), "thin": grey_picture(thin)}
        if with_levels:
            size = outputs.logits.shape[-2:]
            levels = level_maps(outputs, size, output_stride=model.config.output_stride)
            for index, level in enumerate(levels):
                maps[f"level{index}"] = grey_picture(level).resize(picture.size, Image.Resampling.BILINEAR)
        if with_picture:
            maps["picture"] = beside(picture, maps["contours"], maps["thin"])
        for kind, drawn in maps.items():
            path = output / f"{source.stem}_{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(path)
        report.num_done += 1
    return report


def processor_for(picture: Image.Image, processor: ContourImageProcessor, max_side: int) -> ContourImageProcessor:
    """The processor with a size that keeps the picture's own, or brings its longer side to `max_side`."""
    longer = max(picture.size)
    own = copy.copy(processor)
    own.do_resize, own.do_pad = bool(max_side) and longer > max_side, False
    if own.do_resize:
        height, width = (max(round(side * max_side / longer), 1) for side in (picture.height, picture.width))
        own.size = SizeDict(height=height, width=width)
    return own


def level_maps(outputs: Any, size: Sequence[int], *, output_stride: int) -> list[Tensor]:
    """What each level sees, from fine to coarse: `(H, W)` in [0, 1] each.

    The probability of the level's own single-channel map where the model has them, else the mean absolute activation
    relative to its highest value.

    Args:
        outputs: of a `ContourExtractorForPreTraining`, one picture.
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


def grey_picture(values: Any) -> Image.Image:
    """A map `(H, W)` in [0, 1], or of booleans, as an 8-bit grey picture."""
    array = values.float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float32)
    return Image.fromarray(np.round(array.clip(0, 1) * 255).astype(np.uint8))


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height side by side, in RGB."""
    whole = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


@torch.inference_mode()
def classify_pictures(
    model: nn.Module,
    processor: ContourImageProcessor,
    sources: Iterable[PictureSource],
    output: Path,
    *,
    batch_size: int = 32,
    top_k: int = 1,
) -> PredictionReport:
    """Classify pictures and write a line `file,label,score` for each of the `top_k` labels of each picture.

    Args:
        model: a `ContourGenderForImageClassification` in evaluation mode.
        processor: of the model.
        sources: the pictures.
        output: `.csv`, or `.jsonl` with an object on each line.
        batch_size: pictures at a time, at least 1.
        top_k: labels of a picture, best first, at least 1.

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
        for batch in _batches(open_pictures(sources, report, opening=processor.opening), batch_size):
            scores = class_scores(model, processor, [picture for _, picture in batch])
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


def class_scores(model: nn.Module, processor: ContourImageProcessor, pictures: Sequence[Image.Image]) -> Tensor:
    """Probabilities `(B, K)`: a softmax, or a sigmoid for each label where a picture may have several."""
    pixel_values = processor(list(pictures), return_tensors="pt")["pixel_values"]
    logits = model(pixel_values=pixel_values.to(next(model.parameters()).device)).logits.float()
    several = model.config.problem_type == "multi_label_classification"
    return logits.sigmoid() if several else logits.softmax(dim=1)


def _batches(
    pictures: Iterable[tuple[PictureSource, Image.Image]], batch_size: int
) -> Iterator[list[tuple[PictureSource, Image.Image]]]:
    batch: list[tuple[PictureSource, Image.Image]] = []
    for pair in pictures:
        batch.append(pair)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
