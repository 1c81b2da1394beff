"""Time contour extractors beside timm's resnet18 in one process, and write model_cards/results/speed_contours.json.

    python scripts/experiments/benchmark.py --models model_cards/contour-extractor-*

About two minutes. Batch 1, float32; each as loaded, with batch normalisation folded and channels last, and in ONNX
Runtime. The baseline, resnet18 at 224x224, folded and channels last, takes 0.12 to 0.15 of the time of PiDiNet-tiny at
320x480.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import timm
import torch
from common import refuse_hub_ids, run_tool, write_results
from torch import Tensor, nn

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.evaluation.cost import count_parameters, median_ratio, multiply_adds, time_side_by_side
from hf_contour.flags import needed, setting
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining
from hf_contour.training.records import device_name

BASELINE = "resnet18"
BASELINE_SIZE = (224, 224)
FOLDED = "folded, channels last"


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
        print(f"{row['name']}, {row['way']}: {row['median_ms']:.1f} ms, {row['ratio']:.2f} of the baseline's time")


def benchmark_extractors(settings: BenchmarkArguments) -> dict[str, Any]:
    """Median time of each extractor, single-channel layer included, and of the baseline, one after the other.

    Args:
        settings: which extractors, with their single-channel layer, and how they are timed.

    Returns:
        `protocol`, and `rows`: name, way, parameters, multiply-adds, median milliseconds, median ratio to the baseline
        in the same round.
    """
    torch.set_num_threads(settings.threads)
    size = (settings.height, settings.width)
    models: dict[str, tuple[nn.Module, tuple[int, int]]] = {
        BASELINE: (timm.create_model(BASELINE).eval(), BASELINE_SIZE)
    }
    for folder in refuse_hub_ids(settings.models):
        models[folder.resolve().name] = (ContourExtractorForPreTraining.from_pretrained(folder).eval(), size)
    ways = {name: _ways(*models[name], threads=settings.threads) for name in models}
    calls = {f"{name}, {way}": call for name, of_model in ways.items() for way, call in of_model.items()}
    with torch.inference_mode():
        durations = time_side_by_side(calls, num_rounds=settings.num_rounds)
    rows = [
        {
            "name": name,
            "way": way,
            "height": model_size[0],
            "width": model_size[1],
            "num_parameters": count_parameters(model),
            "multiply_adds": multiply_adds(model, torch.zeros(1, 3, *model_size)),
            "median_ms": 1000 * median(durations[f"{name}, {way}"]),
            "ratio": median_ratio(durations, f"{name}, {way}", f"{BASELINE}, {FOLDED}"),
        }
        for name, (model, model_size) in models.items()
        for way in ways[name]
    ]
    return {
        "protocol": {
            "baseline": f"timm {BASELINE} at {BASELINE_SIZE[0]}x{BASELINE_SIZE[1]}, {FOLDED}",
            "batch_size": 1,
            "dtype": "float32",
            "threads": settings.threads,
            "num_rounds": settings.num_rounds,
            "device": device_name(torch.device("cpu")),
        },
        "rows": rows,
    }


def _ways(model: nn.Module, size: tuple[int, int], *, threads: int) -> dict[str, Callable[[], Any]]:
    """How a model can be run on a CPU; each call gives its contours or classes for one image."""
    folded = fold_batch_norms(model).to(memory_format=torch.channels_last)
    pixels = torch.rand(1, 3, *size)
    swapped = pixels.to(memory_format=torch.channels_last)
    session, array = _onnx_session(model, pixels, threads=threads), pixels.numpy()
    return {
        "eager": lambda: model(pixels),
        FOLDED: lambda: folded(swapped),
        "ONNX Runtime": lambda: session.run(None, {"pixel_values": array}),
    }


class _Logits(nn.Module):
    """A model of which an export keeps the logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        answer = self.model(pixel_values)
        return answer if isinstance(answer, Tensor) else answer.logits


def _onnx_session(model: nn.Module, pixels: Tensor, *, threads: int) -> onnxruntime.InferenceSession:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            _Logits(model).eval(),
            (pixels,),
            path,
            dynamo=True,
            input_names=["pixel_values"],
            external_data=False,
            verbose=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    run_tool(BenchmarkArguments, main, description=__doc__)
