"""What JPEG decoding at reduced scale saves: a processor with `reduced_decoding` beside one without."""

import io
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.evaluation.cost import median_ratio, time_side_by_side
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import library_versions, source_commit

JPEG_QUALITY = 90


def benchmark_decoding(
    file_sizes: Sequence[tuple[int, int]],
    *,
    image_size: tuple[int, int],
    num_images: int = 4,
    num_rounds: int = 12,
    threads: int = 1,
) -> dict[str, Any]:
    """Median time from the file to the tensor, both ways, one after the other in each round.

    The images are drawn garments, stored as JPEG of quality 90; their bytes are in memory.

    Args:
        file_sizes: heights and widths of the stored images, each in [16, 4096].
        image_size: height and width that they are resized to.
        num_images: drawn for each size.
        num_rounds: rounds, each of which reads all images of a size both ways.
        threads: threads of torch.

    Returns:
        `protocol`; `rows` (height and width of the files, mean bytes an image, milliseconds an image in full and
        reduced, the median over the rounds of how many times as fast reduced is, and the mean difference of the
        pixels, 0..255); `versions` and `commit`.

    Raises:
        ValueError: If a size is outside its range, or a count is below 1.
    """
    for name, count in (("num_images", num_images), ("num_rounds", num_rounds), ("threads", threads)):
        if count < 1:
            raise ValueError(f"{name} is {count}; expected at least 1.")
    torch.set_num_threads(threads)
    size = {"height": image_size[0], "width": image_size[1]}
    processors = {
        name: ContourImageProcessor(size=size, do_normalize=False, reduced_decoding=name == "reduced")
        for name in ("full", "reduced")
    }
    rows = []
    for height, width in file_sizes:
        files = [_jpeg(index, (height, width)) for index in range(num_images)]
        calls = {name: partial(one.__call__, files, return_tensors="pt") for name, one in processors.items()}
        durations = time_side_by_side(calls, num_rounds=num_rounds, num_warmup=1)
        full, reduced = (call()["pixel_values"] for call in calls.values())
        rows.append(
            {
                "height": height,
                "width": width,
                "mean_bytes": sum(map(len, files)) // num_images,
                **{f"{name}_ms": 1000 * median(taken) / num_images for name, taken in durations.items()},
                "times_as_fast": median_ratio(durations, "full", "reduced"),
                "mean_difference": float((full - reduced).abs().mean() * 255),
            }
        )
    return {
        "protocol": {
            "images": f"{num_images} drawn garments of each size, JPEG quality {JPEG_QUALITY}",
            "resized_to": list(image_size),
            "threads": threads,
            "num_rounds": num_rounds,
        },
        "rows": rows,
        "versions": library_versions(),
        "commit": source_commit(),
    }


def _jpeg(index: int, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    draw_garment(index, size=size).image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
