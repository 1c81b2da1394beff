"""The rule of convergence: windows, tolerance, patience, and going on from a saved state."""

import pytest

from hf_contour.training.convergence import ConvergenceDetector


def test_fires_after_patience_slow_windows():
    detector = ConvergenceDetector(2, 0.1, 2)
    # Means of the windows: 4, 3 (25 % better), 2.8 (6.7 %), 2.7 (3.6 %): the second slow window ends at step 8.
    losses = [5, 3, 2, 4, 2.8, 2.8, 2.6, 2.8, 0.1, 0.1]
    fired = [detector.update(step, loss) for step, loss in enumerate(losses, start=1)]
    assert fired == [False] * 7 + [True] * 3
    assert detector.converged_step == 8


def test_one_good_window_starts_the_patience_anew():
    detector = ConvergenceDetector(1, 0.1, 2)
    # Slow at step 2, 50 % better at step 3, slow at steps 4 and 5.
    for step, loss in enumerate([1.0, 0.99, 0.495, 0.49, 0.489], start=1):
        detector.update(step, loss)
    assert detector.converged_step == 5


def test_an_improvement_of_exactly_the_tolerance_counts_as_learning():
    detector = ConvergenceDetector(1, 0.5, 1)
    for step, loss in enumerate([4.0, 2.0, 1.0, 0.75], start=1):
        detector.update(step, loss)
    assert detector.converged_step == 4


def test_a_rising_and_a_negative_loss_are_slow():
    rising = ConvergenceDetector(1, 0.0, 2)
    for step, loss in enumerate([1.0, 2.0, 3.0], start=1):
        rising.update(step, loss)
    assert rising.converged_step == 3
    falling_below_zero = ConvergenceDetector(1, 0.1, 1)
    for step, loss in enumerate([-1.0, -2.0, -4.0], start=1):
        falling_below_zero.update(step, loss)
    assert falling_below_zero.converged_step is None


@pytest.mark.parametrize("break_at", [1, 3, 4, 7, 9])
def test_a_saved_state_goes_on_as_if_never_interrupted(break_at):
    losses = [5, 3, 2, 4, 2.8, 2.8, 2.6, 2.8, 0.1, 0.1]
    first, second = ConvergenceDetector(2, 0.1, 2), ConvergenceDetector(2, 0.1, 2)
    for step in range(break_at):
        first.update(step + 1, losses[step])
    second.load_state_dict(first.state_dict())
    for step in range(break_at, len(losses)):
        second.update(step + 1, losses[step])
    assert second.converged_step == 8


@pytest.mark.parametrize(
    ("window", "tolerance", "patience"), [(0, 0.1, 1), (1, -0.1, 1), (1, float("nan"), 1), (1, 0.1, 0)]
)
def test_impossible_rules_are_refused(window, tolerance, patience):
    with pytest.raises(ValueError, match="convergence rule"):
        ConvergenceDetector(window, tolerance, patience)


def test_the_rule_is_told_in_words():
    assert ConvergenceDetector(50, 0.01, 3).rule == (
        "mean loss over 50 steps improves by less than 0.01 of the window before, 3 windows in a row"
    )
