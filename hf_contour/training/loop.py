"""The training loop: steps, evaluations, checkpoints and their order; the same for both stages."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from huggingface_hub.utils import are_progress_bars_disabled
from torch import Tensor
from tqdm import tqdm

from hf_contour.data.augmentation.colour import ColourAudit
from hf_contour.io import OutputError, append_line
from hf_contour.training.arguments import TrainingArguments
from hf_contour.training.checkpoints import load_newest, save_checkpoint
from hf_contour.training.finite import Batch, NonFiniteLossError, Step, input_is_finite
from hf_contour.training.guard import NonFiniteGuard, is_finite
from hf_contour.training.interrupts import StopRequest, TrainingInterrupted
from hf_contour.training.resuming import (
    Progress,
    ResumeError,
    checkpoint_folder,
    drop_log_lines,
    log_path,
    random_state,
)
from hf_contour.training.stage_data import Figures
from hf_contour.training.state import TrainingState
from hf_contour.training.task import Task


class TrainingLoop:
    """Trains one model until its last step, its convergence or a signal.

    Args:
        task: the stage's model, data and loss.
        arguments: settings.
        accelerator: devices and processes.
        identity: what must be equal for a checkpoint to be gone on from; kept in each of them.
    """

    def __init__(
        self, task: Task, arguments: TrainingArguments, accelerator: Accelerator, *, identity: dict[str, Any]
    ) -> None:
        self.task, self.arguments, self.accelerator = task, arguments, accelerator
        self.num_steps = arguments.max_steps or task.head_steps + arguments.epochs * task.data.steps_per_epoch
        if arguments.channels_last:
            task.model.to(memory_format=torch.channels_last)
        task.model.to(accelerator.device)
        self.state = TrainingState(task, arguments, accelerator, num_steps=self.num_steps, identity=identity)
        self.model = self.state.prepared_model
        self.request = StopRequest()
        self._is_between_steps = True

    @property
    def progress(self) -> Progress:
        """Where the training stands."""
        return self.state.progress

    @property
    def is_done(self) -> bool:
        """Whether no step is left to make."""
        converged = self.arguments.stop_on_convergence and self.state.convergence.converged_step is not None
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
        self.task.set_train_mode()
        self.guard = NonFiniteGuard(
            self.state.model,
            self.accelerator,
            self.progress,
            loss_of=lambda batch: self.task.train_loss(self.state.model, batch),
            sample_name=self.task.data.sample_name,
            policy=self.arguments.on_non_finite,
        )
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
        model = self.state.trained_model
        model.eval()
        if self.accelerator.num_processes > 1:  # each process has seen batches of its own
            broadcast(list(model.buffers()))
        with torch.no_grad(), self.accelerator.autocast():
            return self.task.evaluate(model, self.accelerator, split=split, heed=self._heed_signals)

    def _run_steps(self) -> None:
        progress = self.progress
        batches = iter(self.task.train_loader(start_step=progress.step, num_steps=self.num_steps))
        self.task.set_train_mode()
        hidden = not (self.arguments.progress and self.accelerator.is_local_main_process)
        with tqdm(
            total=self.num_steps,
            initial=progress.step,
            desc=self.arguments.stage,
            disable=hidden or are_progress_bars_disabled() or None,
            mininterval=1.0,
        ) as bar:
            while not self.is_done:
                self._is_between_steps = True
                started = time.perf_counter()
                step, signal_number = self._train_step(batches)
                progress.seconds += time.perf_counter() - started
                self._note(step)
                bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
                bar.update()
                self._is_between_steps = True
                if signal_number:
                    raise TrainingInterrupted(signal_number)
                self._maintain()

    def _train_step(self, batches: Iterator[Batch]) -> tuple[Step, int]:
        """One optimiser step, and a signal if one came.

        A step that is skipped, because a number in it is not finite, changes no weight and has such a loss or norm.
        Nothing of a step is looked at before its one gathering over the processes: the device is waited for once.
        """
        self.task.begin_step(self.progress.step)
        self.guard.begin_step()
        losses, seen = self._accumulate(batches)
        limit = self.arguments.max_grad_norm or math.inf
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        loss, grad_norm, signal_number, update_was_finite, is_sound = self._agree(
            torch.stack(losses).mean(), norm, *self.guard.verdicts()
        )
        if not update_was_finite:
            self.guard.refuse_update()
        progress = self.progress
        progress.step += 1
        step = Step(progress.step, seen, loss, grad_norm)
        if is_sound and is_finite(loss, grad_norm):
            self.state.optimizer.step()
            progress.skipped_in_a_row = progress.overflows_in_a_row = 0
            self.guard.note_update(step)
            self.state.average_weights()
        elif self.accelerator.scaler is not None and is_sound and is_finite(loss):
            self.state.optimizer.step()  # changes nothing but the scale of the loss
            self.guard.overflow_or_refuse(step)
        else:
            self._skip(step)
        self.state.optimizer.zero_grad()
        self.state.schedule.step()
        return step, signal_number

    def _accumulate(self, batches: Iterator[Batch]) -> tuple[list[Tensor], list[Batch]]:
        """Gradients of the micro-batches of a step; their losses, NaN for an input that is not finite."""
        losses, seen = [], []
        for _ in range(self.accelerator.gradient_accumulation_steps):
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
        return losses, seen

    def _skip(self, step: Step) -> None:
        names = self.guard.skip_or_refuse(step)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # else it would not take the next gradient
        self._log({"step": step.number, "skipped": names})

    def _audit_colours(self, codes: Tensor) -> None:
        """Adds a micro-batch, over all processes, to the audit of the colour transform."""
        progress = self.progress
        seen = ColourAudit.from_codes(self.accelerator.gather(codes).tolist())
        progress.colour_audit = asdict(ColourAudit(**progress.colour_audit) + seen)

    def _to_device(self, batch: Batch) -> Batch:
        moved = {key: value.to(self.accelerator.device, non_blocking=True) for key, value in batch.items()}
        if self.arguments.channels_last:
            maps = {key: value for key, value in moved.items() if value.ndim == 4}
            moved |= {key: value.contiguous(memory_format=torch.channels_last) for key, value in maps.items()}
        return moved

    def _agree(
        self, loss: Tensor, grad_norm: Tensor, update_was_finite: Tensor, is_sound: Tensor
    ) -> tuple[float, float, int, bool, bool]:
        """What all processes act by: mean loss, norm, the highest signal, and whether all of them are sound."""
        device = self.accelerator.device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which Apple's devices do not know
        numbers = (loss, grad_norm, torch.tensor(float(self.request.number)), update_was_finite, is_sound)
        own = torch.stack([number.detach().to(device, dtype, non_blocking=True) for number in numbers])
        gathered = self.accelerator.gather(own[None]).cpu() if self.accelerator.num_processes > 1 else own[None].cpu()
        highest, lowest = gathered.max(dim=0).values, gathered.min(dim=0).values
        return (
            gathered[:, 0].mean().item(),
            highest[1].item(),
            int(highest[2].item()),
            bool(lowest[3]),
            bool(lowest[4]),
        )

    def _heed_signals(self) -> None:
        nothing, fine = torch.tensor(0.0), torch.tensor(True)
        signal_number = (
            self.request.number
            if self.accelerator.num_processes == 1
            else self._agree(nothing, nothing, fine, fine)[2]
        )
        if signal_number:
            raise TrainingInterrupted(signal_number)

    def _note(self, step: Step) -> None:
        """Counts a step's loss, and writes a log line when one is due."""
        progress, convergence = self.progress, self.state.convergence
        if progress.skipped_in_a_row or progress.overflows_in_a_row:
            return
        already = convergence.converged_step
        if convergence.update(progress.step, step.loss) and already is None:
            self._log({"step": progress.step, "converged": convergence.rule})
        progress.recent_losses.append(step.loss)
        if progress.step % self.arguments.log_every and progress.step != self.num_steps:
            return
        progress.last_loss = math.fsum(progress.recent_losses) / len(progress.recent_losses)
        progress.recent_losses.clear()
        self._log(
            {
                "step": progress.step,
                "epoch": round(progress.step / self.task.data.steps_per_epoch, 4),
                "loss": progress.last_loss,
                "learning_rate": max(self.state.schedule.rates),
                "grad_norm": step.grad_norm,
                "images_per_second": round(progress.step * self.task.data.step_size / progress.seconds, 2),
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
        evaluate_every = self.arguments.evaluate_every or self.task.data.steps_per_epoch
        is_due = step % evaluate_every == 0 or self.is_done
        if is_due and self.arguments.validation_split and self.progress.evaluated_step < step:
            self._evaluate(self.arguments.validation_split)
        save_every = self.arguments.save_every or self.task.data.steps_per_epoch
        if step % save_every == 0 and step < self.num_steps:
            self._save()

    def _evaluate(self, split: str) -> None:
        self.guard.settle()
        figures = self.evaluate(split)
        self.task.set_train_mode()
        if not math.isfinite(figures["loss"]):
            raise NonFiniteLossError(
                f"The loss on the split {split} after step {self.progress.step} is {figures['loss']}; nothing "
                "is saved of it. Look at its images (hf-contour check-data), or lower learning_rate."
            )
        self.state.observe(figures, self.task.score(figures))
        shown = {f"validation_{key}": value for key, value in figures.items() if isinstance(value, int | float)}
        self._log({"step": self.progress.step, **shown})

    # Checkpoints

    def _save(self) -> None:
        """Writes a checkpoint of this step, unless there is one or no step has been made."""
        self.guard.settle()
        self._refuse_non_finite_state(f"after step {self.progress.step}")
        random_states = gather_object([random_state()])
        stream_states = gather_object([self.task.data.state_at(self.progress.step)])
        if self.accelerator.is_main_process and self.progress.step:
            checkpoint = self.state.to_checkpoint(random_states, stream_states)
            save_checkpoint(checkpoint_folder(self.arguments), checkpoint, keep=self.arguments.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _refuse_non_finite_state(self, when: str) -> None:
        self.guard.refuse_state(when, ema=self.state.ema_model, optimizer=self.state.optimizer)

    def resume(self) -> bool:
        """Goes back to the newest good checkpoint of the same settings.

        Returns:
            Whether there was one.

        Raises:
            ResumeError: If it was made with other settings, naming those that differ, or by a version whose place in
                a stream cannot be read.
            CheckpointError: If all are damaged.
        """
        checkpoint = load_newest(checkpoint_folder(self.arguments))
        steps = gather_object([None if checkpoint is None else checkpoint.step])
        if len(set(steps)) > 1:
            raise ResumeError(
                f"The processes find different newest checkpoints (steps {steps}) in "
                f"{self.arguments.folder}; is it one folder for all of them?"
            )
        if checkpoint is not None:
            self.state.restore(checkpoint, folder=self.arguments.folder)
            self.task.data.load_states(checkpoint.state.get("streams"))
        if self.accelerator.is_main_process:
            drop_log_lines(log_path(self.arguments), self.progress)
        return checkpoint is not None
