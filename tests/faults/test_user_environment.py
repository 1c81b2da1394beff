"""Terminals that cannot show a class name, and homes that cannot be written."""

import io
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_contour.cli.main import main
from hf_contour.data.sources import load_source


def save(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


def test_class_names_that_the_terminal_cannot_show_are_escaped(tmp_path, monkeypatch):
    for seed, name in enumerate(("Ü", "b")):
        save(tmp_path / name / "1.png", seed)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["check-data", str(tmp_path)]) == 0
    terminal.flush()
    assert b"b 1, \\xdc 1" in terminal.buffer.getvalue()


def test_a_cache_that_cannot_be_written_names_hf_home(tmp_path, monkeypatch):
    save(tmp_path / "1.png", 0)
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    cell = {"bytes": (tmp_path / "1.png").read_bytes(), "path": None}
    Dataset.from_dict({"image": [cell], "label": [0]}, features=features).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(ValueError, match=r"the cache of data sets cannot be written .*HF_HOME"):
        load_source(tmp_path / "train.parquet")
