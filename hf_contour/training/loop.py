"""The training loop: steps, evaluations, checkpoints and their order; the same for both stages."""

import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from huggingface_hub.utils import are_progress_bars_disabled
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_contour.data.colour import ColourAudit
from hf_contour.training.arguments import ContourTrainingArguments
from hf_contour.training.checkpoints import Checkpoint, load_newest, save_checkpoint, write_text
from hf_contour.training.convergence import ConvergenceDetector
from hf_contour.training.interrupts import StopRequest
from hf_contour.training.optim import LearningRateSchedule, build_ema, build_optimizer

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
Figures = dict[str, Any]


class Task(Protocol):
    """What the loop asks of a stage of training."""

    model: nn.Module

    def train_loader(self, accelerator: Accelerator, *, start_step: int, num_steps: int) -> DataLoader:
        """Micro-batches of this process from a step on, `gradient_accumulation_steps` for each step."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in a pass over the training split."""

    def set_train_mode(self) -> None:
        """Puts the model in training mode, except for its frozen parts."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar mean loss of a micro-batch."""

    def evaluate(self, model: nn.Module, accelerator: Accelerator, *, split: str, heed: Callable[[], None]) -> Figures:
        """Figures on a split, `loss` and `num_samples` among them; calls `heed` after each batch."""

    def score(self, figures: Figures) -> float:
        """The figure by which the best weights are chosen; higher is better."""

    def sample_name(self, index: int) -> str:
        """How people find the training sample of this number."""


class TrainingInterrupted(Exception):
    """A signal asked the training to stop; a checkpoint has been written."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


class ResumeError(ValueError):
    """A folder holds a training that cannot be gone on with."""


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient became NaN or infinite; nothing was updated or saved with it."""


@dataclass
class Progress:
    """Where a training stands; plain JSON values.

    Attributes:
        step: optimiser steps made.
        seconds: time spent in steps.
        recent_losses: losses since the last log line.
        last_loss: mean loss of the last log line.
        evaluated_step: step of the last evaluation.
        evaluation: its figures.
        best_step: step of the best evaluation.
        best_score: its score.
        colour_audit: what the colour transform did to the samples so far, as the fields of `ColourAudit`.
    """

    step: int = 0
    seconds: float = 0.0
    recent_losses: list[float] = field(default_factory=list)
    last_loss: float | None = None
    evaluated_step: int = 0
    evaluation: Figures = field(default_factory=dict)
    best_step: int | None = None
    best_score: float | None = None
    colour_audit: dict[str, int] = field(default_factory=dict)


