"""Time contour extractors beside timm's resnet18 in one process, and write model_cards/results/speed_contours.json.

    python scripts/experiments/benchmark.py --models model_cards/contour-extractor-tiny model_cards/contour-extractor-base

About half a minute. Batch 1, float32, eager, channels last, batch normalisation folded; the baseline, resnet18 at
224x224 with its normalisation folded too, takes 0.12 to 0.15 of the time of PiDiNet-tiny at 320x480.
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.benchmark import benchmark_extractors
from hf_contour.io import write_json


@dataclass
class BenchmarkArguments:
    """What to time."""

    models: list[str] = field(metadata={"help": "folders of extractors"})
    height: int = field(default=320, metadata={"help": "height of the image"})
    width: int = field(default=480, metadata={"help": "width of the image"})
    threads: int = field(default=2, metadata={"help": "threads of torch"})
    num_rounds: int = field(default=12, metadata={"help": "rounds, each of which times every model once"})
    output: str = field(default="model_cards/results/speed_contours.json", metadata={"help": "results file"})


def main() -> None:
    """Time, print and write."""
    (arguments,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    for model in arguments.models:
        if not (Path(model) / "config.json").is_file():  # or it would be looked for on the Hub
            sys.exit(f"error: {model} has no config.json; expected the folder of an extractor.")
    results = benchmark_extractors(
        [Path(model) for model in arguments.models],
        size=(arguments.height, arguments.width),
        threads=arguments.threads,
        num_rounds=arguments.num_rounds,
    )
    command = shlex.join(["python", "scripts/experiments/benchmark.py", *sys.argv[1:]])
    write_json(Path(arguments.output), {"command": command, "arguments": asdict(arguments), **results})
    for row in results["rows"]:
        print(f"{row['name']}: {row['median_ms']:.1f} ms, {row['ratio']:.2f} of the baseline's time")


if __name__ == "__main__":
    main()
