"""The last layers of a classifier, fitted anew to a few labelled images of another source; the rest stays.

Shapes: N images, D features of a head, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_contour.data.samples import ContourSamples, collate
from hf_contour.metrics.calibration import fit_temperature
from hf_contour.metrics.classification import IntArray
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification

# Of the penalty on how far a head moves; the mean loss is of the order of 1.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
NUM_FOLDS = 5
_OUTPUT = "output"  # what the last layer of a head is called
_MOST_ITERATIONS = 200


@dataclass(frozen=True)
class Head:
    """A linear layer that ends a branch of the classifier.

    Attributes:
        weight: `(K, D)`.
        bias: `(K,)`.
        share: weight of its logits in the sum over the branches.
    """

    weight: Tensor
    bias: Tensor
    share: float


@dataclass(frozen=True)
class HeadInputs:
    """What the last layers see of each image.

    Attributes:
        features: for each head `(N, D)` float64.
        labels: `(N,)`.
        group_ids: `(N,)`, equal for near duplicates.
    """

    features: list[Tensor]
    labels: Tensor
    group_ids: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "HeadInputs":
        """Those of some images."""
        chosen = torch.from_numpy(rows)
        groups = np.unique(self.group_ids[rows], return_inverse=True)[1]
        return HeadInputs([one[chosen] for one in self.features], self.labels[chosen], groups)


@dataclass(frozen=True)
class RefittedHeads:
    """Heads fitted anew.

    Attributes:
        heads: by the name of the layer.
        strength: of the penalty that did best on images that a fit had not seen; `None`: no fit did better than the
            heads as they were, and they stay.
        logits: `(N, K)`, of each image by heads that were fitted without it: for temperature and threshold.
    """

    heads: dict[str, Head]
    strength: float | None
    logits: Tensor


def output_layers(model: ContourGenderForImageClassification) -> dict[str, nn.Linear]:
    """The last layer of each branch, by its name in the state dict."""
    return {
        f"classifier.{name}": layer
        for name, layer in model.classifier.named_modules()
        if name.rpartition(".")[2] == _OUTPUT and isinstance(layer, nn.Linear)
    }


def present_heads(model: ContourGenderForImageClassification) -> dict[str, Head]:
    """The heads as they are, in double precision."""
    layers = output_layers(model)
    shares = [1.0, float(model.config.contour_weight)] if len(layers) > 1 else [1.0]
    return {
        name: Head(layer.weight.detach().double().cpu(), layer.bias.detach().double().cpu(), share)
        for (name, layer), share in zip(layers.items(), shares, strict=True)
    }


def head_inputs(
    model: ContourGenderForImageClassification,
    samples: ContourSamples,
    *,
    group_ids: IntArray,
    batch_size: int,
    num_workers: int = 0,
) -> HeadInputs:
    """One pass over samples; every process makes the whole of it.

    Args:
        model: in evaluation mode.
        samples: neither augmented nor recoloured.
        group_ids: `(N,)`.
        batch_size: images in a batch.
        num_workers: processes that read images.

    Raises:
        ValueError: If images have several labels.
    """
    if model.config.problem_type == "multi_label_classification":
        raise ValueError("the head is fitted anew to images of one label each; those of this model have several.")
    layers = output_layers(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].double().cpu()))
        for name, layer in layers.items()
    ]
    labels = []
    try:
        with torch.inference_mode():
            for batch in DataLoader(samples, batch_size=batch_size, num_workers=num_workers, collate_fn=collate):
                model(pixel_values=batch["pixel_values"].to(model.device))
                labels.append(batch["labels"])
    finally:
        for hook in hooks:
            hook.remove()
    return HeadInputs([torch.cat(parts) for parts in seen.values()], torch.cat(labels).long(), group_ids)


def head_logits(heads: Sequence[Head], inputs: HeadInputs) -> Tensor:
    """`(N, K)`, not divided by any temperature: the sum over the heads."""
    parts = [
        head.share * (features @ head.weight.T + head.bias)
        for head, features in zip(heads, inputs.features, strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


def fit_heads(heads: Sequence[Head], inputs: HeadInputs, *, strength: float) -> list[Head]:
    """Logistic regression that stays near the heads that there are; every class counts alike.

    The loss is the mean cross entropy and `strength / 2` times the squared distance of the weights from what they
    were; biases are free.

    Args:
        heads: to begin with.
        inputs: to fit to; every class should occur.
        strength: above 0.
    """
    counts = torch.bincount(inputs.labels, minlength=heads[0].weight.shape[0]).double()
    class_weights = torch.where(counts > 0, len(inputs) / counts.clamp_min(1), 0.0)
    moves = [[torch.zeros_like(one, requires_grad=True) for one in (head.weight, head.bias)] for head in heads]
    optimizer = torch.optim.LBFGS(
        [move for pair in moves for move in pair], max_iter=_MOST_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def moved() -> list[Head]:
        return [
            replace(head, weight=head.weight + weight, bias=head.bias + bias)
            for head, (weight, bias) in zip(heads, moves, strict=True)
        ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head_logits(moved(), inputs), inputs.labels, weight=class_weights)
        loss = loss + strength / 2 * torch.stack([weight.square().sum() for weight, _ in moves]).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return [replace(head, weight=head.weight.detach(), bias=head.bias.detach()) for head in moved()]


def refit_heads(heads: dict[str, Head], inputs: HeadInputs, *, seed: int = 0) -> RefittedHeads:
    """Fits heads anew, as far from what they were as images that a fit has not seen bear out.

    Args:
        heads: as `present_heads` gives them.
        inputs: of the new images.
        seed: of the folds; near duplicates are in one.

    Raises:
        ValueError: If the images are of one class, or of fewer than two groups.
    """
    num_groups = int(inputs.group_ids.max()) + 1 if len(inputs) else 0
    if num_groups < 2 or len(inputs.labels.unique()) < 2:
        raise ValueError(
            f"{len(inputs)} images in {num_groups} groups are of {len(inputs.labels.unique())} class(es); "
            "a head is fitted to at least two classes and groups."
        )
    dealt = np.random.default_rng(seed).permutation(num_groups) % min(NUM_FOLDS, num_groups)
    folds = dealt[inputs.group_ids]
    current = list(heads.values())
    candidates: dict[float | None, Tensor] = {None: head_logits(current, inputs)}
    candidates |= {strength: _unseen_logits(current, inputs, folds, strength) for strength in STRENGTHS}
    best = min(candidates, key=lambda strength: _calibrated_loss(candidates[strength], inputs.labels))
    fitted = current if best is None else fit_heads(current, inputs, strength=best)
    return RefittedHeads(dict(zip(heads, fitted, strict=True)), best, candidates[best])


def _unseen_logits(heads: Sequence[Head], inputs: HeadInputs, folds: IntArray, strength: float) -> Tensor:
    """`(N, K)`: of each fold by heads that were fitted to the others."""
    logits = torch.zeros(len(inputs), heads[0].weight.shape[0], dtype=torch.float64)
    for fold in np.unique(folds):
        fitted = fit_heads(heads, inputs.select(folds != fold), strength=strength)
        logits[torch.from_numpy(folds == fold)] = head_logits(fitted, inputs.select(folds == fold))
    return logits


def _calibrated_loss(logits: Tensor, labels: Tensor) -> float:
    """Cross entropy at the best temperature, since a temperature is fitted afterwards."""
    return float(nn.functional.cross_entropy(logits / fit_temperature(logits, labels), labels))
