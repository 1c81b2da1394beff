"""Time JPEG decoding at full and at reduced scale, and write model_cards/results/speed_decoding.json.

    python scripts/experiments/benchmark_decoding.py

About half a minute on one CPU core.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.decoding_benchmark import benchmark_decoding
from hf_contour.evaluation.run import portable_arguments, portable_path
from hf_contour.io import write_json


@dataclass
class DecodingBenchmarkArguments:
    """What to time."""

    file_sizes: list[str] = field(
        default_factory=lambda: ["3000x2000", "1200x900", "800x600", "224x168"],
        metadata={"help": "heights and widths of the stored images"},
    )
    image_size: list[int] = field(
        default_factory=lambda: [128, 96], metadata={"help": "height and width that they are resized to"}
    )
    num_images: int = field(default=4, metadata={"help": "images of each size"})
    num_rounds: int = field(default=12, metadata={"help": "rounds, each of which reads all of them both ways"})
    threads: int = field(default=1, metadata={"help": "threads of torch"})
    output: str = field(default="model_cards/results/speed_decoding.json", metadata={"help": "results file"})


def main() -> None:
    """Time, print and write."""
    (arguments,) = HfArgumentParser(DecodingBenchmarkArguments).parse_args_into_dataclasses()
    try:
        if len(arguments.image_size) != 2:
            raise ValueError(f"image_size is {arguments.image_size}; expected a height and a width.")
        height, width = arguments.image_size
        results = benchmark_decoding(
            [_size(text) for text in arguments.file_sizes],
            image_size=(height, width),
            num_images=arguments.num_images,
            num_rounds=arguments.num_rounds,
            threads=arguments.threads,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    command = shlex.join(["python", "scripts/experiments/benchmark_decoding.py", *map(portable_path, sys.argv[1:])])
    write_json(Path(arguments.output), {"command": command, "arguments": portable_arguments(arguments), **results})
    for row in results["rows"]:
        print(
            f"{row['height']}x{row['width']}: {row['full_ms']:.1f} ms in full, {row['reduced_ms']:.1f} ms reduced, "
            f"{row['times_as_fast']:.2f} times as fast; pixels differ by {row['mean_difference']:.2f} of 255"
        )


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"file_sizes has {text!r}; expected HEIGHTxWIDTH, as in 800x600.")
    return int(height), int(width)


if __name__ == "__main__":
    main()
