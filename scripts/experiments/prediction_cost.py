r"""What each part of a prediction costs, what 10^8 images would, and whether that agrees with whole runs.

    python scripts/experiments/prediction_cost.py --models exported other --images FOLDER --check \
        model_cards/results/prediction_10000.json model_cards/results/prediction_100000.json

One thread, CPU time: reading, decoding and resizing; batches of floats; the forward pass; rows and their table. The
model of cost is their sum times the number of images. Whole runs (by kill_predictions.py, of the first model and the
same images) say how far it is off. Writes model_cards/results/prediction_cost.json. A minute or two.
"""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import run_tool, write_results
from PIL import Image

from hf_contour.flags import needed, setting
from hf_contour.inference.classification import Classification
from hf_contour.inference.parts import Item
from hf_contour.inference.tables import table_bytes

MANY = 100_000_000
CORES = 64


@dataclass
class CostArguments:
    """What to measure."""

    models: list[str] = needed("folders of classifiers or their exports")
    images: str = needed("folder of images")
    check: list[str] = setting([], "results files of whole runs of the first model")
    num_images: int = setting(512, "images in a round; the folder's, over and over")
    num_rounds: int = setting(5, "rounds after one that warms up")
    batch_size: int = setting(32, "images classified at a time")
    output: str = setting("model_cards/results/prediction_cost.json", "results file")


def main(arguments: CostArguments) -> None:
    """Measure, compare and write."""
    torch.set_num_threads(1)
    found = sorted(path for path in Path(arguments.images).iterdir() if path.is_file())
    files = [str(found[number % len(found)]) for number in range(arguments.num_images)]
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        rounds = [parts_of(Classification(name), files, arguments.batch_size) for _ in range(arguments.num_rounds + 1)]
        parts = {part: statistics.median(one[part] for one in rounds[1:]) for part in rounds[0]}
        total = sum(parts.values())
        hours = MANY * total / 3.6e6
        size = Image.open(files[0]).size[::-1]
        rows.append(
            {"name": Path(name).resolve().name, "image_size": size, "milliseconds": parts}
            | {"total": total, "core_hours": hours, "node_hours": hours / CORES, "num_images": MANY}
        )
        print(rows[-1], flush=True)
    checks = [
        checked(json.loads(Path(name).read_text(encoding="utf-8")), rows[0]["total"]) for name in arguments.check
    ]
    print(*checks, sep="\n")
    write_results(arguments.output, arguments, {"rows": rows, "checks": checks})


def parts_of(classify: Classification, files: list[str], batch_size: int) -> dict[str, float]:
    """CPU milliseconds an image of each part."""
    seconds = dict.fromkeys(["decode", "batch", "forward", "rows"], 0.0)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = time.process_time()
        yield
        seconds[part] += time.process_time() - started

    rows: list[dict[str, Any]] = []
    for start in range(0, len(files), batch_size):
        items = [Item(file, file) for file in files[start : start + batch_size]]
        with timed("decode"):
            images = [classify.preparation.image(item) for item in items]
        with timed("batch"):
            pixels = classify.preparation.batch(images)
        with timed("forward"):
            answers = classify.runtime(pixels)
        with timed("rows"):
            found = classify._answers(answers)
            empty = dict.fromkeys(classify.columns)
            rows += [empty | {"id": item.id} | row for item, row in zip(items, found, strict=True)]
    with timed("rows"):
        table_bytes(rows, classify.columns, ".parquet")
    return {part: 1000 * value / len(files) for part, value in seconds.items()}


def checked(run: dict[str, Any], milliseconds: float) -> dict[str, Any]:
    """The CPU time of a whole run beside that of the model of cost."""
    expected, measured = run["num_files"] * milliseconds / 1000, run["undisturbed"]["cpu_seconds"]
    return {"num_files": run["num_files"], "expected": expected, "measured": measured, "ratio": measured / expected}


if __name__ == "__main__":
    run_tool(CostArguments, main, description=__doc__)
