"""Evaluation of a classifier: slices, perturbations and predictions agree with a second computation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from tiny_models import tiny_classifier
from tiny_training import LABEL_NAMES, drawn_row

from hf_contour import ContourGenderForImageClassification
from hf_contour.cli.main import main
from hf_contour.evaluation.arguments import EvaluationArguments
from hf_contour.evaluation.classes import IMAGE_COLUMNS
from hf_contour.evaluation.perturbations import partners
from hf_contour.evaluation.predictions import pair_predictions, read_predictions, write_predictions
from hf_contour.evaluation.results import read_results, read_results_folder
from hf_contour.evaluation.run import evaluate, summary
from hf_contour.evaluation.summary import class_summary
from hf_contour.hub.card_tables import class_table, results_table
from hf_contour.image_processing_contour import ContourImageProcessor, open_image

NUM_ROWS = 14
SLICES = ["kind", "share<=0.3", "brightness", "aspect_ratio", "label"]


def row(number):
    return {
        "image": drawn_row(number)["image"],
        "label": number % 2,
        "kind": ["top", "dress", "sari"][number % 3 if number < 12 else 0],
        "share": number / 10,
        "group": number // 2,
        "product": f"p{number}",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    texts = {"kind": Value("string"), "share": Value("float32"), "group": Value("int32"), "product": Value("string")}
    features = Features({"image": Image(), "label": ClassLabel(names=LABEL_NAMES), **texts})
    folder = tmp_path_factory.mktemp("data")
    Dataset.from_list([row(number) for number in range(NUM_ROWS)], features=features).to_parquet(
        folder / "test.parquet"
    )
    return folder


def images():
    return [open_image(drawn_row(number)["image"]["bytes"]) for number in range(NUM_ROWS)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A classifier that sees contours alone, takes half of the images for discs, and is far from sure."""
    names = dict(enumerate(LABEL_NAMES))
    model = tiny_classifier(
        id2label=names, num_labels=2, contour_features="fused", fusion="concat", head="linear", temperature=2.0
    )
    processor = ContourImageProcessor(size={"height": 32, "width": 32})
    output = model.classifier.output
    with torch.inference_mode():
        output.weight[:, model.extractor.num_features :] = 0
        output.weight *= 500
        output.bias.zero_()
        logits = model(**processor(images(), return_tensors="pt")).logits
        output.bias[1] = -2 * (logits[:, 1] - logits[:, 0]).quantile(0.5)  # the model divides by 2
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def settings(model, data, tmp_path, **changes):
    fields = {
        "model": str(model),
        "data": str(data),
        "output": str(tmp_path / "results.json"),
        "group_column": "group",
        "num_resamples": 100,
        "batch_size": 4,
        "cpu": True,
    }
    return EvaluationArguments(**{**fields, **changes})


@pytest.fixture(scope="module")
def evaluated(model_folder, data, tmp_path_factory):
    """Results as read again, and predictions, of one evaluation with everything."""
    folder = tmp_path_factory.mktemp("results")
    arguments = settings(
        model_folder,
        data,
        folder,
        slices=SLICES,
        min_slice=5,
        perturbations=["all"],
        predictions=str(folder / "said.npz"),
        id_column="product",
    )
    evaluate(arguments, command="evaluate")
    return read_results(folder / "results.json"), read_predictions(folder / "said.npz")


