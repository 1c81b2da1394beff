"""`hf-contour publish` on tiny models, to a Hub on the loopback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import direct_probabilities, photo, run
from hub_standin import Hub, running_hub
from huggingface_hub import ModelCard, constants

# The Hub's client makes use of what its own library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TO = "owner/name"
RESULTS = {
    "stage": "gender",
    "arguments": {"data": "/home/somebody/data/shop_photographs"},
    "evaluation": {"validation": {"loss": 0.31234567, "accuracy": 0.87654321, "num_samples": 40}},
    "training": {"steps": 120, "num_samples_seen": 1920},
    "data": {"num_train_samples": 1234},
    "seed": 7,
}
# Loads from the Hub in a process that cannot import the package.
LOADING = """
import importlib.abc, json, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_contour":
            raise ImportError("hf_contour is not installed in this test")
sys.meta_path.insert(0, Blocker())
from transformers import pipeline
classify = pipeline("image-classification", sys.argv[1], trust_remote_code=True)
print(json.dumps({one["label"]: one["score"] for one in classify(sys.argv[2], top_k=2)}))
"""


@pytest.fixture
def model(classifier_folder: Path, tmp_path: Path) -> Path:
    """The model of a run, as a training leaves it."""
    folder = tmp_path / "runs" / "shop" / "gender" / "model"
    shutil.copytree(classifier_folder, folder)
    for path in folder.glob("*.py"):
        path.unlink()
    (folder.parent / "results.json").write_text(json.dumps(RESULTS))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the newer protocol needs a storage server of its own
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        yield hub


def test_the_folder_for_the_hub_is_complete(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = tmp_path / "ready"
    assert run("publish", model, "--to", TO, "--output", ready) == 0
    assert "--upload would send" in capsys.readouterr().out
    names = {path.name for path in ready.iterdir()}
    wanted = {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "example.png"}
    assert wanted | {"modeling_contour_gender.py", "loss_contour.py", "image_opening_contour.py"} <= names
    assert (ready / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert not list(model.glob("*.py"))
    assert run("verify", ready) == 0
    assert run("publish", model, "--to", TO, "--output", ready) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_card_of_a_run_says_what_the_run_wrote(
    model: Path, parquet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", "--model", model, "--data", parquet, "--cpu") == 0
    assert run("publish", model, "--to", TO, "--data_name", "Shop photographs", "--license", "mit") == 0
    assert "places in it say '[More Information Needed]'" in capsys.readouterr().out
    text = (model / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "mit",
        "transformers",
        "image-classification",
    )
    assert {figure.metric_type for figure in card.data.eval_results} >= {"accuracy", "brier_score"}
    assert f'pipeline("image-classification", "{TO}", trust_remote_code=True)' in text
    for words in ("**Shop photographs** (classes): 1,234 training images.", "| validation | 40 | 0.3123 | 0.8765 |"):
        assert words in text
    assert "## Intended use\n\n[More Information Needed]" in text
    assert "somebody" not in text
    assert "Myntra" not in text


def test_a_card_that_was_edited_stays_and_names_the_new_id(model: Path, tmp_path: Path) -> None:
    assert run("publish", model, "--to", TO) == 0
    path = model / "README.md"
    path.write_text(path.read_text().replace("[More Information Needed]", "Sorting my photographs."))
    assert run("publish", model, "--to", "other/model", "--output", tmp_path / "ready") == 0
    text = (tmp_path / "ready" / "README.md").read_text()
    assert "Sorting my photographs." in text
    assert '"other/model", trust_remote_code=True' in text
    assert TO not in text


def test_an_upload_arrives_whole_and_private(model: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("publish", model, "--to", TO, "--upload") == 0
    assert f"{hub.address}/owner/name/commit/" in capsys.readouterr().out
    assert hub.files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert {"config.json", "README.md", "modeling_contour_gender.py"} <= set(hub.files)
    assert [one.get("private", one.get("visibility") == "private") for one in hub.created] == [True]


@pytest.mark.slow
def test_what_was_uploaded_loads_where_the_package_is_not_installed(model: Path, hub: Hub, tmp_path: Path) -> None:
    assert run("publish", model, "--to", TO, "--upload") == 0
    photo(5).save(tmp_path / "photo.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", LOADING, TO, str(tmp_path / "photo.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    expected = direct_probabilities(model, [tmp_path / "photo.png"])[0]
    assert scores == pytest.approx(dict(zip(["men", "women"], expected.tolist(), strict=True)), abs=1e-4)


@pytest.mark.parametrize(
    ("code", "words"), [(403, "the token must be allowed"), (401, "the token must be"), (400, "the Hub refused")]
)
def test_a_refusal_of_the_hub_is_said_as_such(
    model: Path, hub: Hub, capsys: pytest.CaptureFixture[str], code: int, words: str
) -> None:
    hub.refusal = code
    assert run("publish", model, "--to", TO, "--upload") == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert str(code) in shown
    assert "network" not in shown
    assert shown.count("\n") == 1


def test_a_hub_that_is_not_there_is_told_from_one_that_refuses(
    model: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the port of "discard", which nobody serves
    assert run("publish", model, "--to", TO, "--upload") == 2
    assert "cannot be reached" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run("publish", model, "--to", TO, "--upload") == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_pickles_are_not_published(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "pytorch_model.bin").write_bytes(b"")
    assert run("publish", model, "--to", TO) == 1
    assert "pytorch_model.bin is a pickle" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["name", "a/b/c", "/name"])
def test_an_id_of_the_hub_has_an_owner_and_a_name(model: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("publish", model, "--to", to) == 2
    assert "expected OWNER/NAME" in capsys.readouterr().err
