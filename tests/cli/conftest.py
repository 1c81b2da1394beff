"""Tiny models, images and a data set for the commands."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from commands import SIZE, photo, png_bytes
from PIL import Image

from hf_contour import ContourExtractorConfig, ContourExtractorForPreTraining, ContourGenderForImageClassification
from hf_contour.image_processing_contour import ContourImageProcessor


@pytest.fixture(scope="session")
def extractor_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-contours"
    torch.manual_seed(0)
    config = ContourExtractorConfig(hidden_sizes=[4, 8], depths=[1, 1], strides=[2, 2], level_channels=4)
    ContourExtractorForPreTraining(config).save_pretrained(folder)
    ContourImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(extractor_folder: Path) -> Path:
    folder = extractor_folder.parent / "tiny-garments"
    torch.manual_seed(1)
    model = ContourGenderForImageClassification.from_extractor_and_backbone(
        extractor_folder,
        "test_resnet",
        id2label={0: "men", 1: "women"},
        fusion_channels=8,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    # Scores far from one half, so that mistakes show.
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(20)
    model.save_pretrained(folder)
    ContourImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "inside").mkdir(parents=True)
    for number in range(3):
        photo(number).save(folder / f"{number}.png")
    photo(3).save(folder / "inside" / "0.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image and no name of one")
    return folder


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Seven images of two classes in three groups, with a contour map each."""
    rows = []
    for number in range(7):
        contour = np.zeros((30, 40), dtype=bool)
        contour[number : number + 2] = True
        rows.append(
            {
                "image": png_bytes(photo(number), tmp_path / "image.png"),
                "contours": [png_bytes(Image.fromarray(contour), tmp_path / "contour.png")],
                "label": number % 2,
                "cluster": number // 3,
            }
        )
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "contours": datasets.List(datasets.Image(decode=False)),
            "label": datasets.ClassLabel(names=["men", "women"]),
            "cluster": datasets.Value("int32"),
        }
    )
    path = tmp_path / "data" / "test.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    return path.parent
