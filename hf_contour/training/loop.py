"""The training loop: steps, evaluations, checkpoints and their order; the same for both stages."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from huggingface_hub.utils import are_progress_bars_disabled
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_contour.data.augmentation.colour import ColourAudit
from hf_contour.io import OutputError, append_line
from hf_contour.training.arguments import ContourTrainingArguments
from hf_contour.training.checkpoints import Checkpoint, load_newest, save_checkpoint
from hf_contour.training.convergence import ConvergenceDetector
from hf_contour.training.finite import (
    MAX_SKIPPED_IN_A_ROW,
    WHOLE_STEP,
    NonFiniteLossError,
    find_suspects,
    input_is_finite,
    model_is_finite,
    non_finite_names,
    optimizer_is_finite,
)
from hf_contour.training.interrupts import StopRequest, TrainingInterrupted
from hf_contour.training.optim import LearningRateSchedule, build_ema, build_optimizer
from hf_contour.training.resuming import (
    Progress,
    ResumeError,
    checkpoint_folder,
    drop_log_lines,
    log_path,
    random_state,
    refuse_other_identity,
    set_random_state,
    surroundings,
    warn_of_other_surroundings,
)

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
        self._is_between_steps = True

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
            NonFiniteLossError: Naming the samples, or the weights.
            OutputError: If something cannot be written.
        """
        self.request = request
        request.is_heeded = True
        self._refuse_non_finite_state("before the first step" if self.progress.step == 0 else "on resuming")
        try:
            self._maintain()
            if not self.is_done:
                self._run_steps()
        except TrainingInterrupted:
            self._save()
            raise
        except (OutputError, NonFiniteLossError):
            raise
        except Exception:
            if self._is_between_steps and self.accelerator.num_processes == 1:
                self._save()  # such as an image that cannot be read: the steps made so far are not lost by it
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
                self._is_between_steps = True
                started = time.perf_counter()
                loss, grad_norm, signal_number = self._train_step(batches)
                self.progress.seconds += time.perf_counter() - started
                self._note(loss, grad_norm)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
                self._is_between_steps = True
                if signal_number:
                    raise TrainingInterrupted(signal_number)
                self._maintain()

    def _train_step(self, batches: Iterator[Batch]) -> tuple[float, float, int]:
        """One optimiser step: the mean loss over all processes, the gradient's norm, and a signal if one came.

        A step that is skipped, because a number in it is not finite, changes no weight and has such a loss or norm.
        """
        losses, seen = [], []
        buffers = [buffer.clone() for buffer in self.bare_model.buffers()]
        for _ in range(self.arguments.gradient_accumulation_steps):
            batch = self._to_device(next(batches))
            self._is_between_steps = False
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():  # for the frozen extractor too, which runs beside the model
                    loss = self.task.train_loss(self.model, batch)
                self.accelerator.backward(loss)
            losses.append(torch.where(input_is_finite(batch), loss.detach(), math.nan))
            seen.append(batch)
            if "colour" in batch:
                self._audit_colours(batch["colour"])
        own = torch.stack(losses).mean().double()
        loss_value, signal_number = self._agree(own.item())
        limit = self.arguments.max_grad_norm or math.inf
        grad_norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        self.progress.step += 1
        if math.isfinite(loss_value) and math.isfinite(grad_norm):
            self.optimizer.step()
            self.progress.skipped_in_a_row = 0
            if not model_is_finite(self.bare_model):
                self._refuse_step(seen, loss_value, grad_norm)
            if self.ema is not None:
                self.ema.update(self.bare_model, step=self.progress.step)
        else:
            self._skip_or_refuse_step(seen, loss_value, grad_norm, buffers=buffers)
        self.optimizer.zero_grad()
        self.schedule.step()
        return loss_value, grad_norm, signal_number

    def _audit_colours(self, codes: Tensor) -> None:
        """Adds a micro-batch, over all processes, to the audit of the colour transform."""
        seen = ColourAudit.from_codes(self.accelerator.gather(codes).tolist())
        self.progress.colour_audit = asdict(ColourAudit(**self.progress.colour_audit) + seen)

    def _to_device(self, batch: Batch) -> Batch:
        moved = {key: value.to(self.accelerator.device, non_blocking=True) for key, value in batch.items()}
        if self.arguments.channels_last:
            maps = {key: value for key, value in moved.items() if value.ndim == 4}
            moved |= {key: value.contiguous(memory_format=torch.channels_last) for key, value in maps.items()}
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

    def _skip_or_refuse_step(
        self, batches: list[Batch], loss: float, grad_norm: float, *, buffers: list[Tensor]
    ) -> None:
        """Leaves a step out that is not finite, with the running statistics as they were before; or stops."""
        for buffer, before in zip(self.bare_model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        progress = self.progress
        progress.skipped_in_a_row += 1
        is_over = progress.skipped_in_a_row > MAX_SKIPPED_IN_A_ROW or not model_is_finite(self.bare_model)
        if self.arguments.on_non_finite == "stop" or is_over:
            self._refuse_step(batches, loss, grad_norm)
        progress.skipped_steps += 1
        names, finding = self._name_suspects(batches)
        logger.warning(
            "Step %d is skipped: the loss is %s, the norm of its gradient %s. Samples %s: %s.",
            progress.step, loss, grad_norm, finding, ", ".join(names),
        )  # fmt: skip
        self._log({"step": progress.step, "skipped": names})

    def _refuse_step(self, batches: list[Batch], loss: float, grad_norm: float) -> None:
        names, finding = self._name_suspects(batches)
        weights = non_finite_names(self.bare_model)
        raise NonFiniteLossError(
            f"At step {self.progress.step} the loss was {loss} and the norm of its gradient {grad_norm}"
            + (f"; not finite are the weights {weights}" if weights else "")
            + f". Nothing was updated or saved with it. The samples {finding}: {', '.join(names)}. Look at them "
            "(hf-contour check-data), leave such steps out (--on_non_finite skip), or lower learning_rate if they are "
            "sound."
        )

    def _name_suspects(self, batches: list[Batch]) -> tuple[list[str], str]:
        """The samples of all processes that a step is not finite by, and what was found of them."""
        self.bare_model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            indices, finding = find_suspects(batches, lambda batch: self.task.train_loss(self.bare_model, batch))
        self.task.set_train_mode()
        own = [(f"{index} ({self.task.sample_name(index)})", finding) for index in indices]
        found = gather_object(own)
        # Of several processes only those tell that have found something in particular.
        telling = [one for one in found if one[1] != WHOLE_STEP] or found
        return [name for name, _ in telling], telling[0][1]

    def _refuse_non_finite_state(self, when: str) -> None:
        """Raises `NonFiniteLossError` for a model, moving average or optimiser that is not finite."""
        for name, model in (("model", self.bare_model), ("moving average", self.ema and self.ema.module)):
            if model is not None and (names := non_finite_names(model)):
                raise NonFiniteLossError(f"The weights {names} of the {name} are not finite {when}; nothing is saved.")
        if not optimizer_is_finite(self.optimizer):
            raise NonFiniteLossError(f"The state of the optimiser is not finite {when}; nothing is saved.")

    def _note(self, loss: float, grad_norm: float) -> None:
        """Counts a step's loss, and writes a log line when one is due."""
        progress, already = self.progress, self.convergence.converged_step
        if progress.skipped_in_a_row:
            return
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
            append_line(log_path(self.arguments), json.dumps(line))
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
        if not math.isfinite(figures["loss"]):
            raise NonFiniteLossError(
                f"The loss on the split {split} after step {self.progress.step} is {figures['loss']}; nothing is "
                "saved of it. Look at its images (hf-contour check-data), or lower learning_rate."
            )
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
        self._refuse_non_finite_state(f"after step {self.progress.step}")
        random_states = gather_object([random_state()])
        if self.accelerator.is_main_process and self.progress.step:
            state = {
                "identity": self.identity,
                "surroundings": surroundings(),
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
        steps = gather_object([None if checkpoint is None else checkpoint.step])
        if len(set(steps)) > 1:
            raise ResumeError(
                f"The processes find different newest checkpoints (steps {steps}) in "
                f"{self.arguments.folder}; is it one folder for all of them?"
            )
        if checkpoint is None:
            if self.accelerator.is_main_process:
                drop_log_lines(log_path(self.arguments), self.progress)
            return False
        refuse_other_identity(checkpoint.state["identity"], self.identity, folder=self.arguments.folder)
        warn_of_other_surroundings(checkpoint.state.get("surroundings", {}))
        try:
            self.bare_model.load_state_dict(checkpoint.weights["model"])
            if self.ema is not None:
                self.ema.module.load_state_dict(checkpoint.weights["ema"])
            self.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
            self.schedule.load_state_dict(checkpoint.tensors["schedule"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ResumeError(
                f"The checkpoint of step {checkpoint.step} in {self.arguments.folder} does not fit the model that "
                f"these settings make ({error}); it may be of another version. Give --overwrite or another --run_name."
            ) from error
        if "best" in checkpoint.weights:
            self.best_weights = dict(checkpoint.weights["best"])
        self.convergence.load_state_dict(checkpoint.state["convergence"])
        self.progress = Progress(**checkpoint.state["progress"])
        set_random_state(checkpoint.tensors["random"][self.accelerator.process_index])
        if self.accelerator.is_main_process:
            drop_log_lines(log_path(self.arguments), self.progress)
        return True
