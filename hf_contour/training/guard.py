"""Steps that are not finite: whether they are left out or stop the training, decided by all processes alike."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_contour.training.finite import (
    MAX_OVERFLOWS_IN_A_ROW,
    MAX_SKIPPED_IN_A_ROW,
    WHOLE_STEP,
    Batch,
    NonFiniteLossError,
    Step,
    are_finite,
    find_suspects,
    model_is_finite,
    non_finite_names,
    optimizer_is_finite,
)
from hf_contour.training.resuming import Progress

logger = logging.getLogger(__name__)


class NonFiniteGuard:
    """Keeps NaN and infinity out of the weights, and names the samples that they come from.

    Nothing is decided by one process alone: the others would wait for it for ever.

    Args:
        model: the bare model that is trained.
        accelerator: gathers over the processes.
        progress: counts the steps that are left out.
        loss_of: the loss of a micro-batch, without effect on the model.
        sample_name: how people find the training sample of a number.
        policy: "stop" or "skip".
    """

    def __init__(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        progress: Progress,
        *,
        loss_of: Callable[[Batch], Tensor],
        sample_name: Callable[[int], str],
        policy: Literal["stop", "skip"],
    ) -> None:
        self.model, self.accelerator, self.progress = model, accelerator, progress
        self.loss_of, self.sample_name, self.policy = loss_of, sample_name, policy
        # Statistics change in the forward pass, before it is known whether the step is sound.
        self._statistics = list(model.buffers())
        self._before = [buffer.clone() for buffer in self._statistics] if policy == "skip" else []
        self._last: Step | None = None
        self._update_is_finite: Tensor | None = None

    def begin_step(self) -> None:
        """Notes the running statistics, where a step may have to be taken back."""
        if self._before:
            torch._foreach_copy_(self._before, self._statistics)

    def verdicts(self) -> tuple[Tensor, Tensor]:
        """Whether the last update left finite weights, and whether the running statistics are finite now.

        Boolean scalars on their device, not looked at yet.
        """
        sound = torch.tensor(True) if self._update_is_finite is None else self._update_is_finite
        return sound, are_finite(self._statistics)

    def note_update(self, step: Step) -> None:
        """To be called after each update: what came of it is looked at with the next step, or by `settle`."""
        updated = (parameter for parameter in self.model.parameters() if parameter.requires_grad)
        self._last, self._update_is_finite = step, are_finite(updated)

    def settle(self) -> None:
        """Looks at the last update now; to be called by all processes before anything is made of the weights.

        Raises:
            NonFiniteLossError: If it left weights that are not finite.
        """
        if self._update_is_finite is not None and not self.all_agree(bool(self._update_is_finite)):
            self.refuse_update()

    def refuse_update(self) -> None:
        """Raises `NonFiniteLossError` for the last update."""
        assert self._last is not None
        self.refuse(self._last)

    def all_agree(self, holds: bool) -> bool:
        """Whether something holds in every process; to be called by all of them."""
        return all(gather_object([holds]))

    def overflow_or_refuse(self, step: Step) -> None:
        """Counts a step whose gradient did not fit half precision; the scaler lowers its scale."""
        self.progress.overflows_in_a_row += 1
        if self.progress.overflows_in_a_row > MAX_OVERFLOWS_IN_A_ROW:
            self.refuse(step)

    def skip_or_refuse(self, step: Step) -> list[str]:
        """Leaves a step out, with the running statistics as they were before it; or stops.

        Returns:
            The names of its samples.

        Raises:
            NonFiniteLossError: If steps are not to be left out, or too many were.
        """
        progress = self.progress
        progress.skipped_in_a_row += 1
        if self._before:
            torch._foreach_copy_(self._statistics, self._before)
        is_over = progress.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW
        if self.policy == "stop" or is_over or not self.all_agree(model_is_finite(self.model)):
            self.refuse(step)
        progress.skipped_steps += 1
        names, finding = self._name_suspects(step.batches)
        logger.warning(
            "Step %d is skipped: the loss is %s, the norm of its gradient %s. Samples %s: %s.",
            step.number, step.loss, step.grad_norm, finding, ", ".join(names),
        )  # fmt: skip
        return names

    def refuse(self, step: Step) -> None:
        """Raises `NonFiniteLossError` naming the samples of a step; to be called by all processes."""
        names, finding = self._name_suspects(step.batches)
        weights = next(filter(None, gather_object([non_finite_names(self.model)])), "")
        raise NonFiniteLossError(
            f"At step {step.number} the loss was {step.loss} and the norm of its gradient {step.grad_norm}"
            + (f"; not finite are the weights {weights}" if weights else "")
            + f". Nothing was updated or saved with it. The samples {finding}: {', '.join(names)}. Look at them "
            "(hf-contour check-data), leave such steps out (--on_non_finite skip), or lower learning_rate if they are "
            "sound."
        )

    def _name_suspects(self, batches: Sequence[Batch]) -> tuple[list[str], str]:
        """The samples of all processes that a step is not finite by, and what was found of them."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            indices, finding = find_suspects(batches, self.loss_of)
        for module, mode in modes:
            module.training = mode
        found = gather_object([(f"{index} ({self.sample_name(index)})", finding) for index in indices])
        # Of several processes only those tell that have found something in particular.
        telling = [one for one in found if one[1] != WHOLE_STEP] or found
        return [name for name, _ in telling], telling[0][1]

    def refuse_state(self, when: str, *, ema: nn.Module | None, optimizer: Optimizer) -> None:
        """Raises `NonFiniteLossError` if model, moving average or optimiser of any process is not finite."""
        found = ""
        for name, model in (("model", self.model), ("moving average", ema)):
            if model is not None and not found and (names := non_finite_names(model)):
                found = f"The weights {names} of the {name} are not finite {when}; nothing is saved."
        if not found and not optimizer_is_finite(optimizer):
            found = f"The state of the optimiser is not finite {when}; nothing is saved."
        if all_found := [one for one in gather_object([found]) if one]:
            raise NonFiniteLossError(all_found[0])


def is_finite(*numbers: float) -> bool:
    """Whether all of some numbers are."""
    return all(map(math.isfinite, numbers))
