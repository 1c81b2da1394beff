"""What the loop asks of a stage of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.training.finite import Batch
from hf_contour.training.stage_data import StageData

Figures = dict[str, Any]


class Task(Protocol):
    """A model with its data, loss and evaluation."""

    model: Any
    processor: ContourImageProcessor
    data: StageData
    head_steps: int
    head_scale: float

    def train_loader(self, *, start_step: int, num_steps: int) -> DataLoader:
        """Micro-batches of this process from a step on, `gradient_accumulation_steps` for each step."""

    def begin_step(self, step: int) -> None:
        """To be called before each step, with the number of those that were made."""

    def finish(self, evaluate: Callable[[], Figures]) -> dict[str, Any]:
        """What becomes of the weights to be published, and facts about it for the results file."""

    def set_train_mode(self) -> None:
        """Puts the model in training mode, except for its frozen parts."""

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar mean loss of a micro-batch."""

    def evaluate(self, model: nn.Module, accelerator: Accelerator, *, split: str, heed: Callable[[], None]) -> Figures:
        """Figures on a split, `loss` and `num_samples` among them; calls `heed` after each batch."""

    def score(self, figures: Figures) -> float:
        """The figure by which the best weights are chosen; higher is better."""

    def describe(self) -> dict[str, Any]:
        """Facts about the data for the results file."""

    def draw(self, model: nn.Module, folder: Path) -> None:
        """Draws into the folder what people look at, if there is anything."""
