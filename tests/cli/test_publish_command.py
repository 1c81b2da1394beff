"""`hf-contour publish` on tiny models."""

from pathlib import Path

import pytest
from commands import run
from huggingface_hub import constants

from hf_contour.hub.card import CardFacts, render_card


def test_publish_lists_and_checks_without_uploading(
    classifier_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["publish", classifier_folder, "--to", "someone/tiny-garments"]
    (classifier_folder / "README.md").unlink(missing_ok=True)
    assert run(*words) == 1
    assert "README.md is missing" in capsys.readouterr().err
    card = render_card(classifier_folder, CardFacts(trained_on=["embedded"]), [])
    (classifier_folder / "README.md").write_text(str(card))
    assert run(*words) == 0
    out = capsys.readouterr().out
    for name in ("model.safetensors", "modeling_contour_gender.py", "preprocessor_config.json", "--upload would send"):
        assert name in out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(*words, "--upload") == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
