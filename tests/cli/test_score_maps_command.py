"""`hf-contour score-maps`: maps that are the annotations are right wherever they are thin, missing ones are named."""

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


@pytest.mark.slow  # Numba compiles the matching
def test_annotations_as_maps_are_never_wrong(
    drawn: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("numba")
    output = tmp_path / "out" / "scores.json"
    assert run("score-maps", tmp_path / "maps", "--data", tmp_path, "--no_nms", "--output", output) == 0
    found = json.loads(output.read_text())
    # Maps are thinned and annotations are not: some drawn pixels have no match, but each that is left has one, so that
    # with a precision of 1 the F follows from the recall.
    recall = found["scores"]["r50"]
    assert 0.9 < recall < 1
    assert found["scores"]["ods"] == pytest.approx(2 * recall / (1 + recall))
    assert found["protocol"]["nms"] is None
    assert "2 images: ODS" in capsys.readouterr().out


def test_a_missing_map_is_named(drawn: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("numba")
    (tmp_path / "maps" / "b.png").unlink()
    assert run("score-maps", tmp_path / "maps", "--data", tmp_path) == 2
    assert "1 of 2 images have no map, such as ['b']" in capsys.readouterr().err
    assert run("score-maps", tmp_path / "nowhere", "--data", tmp_path) == 2
    assert "nowhere is not there" in capsys.readouterr().err
