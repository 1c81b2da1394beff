"""One pass of a model over a split, whatever is measured, counted exactly over all processes.

Shapes: B images, H x W pixels, K classes, T thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_contour.loss_contour import classification_loss
from hf_contour.metrics.boundary import THRESHOLDS
from hf_contour.metrics.classification import classification_scores, multilabel_scores


@dataclass(frozen=True)
class Sources:
    """Which source each sample of a split is of.

    Attributes:
        names: of the sources.
        numbers: `(num_samples,)`, the place of its source in `names`, by the "index" of a sample.
    """

    names: Sequence[str]
    numbers: Sequence[int]


def over_split(
    loader: DataLoader,
    accelerator: Accelerator,
    observe: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    *,
    heed: Callable[[], Any],
) -> list[Tensor]:
    """What is observed of every sample of a split, on every process.

    Args:
        loader: prepared; batches with `index`.
        accelerator: gathers over the processes.
        observe: given a batch; each tensor has an entry for each of its samples.
        heed: called after each batch.

    Returns:
        `index`, and what was observed, on the CPU, in the order of the rows and each row once.
    """
    found = []
    for batch in loader:
        gathered = accelerator.gather_for_metrics((batch["index"], *observe(batch)))
        found.append([part.cpu() for part in gathered])
        heed()
    index, *parts = (torch.cat(part) for part in zip(*found, strict=True))
    order = index.argsort()
    return [index[order], *(part[order] for part in parts)]


def evaluate_contours(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    *,
    heed: Callable[[], None],
    consensus_threshold: float,
    sources: Sources | None = None,
    watch: Callable[[Tensor, dict[str, Tensor]], None] | None = None,
) -> dict[str, Any]:
    """Loss and pixel scores of contours at full image size.

    A pixel is right only in its very place; unlike the boundary benchmark there is no tolerance, so the scores are
    low, and good only for comparing one model with itself.

    Args:
        model: gives `loss` and `logits` `(1, 1, H, W)`.
        loader: prepared; one image a batch, with `pixel_values`, `labels` `(1, H, W)` and `index`.
        accelerator: gathers over the processes.
        heed: called after each batch.
        consensus_threshold: share of annotators from which a pixel counts as a contour; pixels that fewer have
            drawn are not counted.
        sources: of the samples, where there are several; their figures stand under `sources`.
        watch: called with the edge probabilities `(1, H, W)` of each image of this process, and its batch.

    Returns:
        `loss` (mean over images), `num_samples`, and the best F over the thresholds with its precision, recall
        and threshold.
    """

    def observe(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        edge_probs = output.logits[:, 0].float().sigmoid()
        if watch is not None:
            watch(edge_probs, batch)
        counts = count_pixels(edge_probs, batch["labels"], consensus_threshold=consensus_threshold)
        return output.loss.float()[None], counts[None]

    indices, losses, counts = over_split(loader, accelerator, observe, heed=heed)

    def figures(chosen: Tensor) -> dict[str, Any]:
        scores = pixel_scores(counts[chosen].double().sum(dim=0))
        return {"loss": losses[chosen].mean().item(), "num_samples": len(losses[chosen]), **scores}

    return _with_sources(figures, indices, sources)


def _with_sources(
    figures: Callable[[Tensor], dict[str, Any]], indices: Tensor, sources: Sources | None
) -> dict[str, Any]:
    """The figures of all samples, and those of each source that has any."""
    everything = figures(torch.ones(len(indices), dtype=torch.bool))
    if sources is None:
        return everything
    numbers = torch.as_tensor(sources.numbers)[indices]
    masks = {name: numbers == number for number, name in enumerate(sources.names)}
    return {**everything, "sources": {name: figures(mask) for name, mask in masks.items() if mask.any()}}


def count_pixels(edge_probs: Tensor, labels: Tensor, *, consensus_threshold: float) -> Tensor:
    """Right contour pixels, found pixels and drawn pixels at each of `THRESHOLDS`: `(T, 3)`, int64 counts.

    Args:
        edge_probs: `(B, H, W)` in [0, 1].
        labels: `(B, H, W)` share of annotators, or `IGNORE_LABEL`.
        consensus_threshold: as in `evaluate_contours`.
    """
    is_edge = labels >= consensus_threshold
    counted = is_edge | (labels == 0)
    probs, is_edge = edge_probs[counted], is_edge[counted]
    thresholds = torch.tensor(THRESHOLDS, device=edge_probs.device)
    found = torch.bucketize(probs, thresholds, right=True)  # how many thresholds each pixel reaches
    bins = torch.stack([torch.bincount(found[is_edge], minlength=len(THRESHOLDS) + 1),
                        torch.bincount(found, minlength=len(THRESHOLDS) + 1)])  # fmt: skip
    reached = bins.flip(1).cumsum(1).flip(1)[:, 1:]  # (2, T)
    drawn = is_edge.sum().expand(len(THRESHOLDS))
    return torch.stack([reached[0], reached[1], drawn], dim=1)


def pixel_scores(counts: Tensor) -> dict[str, float]:
    """The best F over the thresholds from counts `(T, 3)`; zeros where nothing was found or drawn."""
    right, found, drawn = counts.unbind(dim=1)
    precision = right / found.clamp_min(1)
    recall = right / drawn.clamp_min(1)
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    best = int(f1.argmax())
    return {
        "pixel_f1": f1[best].item(),
        "pixel_precision": precision[best].item(),
        "pixel_recall": recall[best].item(),
        "pixel_threshold": THRESHOLDS[best],
    }


def evaluate_classes(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    *,
    heed: Callable[[], None],
    class_names: list[str],
    problem_type: str | None,
    sources: Sources | None = None,
) -> dict[str, Any]:
    """Loss (plain cross entropy) and class scores of a split.

    Args:
        model: gives `logits` `(B, K)`.
        loader: prepared; batches of `pixel_values`, `labels` and `index`.
        accelerator: gathers over the processes.
        heed: called after each batch.
        class_names: K names.
        problem_type: of the model's config.
        sources: of the samples, where there are several; their figures stand under `sources`.

    Returns:
        `loss`, and the fields of `ClassificationScores` or `MultilabelScores`.
    """
    indices, logits, labels = class_logits(model, loader, accelerator, heed=heed)

    def figures(chosen: Tensor) -> dict[str, Any]:
        return class_figures(logits[chosen], labels[chosen], class_names=class_names, problem_type=problem_type)

    return _with_sources(figures, indices, sources)


def class_logits(
    model: nn.Module, loader: DataLoader, accelerator: Accelerator, *, heed: Callable[[], Any]
) -> list[Tensor]:
    """`index`, logits `(N, K)` float32, and labels of a split; see `over_split`."""

    def observe(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(pixel_values=batch["pixel_values"]).logits.float(), batch["labels"]

    return over_split(loader, accelerator, observe, heed=heed)


def class_figures(
    logits: Tensor, labels: Tensor, *, class_names: list[str], problem_type: str | None
) -> dict[str, Any]:
    """Loss and class scores of logits `(B, K)`."""
    loss = classification_loss(logits, labels, problem_type=problem_type).item()
    if problem_type == "multi_label_classification":
        probabilities = logits.double().sigmoid().numpy()
        return {
            "loss": loss,
            **multilabel_scores(probabilities, labels.bool().numpy(), class_names=class_names).to_dict(),
        }
    probabilities = logits.double().softmax(dim=1).numpy()
    return {"loss": loss, **classification_scores(probabilities, labels.numpy(), class_names=class_names).to_dict()}
