"""`hf-contour evaluate` on tiny models: figures, places of results files, refusals."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SIZE, direct_probabilities, photo, run
from sklearn.metrics import accuracy_score

from hf_contour import ContourExtractorForPreTraining, ContourGenderForImageClassification
from hf_contour.evaluation.results import read_results
from hf_contour.loss_contour import edge_loss


def test_evaluate_classifier_writes_its_scores(classifier_folder: Path, parquet: Path, tmp_path: Path) -> None:
    output = tmp_path / "results" / "tiny.json"
    flags = ["--model", classifier_folder, "--data", parquet, "--group_column", "cluster", "--batch_size", 3]
    run("evaluate", *flags, "--output", output, "--cpu")
    results = read_results(output)
    probs = direct_probabilities(classifier_folder, [photo(number) for number in range(7)])
    labels = [number % 2 for number in range(7)]
    assert results.scores["accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(axis=1)))
    assert results.scores["brier_score"] == pytest.approx(np.mean((probs[:, 1] - labels) ** 2), abs=1e-5)
    assert (results.scores["num_samples"], results.scores["num_groups"]) == (7, 3)
    assert results.scores["class_names"] == ["men", "women"]
    assert (results.task, results.name) == ("image-classification", "tiny-garments-data-test")
    assert results.data == {"source": "data", "config": None, "split": "test", "num_samples": 7}
    assert results.protocol["image_size"] == SIZE
    assert str(tmp_path) not in json.dumps([results.arguments, results.data, results.command])
    assert results.versions["torch"] == torch.__version__.split("+")[0]


def test_evaluate_extractor_writes_its_loss(extractor_folder: Path, parquet: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny.json"
    run("evaluate", "--model", extractor_folder, "--data", parquet, "--output", output, "--cpu")
    results = read_results(output)
    model = ContourExtractorForPreTraining.from_pretrained(extractor_folder).eval()
    losses = []
    for number in range(7):
        pixels = torch.from_numpy(np.asarray(photo(number)).copy()).permute(2, 0, 1)[None] / 255
        labels = torch.zeros(1, 30, 40)
        labels[:, number : number + 2] = 1
        with torch.no_grad():
            losses.append(edge_loss(model((pixels - 0.5) / 0.5).logits[:, 0], labels).item())
    assert results.scores["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert results.task == "contour-detection"
    assert 0 <= results.scores["pixel_f1"] <= 1


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(classifier_folder: Path, parquet: Path, tmp_path: Path) -> None:
    flags = ["--model", classifier_folder, "--data", parquet, "--group_column", "cluster", "--batch_size", 2, "--cpu"]
    run("evaluate", *flags, "--output", tmp_path / "one.json")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*launcher, "-m", "hf_contour", "evaluate", *flags, "--output", tmp_path / "two.json"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in words], check=True, timeout=300, env=environment)
    one, two = (read_results(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert two.protocol["num_processes"] == 2
    for name in ("confusion_matrix", "num_groups", "accuracy_interval"):
        assert two.scores[name] == one.scores[name]
    assert two.scores["brier_score"] == pytest.approx(one.scores["brier_score"], abs=1e-6)
    assert two.scores["num_samples"] == 7


def test_evaluate_takes_the_drawn_garments(classifier_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny.json"
    flags = ["--model", classifier_folder, "--max_samples", 6, "--embedded_size", 40, 32, "--output", output, "--cpu"]
    run("evaluate", *flags)
    results = read_results(output)
    assert results.name == "tiny-garments-embedded-test"
    assert results.scores["num_samples"] == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group_column", "no_such"], "group_column is 'no_such'"),
        (["--split", "validation"], "has no split 'validation'"),
        (["--batch_size", "0"], "batch_size is 0"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(
    classifier_folder: Path, parquet: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run("evaluate", "--model", classifier_folder, "--data", parquet, "--cpu", *flags) == 2
    shown = capsys.readouterr().err.splitlines()[-1]  # above it may be the bars of reading the data
    assert shown.startswith("error: ")
    assert message in shown


def test_results_of_two_runs_stand_beside_their_models(
    classifier_folder: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both folders are called `model`, and each result belongs to its run."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        shutil.copytree(classifier_folder, tmp_path / "runs" / name / "gender" / "model")
        assert run("evaluate", "--model", f"runs/{name}/gender/model", "--data", parquet, "--cpu") == 0
        path = tmp_path / "runs" / name / "gender" / "evaluations" / f"{name}-gender-data-test.json"
        assert read_results(path).model["name"] == f"{name}-gender"


def test_results_of_another_model_are_not_replaced(
    classifier_folder: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "elsewhere" / classifier_folder.name
    shutil.copytree(classifier_folder, folder)
    model = ContourGenderForImageClassification.from_pretrained(folder)
    torch.nn.init.zeros_(next(model.classifier.parameters()))
    model.save_pretrained(folder)
    for _ in range(2):
        for one in (classifier_folder, folder):
            assert run("evaluate", "--model", one, "--data", parquet, "--cpu") == 0
    found = sorted((tmp_path / "runs" / "evaluations").glob("*.json"))
    assert len(found) == 2
    assert len({read_results(path).model["sha256"] for path in found}) == 2
