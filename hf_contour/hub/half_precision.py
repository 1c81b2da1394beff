"""A model folder whose weights are stored in half precision: half the size, still computed in float32."""

import json
from pathlib import Path

import torch

from hf_contour.evaluation.run import load_model
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import write_text


def write_half_precision(folder: Path, output: Path) -> float:
    """Write a copy of a model folder with float16 weights; its config asks for float32, to which loading brings them.

    Args:
        folder: of a classifier, or of an extractor with its single-channel layer.
        output: folder to make; must not exist.

    Returns:
        The largest rounding error of a weight, relative to the largest weight of its tensor.

    Raises:
        FileExistsError: If `output` exists.
        ValueError: If the folder holds no model of ours, or a weight is too large for float16; names it.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; nothing is overwritten. Name another folder, or remove it first.")
    model = load_model(str(folder)).float()
    worst = 0.0
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        halved = tensor.half().float()
        if not torch.isfinite(halved).all():
            raise ValueError(f"{name} reaches {tensor.abs().max():g}; float16 ends at 65504. Keep float32.")
        worst = max(worst, float((halved - tensor).abs().max() / tensor.abs().max().clamp_min(1e-12)))
    model.half().save_pretrained(output)
    ContourImageProcessor.from_pretrained(folder).save_pretrained(output)
    path = output / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), "dtype": "float32"}
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return worst
