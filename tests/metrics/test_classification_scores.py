"""Scores of classes against scikit-learn, a second implementation, and figures worked out by hand."""

import json
from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn import metrics as reference

import hf_contour.metrics.classification_scores as evaluate_folder
from hf_contour.metrics.classification import (
    ScoreSettings,
    bootstrap_interval,
    classification_scores,
    expected_calibration_error,
    group_indices,
    multilabel_scores,
)

NAMES = ["men", "women", "unisex"]
EXACT = 1e-12


def softmax_rows(rng: np.random.Generator, num_samples: int, num_classes: int) -> np.ndarray:
    logits = rng.normal(size=(num_samples, num_classes)) * 2
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=1, keepdims=True)


def slow_calibration_error(confidence: np.ndarray, correct: np.ndarray, num_bins: int) -> float:
    total = 0.0
    for i in range(num_bins):
        low, high = i / num_bins, (i + 1) / num_bins
        inside = [n for n, c in enumerate(confidence) if (low < c or (i == 0 and c == 0)) and c <= high]
        if inside:
            gap = abs(np.mean(correct[inside]) - np.mean(confidence[inside]))
            total += gap * len(inside) / len(confidence)
    return total


@pytest.mark.parametrize("num_classes", [2, 3])
def test_single_label_scores_agree_with_scikit_learn(num_classes: int) -> None:
    rng = np.random.default_rng(3)
    probs, labels = softmax_rows(rng, 400, num_classes), rng.integers(num_classes, size=400)
    names = NAMES[:num_classes]
    scores = classification_scores(probs, labels, class_names=names)
    predictions = probs.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, predictions)
    assert scores.accuracy == pytest.approx(reference.accuracy_score(labels, predictions), abs=EXACT)
    balanced = reference.balanced_accuracy_score(labels, predictions)
    assert scores.balanced_accuracy == pytest.approx(balanced, abs=EXACT)
    assert scores.confusion_matrix == reference.confusion_matrix(labels, predictions).tolist()
    for k, name in enumerate(names):
        found = scores.per_class[name]
        expected = (precision[k], recall[k], f1[k], support[k])
        assert (found.precision, found.recall, found.f1, found.support) == pytest.approx(expected, abs=EXACT)
    brier = reference.brier_score_loss(labels, probs, labels=range(num_classes), scale_by_half=True)
    assert scores.brier_score == pytest.approx(brier, abs=EXACT)
    error = slow_calibration_error(probs.max(axis=1), predictions == labels, 15)
    assert scores.expected_calibration_error == pytest.approx(error, abs=EXACT)
    if num_classes == 2:
        assert scores.roc_auc == pytest.approx(reference.roc_auc_score(labels, probs[:, 1]), abs=EXACT)
    else:
        assert scores.roc_auc is None


def test_roc_auc_counts_ties_as_half() -> None:
    rng = np.random.default_rng(4)
    rounded = np.round(rng.random(300), 1)  # many ties
    labels = rng.integers(2, size=300)
    scores = classification_scores(np.stack([1 - rounded, rounded], 1), labels, class_names=NAMES[:2])
    assert scores.roc_auc == pytest.approx(reference.roc_auc_score(labels, rounded), abs=EXACT)


def test_multilabel_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    probs, labels = rng.random((250, 3)), rng.integers(2, size=(250, 3))
    scores = multilabel_scores(probs, labels, class_names=NAMES, settings=ScoreSettings(threshold=0.3))
    predictions = probs >= 0.3
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, predictions)
    assert scores.accuracy == pytest.approx(reference.accuracy_score(labels, predictions), abs=EXACT)
    hamming = reference.hamming_loss(labels, predictions)
    assert scores.label_accuracy == pytest.approx(1 - hamming, abs=EXACT)
    assert scores.macro_f1 == pytest.approx(f1.mean(), abs=EXACT)
    matrices = reference.multilabel_confusion_matrix(labels, predictions)
    for k, name in enumerate(NAMES):
        found = scores.per_class[name]
        expected = (precision[k], recall[k], f1[k], support[k])
        assert (found.precision, found.recall, found.f1, found.support) == pytest.approx(expected, abs=EXACT)
        assert scores.confusion_matrices[name] == matrices[k].tolist()
        auc = reference.roc_auc_score(labels[:, k], probs[:, k])
        assert scores.per_class_roc_auc[name] == pytest.approx(auc, abs=EXACT)


