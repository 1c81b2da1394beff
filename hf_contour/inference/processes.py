"""The place of a process among those that predict together; they meet only in the output folder."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hf_contour.inference.arguments import PredictionArguments
from hf_contour.io import num_usable_cores

# torchrun and accelerate launch set the first of each, SLURM's srun the second.
RANK = ("RANK", "SLURM_PROCID")
WORLD_SIZE = ("WORLD_SIZE", "SLURM_NTASKS")
LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID")
LOCAL_WORLD_SIZE = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is.

    Attributes:
        rank: from 0.
        world_size: processes on all machines.
        local_rank: from 0 on this machine.
        local_world_size: processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def here(cls) -> "Place":
        """The place that the launcher gave; alone without one."""
        return cls(
            _number(RANK, 0), _number(WORLD_SIZE, 1), _number(LOCAL_RANK, 0), max(_number(LOCAL_WORLD_SIZE, 1), 1)
        )

    @property
    def num_processors(self) -> int:
        """This process's share of the processors that it may use, at least 1."""
        return max(num_usable_cores() // self.local_world_size, 1)

    def order(self, num_parts: int) -> Iterable[int]:
        """Numbers of all parts, first this process's own (every `world_size`-th), then the next one's, and so on."""
        for shift in range(self.world_size):
            yield from range((self.rank + shift) % self.world_size, num_parts, self.world_size)


def device_of(arguments: PredictionArguments, place: Place) -> torch.device:
    """The accelerator of this process, or the CPU."""
    if arguments.cpu or not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    return torch.device(kind.type if kind else "cpu", place.local_rank % torch.accelerator.device_count())


def wait_for_all(place: Place) -> None:
    """Returns when every process has come so far."""
    if place.world_size == 1:
        return
    torch.distributed.init_process_group("gloo", rank=place.rank, world_size=place.world_size)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)
