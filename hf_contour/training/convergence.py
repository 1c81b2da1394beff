"""When a training loss has converged, by a stated rule."""

import math
from collections import deque
from typing import Any


class ConvergenceDetector:
    """Says at which step the smoothed training loss stopped improving.

    Steps are cut into windows of `window` steps, and the loss is smoothed by its mean over a window. A window
    improves by `(mean before - mean) / |mean before|`; the rule fires at the end of the `patience`-th window in a row
    that improves by less than `relative_tolerance`. It fires once: later losses do not change `converged_step`.

    Args:
        window: steps in a window, at least 1.
        relative_tolerance: least relative improvement of a window that still counts as learning, at least 0.
        patience: windows in a row below it, at least 1.

    Raises:
        ValueError: For values outside of these ranges.

    Source: CN113298092B trains "until the loss converges" and leaves the rule open; this one is ours.
    """

    def __init__(self, window: int, relative_tolerance: float, patience: int) -> None:
        if window < 1 or patience < 1 or not (relative_tolerance >= 0 and math.isfinite(relative_tolerance)):
            raise ValueError(
                f"The convergence rule got window={window}, relative_tolerance={relative_tolerance}, "
                f"patience={patience}; expected at least 1, 0 and 1."
            )
        self.window, self.relative_tolerance, self.patience = window, relative_tolerance, patience
        self.converged_step: int | None = None
        self._losses: deque[float] = deque()
        self._last_mean: float | None = None
        self._slow_windows = 0

    @property
    def rule(self) -> str:
        """The rule as a sentence, for results files."""
        return (
            f"mean loss over {self.window} steps improves by less than {self.relative_tolerance:g} of the window "
            f"before, {self.patience} windows in a row"
        )

    def update(self, step: int, loss: float) -> bool:
        """Takes the loss of one more step.

        Returns:
            Whether the rule has fired, now or before.
        """
        if self.converged_step is not None:
            return True
        self._losses.append(loss)
        if len(self._losses) < self.window:
            return False
        mean = math.fsum(self._losses) / self.window
        self._losses.clear()
        if self._last_mean is not None:
            improvement = self._last_mean - mean
            is_slow = improvement < self.relative_tolerance * abs(self._last_mean)
            self._slow_windows = self._slow_windows + 1 if is_slow else 0
        self._last_mean = mean
        if self._slow_windows >= self.patience:
            self.converged_step = step
        return self.converged_step is not None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on as if never interrupted; plain JSON values."""
        return {
            "converged_step": self.converged_step,
            "losses": list(self._losses),
            "last_mean": self._last_mean,
            "slow_windows": self._slow_windows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.converged_step = state["converged_step"]
        self._losses = deque(state["losses"])
        self._last_mean = state["last_mean"]
        self._slow_windows = state["slow_windows"]
