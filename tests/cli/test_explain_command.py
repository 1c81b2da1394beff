"""`hf-contour explain`: a picture, figures, and refusals in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import direct_probabilities, photo, read_png, run


def test_explain_writes_an_image_and_figures(classifier_folder: Path, tmp_path: Path) -> None:
    photo(1).save(tmp_path / "shirt.png")
    png, figures = tmp_path / "out" / "why.png", tmp_path / "out" / "why.json"
    assert run("explain", tmp_path / "shirt.png", "--model", classifier_folder, "--output", png, figures) == 0
    found = json.loads(figures.read_text())
    expected = direct_probabilities(classifier_folder, [photo(1)])[0]
    assert list(found["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert found["predicted"] == ["men", "women"][int(expected.argmax())]
    assert [change["without"] for change in found["without"]] == ["top quarter", "skin tones", "colour"]
    assert np.unique(read_png(png)).size > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["broken.jpg"], "broken.jpg"),
        (["shirt.png", "--label", "kids"], "label is 'kids'"),
        (["shirt.png", "--output", "why.gif"], "output is 'why.gif'"),
    ],
)
def test_explain_refuses_in_a_sentence(
    classifier_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(1).save("shirt.png")
    Path("broken.jpg").write_bytes(b"<html>no image</html>")
    assert run("explain", *words, "--model", classifier_folder) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
