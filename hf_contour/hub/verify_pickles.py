"""Pickles in a model folder, told by their names or first bytes; none is loaded, since that can run a program."""

import pickletools
import zipfile
from collections.abc import Sequence
from pathlib import Path

from hf_contour.hub.publish import PICKLES
from hf_contour.hub.verify_model import FAILED, OK, WARNING, Finding

TRAINERS_SETTINGS = "training_args.bin"
MAX_SETTINGS_BYTES = 2**20
# What the settings of `transformers.Trainer` name; plain values are no names.
SETTINGS_CLASSES = frozenset(
    [
        "transformers.training_args TrainingArguments",
        "transformers.training_args OptimizerNames",
        "transformers.trainer_pt_utils AcceleratorConfig",
        "transformers.trainer_utils FSDPOption",
        "transformers.trainer_utils HubStrategy",
        "transformers.trainer_utils IntervalStrategy",
        "transformers.trainer_utils SaveStrategy",
        "transformers.trainer_utils SchedulerType",
        "accelerate.state PartialState",
        "accelerate.utils.dataclasses DistributedType",
        "torch device",
    ]
)


def check_pickles(folder: Path, files: Sequence[Path]) -> list[Finding]:
    """Finds pickles; only the settings that `transformers.Trainer.save_model` leaves are no harm."""
    findings = []
    for path in files:
        name = path.relative_to(folder)
        if str(name) == TRAINERS_SETTINGS and holds_trainers_settings(path):
            message = (
                f"{name} holds the settings of a transformers.Trainer, as a pickle that names nothing else; no model "
                "needs it: delete it before you give the folder away."
            )
            findings.append(Finding("pickles", WARNING, message))
        elif path.suffix.lower() in PICKLES or is_pickle(path):
            findings.append(Finding("pickles", FAILED, f"{name} is a pickle; delete it.", harmful=True))
    return findings or [Finding("pickles", OK, "none")]


def holds_trainers_settings(path: Path) -> bool:
    """Whether a file of `torch.save` names the classes of such settings and no others, by its opcodes."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [entry for entry in archive.infolist() if Path(entry.filename).suffix in PICKLES]
            if len(pickles) != 1 or pickles[0].file_size > MAX_SETTINGS_BYTES:
                return False
            opcodes = [(code.name, value) for code, value, _ in pickletools.genops(archive.read(pickles[0]))]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    named = {value for name, value in opcodes if name == "GLOBAL"}
    others = {name for name, _ in opcodes} & {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
    return not others and "transformers.training_args TrainingArguments" in named and named <= SETTINGS_CLASSES


def is_pickle(path: Path) -> bool:
    """Whether a file begins as pickles do, or is an archive with one inside, as PyTorch writes."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(Path(name).suffix in PICKLES for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False
    # A safetensors file may begin with the same two bytes, but then has zeros after them.
    return len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5 and start[2] != 0
