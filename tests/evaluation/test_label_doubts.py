"""Rows with a wrong label are named by a model that has not learnt them."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_contour.cli.main import main
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification

WRONG = [3, 8]


@pytest.fixture
def model(tmp_path) -> str:
    config = ContourGenderConfig(backbone="test_resnet", contour_features="none", id2label={0: "dark", 1: "light"})
    ContourGenderForImageClassification(config).save_pretrained(tmp_path / "model")
    ContourImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def source(tmp_path, monkeypatch) -> str:
    """Dark and light images, two of them with the other's label, and one that cannot be read."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    cells, labels = [], []
    for index in range(24):
        rng = np.random.default_rng(index)
        shade = 40 + 160 * (index % 2) + rng.integers(0, 15, (32, 32, 3))
        PILImage.fromarray(shade.astype(np.uint8)).save(tmp_path / f"{index}.png")
        cells.append({"bytes": (tmp_path / f"{index}.png").read_bytes(), "path": f"{index}.png"})
        labels.append((index + (index in WRONG)) % 2)
    cells.append({"bytes": b"no image", "path": "bad.png"})
    features = Features({"image": Image(), "label": ClassLabel(names=["dark", "light"])})
    (tmp_path / "set").mkdir()
    Dataset.from_dict({"image": cells, "label": [*labels, 0]}, features=features).to_parquet(
        tmp_path / "set" / "train.parquet"
    )
    return str(tmp_path / "set")


def test_rows_with_a_wrong_label_are_found_out_of_fold(source, model, capsys):
    pytest.importorskip("cleanlab")
    assert main(["check-data", source, "--model", model, "--json"]) == 1  # the image that cannot be read
    found = json.loads(capsys.readouterr().out)["counts"]
    assert found["label_doubtful"]["count"] == len(WRONG)
    assert sorted(found["label_doubtful"]["first"]) == ["train row 3 (3.png)", "train row 8 (8.png)"]
    assert found["image_unreadable"]["count"] == 1
