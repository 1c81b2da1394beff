"""All that changes while a training runs, and its way into a checkpoint and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from hf_contour.training.arguments import TrainingArguments
from hf_contour.training.checkpoints import Checkpoint
from hf_contour.training.convergence import ConvergenceDetector
from hf_contour.training.optim import LearningRateSchedule, build_ema, build_optimizer
from hf_contour.training.resuming import (
    Progress,
    ResumeError,
    refuse_other_identity,
    set_random_state,
    surroundings,
    warn_of_other_surroundings,
)
from hf_contour.training.stage_data import Figures
from hf_contour.training.task import Task


class TrainingState:
    """Model, moving average, optimiser, schedule, convergence and progress of one training.

    Args:
        task: its model is on its device.
        arguments: settings.
        accelerator: prepares model and optimiser.
        num_steps: steps in the whole training.
        identity: what must be equal for a checkpoint to be gone on from; kept in each of them.
    """

    def __init__(
        self,
        task: Task,
        arguments: TrainingArguments,
        accelerator: Accelerator,
        *,
        num_steps: int,
        identity: dict[str, Any],
    ) -> None:
        self.model: nn.Module = task.model
        self.accelerator, self.identity = accelerator, identity
        self.ema = build_ema(self.model, arguments)
        self.uses_ema = self.ema is not None
        optimizer = build_optimizer(self.model, arguments)
        self.schedule = LearningRateSchedule(
            optimizer, arguments, num_steps, head_steps=task.head_steps, head_scale=task.head_scale
        )
        if arguments.compile:
            self.model.compile()
        self.prepared_model, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.convergence = ConvergenceDetector(
            arguments.convergence_window, arguments.convergence_tolerance, arguments.convergence_patience
        )
        self.progress = Progress()
        self.keeps_best = arguments.select_best
        self.best_weights: dict[str, Tensor] | None = None

    @property
    def ema_model(self) -> nn.Module | None:
        """The model with the moving averages of the weights, where there is one."""
        return None if self.ema is None else self.ema.module

    @property
    def trained_model(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average where there is one."""
        return self.ema_model or self.model

    @property
    def published_weights(self) -> str:
        """Which weights `finish` publishes, in words."""
        return "best" if self.best_weights else "moving average" if self.uses_ema else "last"

    @property
    def published_figures(self) -> Figures | None:
        """The figures of the last evaluation, where it is of the weights that `finish` publishes."""
        progress = self.progress
        step = progress.best_step if self.best_weights else progress.step
        return progress.evaluation if progress.evaluated_step == step else None

    def average_weights(self) -> None:
        """To be called after each update of the weights."""
        if self.ema is not None:
            self.ema.update(self.model, step=self.progress.step)

    def observe(self, figures: Figures, score: float) -> None:
        """To be called after each evaluation; keeps the weights of the best one where they are wanted."""
        progress = self.progress
        self.schedule.observe(figures["loss"])
        progress.evaluation, progress.evaluated_step = figures, progress.step
        if progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.best_step = score, progress.step
            if self.keeps_best:
                self.best_weights = {key: value.clone() for key, value in self.trained_model.state_dict().items()}

    def finish(self) -> None:
        """Puts the weights to be published into the model: the best, the moving average, or the last."""
        self.model.load_state_dict(self.best_weights or self.trained_model.state_dict())
        self.ema = None

    def to_checkpoint(self, random_states: list[dict[str, Any]], stream_states: list[Any]) -> Checkpoint:
        """All of it, with the random number generators of all processes and where each stands in its streams."""
        weights = {"model": self.model.state_dict()}
        if self.ema_model is not None:
            weights["ema"] = self.ema_model.state_dict()
        if self.best_weights is not None:
            weights["best"] = self.best_weights
        tensors: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random_states,
        }
        if self.accelerator.scaler is not None:
            tensors["scaler"] = self.accelerator.scaler.state_dict()
        state = {
            "identity": self.identity,
            "surroundings": surroundings(),
            "progress": asdict(self.progress),
            "convergence": self.convergence.state_dict(),
            "streams": stream_states,
        }
        return Checkpoint(step=self.progress.step, state=state, weights=weights, tensors=tensors)

    def restore(self, checkpoint: Checkpoint, *, folder: Path) -> None:
        """Takes back what `to_checkpoint` gave.

        Raises:
            ResumeError: If it was made with other settings, naming those that differ, or does not fit the model.
        """
        refuse_other_identity(checkpoint.state["identity"], self.identity, folder=folder)
        warn_of_other_surroundings(checkpoint.state.get("surroundings", {}))
        try:
            self.model.load_state_dict(checkpoint.weights["model"])
            if self.ema_model is not None:
                self.ema_model.load_state_dict(checkpoint.weights["ema"])
            self.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
            self.schedule.load_state_dict(checkpoint.tensors["schedule"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(checkpoint.tensors["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ResumeError(
                f"The checkpoint of step {checkpoint.step} in {folder} does not fit the model that these settings "
                f"make ({error}); it may be of another version. Give --overwrite or another --run_name."
            ) from error
        if "best" in checkpoint.weights:
            self.best_weights = dict(checkpoint.weights["best"])
        self.convergence.load_state_dict(checkpoint.state["convergence"])
        self.progress = Progress(**checkpoint.state["progress"])
        set_random_state(checkpoint.tensors["random"][self.accelerator.process_index])
