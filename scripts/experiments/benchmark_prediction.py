r"""Time prediction from JPEG files to rows, several ways, turn by turn; write results/speed_prediction.json.

    python scripts/experiments/benchmark_prediction.py --model model_cards/contour-gender-fast --images FOLDER \
        --calibration FOLDER --sizes 96x64 128x96 224x224

One thread. Ways: a plain timm loop with the same backbone (Pillow, timm's own transform, eager), the stock
pipeline, ours in PyTorch as loaded (eager), ours folded and channels last, and exports to ONNX Runtime and OpenVINO in
float32 and 8-bit integers. Each round takes every way once over the same files; figures are images per CPU second
and the median ratio to the timm loop in the same round. Labels of the 8-bit program are compared with those of
PyTorch. A quarter of an hour, most of it exports.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import create_transform
from transformers import ImageClassificationPipeline

from hf_contour import ContourGenderForImageClassification
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.arguments import ExportArguments
from hf_contour.inference.classification import Classification
from hf_contour.inference.export import export
from hf_contour.inference.parts import Item
from hf_contour.inference.runtimes import AnsweringModel, Answers
from hf_contour.io import library_versions, source_commit, write_json

BATCH_SIZE = 32
CALIBRATION_IMAGES = 128
EXPORTS = {"onnx": "onnx", "onnx int8": "onnx", "openvino": "openvino"}


def main() -> int:
    """Times all ways at all sizes and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/speed_prediction"), help="keeps exports")
    parser.add_argument("--exports", nargs="*", choices=EXPORTS, default=list(EXPORTS))
    parser.add_argument("--sizes", nargs="+", default=["96x64", "128x96", "224x224"])
    parser.add_argument("--num_images", type=int, default=128)
    parser.add_argument("--num_rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("model_cards/results/speed_prediction.json"))
    arguments = parser.parse_args()
    if not arguments.images.is_dir():
        parser.error(f"{arguments.images} is no folder of images.")
    torch.set_num_threads(1)
    files = sorted(str(path) for path in arguments.images.iterdir())[: arguments.num_images]
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for size in arguments.sizes:
        height, width = map(int, size.split("x"))
        work = arguments.work / size
        ways = prepare(arguments.model, (height, width), work)
        for name in arguments.exports:
            target = work / name.replace(" ", "-")
            try:
                export_once(work / "model", target, name, arguments.calibration)
            except ValueError as error:  # 8 bits that change labels
                refused[f"{size}, {name}"] = str(error)
                continue
            ways[f"ours, {name}"] = rows_of(Classification(target))
        rows += [{"size": size, **row} for row in timed(ways, files, arguments.num_rounds)]
        print(*rows[-len(ways) :], sep="\n", flush=True)
        content = {
            "protocol": {
                "baseline": "timm loop",
                "model": arguments.model.resolve().name,
                "threads": 1,
                "batch_size": BATCH_SIZE,
                "num_images": len(files),
                "num_rounds": arguments.num_rounds,
                "image_size": Image.open(files[0]).size[::-1],
                "unit": "images per CPU second, files to rows",
            },
            "rows": rows,
            "refused": refused,
            "versions": library_versions(),
            "commit": source_commit(),
        }
        write_json(arguments.output, content)
    return 0


def prepare(folder: Path, size: tuple[int, int], work: Path) -> dict[str, Callable[[list[str]], list[str | None]]]:
    """Every way that needs no export, by its name: files to labels."""
    model = ContourGenderForImageClassification.from_pretrained(folder).eval()
    processor = ContourImageProcessor.from_pretrained(folder, size={"height": size[0], "width": size[1]})
    model.save_pretrained(work / "model")
    processor.save_pretrained(work / "model")
    folded = Classification(work / "model")
    eager = Classification(work / "model")

    answering = AnsweringModel(model)

    def run_eagerly(pixels: torch.Tensor) -> Answers:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in zip(answering.names, answering(pixels), strict=True)}

    eager.runtime = run_eagerly
    return {
        "timm loop": timm_loop(model, size),
        "stock pipeline": stock_pipeline(model, processor),
        "ours, PyTorch eager": rows_of(eager),
        "ours, PyTorch folded, channels last": rows_of(folded),
    }


def export_once(model: Path, target: Path, name: str, calibration: str) -> None:
    """Exports a model, unless that was done already.

    Raises:
        ValueError: If the export is refused.
    """
    if target.exists():
        return
    images = [calibration] if name.endswith("int8") else []
    settings: dict[str, Any] = {"format": EXPORTS[name], "calibration": images, "num_calibration": CALIBRATION_IMAGES}
    export(ExportArguments(str(model), str(target), **settings))


def batches(files: list[str]) -> list[list[str]]:
    """Files, so many at a time."""
    return [files[start : start + BATCH_SIZE] for start in range(0, len(files), BATCH_SIZE)]


def rows_of(classify: Classification) -> Callable[[list[str]], list[str | None]]:
    """What `hf-contour predict` does in one thread."""
    return lambda files: [
        row["label"] for batch in batches(files) for row in classify([Item(file, file) for file in batch])
    ]


def timm_loop(
    model: ContourGenderForImageClassification, size: tuple[int, int]
) -> Callable[[list[str]], list[str | None]]:
    """The backbone alone as its users run it; its labels mean nothing."""
    network = timm.create_model(model.config.backbone, num_classes=len(model.config.id2label)).eval()
    transform = create_transform((3, *size), is_training=False, interpolation="bicubic", crop_pct=1.0)

    def run(files: list[str]) -> list[str | None]:
        labels: list[str | None] = []
        for batch in batches(files):
            pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in batch])
            with torch.inference_mode():
                probabilities = network(pixels).softmax(dim=1)
            labels += [model.config.id2label[index] for index in probabilities.argmax(dim=1).tolist()]
        return labels

    return run


def stock_pipeline(
    model: ContourGenderForImageClassification, processor: ContourImageProcessor
) -> Callable[[list[str]], list[str | None]]:
    """Transformers' own class, with our model and processor."""

    class Stock(ImageClassificationPipeline):
        def check_model_type(self, supported_models: Any) -> None:
            """Takes any."""

    classify = Stock(model=model, image_processor=processor, device="cpu")
    return lambda files: [answer[0]["label"] for answer in classify(files, batch_size=BATCH_SIZE, top_k=1)]


def timed(
    ways: dict[str, Callable[[list[str]], list[str | None]]], files: list[str], num_rounds: int
) -> list[dict[str, Any]]:
    """Rates, ratios and agreement of labels, a row for each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    labels: dict[str, Sequence[str | None]] = {}
    for number in range(num_rounds + 1):
        for name, way in ways.items():
            started = time.process_time()
            labels[name] = way(files)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    expected = labels["ours, PyTorch eager"]
    return [
        {
            "way": name,
            "images_per_cpu_second": len(files) / statistics.median(own),
            "ratio": statistics.median(base / mine for base, mine in zip(seconds["timm loop"], own, strict=True)),
            "same_labels": sum(map(str.__eq__, map(str, labels[name]), map(str, expected))) / len(files),
        }
        for name, own in seconds.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
