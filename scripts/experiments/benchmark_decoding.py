"""Time JPEG decoding at full and at reduced scale, and write model_cards/results/speed_decoding.json.

    python scripts/experiments/benchmark_decoding.py

About half a minute on one CPU core. What decoding at reduced scale saves is seen by a processor with
`reduced_decoding` beside one without.
"""

import io
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from common import run_tool, write_results

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.evaluation.cost import median_ratio, time_side_by_side
from hf_contour.flags import check_least, setting
from hf_contour.image_processing_contour import ContourImageProcessor

JPEG_QUALITY = 90


@dataclass
class DecodingBenchmarkArguments:
    """What to time."""

    file_sizes: list[str] = setting(
        ["3000x2000", "1200x900", "800x600", "224x168"], "heights and widths of the stored images"
    )
    image_size: list[int] = setting([128, 96], "height and width that they are resized to")
    num_images: int = setting(4, "images of each size")
    num_rounds: int = setting(12, "rounds, each of which reads all of them both ways")
    threads: int = setting(1, "threads of torch")
    output: str = setting("model_cards/results/speed_decoding.json", "results file")

    def __post_init__(self) -> None:
        if len(self.image_size) != 2:
            raise ValueError(f"image_size is {self.image_size}; expected a height and a width.")
        check_least(self, dict.fromkeys(("num_images", "num_rounds", "threads"), 1))


def main(arguments: DecodingBenchmarkArguments) -> None:
    """Time, print and write."""
    results = benchmark_decoding(arguments)
    write_results(arguments.output, arguments, results)
    for row in results["rows"]:
        print(
            f"{row['height']}x{row['width']}: {row['full_ms']:.1f} ms in full, {row['reduced_ms']:.1f} ms reduced, "
            f"{row['times_as_fast']:.2f} times as fast; pixels differ by {row['mean_difference']:.2f} of 255"
        )


def benchmark_decoding(settings: DecodingBenchmarkArguments) -> dict[str, Any]:
    """Median time from the file to the tensor, both ways, one after the other in each round.

    The images are drawn garments, stored as JPEG of quality 90; their bytes are in memory.

    Args:
        settings: what to time; the sides of the stored images are in [16, 4096].

    Returns:
        `protocol`, and `rows`: height and width of the files, mean bytes an image, milliseconds an image in full and
        reduced, the median over the rounds of how many times as fast reduced is, and the mean difference of the
        pixels, 0..255.

    Raises:
        ValueError: If a size is outside its range.
    """
    torch.set_num_threads(settings.threads)
    size = dict(zip(("height", "width"), settings.image_size, strict=True))
    processors = {
        name: ContourImageProcessor(size=size, do_normalize=False, reduced_decoding=name == "reduced")
        for name in ("full", "reduced")
    }
    rows = []
    for height, width in map(_size, settings.file_sizes):
        files = [_jpeg(index, (height, width)) for index in range(settings.num_images)]
        calls = {name: partial(one.__call__, files, return_tensors="pt") for name, one in processors.items()}
        durations = time_side_by_side(calls, num_rounds=settings.num_rounds, num_warmup=1)
        full, reduced = (call()["pixel_values"] for call in calls.values())
        rows.append(
            {
                "height": height,
                "width": width,
                "mean_bytes": sum(map(len, files)) // settings.num_images,
                **{f"{name}_ms": 1000 * median(taken) / settings.num_images for name, taken in durations.items()},
                "times_as_fast": median_ratio(durations, "full", "reduced"),
                "mean_difference": float((full - reduced).abs().mean() * 255),
            }
        )
    return {
        "protocol": {
            "images": f"{settings.num_images} drawn garments of each size, JPEG quality {JPEG_QUALITY}",
            "resized_to": settings.image_size,
            "threads": settings.threads,
            "num_rounds": settings.num_rounds,
        },
        "rows": rows,
    }


def _jpeg(index: int, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    draw_garment(index, size=size).image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"file_sizes has {text!r}; expected HEIGHTxWIDTH, as in 800x600.")
    return int(height), int(width)


if __name__ == "__main__":
    run_tool(DecodingBenchmarkArguments, main, description=__doc__)
