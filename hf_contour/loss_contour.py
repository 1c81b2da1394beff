"""Losses of both stages: cross entropy against drawn contours, and against class labels.

Shapes: B images, H x W pixels, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

IGNORE_LABEL = -1.0
IGNORE_CLASS = -100  # as everywhere in PyTorch


def edge_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    kind: str = "plain",
    consensus_threshold: float = 0.3,
    background_scale: float = 1.1,
) -> Tensor:
    """Cross entropy of a single-channel map against contours drawn by people.

    A pixel is a contour where at least `consensus_threshold` of the annotators drew one, background where none
    did, and is not counted in between. `balanced` weighs contour pixels by the share of background pixels and
    background pixels by the share of contour pixels, times `background_scale`.

    Args:
        logits: `(B, H, W)`, before the sigmoid.
        labels: `(B, H, W)`; the share of annotators in [0, 1], or `IGNORE_LABEL`.
        kind: `plain` or `balanced`.
        consensus_threshold: in (0, 1].
        background_scale: extra weight of the background when balanced, > 0; the lambda of RCF.

    Returns:
        Scalar: the weighted mean over the counted pixels of each image, then the mean over the images, so
        that neither a large image nor the grouping into batches changes it. An image without counted pixels,
        or, when balanced, with only one of the two classes, gives 0.

    Raises:
        ValueError: If the two shapes differ.

    Source: Xie and Tu, HED (2015), eq. 2, and Liu et al., RCF (2017), eq. 1, which sum over pixels; here the
        weights of an image add up to 1.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"labels are {tuple(labels.shape)}; expected {tuple(logits.shape)}, the size of the images.")
    labels = labels.to(torch.float32)
    is_edge = labels >= consensus_threshold
    is_background = labels == 0
    weights = (is_edge | is_background).to(torch.float32)
    if kind == "balanced":
        num_edge = is_edge.sum(dim=(1, 2), keepdim=True).to(torch.float32)
        num_background = is_background.sum(dim=(1, 2), keepdim=True).to(torch.float32)
        weights = is_edge * num_background + is_background * (num_edge * background_scale)
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.to(torch.float32), is_edge.to(torch.float32), reduction="none"
    )
    total_weight = weights.sum(dim=(1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return ((weights * losses).sum(dim=(1, 2)) / total_weight).mean()


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    problem_type: str | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross entropy for one label an image, sigmoid cross entropy for several.

    Args:
        logits: `(B, K)`.
        labels: `(B,)` or `(B, 1)` class numbers of any integer type, `IGNORE_CLASS` for images that do not count;
            or `(B, K)` for `single_label_classification`: floating-point shares of the classes, as mixup gives; or
            `(B, K)` zeros and ones for several labels.
        problem_type: `single_label_classification`, `multi_label_classification`, or `None`: told by the shape.
        class_weights: `(K,)`, > 0; weighs each image by its class (positives of it, for several labels).
        label_smoothing: share of the target spread over all classes, in [0, 1).

    Returns:
        Scalar mean over the images that count, 0 if there are none; with `class_weights` each image's loss is
        multiplied by its weight and not renormalised, so that the grouping into batches does not change it.

    Raises:
        ValueError: If the shape or the type of the labels fits neither form.

    Source: CN113298092B, claim 5 (softmax loss).
    """
    if problem_type is None:
        several = (
            labels.ndim == 2 and labels.shape == logits.shape and not (logits.shape[1] == 1 and _is_whole(labels))
        )
        problem_type = "multi_label_classification" if several else "single_label_classification"
    logits = logits.to(torch.float32)
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    if problem_type == "multi_label_classification":
        if labels.shape != logits.shape:
            raise ValueError(f"labels are {tuple(labels.shape)}; expected {tuple(logits.shape)} zeros and ones.")
        targets = labels.to(torch.float32) * (1 - label_smoothing) + label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)
    if labels.shape == logits.shape and labels.is_floating_point():
        shares = labels.to(torch.float32)
        losses = nn.functional.cross_entropy(logits, shares, reduction="none", label_smoothing=label_smoothing)
        return (losses if class_weights is None else losses * (shares @ class_weights)).mean()
    if not _is_whole(labels) or labels.shape not in (logits.shape[:1], (len(logits), 1)):
        raise ValueError(
            f"labels are {tuple(labels.shape)} of type {labels.dtype}; expected ({len(logits)},) class numbers, or "
            f"{tuple(logits.shape)} shares of the classes as floating-point numbers."
        )
    labels = labels.reshape(-1).long()
    counted = labels != IGNORE_CLASS
    losses = nn.functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=label_smoothing, ignore_index=IGNORE_CLASS
    )
    if class_weights is not None:
        losses = losses * class_weights[labels.where(counted, 0)]
    return losses.sum() / counted.sum().clamp_min(1)


def branched_loss(
    logits: Tensor, branch_logits: Sequence[Tensor], labels: Tensor, *, branch_loss_weight: float, **options: Any
) -> Tensor:
    """The loss of what the branches decide together, and of what each decides alone.

    Args:
        logits: `(B, K)`, of all together.
        branch_logits: `(B, K)` of each branch.
        labels: as in `classification_loss`.
        branch_loss_weight: of the sum of the branches' losses; 0 leaves them out.
        **options: further arguments of `classification_loss`.

    Returns:
        Scalar.
    """
    loss = classification_loss(logits, labels, **options)
    if branch_loss_weight and branch_logits:  # fused branches have no logits of their own
        alone = [classification_loss(branch, labels, **options) for branch in branch_logits]
        loss = loss + branch_loss_weight * torch.stack(alone).sum()
    return loss


def _is_whole(labels: Tensor) -> bool:
    return not labels.is_floating_point() and not labels.is_complex()


__all__ = ["IGNORE_CLASS", "IGNORE_LABEL", "branched_loss", "classification_loss", "edge_loss"]
