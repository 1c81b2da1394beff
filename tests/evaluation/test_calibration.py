"""Temperature and threshold are fitted, stored without touching anything else, and heeded by the pipeline."""

import importlib.metadata
import importlib.util
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss
from tiny_models import tiny_classifier, tiny_extractor
from tiny_training import LABEL_NAMES, drawn_row

from hf_contour import ContourGenderForImageClassification
from hf_contour.cli.calibrate import threshold_words
from hf_contour.cli.main import main
from hf_contour.evaluation.adaptation import calibrate
from hf_contour.evaluation.arguments import CalibrationArguments, EvaluationArguments
from hf_contour.evaluation.calibration import calibrate_predictions, write_calibration
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.evaluation.results import read_results_folder
from hf_contour.evaluation.run import evaluate
from hf_contour.image_processing_contour import ContourImageProcessor, open_image
from hf_contour.io import OutputError
from hf_contour.pipeline_contour import ContourImageClassificationPipeline

NUM_ROWS = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    features = Features({"image": Image(), "label": ClassLabel(names=LABEL_NAMES)})
    rows = [{"image": drawn_row(number)["image"], "label": number % 2} for number in range(NUM_ROWS)]
    Dataset.from_list(rows, features=features).to_parquet(folder / "validation.parquet")
    return folder


def images():
    return [open_image(drawn_row(number)["image"]["bytes"]) for number in range(NUM_ROWS)]


@pytest.fixture
def model_folder(tmp_path):
    """A classifier that takes half of the images for discs, and is far too sure."""
    names = dict(enumerate(LABEL_NAMES))
    model = tiny_classifier(id2label=names, num_labels=2, contour_features="fused", temperature=1.25)
    processor = ContourImageProcessor(size={"height": 32, "width": 32})
    output = model.classifier.output
    with torch.inference_mode():
        margins = model(**processor(images(), return_tensors="pt")).logits.diff(dim=1) * 1.25
        right = ((margins[:, 0] > margins.quantile(0.5)) == (torch.arange(NUM_ROWS) % 2 == 1)).float().mean()
        gain = (8 if right > 0.5 else -8) / margins.std()
        output.weight *= gain
        output.bias *= gain
        output.bias[1] -= gain * margins.quantile(0.5)
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def run(folder, data, **settings):
    arguments = CalibrationArguments(str(folder), [str(data)], cpu=True, **settings)
    return calibrate(arguments, command="calibrate").calibration


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def undivided_logits(folder):
    model = ContourGenderForImageClassification.from_pretrained(folder).eval()
    model.config.temperature = 1
    with torch.inference_mode():
        return model(**ContourImageProcessor.from_pretrained(folder)(images(), return_tensors="pt")).logits


def test_the_stored_temperature_is_the_best_one_and_pipeline_scores_use_it(model_folder, data):
    logits, labels = undivided_logits(model_folder).double(), np.arange(NUM_ROWS) % 2
    before = (model_folder / "config.json").read_text()
    calibration = run(model_folder, data, batch_size=5, wanted_accuracy=[0.6, 0.5])

    def loss(log_temperature):
        return log_loss(labels, (logits / np.exp(log_temperature)).softmax(dim=1)[:, 1].numpy())

    best = float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))
    assert calibration.temperature == pytest.approx(best, rel=1e-3)
    assert calibration.temperature_before == 1.25
    for temperature, figures in ((1.25, calibration.before), (best, calibration.after)):
        expected = brier_score_loss(labels, (logits / temperature).softmax(dim=1)[:, 1].numpy())
        assert figures["brier_score"] == pytest.approx(expected, abs=1e-4)
    assert loss(np.log(calibration.temperature)) < loss(np.log(1.25))

    probabilities = (logits / calibration.temperature).softmax(dim=1)
    confidence, predicted = (found.numpy() for found in probabilities.max(dim=1))
    reached = [one for one in confidence if (predicted == labels)[confidence >= one].mean() >= 0.6]
    assert calibration.abstain_threshold == pytest.approx(min(reached), abs=1e-4)
    after = (model_folder / "config.json").read_text()
    changed = before.replace('"temperature": 1.25', f'"temperature": {calibration.temperature!r}')
    assert '"abstain_threshold": 0.0' in before
    assert after == changed.replace(
        '"abstain_threshold": 0.0', f'"abstain_threshold": {calibration.abstain_threshold!r}'
    )
    model = ContourGenderForImageClassification.from_pretrained(model_folder)
    assert model.config.temperature == calibration.temperature
    classify = ContourImageClassificationPipeline(
        model=model, image_processor=ContourImageProcessor.from_pretrained(model_folder), device="cpu"
    )
    for image, expected in list(zip(images(), probabilities, strict=True))[:4]:
        scores = {found["label"]: found["score"] for found in classify(image)}
        assert [scores[name] for name in LABEL_NAMES] == pytest.approx(expected.tolist(), abs=1e-4)
    # A threshold in the widest gap: on which side of it an image falls is then no matter of rounding.
    ordered = np.sort(confidence)
    gap = int(np.diff(ordered).argmax())
    model.config.abstain_threshold = float(ordered[gap : gap + 2].mean())
    undecided = [classify(image, abstain=True)[0]["label"] is None for image in images()]
    assert undecided == (confidence < model.config.abstain_threshold).tolist()
    assert undecided.count(True) == gap + 1


