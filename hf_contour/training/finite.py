"""Numbers that are not finite: whether there are any, where, and which samples they come from."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = dict[str, Tensor]

# Steps left out in a row after which the fault cannot lie with a few samples.
MAX_SKIPPED_IN_A_ROW = 10
# A scaler halves its scale each time: from its highest, 2**24, to below 1.
MAX_OVERFLOWS_IN_A_ROW = 25
WHOLE_STEP = "of the whole step"


class NonFiniteLossError(RuntimeError):
    """An image, the loss, the gradient or a weight became NaN or infinite; nothing was saved with it."""


@dataclass(frozen=True)
class Step:
    """What is known of a step when it is judged.

    Attributes:
        number: counted from 1.
        batches: its micro-batches in this process.
        loss: mean over all processes.
        grad_norm: norm of the whole gradient.
    """

    number: int
    batches: Sequence[Batch]
    loss: float
    grad_norm: float


def are_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all numbers of all tensors are finite: a boolean scalar on the device of the largest of them.

    Whole numbers always are.
    """
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floats:
        return torch.tensor(True)
    device = max(floats, key=torch.Tensor.numel).device  # optimisers count their steps on the CPU
    magnitudes = torch._foreach_norm(floats, ord=math.inf)  # NaN where there is one
    return torch.isfinite(torch.stack([one.to(device) for one in magnitudes])).all()


def input_is_finite(batch: Batch) -> Tensor:
    """Whether all images, features and labels of a batch are finite: a boolean scalar."""
    return are_finite(batch.values())


def model_is_finite(model: nn.Module) -> bool:
    """Whether all weights and buffers that are saved are finite."""
    return bool(are_finite(model.state_dict().values()))


def optimizer_is_finite(optimizer: Optimizer) -> bool:
    """Whether all tensors that an optimiser keeps are finite."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return bool(are_finite(value for value in kept if isinstance(value, Tensor)))


def non_finite_names(model: nn.Module) -> str:
    """The first three weights and buffers of a model that are not finite, as words; empty if all are."""
    if model_is_finite(model):
        return ""
    names = [name for name, tensor in model.state_dict().items() if not are_finite([tensor])]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def find_suspects(batches: Sequence[Batch], loss_of: Callable[[Batch], Tensor]) -> tuple[list[int], str]:
    """The samples that a step which is not finite comes from.

    Args:
        batches: the micro-batches of the step, with "index".
        loss_of: the loss of a batch; must have no effect on the model.

    Returns:
        Indices of the samples, and what was found of them: those whose own image or labels are not finite; else
        those whose loss is not finite when they are alone; else all.
    """
    samples = [
        {key: value[place : place + 1] for key, value in batch.items()}
        for batch in batches
        for place in range(len(batch["index"]))
    ]
    bad_input = [int(sample["index"]) for sample in samples if not input_is_finite(sample)]
    if bad_input:
        return bad_input, "whose image or labels are not finite"
    bad_loss = [int(sample["index"]) for sample in samples if not torch.isfinite(loss_of(sample))]
    if 0 < len(bad_loss) < len(samples):
        return bad_loss, "whose loss is not finite even alone"
    return [int(sample["index"]) for sample in samples], WHOLE_STEP
