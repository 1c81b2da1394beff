"""Whether a heat map means anything: what becomes of a class when its hottest places go first, or come first.

Shapes: H x W pixels of the model's input, h x w patches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

PATCHES = 12  # patches along the longer side
STEPS = 8  # parts in which the patches go
RANDOM_ORDERS = 5
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion curves of one heat map, beside those of random orders.

    Attributes:
        deletion: probability of the class, from the whole image to the ground, the hottest patches gone first.
        insertion: from the ground to the whole image, the hottest patches first.
        deletion_area: mean height of the first curve, in 0..1; low is good.
        insertion_area: of the second; high is good.
        random_deletion_area: mean over the random orders.
        random_insertion_area: mean over the random orders.
        num_random: how many random orders there were.
        num_worse: how many of them separate the two curves less.
    """

    deletion: list[float]
    insertion: list[float]
    deletion_area: float
    insertion_area: float
    random_deletion_area: float
    random_insertion_area: float
    num_random: int
    num_worse: int

    @property
    def is_meaningful(self) -> bool:
        """Whether the map separates the two curves more than every random order does."""
        return self.num_worse == self.num_random

    @property
    def sentence(self) -> str:
        """What the figures say of the heat map."""
        areas = (
            f"deletion {self.deletion_area:.2f} (random {self.random_deletion_area:.2f}), "
            f"insertion {self.insertion_area:.2f} (random {self.random_insertion_area:.2f})"
        )
        if self.is_meaningful:
            return f"The heat map beats each of {self.num_random} random orders: {areas}."
        return f"Do not trust the heat map: it beats {self.num_worse} of {self.num_random} random orders; {areas}."


def faithfulness(score: Score, pixel_values: Tensor, ground: Tensor, heat: Tensor, *, seed: int = 0) -> Faithfulness:
    """Deletion and insertion of patches in the order of a heat map.

    Args:
        score: `(B, 3, H, W)` to the probability `(B,)` of the class in question.
        pixel_values: `(1, 3, H, W)`.
        ground: the same shape; what stands where a patch is gone.
        heat: `(H, W)`, high where the evidence lies.
        seed: of the random orders.

    Source: Petsiuk, Das and Saenko, "RISE" (2018), section 4.1, on patches instead of pixels.
    """
    patches = patch_means(heat)
    grid, patches = list(patches.shape), patches.flatten()
    random = np.random.default_rng(seed)
    orders = [patches.argsort(descending=True)]
    orders += [torch.from_numpy(random.permutation(len(patches))) for _ in range(RANDOM_ORDERS)]
    curves = [_curves(score, pixel_values, ground, order, grid) for order in orders]
    areas = [(_area(deletion), _area(insertion)) for deletion, insertion in curves]
    own, others = areas[0], areas[1:]
    gap = own[1] - own[0]
    return Faithfulness(
        deletion=curves[0][0],
        insertion=curves[0][1],
        deletion_area=own[0],
        insertion_area=own[1],
        random_deletion_area=float(np.mean([area[0] for area in others])),
        random_insertion_area=float(np.mean([area[1] for area in others])),
        num_random=len(others),
        num_worse=sum(gap > insertion - deletion for deletion, insertion in others),
    )


def patch_means(heat: Tensor) -> Tensor:
    """`(H, W)` to `(h, w)`: the means of about square patches, `PATCHES` of them along the longer side."""
    grid = [max(round(PATCHES * side / max(heat.shape)), 1) for side in heat.shape]
    return nn.functional.adaptive_avg_pool2d(heat[None, None].float(), grid)[0, 0]


def _curves(
    score: Score, pixel_values: Tensor, ground: Tensor, order: Tensor, grid: list[int]
) -> tuple[list[float], list[float]]:
    """The probability along deletion and insertion, `STEPS + 1` points each."""
    gone = torch.zeros(STEPS + 1, len(order))
    for step in range(STEPS + 1):
        gone[step, order[: round(len(order) * step / STEPS)]] = 1
    masks = nn.functional.interpolate(gone.view(-1, 1, *grid), size=pixel_values.shape[-2:]).to(pixel_values)
    deleted = pixel_values * (1 - masks) + ground * masks
    inserted = ground * (1 - masks) + pixel_values * masks
    return score(deleted).tolist(), score(inserted).tolist()


def _area(curve: list[float]) -> float:
    return float(np.trapezoid(curve) / (len(curve) - 1))
