"""Whatever the size, channels and number of images: shapes hold and every value is finite."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import tiny_classifier, tiny_extractor

from hf_contour.image_processing_contour import ContourImageProcessor

QUICK, LONG = 35, 700  # examples of each property; there are three
NOISE = np.random.default_rng(0).integers(0, 256, (700, 700, 4), dtype=np.uint8)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MEAN_BOUND = 3.0  # of normalised values: (1 - 0.406) / 0.225 = 2.64, and 0.485 / 0.229 = 2.12 below

sides = st.one_of(st.integers(1, 600), st.sampled_from([1, 2, 3, 31, 32, 33, 63, 64, 65, 599, 600]))
sizes = st.tuples(sides, sides)
sources = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 3, 4]),
        "form": st.sampled_from(["array", "pillow", "tensor", "float"]),
        "number": st.integers(0, 9999),
    }
)


def image(size: tuple[int, int], source: dict[str, Any]) -> Any:
    """An image of `(height, width)`, of noise, in one of the forms that the processor takes."""
    channels, form = source["channels"], source["form"]
    top, left = divmod(source["number"], 100)
    pixels = np.ascontiguousarray(NOISE[top : top + size[0], left : left + size[1], :channels])
    if form == "pillow":
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=MODES[channels])
    if form == "tensor":
        return torch.from_numpy(pixels).permute(2, 0, 1)
    return pixels.astype(np.float32) / 255 if form == "float" else pixels


def shown_as(size: tuple[int, int], source: dict[str, Any]) -> str:
    """Where the channels lie, which a side of 1, 3 or 4 pixels would leave open."""
    return "channels_first" if source["form"] == "tensor" else "channels_last"


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hypothesis' settings: so many examples, the same ones each time, however slow the machine."""
    chosen = settings(
        max_examples=count, deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck)
    )
    return lambda test: seed(20)(chosen(test))


def check_resized(images: list[tuple[tuple[int, int], dict[str, Any]]], target: tuple[int, int], pad: bool) -> None:
    """With resizing, a batch of any images has one size: the target, or with padding all of the image in it."""
    processor = ContourImageProcessor(size={"height": target[0], "width": target[1]}, do_pad=pad)
    for size, source in images:
        one = processor(image(size, source), return_tensors="pt", input_data_format=shown_as(size, source))
        assert one["pixel_values"].shape == (1, 3, *target)
    alike = [(size, source) for size, source in images if shown_as(size, source) == "channels_last"]
    if alike:
        batch = processor([image(*item) for item in alike], return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ]
        assert batch.shape == (len(alike), 3, *target)
        assert batch.dtype == torch.float32
        assert torch.isfinite(batch).all()
        assert batch.abs().max() < MEAN_BOUND


def check_extractor(model: torch.nn.Module, size: tuple[int, int], source: dict[str, Any], batch_size: int) -> None:
    """An image of any size, unresized: maps of its size, and thin maps of its size at the end."""
    processor = ContourImageProcessor(do_resize=False, do_pad=False)
    pixels = processor(image(size, source), return_tensors="pt", input_data_format=shown_as(size, source))
    pixel_values = pixels["pixel_values"]
    assert pixel_values.shape == (1, 3, *size)
    with torch.inference_mode():
        outputs = model(pixel_values=pixel_values.expand(batch_size, -1, -1, -1))
    assert outputs.logits.shape[0] == batch_size
    assert torch.isfinite(outputs.logits).all()
    maps = processor.post_process_contours(outputs, [size] * batch_size)
    assert [tuple(one.shape) for one in maps] == [size] * batch_size
    assert all(bool(((one >= 0) & (one <= 1)).all()) for one in maps)
    # Where an image lies in its batch may change the order of a convolution's sums, and so the last bit.
    torch.testing.assert_close(maps[0], maps[-1], rtol=0, atol=1e-5)


def check_classifier(model: torch.nn.Module, images: list[tuple[tuple[int, int], dict[str, Any]]]) -> None:
    """Scores of a batch are finite, sum to 1, and are those of each image alone."""
    processor = ContourImageProcessor(size={"height": 40, "width": 32})
    prepared = [
        processor(image(size, source), return_tensors="pt", input_data_format=shown_as(size, source))["pixel_values"]
        for size, source in images
    ]
    with torch.inference_mode():
        logits = model(pixel_values=torch.cat(prepared)).logits
        alone = torch.cat([model(pixel_values=one).logits for one in prepared])
    assert logits.shape == (len(images), 3)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(len(images)))


def run_properties(count: int) -> int:
    """Tries each property on `count` examples.

    Returns:
        How many were tried.
    """
    extractor, classifier = tiny_extractor(), tiny_classifier()
    tried = 0
    batches = st.lists(st.tuples(sizes, sources), min_size=1, max_size=4)
    targets = st.tuples(st.integers(1, 96), st.integers(1, 96))

    @examples(count)
    @given(images=batches, target=targets, pad=st.booleans())
    def resized(images: Any, target: tuple[int, int], pad: bool) -> None:
        nonlocal tried
        tried += 1
        check_resized(images, target, pad)

    @examples(count)
    @given(size=sizes, source=sources, batch_size=st.integers(1, 4))
    def extracted(size: tuple[int, int], source: dict[str, Any], batch_size: int) -> None:
        nonlocal tried
        tried += 1
        check_extractor(extractor, size, source, batch_size)

    @examples(count)
    @given(images=batches)
    def classified(images: Any) -> None:
        nonlocal tried
        tried += 1
        check_classifier(classifier, images)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="hypothesis")
        resized()
        extracted()
        classified()
    return tried


def test_properties_hold_for_some() -> None:
    assert run_properties(QUICK) >= 3 * QUICK


@pytest.mark.faults
def test_properties_hold_for_two_thousand(record_property: Callable[[str, object], None]) -> None:
    tried = run_properties(LONG)
    record_property("injected", 3 * LONG)
    record_property("tried", tried)
    record_property("lost", 0)
    assert tried >= 2000