def test_an_evaluation_after_it_reports_the_calibrated_error(model_folder, data, tmp_path):
    calibration = run(model_folder, data, wanted_accuracy=[0.6])
    arguments = EvaluationArguments(
        str(model_folder), str(data), split="validation", output=str(tmp_path / "r.json"), num_resamples=10, cpu=True
    )
    scores = evaluate(arguments, command="evaluate")[0].scores
    for name, figure in calibration.after.items():
        assert scores[name] == pytest.approx(figure, abs=1e-5)
    assert scores["temperature"] == calibration.temperature
    assert scores["abstain_threshold"] == calibration.abstain_threshold
    (point,) = [point for point in scores["coverage"] if point["threshold"] == calibration.abstain_threshold]
    # Up to the image that stands at the threshold itself.
    assert point["coverage"] == pytest.approx(calibration.abstaining[0]["coverage"], abs=1.01 / NUM_ROWS)


def test_fitting_again_changes_nothing(model_folder, data):
    first, second = run(model_folder, data), run(model_folder, data)
    assert second.temperature == pytest.approx(first.temperature, rel=1e-6)
    assert second.temperature_before == first.temperature


def test_a_dry_run_leaves_the_folder_and_writes_the_figures(model_folder, data, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    flags = ["--model", model_folder, "--data", data, "--dry_run", "--cpu", "--output", tmp_path / "figures.json"]
    assert main(["calibrate", *map(str, flags), "--wanted_accuracy", "0.4", "1.0"]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "figures.json").read_text())
    figures = content["calibration"]
    assert f"temperature {figures['temperature']:.4f}" in printed
    assert "accuracy 0.4: from confidence" in printed
    assert f"abstain_threshold {figures['abstain_threshold']:.6g}, before 0\n" in printed
    assert figures["abstain_threshold"] == figures["abstaining"][0]["threshold"]
    assert figures["coverage"][-1]["coverage"] < figures["coverage"][0]["coverage"] == 1
    assert content["data"] == {"source": [data.name], "config": None, "split": "validation", "num_samples": NUM_ROWS}
    assert (content["model"]["name"], content["seed"], content["arguments"]["batch_size"]) == ("tiny", 0, 32)
    assert content["command"].startswith("hf-contour calibrate --model tiny --data")
    assert content["versions"]["torch"] == importlib.metadata.version("torch")
    assert "commit" in content
    assert str(tmp_path.parent) not in json.dumps(content)
    assert read_results_folder(tmp_path) == []  # no evaluation, and no obstacle to reading those beside it
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before


def predictions(margins, labels):
    logits = np.stack([np.zeros(len(margins)), margins], axis=1).astype(np.float32)
    rows = np.arange(len(margins))
    return ClassPredictions(logits, np.array(labels), rows, rows, ["a", "b"])


