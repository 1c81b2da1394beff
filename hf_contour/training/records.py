"""What a run writes down about itself: results, counts, tables."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator

from hf_contour.data.augmentation.colour import ColourAudit
from hf_contour.evaluation.cost import count_parameters
from hf_contour.io import origin
from hf_contour.training.arguments import TrainingArguments
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.stage_data import Figures


class FrozenExtractorError(RuntimeError):
    """The extractor's weights or statistics changed, although it must stay as it is."""


def refuse_changed_extractor(before: str, after: str) -> None:
    """Raises `FrozenExtractorError` if two checksums of the frozen extractor differ."""
    if before != after:
        raise FrozenExtractorError(
            f"The frozen extractor changed while training: SHA-256 {before} before, {after} after. "
            "Nothing is published; this is a fault of the program, please report it."
        )


def build_results(
    arguments: TrainingArguments,
    loop: TrainingLoop,
    accelerator: Accelerator,
    *,
    bad_images: dict[str, str],
    validation: Figures | None,
) -> dict[str, Any]:
    """What `results.json` holds; evaluates the published weights.

    Args:
        arguments: settings.
        loop: of the finished training.
        accelerator: that it ran on.
        bad_images: why each image was left out.
        validation: figures of the published weights on the validation split, where they are known.
    """
    splits = [split for split in (arguments.validation_split, arguments.test_split) if split]
    identity = loop.state.identity
    known = {arguments.validation_split: validation}
    return {
        "stage": arguments.stage,
        "identity": identity,
        "arguments": asdict(arguments),
        "evaluation": {split: known.get(split) or loop.evaluate(split) for split in splits},
        "training": describe_training(loop, accelerator),
        "model": {
            "folder": str(arguments.folder / "model"),
            "num_parameters": count_parameters(loop.task.model),
            "num_trained_parameters": count_parameters(loop.task.model, only_trained=True),
        },
        "data": {"num_train_samples": identity["num_train_samples"], "bad_images": bad_images, **loop.task.describe()},
        "seed": arguments.seed,
        **origin(),
    }


def describe_training(loop: TrainingLoop, accelerator: Accelerator) -> dict[str, Any]:
    """Facts about the training for the results file."""
    progress = loop.progress
    num_samples = progress.step * loop.task.data.step_size
    return {
        "steps": progress.step,
        "epochs": round(progress.step / loop.task.data.steps_per_epoch, 4),
        "num_samples_seen": num_samples,
        "seconds": round(progress.seconds, 2),
        "images_per_second": round(num_samples / progress.seconds, 2),
        "last_loss": progress.last_loss,
        "convergence_rule": loop.state.convergence.rule,
        "converged_step": loop.state.convergence.converged_step,
        "published_weights": loop.state.published_weights,
        "best_step": progress.best_step,
        "skipped_steps": progress.skipped_steps,
        "colour_audit": ColourAudit(**progress.colour_audit).to_dict() if progress.colour_audit else None,
        "device": device_name(accelerator.device),
        "num_processes": accelerator.num_processes,
    }


def device_name(device: torch.device) -> str:
    """What the training ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def results_table(results: list[dict[str, Any]]) -> str:
    """The figures of the finished stages as lines of text, those of each source below those of its split."""
    rows = [("stage", "split", "samples", "figures")]
    for result in results:
        for split, figures in _with_sources(result["evaluation"]):
            numbers = [
                f"{key} {value:.4f}"
                for key, value in figures.items()
                if key in ("loss", "pixel_f1", "accuracy", "balanced_accuracy", "macro_f1") and value is not None
            ]
            rows.append((result["stage"], split, str(figures["num_samples"]), ", ".join(numbers)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _with_sources(evaluation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for split, figures in evaluation.items():
        yield split, figures
        for source, its in figures.get("sources", {}).items():
            yield f"{split}, {source}", its
