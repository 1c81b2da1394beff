"""The order of the samples: a function of the seed alone, whatever the workers, processes and interruptions."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Sampler

from hf_contour.data.samples import ContourSamples, ContourStream

Place = tuple[int, int]  # (epoch, index of the sample)

_ORDER_STREAM = 0x0D3  # keeps the order's random numbers apart from those of augmentation


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
        accumulation_steps: micro-batches of a process in a step.
        num_processes: processes that train together.
        process_index: the number of this one.

    Raises:
        ValueError: If the training set is smaller than one step.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        num_steps: int,
        *,
        seed: int,
        accumulation_steps: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        self.step_size = batch_size * accumulation_steps * num_processes
        if num_samples < self.step_size:
            raise ValueError(
                f"The training set has {num_samples} samples, and one step takes {self.step_size} (batch_size "
                f"{batch_size} x gradient_accumulation_steps {accumulation_steps} x {num_processes} processes); "
                "lower batch_size."
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.accumulation_steps = accumulation_steps
        self.num_processes = num_processes
        self.process_index = process_index
        self.start_step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in an epoch."""
        return self.num_samples // self.step_size

    def permutation(self, epoch: int) -> np.ndarray:
        """`(num_samples,)` indices in the order of this epoch."""
        return np.random.default_rng([_ORDER_STREAM, self.seed, epoch]).permutation(self.num_samples)

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


class StreamOrder(IterableDataset[dict[str, Any]]):
    """Samples of a stream in its own order, pass after pass, for one process and from any step on.

    What came before `start_step` is read and left out. As in `SampleOrder`, micro-batch `m` of process `r` is batch
    number `m * num_processes + r` of a step.

    Args:
        stream: the training set.
        batch_size: samples in a micro-batch.
        num_processes: processes that train together.
        process_index: the number of this one.
        start_batch: micro-batches, over all processes, that have been trained on.
    """

    def __init__(
        self, stream: ContourStream, batch_size: int, *, num_processes: int, process_index: int, start_batch: int
    ) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.num_processes, self.process_index = num_processes, process_index
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        position = 0
        for epoch in itertools.count():
            self.stream.set_epoch(epoch)
            started = position
            for sample in self.stream:
                batch_number = position // self.batch_size
                position += 1
                if batch_number >= self.start_batch and batch_number % self.num_processes == self.process_index:
                    yield sample
            if position == started:
                raise ValueError("The training stream has no samples.")
