"""Write a copy of a model folder with its weights in half precision, for sharing: half the size.

    python scripts/experiments/halve_weights.py --model runs/NAME/gender/model --output model_cards/NAME

Seconds. Loading brings the weights back to float32, in which the model computes as before.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from common import run_tool

from hf_contour.evaluation.run import load_model
from hf_contour.flags import needed
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import write_text


@dataclass
class HalvingArguments:
    """Which model, and where to."""

    model: str = needed("folder of a model")
    output: str = needed("folder to make; must not exist")


def main(arguments: HalvingArguments) -> None:
    """Write the copy and say what it cost."""
    worst = write_half_precision(Path(arguments.model), Path(arguments.output))
    size = (Path(arguments.output) / "model.safetensors").stat().st_size
    print(f"written: {arguments.output}, {size / 1e6:.1f} MB of weights; rounded by {worst:.1e} of a tensor's largest")


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


if __name__ == "__main__":
    run_tool(HalvingArguments, main, description=__doc__)
