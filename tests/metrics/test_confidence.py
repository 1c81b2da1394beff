"""Temperature and abstention: known optima, and curves counted by hand."""

import numpy as np
import pytest
import torch

from hf_contour.metrics.calibration import coverage_curve, fit_temperature, threshold_for_accuracy
from hf_contour.metrics.classification import expected_calibration_error


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_several_labels_have_one_temperature():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(10_000, 2, generator=generator)
    labels = torch.bernoulli((logits / 2).sigmoid(), generator=generator)
    assert fit_temperature(logits, labels) == pytest.approx(2.0, rel=0.05)


def test_a_binary_temperature_by_hand():
    # Three of four are right at a margin of 2: the best confidence is 3/4, so 2 / T = log 3.
    logits = torch.tensor([[1.0, -1.0]] * 4)
    assert fit_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2 / np.log(3), rel=1e-4)


def test_calibration_gets_better():
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(5000, 2, generator=generator)
    labels = torch.multinomial((logits / 4).softmax(dim=1), 1, generator=generator)[:, 0]
    errors = []
    for temperature in (1.0, fit_temperature(logits, labels)):
        confidence, predicted = (logits / temperature).softmax(dim=1).max(dim=1)
        errors.append(expected_calibration_error(confidence.double().numpy(), (predicted == labels).numpy()))
    assert errors[1] < 0.02 < 0.1 < errors[0]


def test_extremes_are_bounded_and_nonsense_is_refused():
    logits = torch.tensor([[2.0, -2.0], [3.0, -3.0]])
    assert fit_temperature(logits, torch.tensor([0, 0])) >= 0.01
    assert fit_temperature(logits, torch.tensor([1, 1])) <= 100
    for wrong in (torch.zeros(0, 2), torch.full((2, 2), float("nan"))):
        with pytest.raises(ValueError, match="logits"):
            fit_temperature(wrong, torch.zeros(len(wrong), dtype=torch.long))


CONFIDENCE = np.array([0.9, 0.8, 0.8, 0.7, 0.6])
CORRECT = np.array([True, True, False, True, False])


def test_coverage_and_accuracy_by_hand():
    points = coverage_curve(CONFIDENCE, CORRECT, [0.0, 0.7, 0.85, 0.95])
    assert [point.coverage for point in points] == pytest.approx([1.0, 0.8, 0.2, 0.0])
    assert [point.accuracy for point in points] == [pytest.approx(0.6), pytest.approx(0.75), 1.0, None]


def test_the_threshold_for_an_accuracy_keeps_ties_together():
    assert threshold_for_accuracy(CONFIDENCE, CORRECT, 1.0) == 0.9
    assert threshold_for_accuracy(CONFIDENCE, CORRECT, 0.75) == 0.7
    assert threshold_for_accuracy(CONFIDENCE, CORRECT, 0.5) == 0.6
    assert threshold_for_accuracy(CONFIDENCE, ~CORRECT, 0.9) is None
