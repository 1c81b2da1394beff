"""The accelerator of a stage: devices, precision, accumulation, trackers, threads and seeds."""

import os

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, set_seed

from hf_contour.io import num_usable_cores
from hf_contour.training.arguments import GenderArguments, TrainingArguments

# What a launcher can ask for that shards weights over processes: checkpoints and averages here need them whole.
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}


def build_accelerator(arguments: TrainingArguments) -> Accelerator:
    """The accelerator of one stage.

    Raises:
        ValueError: If the tracker is not installed, or the launcher asks for what this training cannot do.
    """
    refuse_sharding()
    refuse_absent_tracker(arguments.tracker)
    AcceleratorState._reset_state()  # the stages of a run may differ in precision
    # Of an extractor that learns too, levels that the classifier does not use get no gradient; neither does a
    # backbone that stands still at first.
    learns_all = arguments.mapping("model").get("freeze_extractor", True) is False
    stands_still = isinstance(arguments, GenderArguments) and arguments.head_epochs > 0
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=learns_all or stands_still)],
        cpu=arguments.cpu,
        mixed_precision=arguments.mixed_precision,
        # A plugin, since the bare number would lose to the launcher's.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=arguments.gradient_accumulation_steps or 1),
        log_with=None if arguments.tracker == "none" else arguments.tracker,
        project_dir=arguments.folder,
    )
    if accelerator.device.type == "cpu":
        torch.set_num_threads(arguments.torch_threads or threads_of_process())
    set_seed(arguments.seed)
    return accelerator


def refuse_sharding() -> None:
    """Raises `ValueError` where the launcher is to shard the weights."""
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes"):
            raise ValueError(
                f"The launcher asks for {name}, which shards weights; these models are small and are trained whole in "
                "each process. Launch with --multi_gpu, or plain data parallelism in `accelerate config`."
            )


def refuse_absent_tracker(name: str) -> None:
    """Raises `ValueError` for a tracker that Accelerate does not know or that is not installed."""
    known = sorted(LOGGER_TYPE_TO_CLASS)
    if name != "none" and name not in known:
        raise ValueError(f"tracker is {name!r}; expected none or one of {', '.join(known)}.")
    if name != "none" and name not in {str(one) for one in get_available_trackers()}:
        raise ValueError(f"--tracker {name} needs its package: pip install {name}.")


def threads_of_process() -> int:
    """All cores that this machine gives us, shared among its processes; `accelerate launch` leaves torch one."""
    return max(1, num_usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