def test_the_temperature_and_the_threshold_by_hand():
    # Of four images at margin 2 three are right, so that the best confidence is 3/4 and 2 / T = log 3; one at
    # margin 0 is a draw at any temperature and does not count.
    calibration = calibrate_predictions(
        predictions([2, 2, 2, 2, 0], [1, 1, 1, 0, 0]), before=1.0, wanted_accuracy=[0.75, 0.9], num_bins=10
    )
    assert calibration.temperature == pytest.approx(2 / np.log(3), rel=1e-4)
    assert calibration.after["brier_score"] == pytest.approx((3 * 0.25**2 + 0.75**2 + 0.5**2) / 5, rel=1e-4)
    sure = 1 / (1 + np.exp(-2))
    expected = (4 * abs(sure - 0.75) + abs(0.5 - 1)) / 5  # the draw goes to the first class, which is right
    assert calibration.before["expected_calibration_error"] == pytest.approx(expected, rel=1e-4)
    assert calibration.after["expected_calibration_error"] == pytest.approx(0.5 / 5, abs=1e-3)
    assert calibration.abstain_threshold == calibration.abstaining[0]["threshold"]
    reachable, unreachable = calibration.abstaining
    assert reachable["threshold"] == pytest.approx(0.5)  # all five: 4 of 5 are right
    assert (reachable["coverage"], reachable["accuracy"]) == (1.0, 0.8)
    assert unreachable == {"wanted_accuracy": 0.9, "threshold": None, "coverage": None, "accuracy": None}


def test_several_labels_have_a_temperature_too():
    rows = np.arange(4)
    labels = np.array([[1, 1], [1, 1], [1, 0], [0, 1]])
    several = ClassPredictions(np.full((4, 2), 3.0, dtype=np.float32), labels, rows, rows, ["a", "b"])
    calibration = calibrate_predictions(several, before=1.0, wanted_accuracy=[0.9])
    assert calibration.temperature == pytest.approx(3 / np.log(3), rel=1e-4)  # six of eight are right
    assert calibration.after["brier_score"] == pytest.approx((6 * 0.25**2 + 2 * 0.75**2) / 8, rel=1e-4)
    assert calibration.after["expected_calibration_error"] == pytest.approx(0, abs=1e-4)
    assert calibration.abstaining == []
    assert calibration.abstain_threshold is None


def test_images_that_are_all_right_say_nothing_of_confidence():
    with pytest.raises(ValueError, match="2 of 2 images are right"):
        calibrate_predictions(predictions([5, -4], [1, 0]), before=1.0)


def hand_made(**settings):
    return calibrate_predictions(predictions([2, 2, 2, 2, 0], [1, 1, 1, 0, 0]), before=1.0, **settings)


def test_an_accuracy_out_of_reach_leaves_the_threshold(model_folder):
    write_calibration(model_folder, hand_made(wanted_accuracy=[0.75]))
    assert config_of(model_folder)["abstain_threshold"] == pytest.approx(0.5)
    unreached = hand_made(wanted_accuracy=[0.9, 0.75], abstain_threshold_before=0.5)
    write_calibration(model_folder, replace(unreached, temperature=3.0))
    config = config_of(model_folder)
    assert (config["temperature"], config["abstain_threshold"]) == (3.0, pytest.approx(0.5))
    words = threshold_words(unreached)
    assert words.startswith("abstain_threshold stays 0.5, which was chosen at the old temperature: no confidence")
    assert "reaches accuracy 0.9;" in words


def test_a_failed_write_leaves_the_old_config(model_folder, monkeypatch):
    before, found = (model_folder / "config.json").read_bytes(), hand_made(wanted_accuracy=[0.75])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"config\.json"):
        write_calibration(model_folder, found)
    monkeypatch.undo()
    assert (model_folder / "config.json").read_bytes() == before
    assert not list(model_folder.glob(".*"))


def test_only_classifiers_are_calibrated(tmp_path, data):
    tiny_extractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="contour_extractor model; expected a contour_gender"):
        run(tmp_path, data)
    with pytest.raises(ValueError, match="no config of a contour_gender"):
        write_calibration(tmp_path, hand_made())
    with pytest.raises(ValueError, match="wanted_accuracy"):
        CalibrationArguments(str(tmp_path), [str(data)], wanted_accuracy=[99])
    with pytest.raises(ValueError, match="wanted_accuracy"):
        CalibrationArguments(str(tmp_path), [str(data)], wanted_accuracy=[])
