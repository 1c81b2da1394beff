"""`hf-contour score-maps`: maps that are the annotations score 1, missing ones are named."""

import json
from pathlib import Path

import datasets
import pytest
from commands import run

from hf_contour.data.garments.drawing import embedded_dataset


@pytest.fixture
def drawn(tmp_path: Path) -> datasets.Dataset:
    """Two garments with names, and their own contours as maps beside them."""
    rows = embedded_dataset("test", num_samples=2, size=(40, 40))
    rows.add_column("image_id", ["a", "b"]).to_parquet(tmp_path / "test.parquet")
    (tmp_path / "maps").mkdir()
    for name, row in zip("ab", rows, strict=True):
        (tmp_path / "maps" / f"{name}.png").write_bytes(row["contours"][0]["bytes"])
    return rows


def test_annotations_as_maps_are_perfect(drawn: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("numba")
    output = tmp_path / "out" / "scores.json"
    assert run("score-maps", tmp_path / "maps", "--data", tmp_path, "--no_nms", "--output", output) == 0
    found = json.loads(output.read_text())
    assert found["scores"]["ods"] > 0.99
    assert found["protocol"]["nms"] is None
    assert "2 images: ODS" in capsys.readouterr().out


def test_a_missing_map_is_named(drawn: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("numba")
    (tmp_path / "maps" / "b.png").unlink()
    assert run("score-maps", tmp_path / "maps", "--data", tmp_path) == 2
    assert "1 of 2 images have no map, such as ['b']" in capsys.readouterr().err
    assert run("score-maps", tmp_path / "nowhere", "--data", tmp_path) == 2
    assert "nowhere is not there" in capsys.readouterr().err
