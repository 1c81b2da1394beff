"""Terminals that cannot show a class name, homes that cannot be written, files that may not be read."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tiny_models import tiny_classifier

from hf_contour.cli.main import main
from hf_contour.data.sources import load_source
from hf_contour.image_processing_contour import ContourImageProcessor


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


# Takes the right of root to read and write whatever its permissions are.
AS_A_USER = ["setpriv", "--inh-caps=-dac_override,-dac_read_search", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, two images, and a folder that nobody may write."""
    tiny_classifier().save_pretrained(tmp_path / "model")
    ContourImageProcessor(size=32).save_pretrained(tmp_path / "model")
    for seed in range(2):
        save(tmp_path / "images" / f"{seed}.png", seed)
    (tmp_path / "locked").mkdir(mode=0o555)
    return tmp_path


def refusal(place: Path, *words: str) -> str:
    """What a command says that is refused, in one line without a traceback."""
    root = AS_A_USER if os.geteuid() == 0 else []
    if root and shutil.which("setpriv") is None:
        pytest.skip("root may read and write everything, and there is no setpriv")
    done = subprocess.run(
        [*root, sys.executable, "-m", "hf_contour", *words], cwd=place, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    return errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_model_file_that_may_not_be_read_is_said_to_be_one(place: Path, name: str) -> None:
    (place / "model" / name).chmod(0)
    flags = ("--model", "model", "--inputs", "images", "--output", "out")
    assert f"model/{name} may not be read (Permission denied)" in refusal(place, "predict", *flags)
    if name == "model.safetensors":
        said = refusal(place, "evaluate", "--model", "model", "--data", "images", "--split", "train")
        assert f"model/{name} may not be read (Permission denied)" in said


@pytest.mark.slow
@pytest.mark.parametrize("output", ["locked", "locked/out"])
def test_an_output_folder_that_cannot_be_written(place: Path, output: str) -> None:
    said = refusal(place, "predict", "--model", "model", "--inputs", "images", "--output", output)
    assert said.startswith(f"error: {output} could not be written ([Errno 13] Permission denied")
    assert said.endswith("Get the right to write there, or choose another output folder.")