def test_predictions_hold_what_the_model_says(evaluated, model_folder):
    results, predictions = evaluated
    model = ContourGenderForImageClassification.from_pretrained(model_folder).eval()
    processor = ContourImageProcessor.from_pretrained(model_folder)
    with torch.inference_mode():
        logits = model(**processor(images(), return_tensors="pt")).logits
    assert np.allclose(predictions.logits, logits.numpy(), atol=1e-4)
    assert predictions.row_ids.tolist() == [f"p{number}" for number in range(NUM_ROWS)]
    assert predictions.group_ids.tolist() == [number // 2 for number in range(NUM_ROWS)]
    assert predictions.labels.tolist() == [number % 2 for number in range(NUM_ROWS)]
    assert predictions.class_names == LABEL_NAMES
    assert predictions.model == results.model
    assert predictions.data == results.data
    assert results.scores["temperature"] == 2.0
    assert results.scores["accuracy"] == accuracy_score(predictions.labels, predictions.predicted)
    assert 0 < results.scores["accuracy"] < 1


def test_slices_score_as_scikit_learn_does(evaluated):
    results, predictions = evaluated
    numbers = np.arange(NUM_ROWS)
    kinds = np.array([row(number)["kind"] for number in numbers])
    expected = {
        "kind = top": kinds == "top",
        "kind = dress, sari": kinds != "top",
        "share <= 0.3": numbers <= 3,  # 0.3 is less than 0.3 in 32 bits, which the column has
        "share > 0.3": numbers > 3,
        "label = box": numbers % 2 == 0,
        "label = disc": numbers % 2 == 1,
        "aspect_ratio <= 1": numbers >= 0,
    }
    found = {part["name"]: part for part in results.scores["slices"]}
    for name, members in expected.items():
        labels, predicted = predictions.labels[members], predictions.predicted[members]
        assert found[name]["num_samples"] == members.sum()
        assert found[name]["num_groups"] == len(set(numbers[members] // 2))
        assert found[name]["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
        if len(set(labels)) == 2:
            assert found[name]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    thirds = [part["num_samples"] for name, part in found.items() if "brightness" in name]
    assert thirds == [5, 5, 4]


def test_brightness_and_aspect_ratio_by_hand():
    pixels = np.zeros((4, 2, 3), dtype=np.uint8)
    pixels[:2] = 255
    assert IMAGE_COLUMNS["brightness"](pixels) == pytest.approx(0.5)
    pixels[:2] = [255, 0, 0]
    assert IMAGE_COLUMNS["brightness"](pixels) == pytest.approx(0.299 / 2)
    assert IMAGE_COLUMNS["aspect_ratio"](pixels) == 0.5


def test_grey_images_lose_nothing_without_colour(evaluated):
    scores = evaluated[0].scores
    assert list(scores["colour_reliance"]) == ["channels_permuted", "hue_90", "hue_180", "hue_270", "grey"]
    for figures in scores["colour_reliance"].values():
        assert figures["accuracy_lost"] == 0
        assert figures["accuracy_lost_interval"] == [0, 0]
        assert figures["predictions_changed"] == 0
        assert figures["accuracy"] == scores["accuracy"]


def test_a_classifier_of_contours_alone_follows_them(evaluated):
    results, predictions = evaluated
    scores = results.scores
    zeroed, another = (scores["contour_contribution"][name] for name in ("contours_zeroed", "contours_of_another"))
    assert zeroed["accuracy"] == 0.5  # every image has one label, half of them rightly
    assert zeroed["predictions_changed"] == 0.5
    theirs = predictions.predicted[partners(NUM_ROWS, seed=0)]
    assert another["accuracy"] == pytest.approx((theirs == predictions.labels).mean())
    assert another["predictions_changed"] == pytest.approx((theirs != predictions.predicted).mean())
    for figures in (zeroed, another):
        assert figures["accuracy_lost"] == pytest.approx(scores["accuracy"] - figures["accuracy"])
        low, high = figures["accuracy_lost_interval"]
        assert low <= figures["accuracy_lost"] <= high


def test_coverage_and_reliability_agree_with_the_other_figures(evaluated):
    scores, predictions = evaluated[0].scores, evaluated[1]
    first, last = scores["coverage"][0], scores["coverage"][-1]
    assert first["coverage"] == 1
    assert first["accuracy"] == pytest.approx(scores["accuracy"])
    assert last["coverage"] <= 0.2
    coverages = [point["coverage"] for point in scores["coverage"]]
    assert coverages == sorted(coverages, reverse=True)
    bins = scores["reliability"]
    assert sum(one["num_samples"] for one in bins) == NUM_ROWS
    gaps = [one["num_samples"] * abs(one["confidence"] - one["accuracy"]) for one in bins if one["num_samples"]]
    assert sum(gaps) / NUM_ROWS == pytest.approx(scores["expected_calibration_error"])
    confidence = predictions.probabilities.max(axis=1)
    assert confidence.min() >= scores["coverage"][0]["threshold"]


def test_tables_show_every_part_and_older_results(evaluated):
    results = evaluated[0]
    text = summary(results)
    for words in ("| all | 14 | 7 |", "| kind = top | 6 |", "| contours zeroed |", "| hue 90 |"):
        assert words in text
    older = replace(
        results,
        scores={
            key: value
            for key, value in results.scores.items()
            if key
            not in ("slices", "coverage", "reliability", "temperature", "colour_reliance", "contour_contribution")
        },
    )
    assert len(class_summary(older.scores).splitlines()) == 3
    assert results_table([results]) == results_table([older])
    assert class_table(results) == class_table(older)


def test_an_evaluation_without_the_extras_has_none_of_them(model_folder, data, tmp_path):
    results, _ = evaluate(settings(model_folder, data, tmp_path), command="evaluate")
    assert not {"slices", "colour_reliance", "contour_contribution"} & set(results.scores)
    assert len(results.scores["reliability"]) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": ["colour"]}, "slices is 'colour'; the data has"),
        ({"slices": ["kind<3"]}, "kind holds words"),
        ({"slices": ["image"]}, "row 0 has"),
        ({"id_column": "sku"}, "id_column is 'sku'"),
        ({"predictions": "said.json"}, r"ends in \.npz"),
        ({"min_slice": 0}, "min_slice is 0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(model_folder, data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(settings(model_folder, data, tmp_path, **changes), command="evaluate")


def changed(predictions, wrong):
    """The predictions of a classifier that has all rows right but these."""
    logits = np.eye(2, dtype=np.float32)[predictions.labels]
    logits[list(wrong)] = 1 - logits[list(wrong)]
    return replace(predictions, logits=logits)


def test_two_classifiers_are_paired_on_all_and_on_slices(evaluated):
    first, second = changed(evaluated[1], [0, 1, 2, 5]), changed(evaluated[1], [0, 3])
    paired = pair_predictions(first, second)
    assert paired["all"]["difference"] == pytest.approx(2 / 14)
    assert (paired["all"]["only_first"], paired["all"]["only_second"]) == (1, 3)
    assert paired["all"]["num_groups"] == 7
    assert paired["all"]["mcnemar_p"] == pytest.approx(2 * 5 / 16)
    small = next(part for part in paired["slices"] if part["name"] == "share <= 0.3")
    assert (small["num_samples"], small["first_accuracy"], small["second_accuracy"]) == (4, 0.25, 0.5)
    assert [part["name"] for part in paired["slices"]] == [part.name for part in first.slices]
    fewer = replace(second, slices=second.slices[2:3])
    assert [part["name"] for part in pair_predictions(first, fewer)["slices"]] == ["share <= 0.3"]


def test_other_images_are_not_paired(evaluated):
    first = evaluated[1]
    labels = first.labels.copy()
    labels[4] = 1 - labels[4]
    for other, message in (
        (replace(first, labels=labels), "labels differ in 1 rows, first in row 4"),
        (replace(first, row_ids=first.row_ids[::-1]), "row_ids differ in 14 rows"),
        (replace(first, row_ids=first.row_ids[:3]), "same images"),
        (replace(first, group_ids=np.arange(NUM_ROWS)), "group_column"),
        (replace(first, class_names=["a", "b"]), "classes"),
    ):
        with pytest.raises(ValueError, match=message):
            pair_predictions(first, other)


def test_several_labels_have_predictions_too(evaluated, tmp_path):
    several = replace(
        evaluated[1],
        logits=np.array([[1, -1], [1, 1], [-1, -1]], dtype=np.float32),
        labels=np.array([[1, 0], [1, 0], [0, 0]]),
        row_ids=np.arange(3),
        group_ids=np.arange(3),
        slices=[],
    )
    write_predictions(several, tmp_path / "several.npz")
    again = read_predictions(tmp_path / "several.npz")
    assert again.correct.tolist() == [True, False, True]
    assert pair_predictions(several, again)["all"]["difference"] == 0


def test_what_is_no_file_of_predictions_is_refused(tmp_path):
    path = tmp_path / "said.npz"
    for content in (b"", b"not a file", b"PK\x03\x04 torn"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"said\.npz is no file of predictions"):
            read_predictions(path)
    np.savez(path, logits=np.zeros(3))
    with pytest.raises(ValueError, match="labels"):
        read_predictions(path)
    np.savez(path, logits=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="no file of predictions"):
        read_predictions(path)


def test_compare_writes_one_file_that_cards_leave_alone(evaluated, tmp_path, capsys):
    for name, wrong in (("first", [0, 1, 2]), ("second", [0])):
        write_predictions(changed(evaluated[1], wrong), tmp_path / f"{name}.npz")
    output = tmp_path / "results" / "pair.json"
    files = [str(tmp_path / f"{name}.npz") for name in ("first", "second")]
    assert main(["compare", *files, "--num_resamples", "50", "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    assert content["paired"]["all"]["difference"] == pytest.approx(2 / 14)
    assert content["first"]["model"]["name"] == "tiny"
    assert "| all | 14 |" in capsys.readouterr().out
    assert read_results_folder(output.parent) == []
