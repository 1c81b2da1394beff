"""What a model costs: parameters, multiply-adds, and time beside another model's in one process."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module, *, only_trained: bool = False) -> int:
    """All parameters, or only those that take a gradient, without the statistics of normalisation layers."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad or not only_trained)


def multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of one forward pass of convolutions and matrix products, as PyTorch's own counter sees them.

    Args:
        model: in any mode; it is not changed.
        inputs: what it is called with.
    """
    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(*inputs)
    model.train(was_training)
    return counter.get_total_flops() // 2  # a multiply-add is two operations


def time_side_by_side(
    calls: Mapping[str, Callable[[], Any]], *, num_rounds: int = 12, num_warmup: int = 3
) -> dict[str, list[float]]:
    """Seconds of each call, round by round; each round makes every call once, so that noise hits all alike.

    Args:
        calls: by name; each is made in turn.
        num_rounds: rounds that are timed.
        num_warmup: rounds before them that are not.

    Returns:
        Name -> `num_rounds` durations in seconds.
    """
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(num_warmup + num_rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= num_warmup:
                durations[name].append(time.perf_counter() - started)
    return durations


def median_ratio(durations: Mapping[str, list[float]], name: str, baseline: str) -> float:
    """Median over the rounds of the duration of `name` relative to that of `baseline` in the same round."""
    return median(own / other for own, other in zip(durations[name], durations[baseline], strict=True))
