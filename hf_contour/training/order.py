"""The order of the samples: a function of the seed alone, whatever the workers, processes and interruptions."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from hf_contour.data.samples import ContourSamples

logger = logging.getLogger(__name__)

Place = tuple[int, int]  # (epoch, index of the sample)

_ORDER_STREAM = 0x0D3  # keeps the order's random numbers apart from those of augmentation


def fitting_batch_size(wanted: int, num_samples: int, num_micro_batches: int) -> int:
    """The batch size, or as much of it as lets a step fit into the training set; then it is said in the log.

    Args:
        wanted: samples in a micro-batch.
        num_samples: samples in the training set.
        num_micro_batches: in a step, over all processes.

    Raises:
        ValueError: If there are fewer samples than micro-batches.
    """
    if num_samples < num_micro_batches:
        raise ValueError(
            f"The training set has {num_samples} samples, and one step takes {num_micro_batches} micro-batches "
            "(gradient_accumulation_steps x processes); lower gradient_accumulation_steps."
        )
    fitting = min(wanted, num_samples // num_micro_batches)
    if fitting < wanted:
        logger.warning(
            "The training set has %d samples: batch_size is %d instead of %d.", num_samples, fitting, wanted
        )
    return fitting


class SampleOrder(Sampler[list[Place]]):
    """Batches of (epoch, index) for one process, from any step to the end of the training.

    Each epoch is a permutation drawn from (seed, epoch), cut into steps of
    `batch_size * accumulation_steps * num_processes` samples; what is left over is dropped (each epoch leaves out
    others). Within a step, micro-batch `m` of process `r` is batch number `m * num_processes + r`, so that two
    processes see the very micro-batches that one process sees with twice the accumulation.

    Args:
        num_samples: samples in the training set.
        batch_size: samples in a micro-batch.
        num_steps: steps in the whole training.
        seed: seed of the permutations, at least 0.
        weights: `(num_samples,)`, how often each sample is drawn relative to the others; by default each once.
        accumulation_steps: micro-batches of a process in a step.
        num_processes: processes that train together.
        process_index: the number of this one.
        start_step: steps that were made before.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        num_steps: int,
        *,
        seed: int,
        weights: np.ndarray | None = None,
        accumulation_steps: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
        start_step: int = 0,
    ) -> None:
        self.step_size = batch_size * accumulation_steps * num_processes
        self.num_samples, self.batch_size, self.weights, self.seed = num_samples, batch_size, weights, seed
        self.num_steps, self.start_step, self.accumulation_steps = num_steps, start_step, accumulation_steps
        self.num_processes, self.process_index = num_processes, process_index

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in an epoch."""
        return self.num_samples // self.step_size

    def permutation(self, epoch: int) -> np.ndarray:
        """`(num_samples,)` indices in the order of this epoch.

        With weights each sample comes as often as they say, rounded up or down at random, and no sample comes twice
        where it is to come at most once.
        """
        draws = np.random.default_rng([_ORDER_STREAM, self.seed, epoch])
        order = draws.permutation(self.num_samples)
        if self.weights is None:
            return order
        ends = np.cumsum(self.weights[order])
        marks = (np.arange(self.num_samples) + draws.random()) * (ends[-1] / self.num_samples)
        return draws.permutation(order[np.minimum(np.searchsorted(ends, marks, side="right"), self.num_samples - 1)])

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, indices = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start_step, self.num_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                indices = self.permutation(epoch)
            first = step % self.steps_per_epoch * self.step_size
            for micro_step in range(self.accumulation_steps):
                batch_number = micro_step * self.num_processes + self.process_index
                start = first + batch_number * self.batch_size
                yield [(epoch, int(index)) for index in indices[start : start + self.batch_size]]

    def __len__(self) -> int:
        return (self.num_steps - self.start_step) * self.accumulation_steps


class PlacedSamples(Dataset[dict[str, Any]]):
    """Samples asked for by (epoch, index), so that workers that run ahead into the next epoch draw for the right one.

    Args:
        samples: the training set; its own `epoch` is not heeded.
    """

    def __init__(self, samples: ContourSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Place) -> dict[str, Any]:
        epoch, index = place
        return self.samples.builder.build(self.samples.decoded(index), index, epoch=epoch)
