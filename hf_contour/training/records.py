"""What a run writes down about itself: checksums, counts, tables."""

from typing import Any

import torch
from torch import nn


class FrozenExtractorError(RuntimeError):
    """The extractor's weights or statistics changed, although it must stay as it is."""


def refuse_changed_extractor(before: str, after: str) -> None:
    """Raises `FrozenExtractorError` if two checksums of the frozen extractor differ."""
    if before != after:
        raise FrozenExtractorError(
            f"The frozen extractor changed while training: SHA-256 {before} before, {after} after. "
            "Nothing is published; this is a fault of the program, please report it."
        )


def count_weights(model: nn.Module) -> dict[str, int]:
    """How many weights a model has, and how many of them are trained."""
    return {
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "trained_weights": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def device_name(device: torch.device) -> str:
    """What the training ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def results_table(results: list[dict[str, Any]]) -> str:
    """The figures of the finished stages as lines of text."""
    rows = [("stage", "split", "samples", "figures")]
    for result in results:
        for split, figures in result["evaluation"].items():
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
