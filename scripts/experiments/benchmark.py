"""Time contour extractors beside timm's resnet18 in one process, and write model_cards/results/speed_contours.json.

    python scripts/experiments/benchmark.py --models model_cards/contour-extractor-*

About half a minute. Batch 1, float32, eager, channels last, batch normalisation folded; the baseline, resnet18 at
224x224 with its normalisation folded too, takes 0.12 to 0.15 of the time of PiDiNet-tiny at 320x480.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import timm
import torch
from common import refuse_hub_ids, run_tool, write_results
from torch import nn

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.evaluation.cost import count_parameters, median_ratio, multiply_adds, time_side_by_side
from hf_contour.flags import needed, setting
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining
from hf_contour.training.records import device_name

BASELINE = "resnet18"
BASELINE_SIZE = (224, 224)


@dataclass
class BenchmarkArguments:
    """What to time."""

    models: list[str] = needed("folders of extractors")
    height: int = setting(320, "height of the image")
    width: int = setting(480, "width of the image")
    threads: int = setting(2, "threads of torch")
    num_rounds: int = setting(12, "rounds, each of which times every model once")
    output: str = setting("model_cards/results/speed_contours.json", "results file")


def main(arguments: BenchmarkArguments) -> None:
    """Time, print and write."""
    results = benchmark_extractors(arguments)
    write_results(arguments.output, arguments, results)
    for row in results["rows"]:
        print(f"{row['name']}: {row['median_ms']:.1f} ms, {row['ratio']:.2f} of the baseline's time")


def benchmark_extractors(settings: BenchmarkArguments) -> dict[str, Any]:
    """Median time of each extractor, single-channel layer included, and of the baseline, one after the other.

    Args:
        settings: which extractors, with their single-channel layer, and how they are timed.

    Returns:
        `protocol`, and `rows`: name, parameters, multiply-adds, median milliseconds, median ratio to the baseline in
        the same round.
    """
    torch.set_num_threads(settings.threads)
    size = (settings.height, settings.width)
    models: dict[str, tuple[nn.Module, tuple[int, int]]] = {BASELINE: (timm.create_model(BASELINE), BASELINE_SIZE)}
    for folder in refuse_hub_ids(settings.models):
        models[folder.resolve().name] = (ContourExtractorForPreTraining.from_pretrained(folder), size)
    calls = {name: _call(model, model_size) for name, (model, model_size) in models.items()}
    with torch.inference_mode():
        durations = time_side_by_side(calls, num_rounds=settings.num_rounds)
    rows = [
        {
            "name": name,
            "height": model_size[0],
            "width": model_size[1],
            "num_parameters": count_parameters(model),
            "multiply_adds": multiply_adds(model, torch.zeros(1, 3, *model_size)),
            "median_ms": 1000 * median(durations[name]),
            "ratio": median_ratio(durations, name, BASELINE),
        }
        for name, (model, model_size) in models.items()
    ]
    return {
        "protocol": {
            "baseline": f"timm {BASELINE} at {BASELINE_SIZE[0]}x{BASELINE_SIZE[1]}",
            "batch_size": 1,
            "dtype": "float32",
            "mode": "eager, inference mode, channels last, batch normalisation folded",
            "threads": settings.threads,
            "num_rounds": settings.num_rounds,
            "device": device_name(torch.device("cpu")),
        },
        "rows": rows,
    }


def _call(model: nn.Module, size: tuple[int, int]) -> Callable[[], Any]:
    folded = fold_batch_norms(model).to(memory_format=torch.channels_last)
    pixels = torch.rand(1, 3, *size).to(memory_format=torch.channels_last)
    return lambda: folded(pixels)


if __name__ == "__main__":
    run_tool(BenchmarkArguments, main, description=__doc__)
