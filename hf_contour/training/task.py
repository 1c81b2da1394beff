"""What the loop trains: one of the two stages."""

from typing import TypeAlias

from accelerate import Accelerator

from hf_contour.training.arguments import ContourArguments, GenderArguments
from hf_contour.training.contour_stage import ContourTask
from hf_contour.training.gender_stage import GenderTask

Task: TypeAlias = ContourTask | GenderTask


def build_task(arguments: ContourArguments | GenderArguments, accelerator: Accelerator) -> Task:
    """The stage that the settings are of."""
    if isinstance(arguments, ContourArguments):
        return ContourTask(arguments, accelerator)
    return GenderTask(arguments, accelerator)
