"""A tiny classifier and a few images for the tests of prediction."""

from pathlib import Path

import pytest
import torch
from prediction_images import image_bytes
from tiny_models import tiny_classifier

from hf_contour.image_processing_contour import ContourImageProcessor


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny_classifier(id2label={0: "men", 1: "women", 2: "children"}, abstain_threshold=0.9)
    processor = ContourImageProcessor(size=32)
    pixels = processor([image_bytes(seed) for seed in range(22)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():  # scores of all kinds, so that mistakes show
        model.classifier.output.weight.mul_(3000)
        model.classifier.output.bias.sub_(model(pixels).logits.mean(dim=0))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-three images in two folders, the last one damaged."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    (folder / "b").mkdir(parents=True)
    for number in range(22):
        place = folder / "b" if number % 3 else folder
        (place / f"{number:02d}.png").write_bytes(image_bytes(number))
    (folder / "b" / "damaged.jpg").write_bytes(b"<html></html>")
    return folder
