"""Scores of a contour extractor on a split: loss, pixel scores and the boundary benchmark, over all processes."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_contour.data.samples import ContourSamples, collate
from hf_contour.evaluation.loops import evaluate_contours
from hf_contour.metrics.boundary.processes import ImageCounter
from hf_contour.metrics.boundary.scores import MAX_DIST, EdgeCounts, EdgeScores, edge_scores


def contour_scores(
    model: nn.Module,
    samples: ContourSamples,
    accelerator: Accelerator,
    *,
    num_workers: int = 0,
    boundary_benchmark: bool = True,
    max_dist: float = MAX_DIST,
    benchmark_processes: int = 1,
) -> dict[str, Any]:
    """Evaluate an extractor at full image size, in one pass.

    Args:
        model: gives `loss` and `logits` `(1, 1, H, W)`; in evaluation mode, on the accelerator's device.
        samples: of the stage "contour", neither augmented nor recoloured.
        accelerator: shares the images out, and gathers.
        num_workers: processes that read images.
        boundary_benchmark: whether to count matches too; the loss and the pixel scores are there without it.
        max_dist: of the benchmark, a fraction of the diagonal.
        benchmark_processes: beside each process of the accelerator; 1 counts in that process itself.

    Returns:
        `loss` (mean over images), `num_samples`, the figures of `pixel_scores`, and with the benchmark those of
        `benchmark_figures`.

    Raises:
        ValueError: If a row cannot be read.
        ImportError: If Numba, which the benchmark needs, is not installed.
    """
    counter = ImageCounter(num_processes=benchmark_processes, max_dist=max_dist) if boundary_benchmark else None
    loader = accelerator.prepare(DataLoader(samples, batch_size=1, num_workers=num_workers, collate_fn=collate))
    indices: list[int] = []

    def count(edge_probs: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        assert counter is not None
        indices.append(int(batch["index"]))
        annotations = samples.drawn(indices[-1]).annotations  # each annotator's own map; the labels are their mean
        assert annotations is not None  # the samples refuse rows without contours
        counter.add(edge_probs[0].cpu().numpy(), annotations)

    with (
        tqdm(total=len(loader), desc="images", disable=not accelerator.is_local_main_process) as bar,
        torch.inference_mode(),
        counter or nullcontext(),
    ):
        figures = evaluate_contours(
            model,
            loader,
            accelerator,
            heed=bar.update,
            consensus_threshold=model.config.consensus_threshold,
            watch=count if counter else None,
        )
        if counter is None:
            return figures
        return figures | benchmark_figures(edge_scores(_gather(counter.counts(), indices, accelerator)))


def _gather(counts: Sequence[EdgeCounts], indices: Sequence[int], accelerator: Accelerator) -> list[EdgeCounts]:
    """The counts of all processes in the order of the rows, each row once."""
    own = torch.from_numpy(np.stack([found.to_array() for found in counts])).to(accelerator.device)
    rows = torch.tensor(indices, device=accelerator.device)
    # Processes with fewer images were given some of the first again, so that all hold equally many.
    all_rows, all_counts = accelerator.gather((rows, own))
    by_row = dict(zip(all_rows.tolist(), all_counts.cpu().numpy(), strict=True))
    return [EdgeCounts.from_array(counts[0].thresholds, by_row[row]) for row in sorted(by_row)]


def benchmark_figures(scores: EdgeScores) -> dict[str, Any]:
    """Scores of the benchmark as they stand in a results file: single numbers, and the curve `benchmark_curve`."""
    return {
        "ods": scores.ods,
        "ods_threshold": scores.ods_point.threshold,
        "ods_recall": scores.ods_point.recall,
        "ods_precision": scores.ods_point.precision,
        "ois": scores.ois,
        "ap": scores.ap,
        "r50": scores.r50,
        "benchmark_curve": {"thresholds": scores.thresholds, "recall": scores.recall, "precision": scores.precision},
    }
