"""Edge logits back to maps of the original images, and the thinning of edges."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from hf_contour.edge_thinning_contour import suppress_non_maxima
from hf_contour.image_processing_contour import ContourImageProcessor

PLAIN = {"do_normalize": False, "do_rescale": False}


def drawn(height: int, width: int) -> Image.Image:
    """A black ellipse on white, off the centre, that touches no side."""
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).ellipse((width * 0.2, height * 0.1, width * 0.6, height * 0.7), fill="black")
    return image


def as_logits(pixel_values: torch.Tensor) -> torch.Tensor:
    """Logits whose sigmoid is the darkness of the image."""
    return torch.logit(1 - pixel_values[:, :1] / 255, eps=1e-6)


@pytest.mark.parametrize("shape", [(200, 120), (90, 260), (64, 64), (37, 111)])
@pytest.mark.parametrize(
    "sizing",
    [
        {"size": 128},
        {"size": {"height": 100, "width": 260}},
        {"size": 128, "do_pad": False},
        {"size": 300, "do_resize": False},
        {"do_resize": False, "do_pad": False},
    ],
)
def test_a_drawing_comes_back_to_its_place(shape: tuple[int, int], sizing: dict[str, object]) -> None:
    processor = ContourImageProcessor(**sizing, **PLAIN)
    image = drawn(*shape)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"].float()
    (edge_probs,) = processor.post_process_contours(as_logits(pixel_values), [shape])
    darkness = 1 - np.asarray(image.convert("L")) / 255
    assert tuple(edge_probs.shape) == shape
    assert edge_probs.dtype == torch.float32
    assert edge_probs.min() >= 0
    assert edge_probs.max() <= 1
    (restored,) = processor.post_process_contours(as_logits(pixel_values), [shape], threshold=0.5)
    assert restored.dtype == torch.bool
    overlap = (restored.numpy() & (darkness > 0.5)).sum() / (restored.numpy() | (darkness > 0.5)).sum()
    assert overlap > 0.94
    centre, true_centre = ndimage.center_of_mass(edge_probs.numpy()), ndimage.center_of_mass(darkness)
    assert np.abs(np.subtract(centre, true_centre)).max() < 0.5


def test_the_padding_is_taken_off() -> None:
    processor = ContourImageProcessor(size=8)
    logits = torch.full((1, 1, 8, 8), 50.0)
    logits[..., :2, :], logits[..., 6:, :] = -50, -50  # rows of padding for an image twice as wide as tall
    (edge_probs,) = processor.post_process_contours(logits, [(16, 32)])
    assert torch.equal(edge_probs, torch.ones(16, 32))


def test_each_image_has_its_own_size() -> None:
    processor = ContourImageProcessor(size=32)
    images = [drawn(40, 20), drawn(10, 70), drawn(1, 1), drawn(1, 300)]
    sizes = [(image.height, image.width) for image in images]
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    outputs = SimpleNamespace(logits=pixel_values[:, :1])
    together = processor.post_process_contours(outputs, sizes)
    assert [tuple(probs.shape) for probs in together] == sizes
    for position, size in enumerate(sizes):
        alone = processor.post_process_contours(pixel_values[position : position + 1, :1], torch.tensor([size]))
        assert torch.equal(alone[0], together[position])


def test_values_by_hand() -> None:
    logits = torch.tensor([[[[0.0, np.log(3)], [-np.log(3), 100.0]]]])
    processor = ContourImageProcessor(size=2)
    (edge_probs,) = processor.post_process_contours(logits)
    assert torch.allclose(edge_probs, torch.tensor([[0.5, 0.75], [0.25, 1.0]]))
    (edge_map,) = processor.post_process_contours(logits, threshold=0.5)
    assert edge_map.tolist() == [[True, True], [False, True]]
    (half,) = processor.post_process_contours(logits.to(torch.bfloat16))
    assert half.dtype == torch.float32


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.zeros(1, 2, 8, 8), {}, r"logits are \(1, 2, 8, 8\)"),
        (torch.zeros(8, 8), {}, "expected \\(batch, 1"),
        (torch.zeros(2, 1, 8, 8), {"target_sizes": [(4, 4)]}, "1 entries for 2 maps"),
        (torch.zeros(1, 1, 9, 8), {"target_sizes": [(4, 4)]}, r"\(9, 8\) for an image of 4x4, .*\(8, 8\)"),
        (torch.zeros(1, 1, 8, 8), {"threshold": 1.5}, "threshold is 1.5"),
        (torch.zeros(1, 1, 8, 8), {"threshold": float("nan")}, "threshold is nan"),
        (torch.zeros(1, 1, 8, 8), {"target_sizes": [(0, 4)]}, "0x4"),
    ],
)
def test_what_does_not_fit_is_refused(logits: torch.Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContourImageProcessor(size=8).post_process_contours(logits, **options)


def ridge(distance: np.ndarray, width: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(np.exp(-((distance / width) ** 2)).astype(np.float32))


def test_ridges_become_one_pixel_wide() -> None:
    rows, columns = np.indices((60, 60)).astype(float)
    upright = suppress_non_maxima(ridge(columns - 30))
    assert torch.equal(upright.nonzero()[:, 1].unique(), torch.tensor([30]))
    assert torch.allclose(upright[:, 30], torch.ones(60))
    flat = suppress_non_maxima(ridge(rows - 30))
    assert torch.equal(flat.where(flat > 1e-3, 0), upright.T)
    circle = suppress_non_maxima(ridge(np.hypot(rows - 29.3, columns - 30.2) - 18)).numpy() > 0.5
    off = np.abs(np.hypot(*(np.argwhere(circle) - [29.3, 30.2]).T) - 18)
    assert off.max() < 1
    assert 2 * np.pi * 18 * 0.75 < circle.sum() < 2 * np.pi * 18 * 1.3  # about one pixel per step along it


def toolbox_edges_nms(probs: np.ndarray) -> np.ndarray:
    """`edgesNmsMex.cpp` (radius 1, multiplier 1.01) with orientations as in `edgesDetect.m`, pixel by pixel.

    Without the fading of the frame, and with a sign of 1 for a mixed derivative of 0. The smoothing is SciPy's
    correlation with the triangle of `convTri(E, 4)`.
    """
    triangle = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = ndimage.correlate1d(
        ndimage.correlate1d(probs, triangle, axis=0, mode="reflect"), triangle, axis=1, mode="reflect"
    )
    along_y, along_x = np.gradient(smooth)
    along_xy, along_xx = np.gradient(along_x)
    along_yy = np.gradient(along_y, axis=0)
    angle = np.mod(np.arctan(along_yy * np.where(along_xy > 0, -1, 1) / (along_xx + 1e-5)), np.pi)
    height, width = probs.shape

    def at(x: float, y: float) -> float:
        x, y = min(max(x, 0), width - 1.001), min(max(y, 0), height - 1.001)
        left, top = int(x), int(y)
        across, down = x - left, y - top
        upper = (1 - across) * probs[top, left] + across * probs[top, left + 1]
        lower = (1 - across) * probs[top + 1, left] + across * probs[top + 1, left + 1]
        return (1 - down) * upper + down * lower

    thin = np.zeros_like(probs)
    for y in range(height):
        for x in range(width):
            cosine, sine = np.cos(angle[y, x]), np.sin(angle[y, x])
            neighbours = [at(x + step * cosine, y + step * sine) for step in (-1, 1)]
            if probs[y, x] * 1.01 >= max(neighbours):
                thin[y, x] = probs[y, x]
    return thin


@pytest.mark.parametrize("seed", [0, 1])
def test_thinning_agrees_with_the_toolbox_written_out(seed: int) -> None:
    noise = np.random.default_rng(seed).random((40, 55))
    probs = ndimage.gaussian_filter(noise, 1.5)
    probs = ((probs - probs.min()) / np.ptp(probs)).astype(np.float32)
    ours = suppress_non_maxima(torch.from_numpy(probs)).numpy()
    reference = toolbox_edges_nms(probs.astype(np.float64))
    # Single precision decides a few ties the other way, and the reference stops 1/1000 short of the last pixel.
    assert ((ours > 0) != (reference > 0)).mean() < 0.003
    both = (ours > 0) & (reference > 0)
    assert np.abs(ours - reference)[both].max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 50)])
def test_thinning_of_small_and_flat_maps(shape: tuple[int, int]) -> None:
    assert torch.equal(suppress_non_maxima(torch.zeros(shape)), torch.zeros(shape))
    thin = suppress_non_maxima(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    assert tuple(thin.shape) == shape
    assert torch.isfinite(thin).all()


def test_thin_maps_of_images() -> None:
    processor = ContourImageProcessor(size=60, **PLAIN)
    columns = np.indices((60, 60))[1].astype(float)
    logits = torch.logit(ridge(columns - 30), eps=1e-4)[None, None]
    (probs,) = processor.post_process_contours(logits, [(60, 60)], thin=True)
    assert probs.dtype == torch.float32
    assert torch.equal(probs[:, 30] > 0.9, torch.ones(60, dtype=torch.bool))
    (edge_map,) = processor.post_process_contours(logits, [(60, 60)], 0.5, thin=True)
    expected = torch.zeros(60, 60, dtype=torch.bool)
    expected[:, 30] = True
    assert torch.equal(edge_map, expected)
