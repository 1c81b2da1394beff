"""Reading JPEG files in full and at reduced scale is timed in turns, and what the images lose is told."""

import io
import json

import numpy as np
import pytest
from benchmark_decoding import DecodingBenchmarkArguments, benchmark_decoding
from odd_images import encode
from PIL import Image

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.image_processing_contour import ContourImageProcessor


def test_files_are_read_both_ways():
    results = benchmark_decoding(DecodingBenchmarkArguments(["96x64", "97x64"], [24, 16], num_images=2, num_rounds=2))
    assert json.loads(json.dumps(results)) == results
    even, odd = results["rows"]
    assert min(even["full_ms"], even["reduced_ms"], even["times_as_fast"]) > 0
    assert odd["mean_difference"] == 0  # nothing divides 97

    differences, sizes = [], []
    for index in range(2):
        content = encode(draw_garment(index, size=(96, 64)).image, "JPEG", quality=90)
        quarter = Image.open(io.BytesIO(content))
        quarter.draft("RGB", (16, 24))
        assert quarter.size == (16, 24)
        processor = ContourImageProcessor(size={"height": 24, "width": 16}, do_normalize=False)
        whole = processor(content, return_tensors="np")["pixel_values"][0] * 255
        differences.append(np.abs(whole - np.asarray(quarter, dtype=float).transpose(2, 0, 1)).mean())
        sizes.append(len(content))
    assert even["mean_difference"] == pytest.approx(np.mean(differences), abs=1e-3)
    assert even["mean_difference"] > 0.1
    assert even["mean_bytes"] == sum(sizes) // 2


@pytest.mark.parametrize("setting", ["num_images", "num_rounds", "threads"])
def test_impossible_counts_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} is 0"):
        DecodingBenchmarkArguments(**{setting: 0})


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="8"):
        benchmark_decoding(DecodingBenchmarkArguments(["8x32"], [16, 16]))
    with pytest.raises(ValueError, match="size"):
        benchmark_decoding(DecodingBenchmarkArguments(["32x32"], [0, 16]))