def test_a_class_without_images_or_predictions_has_no_figure() -> None:
    probs = [[0.9, 0.1, 0.0], [0.3, 0.7, 0.0]]
    scores = classification_scores(probs, [0, 0], class_names=NAMES)
    men, women, unisex = (scores.per_class[name] for name in NAMES)
    assert (men.precision, men.recall, men.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert (women.precision, women.recall, women.f1, women.support) == (0.0, None, 0.0, 0)
    assert (unisex.precision, unisex.recall, unisex.f1) == (None, None, None)
    assert scores.balanced_accuracy == 0.5  # only men occur
    one_class = classification_scores([[0.9, 0.1], [0.4, 0.6]], [0, 0], class_names=NAMES[:2])
    assert one_class.roc_auc is None
    assert json.loads(json.dumps(one_class.to_dict()))["per_class"]["women"]["recall"] is None


def test_multilabel_without_any_label_has_no_f1() -> None:
    scores = multilabel_scores([[0.1], [0.2]], [[0], [0]], class_names=["men"])
    assert (scores.accuracy, scores.macro_f1, scores.per_class_roc_auc["men"]) == (1.0, None, None)


def test_calibration_error_by_hand() -> None:
    # Bins (0, .5] and (.5, 1]: 0.5 right belongs to the first; 0.8 right and 0.6 wrong to the second.
    error = expected_calibration_error(np.array([0.5, 0.8, 0.6]), np.array([True, True, False]), num_bins=2)
    assert error == pytest.approx((0.5 + abs(1.4 - 1)) / 3, abs=EXACT)
    sure = expected_calibration_error(np.ones(4), np.array([True, True, True, False]))
    assert sure == pytest.approx(0.25, abs=EXACT)


def test_interval_covers_and_narrows_with_more_images() -> None:
    correct = np.arange(1000) % 10 != 0  # 0.9
    low, high = bootstrap_interval(correct, np.arange(1000))
    half_width = 1.96 * np.sqrt(0.9 * 0.1 / 1000)  # the normal interval, near at this size
    assert low == pytest.approx(0.9 - half_width, abs=0.003)
    assert high == pytest.approx(0.9 + half_width, abs=0.003)
    assert bootstrap_interval(np.ones(5, dtype=bool), np.arange(5)) == [1.0, 1.0]


def test_groups_are_resampled_whole() -> None:
    correct = np.repeat(np.arange(100) % 10 != 0, 10)  # 100 groups of 10 equal images
    groups = np.repeat(np.arange(100), 10)
    low, high = bootstrap_interval(correct, groups)
    single_low, single_high = bootstrap_interval(correct, np.arange(1000))
    assert (high - low) / (single_high - single_low) == pytest.approx(np.sqrt(10), rel=0.15)
    # Groups of one image are the same as no groups; names of groups do not matter.
    keys = [f"cluster {n}" for n in range(1000)]
    ungrouped = bootstrap_interval(correct, group_indices(None, num_samples=1000))
    assert bootstrap_interval(correct, group_indices(keys, num_samples=1000)) == ungrouped


def test_same_seed_same_interval() -> None:
    rng = np.random.default_rng(6)
    probs, labels = softmax_rows(rng, 60, 2), rng.integers(2, size=60)
    runs = [
        classification_scores(probs, labels, class_names=NAMES[:2], settings=ScoreSettings(seed=seed))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].accuracy_interval != runs[2].accuracy_interval


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 1], r"probabilities\[1\] is \[nan, 0.5\]"),
        ([[1.5, -0.5]], [0], r"probabilities\[0\].*softmax"),
        ([[0.9, 0.9]], [0], "sums to 1.8.*multilabel_scores"),
        ([[0.2, 0.3, 0.5]], [0], r"shape \(1, 3\); expected \(images, 2\)"),
        (np.zeros((0, 2)), [], "at least one image"),
        ([[0.5, 0.5]], [2], r"labels\[0\] is 2 .*expected 0 to 1"),
        ([[0.5, 0.5]], [-1], r"labels\[0\] is -1"),
        ([[0.5, 0.5]], [0.0], "float64; expected"),
        ([[0.5, 0.5]], [0, 1], r"shape \(2,\)"),
    ],
)
def test_bad_input_is_refused(probs: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores(probs, labels, class_names=NAMES[:2])


@pytest.mark.parametrize(
    ("groups", "message"),
    [(["a"], "1 entries; expected 2"), ([1, None], r"groups\[1\] is None"), ([np.nan, 1.0], r"groups\[0\] is nan")],
)
def test_bad_groups_are_refused(groups: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_scores([[0.5, 0.5]] * 2, [0, 1], class_names=NAMES[:2], groups=groups)


@pytest.mark.parametrize("names", [["men"], ["men", "men"], "ab"])
def test_bad_class_names_are_refused(names: list | str) -> None:
    with pytest.raises(ValueError, match="different names"):
        classification_scores([[0.5, 0.5]], [0], class_names=names)


@pytest.mark.parametrize(
    "settings", [{"num_bins": 0}, {"num_resamples": 0}, {"interval_confidence": 1.0}, {"threshold": np.nan}]
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ScoreSettings(**settings)


def test_bad_multilabel_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels\[0\] is \[2, 0\]"):
        multilabel_scores([[0.5, 0.5]], [[2, 0]], class_names=NAMES[:2])
    with pytest.raises(ValueError, match=r"shape \(1,\); expected \(1, 2\)"):
        multilabel_scores([[0.5, 0.5]], [1], class_names=NAMES[:2])


def test_evaluate_loads_the_folder(tmp_path: Path) -> None:
    folder = str(Path(evaluate_folder.__file__).parent)
    metric = evaluate.load(folder, cache_dir=str(tmp_path))
    probs, labels = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1]
    metric.add_batch(predictions=probs[:2], references=labels[:2])
    metric.add(prediction=probs[2], reference=labels[2])
    found = metric.compute(class_names=NAMES[:2], groups=["a", "b", "b"], num_bins=10)
    expected = classification_scores(
        probs, labels, class_names=NAMES[:2], groups=["a", "b", "b"], settings=ScoreSettings(num_bins=10)
    )
    assert found == expected.to_dict()


def test_evaluate_loads_the_multilabel_form(tmp_path: Path) -> None:
    folder = str(Path(evaluate_folder.__file__).parent)
    metric = evaluate.load(folder, "multilabel", cache_dir=str(tmp_path))
    probs, labels = [[0.9, 0.1], [0.2, 0.8]], [[1, 1], [0, 1]]
    found = metric.compute(predictions=probs, references=labels, class_names=NAMES[:2])
    assert found == multilabel_scores(probs, labels, class_names=NAMES[:2]).to_dict()
    with pytest.raises(ValueError, match="'other'; expected"):
        evaluate.load(folder, "other", cache_dir=str(tmp_path))