class TrainingLoop:
    """Trains one model until its last step, its convergence or a signal.

    Args:
        task: the stage's model, data and loss.
        arguments: settings.
        accelerator: devices and processes.
        identity: what must be equal for a checkpoint to be gone on from; kept in each of them.
    """

    def __init__(
        self,
        task: Task,
        arguments: ContourTrainingArguments,
        accelerator: Accelerator,
        *,
        identity: dict[str, Any],
    ) -> None:
        self.task, self.arguments, self.accelerator = task, arguments, accelerator
        self.identity = identity
        self.bare_model = task.model
        self.num_steps = arguments.max_steps or arguments.epochs * task.steps_per_epoch
        self.step_size = arguments.batch_size * arguments.gradient_accumulation_steps * accelerator.num_processes
        if arguments.channels_last:
            self.bare_model.to(memory_format=torch.channels_last)
        self.bare_model.to(accelerator.device)
        self.ema = build_ema(self.bare_model, arguments)
        self.uses_ema = self.ema is not None
        optimizer = build_optimizer(self.bare_model, arguments)
        self.schedule = LearningRateSchedule(optimizer, arguments, self.num_steps)
        if arguments.compile:
            self.bare_model.compile()
        self.model, self.optimizer = accelerator.prepare(self.bare_model, optimizer)
        self.convergence = ConvergenceDetector(
            arguments.convergence_window, arguments.convergence_tolerance, arguments.convergence_patience
        )
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] | None = None
        self.request = StopRequest()

    @property
    def trained_model(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average where there is one."""
        return self.bare_model if self.ema is None else self.ema.module

    @property
    def is_done(self) -> bool:
        """Whether no step is left to make."""
        converged = self.arguments.stop_on_convergence and self.convergence.converged_step is not None
        return converged or self.progress.step >= self.num_steps

    def run(self, request: StopRequest) -> None:
        """Makes the steps that are left, from the newest checkpoint if there is one.

        Raises:
            TrainingInterrupted: After a signal, once the checkpoint is written.
            NonFiniteLossError: Naming the samples of the batch.
        """
        self.request = request
        try:
            self._maintain()
            if not self.is_done:
                self._run_steps()
        except TrainingInterrupted:
            self._save()
            raise
        self._save()

    def evaluate(self, split: str) -> Figures:
        """Figures of the trained model on a split.

        Raises:
            TrainingInterrupted: After a signal.
        """
        model = self.trained_model
        model.eval()
        if self.accelerator.num_processes > 1:  # each process has seen batches of its own
            broadcast(list(model.buffers()))
        with torch.no_grad(), self.accelerator.autocast():
            return self.task.evaluate(model, self.accelerator, split=split, heed=self._heed_signals)

    def finish(self) -> None:
        """Puts the weights to be published into the model: the best, the moving average, or the last."""
        weights = self.best_weights or self.trained_model.state_dict()
        self.bare_model.load_state_dict(weights)
        self.ema = None

    def _run_steps(self) -> None:
        loader = self.task.train_loader(self.accelerator, start_step=self.progress.step, num_steps=self.num_steps)
        batches = iter(loader)
        self.task.set_train_mode()
        hidden = not (self.arguments.progress and self.accelerator.is_local_main_process)
        with tqdm(
            total=self.num_steps,
            initial=self.progress.step,
            desc=self.arguments.stage,
            disable=hidden or are_progress_bars_disabled() or None,
            mininterval=1.0,
        ) as bar:
            while not self.is_done:
                started = time.perf_counter()
                loss, grad_norm, signal_number = self._train_step(batches)
                self.progress.seconds += time.perf_counter() - started
                self._note(loss, grad_norm)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
                if signal_number:
                    raise TrainingInterrupted(signal_number)
                self._maintain()

    def _train_step(self, batches: Iterator[Batch]) -> tuple[float, float, int]:
        """One optimiser step: the mean loss over all processes, the gradient's norm, and a signal if one came."""
        losses, indices = [], []
        for _ in range(self.arguments.gradient_accumulation_steps):
            batch = self._to_device(next(batches))
            with self.accelerator.accumulate(self.model):
                loss = self.task.train_loss(self.model, batch)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
            indices.append((batch["index"], loss.detach()))
            if "colour" in batch:
                self._audit_colours(batch["colour"])
        own = torch.stack(losses).mean().double()
        loss_value, signal_number = self._agree(own.item())
        limit = self.arguments.max_grad_norm or math.inf
        grad_norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        if not (math.isfinite(loss_value) and math.isfinite(grad_norm)):
            self._refuse_non_finite(indices, loss_value, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.progress.step += 1
        if self.ema is not None:
            self.ema.update(self.bare_model, step=self.progress.step)
        return loss_value, grad_norm, signal_number

    def _audit_colours(self, codes: Tensor) -> None:
        """Adds a micro-batch, over all processes, to the audit of the colour transform."""
        seen = ColourAudit.from_codes(self.accelerator.gather(codes).tolist())
        self.progress.colour_audit = asdict(ColourAudit(**self.progress.colour_audit) + seen)

    def _to_device(self, batch: Batch) -> Batch:
        moved = {key: value.to(self.accelerator.device, non_blocking=True) for key, value in batch.items()}
        if self.arguments.channels_last:
            moved["pixel_values"] = moved["pixel_values"].contiguous(memory_format=torch.channels_last)
        return moved

    def _agree(self, loss: float) -> tuple[float, int]:
        """Mean loss and the highest signal over all processes, so that all act alike."""
        if self.accelerator.num_processes == 1:
            return loss, self.request.number
        own = torch.tensor([[loss, self.request.number]], dtype=torch.float64, device=self.accelerator.device)
        gathered = self.accelerator.gather(own)
        return gathered[:, 0].mean().item(), int(gathered[:, 1].max().item())

    def _heed_signals(self) -> None:
        _, signal_number = self._agree(0.0)
        if signal_number:
            raise TrainingInterrupted(signal_number)

    def _refuse_non_finite(self, batches: list[tuple[Tensor, Tensor]], loss: float, grad_norm: float) -> None:
        bad = [indices for indices, batch_loss in batches if not torch.isfinite(batch_loss)]
        chosen = bad or [indices for indices, _ in batches if math.isfinite(loss)]
        named = [f"{index} ({self.task.sample_name(index)})" for part in chosen for index in part.tolist()]
        names = gather_object(named)
        raise NonFiniteLossError(
            f"At step {self.progress.step + 1} the loss was {loss} and the norm of its gradient {grad_norm}. "
            f"Nothing was updated or saved. The batch held the samples {', '.join(names)}; look at them "
            "(scripts/check_data.py), or lower learning_rate if they are sound."
        )

    def _note(self, loss: float, grad_norm: float) -> None:
        """Counts a step's loss, and writes a log line when one is due."""
        progress, already = self.progress, self.convergence.converged_step
        if self.convergence.update(progress.step, loss) and already is None:
            self._log({"step": progress.step, "converged": self.convergence.rule})
        progress.recent_losses.append(loss)
        if progress.step % self.arguments.log_every and progress.step != self.num_steps:
            return
        progress.last_loss = math.fsum(progress.recent_losses) / len(progress.recent_losses)
        progress.recent_losses.clear()
        self._log(
            {
                "step": progress.step,
                "epoch": round(progress.step / self.task.steps_per_epoch, 4),
                "loss": progress.last_loss,
                "learning_rate": max(self.schedule.rates),
                "grad_norm": grad_norm,
                "images_per_second": round(progress.step * self.step_size / progress.seconds, 2),
            }
        )

    def _log(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with log_path(self.arguments).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=line["step"])

    def _maintain(self) -> None:
        """Evaluates and saves where the step asks for it and it has not been done."""
        step = self.progress.step
        if step == 0:
            return
        evaluate_every = self.arguments.evaluate_every or self.task.steps_per_epoch
        is_due = step % evaluate_every == 0 or self.is_done
        if is_due and self.arguments.validation_split and self.progress.evaluated_step < step:
            self._evaluate(self.arguments.validation_split)
        save_every = self.arguments.save_every or self.task.steps_per_epoch
        if step % save_every == 0 and step < self.num_steps:
            self._save()

    def _evaluate(self, split: str) -> None:
        figures = self.evaluate(split)
        self.task.set_train_mode()
        self.schedule.observe(figures["loss"])
        self.progress.evaluation, self.progress.evaluated_step = figures, self.progress.step
        score = self.task.score(figures)
        if self.progress.best_score is None or score > self.progress.best_score:
            self.progress.best_score, self.progress.best_step = score, self.progress.step
            if self.arguments.select_best:
                weights = self.trained_model.state_dict()
                self.best_weights = {key: value.clone() for key, value in weights.items()}
        shown = {f"validation_{key}": value for key, value in figures.items() if isinstance(value, int | float)}
        self._log({"step": self.progress.step, **shown})

    # Checkpoints

    def _save(self) -> None:
        """Writes a checkpoint of this step, unless there is one or no step has been made."""
        folder = checkpoint_folder(self.arguments)
        random_states = gather_object([random_state()])
        if self.accelerator.is_main_process and self.progress.step:
            state = {
                "identity": self.identity,
                "progress": asdict(self.progress),
                "convergence": self.convergence.state_dict(),
            }
            weights = {"model": self.bare_model.state_dict()}
            if self.ema is not None:
                weights["ema"] = self.ema.module.state_dict()
            if self.best_weights is not None:
                weights["best"] = self.best_weights
            tensors = {
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "random": random_states,
            }
            checkpoint = Checkpoint(step=self.progress.step, state=state, weights=weights, tensors=tensors)
            save_checkpoint(folder, checkpoint, keep=self.arguments.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def resume(self) -> bool:
        """Goes back to the newest good checkpoint of the same settings.

        Returns:
            Whether there was one.

        Raises:
            ResumeError: If it was made with other settings, naming those that differ.
            CheckpointError: If all are damaged.
        """
        checkpoint = load_newest(checkpoint_folder(self.arguments))
        if checkpoint is None:
            return False
        refuse_other_identity(checkpoint.state["identity"], self.identity, folder=self.arguments.folder)
        self.bare_model.load_state_dict(checkpoint.weights["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.weights["ema"])
        if "best" in checkpoint.weights:
            self.best_weights = dict(checkpoint.weights["best"])
        self.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
        self.schedule.load_state_dict(checkpoint.tensors["schedule"])
        self.convergence.load_state_dict(checkpoint.state["convergence"])
        self.progress = Progress(**checkpoint.state["progress"])
        set_random_state(checkpoint.tensors["random"][self.accelerator.process_index])
        if self.accelerator.is_main_process:
            drop_log_lines(log_path(self.arguments), after_step=self.progress.step)
        return True


def log_path(arguments: ContourTrainingArguments) -> Path:
    """The file of the curves: one JSON object a line."""
    return arguments.folder / "log.jsonl"


def checkpoint_folder(arguments: ContourTrainingArguments) -> Path:
    """Where the checkpoints of a stage lie."""
    return arguments.folder / "checkpoints"


def drop_log_lines(path: Path, *, after_step: int) -> None:
    """Takes out the lines of steps that will be made again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= after_step]
        write_text(path, "".join(f"{line}\n" for line in kept))


def refuse_other_identity(saved: dict[str, Any], wanted: dict[str, Any], *, folder: Path) -> None:
    """Raises `ResumeError` naming what differs between a checkpoint and this training.

    A setting that the checkpoint does not know, because it is newer, had its default.
    """
    saved = {**asdict(ContourTrainingArguments(stage=wanted.get("stage", "both"))), **saved}
    wanted = json.loads(json.dumps(wanted))
    differing = sorted(key for key in wanted if saved.get(key) != wanted[key])
    if differing:
        details = "; ".join(f"{key}: {saved.get(key)!r} there, {wanted[key]!r} here" for key in differing)
        raise ResumeError(
            f"{folder} holds a training with other settings ({details}). Give the same settings to go on with it, "
            "--overwrite to throw it away, or another --run_name."
        )


def random_state() -> dict[str, Any]:
    """The states of all random number generators of this process, readable with `weights_only=True`."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global generator is what libraries draw from
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Takes back what `random_state` gave."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, *rest = state["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
