"""What the tests of the commands share: `hf-contour` in this process, tiny models, images and a data set."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_contour import ContourGenderForImageClassification
from hf_contour.cli.main import main
from hf_contour.image_processing_contour import ContourImageProcessor

SIZE = {"height": 32, "width": 32}


def run(*words: object) -> int:
    """The exit code of `hf-contour`."""
    return main([str(word) for word in words])


def photo(seed: int, size: tuple[int, int] = (30, 40)) -> Image.Image:
    """A few grey boxes; `size` is (height, width)."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(256, size=(5, 5, 3)), np.ones((8, 8, 1)))[: size[0], : size[1]]
    return Image.fromarray(pixels.astype(np.uint8))


def png_bytes(image: Image.Image, path: Path) -> dict[str, Any]:
    image.save(path)
    return {"bytes": path.read_bytes(), "path": None}


def direct_probabilities(folder: Path, images: Sequence[Any]) -> np.ndarray:
    model = ContourGenderForImageClassification.from_pretrained(folder).eval()
    processor = ContourImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**processor([image], return_tensors="pt")).logits[0] for image in images]
    return torch.stack(logits).softmax(dim=1).numpy()


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
