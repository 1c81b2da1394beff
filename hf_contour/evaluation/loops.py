"""Figures of both stages on a whole split, counted exactly over all processes.

Shapes: B images, H x W pixels, K classes, T thresholds.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_contour.loss_contour import classification_loss
from hf_contour.metrics.classification import classification_scores, multilabel_scores

THRESHOLDS = tuple(number / 20 for number in range(1, 20))


def evaluate_contours(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    *,
    heed: Callable[[], None],
    consensus_threshold: float,
) -> dict[str, Any]:
    """Loss and pixel scores of contours at full image size.

    A pixel is right only in its very place; unlike the boundary benchmark there is no tolerance, so the scores are
    low, and good only for comparing one model with itself.

    Args:
        model: gives `loss` and `logits` `(1, 1, H, W)`.
        loader: prepared; one image a batch, with `pixel_values` and `labels` `(1, H, W)`.
        accelerator: gathers over the processes.
        heed: called after each batch.
        consensus_threshold: share of annotators from which a pixel counts as a contour; pixels that fewer have
            drawn are not counted.

    Returns:
        `loss` (mean over images), `num_samples`, and the best F over the thresholds with its precision, recall
        and threshold.
    """
    losses, counts = [], torch.zeros(len(THRESHOLDS), 3, dtype=torch.float64)
    for batch in loader:
        output = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        edge_probs = output.logits[:, 0].float().sigmoid()
        own_counts = count_pixels(edge_probs, batch["labels"], consensus_threshold=consensus_threshold)
        loss, own_counts = accelerator.gather_for_metrics((output.loss.float()[None], own_counts[None]))
        losses.append(loss.cpu())
        counts += own_counts.cpu().sum(dim=0)
        heed()
    all_losses = torch.cat(losses)
    return {"loss": all_losses.mean().item(), "num_samples": len(all_losses), **pixel_scores(counts)}


def count_pixels(edge_probs: Tensor, labels: Tensor, *, consensus_threshold: float) -> Tensor:
    """Right contour pixels, found pixels and drawn pixels at each of `THRESHOLDS`: `(T, 3)`, float64 counts.

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
    reached = bins.flip(1).cumsum(1).flip(1)[:, 1:].double()  # (2, T)
    drawn = is_edge.sum().double().expand(len(THRESHOLDS))
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
) -> dict[str, Any]:
    """Loss (plain cross entropy) and class scores of a split.

    Args:
        model: gives `logits` `(B, K)`.
        loader: prepared; batches of `pixel_values` and `labels`.
        accelerator: gathers over the processes.
        heed: called after each batch.
        class_names: K names.
        problem_type: of the model's config.

    Returns:
        `loss`, and the fields of `ClassificationScores` or `MultilabelScores`.
    """
    logits, labels = [], []
    for batch in loader:
        output = model(pixel_values=batch["pixel_values"])
        own_logits, own_labels = accelerator.gather_for_metrics((output.logits.float(), batch["labels"]))
        logits.append(own_logits.cpu())
        labels.append(own_labels.cpu())
        heed()
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    loss = classification_loss(all_logits, all_labels, problem_type=problem_type).item()
    if problem_type == "multi_label_classification":
        probabilities = all_logits.double().sigmoid().numpy()
        scores = multilabel_scores(probabilities, all_labels.bool().numpy(), class_names=class_names)
        return {"loss": loss, **scores.to_dict()}
    probabilities = all_logits.double().softmax(dim=1).numpy()
    return {
        "loss": loss,
        **classification_scores(probabilities, all_labels.numpy(), class_names=class_names).to_dict(),
    }
