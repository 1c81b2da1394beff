"""Stage 1: the extractor learns to draw contours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.evaluation.loops import evaluate_contours
from hf_contour.io import state_dict_sha256
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining
from hf_contour.training.arguments import ContourArguments
from hf_contour.training.building import build_processor, refuse_absent, refuse_unknown_fields
from hf_contour.training.drawings import draw_contours
from hf_contour.training.rows import load_train_rows
from hf_contour.training.stage_data import Figures, StageData


class ContourTask:
    """Stage 1: the extractor learns to draw contours through its single-channel layer.

    Source: CN113298092B, claims 1 and 2, steps S101 and S102.
    """

    head_steps, head_scale = 0, 1.0

    def __init__(self, arguments: ContourArguments, accelerator: Accelerator) -> None:
        self.arguments = arguments
        refuse_absent(arguments.teacher, arguments.init_from, *(arguments.backbone_weights or ()))
        rows = load_train_rows(arguments, accelerator)
        self.model = build_extractor(arguments)
        self.start_sha256 = state_dict_sha256(self.model.state_dict()) if arguments.init_from else None
        self.config = self.model.config
        self.teacher = load_teacher(arguments.teacher, self.config) if arguments.teacher else None
        if self.teacher is not None:
            self.teacher.to(accelerator.device)
        self.processor = build_processor(arguments.image_size, self.config)
        self.data = StageData(arguments, self.processor, rows, accelerator)
        self.train_loader = self.data.train_loader

    def begin_step(self, step: int) -> None:
        """Nothing: all steps are alike."""

    def finish(self, evaluate: Callable[[], Figures]) -> dict[str, Any]:
        """Nothing: the weights are published as they are."""
        return {}

    def set_train_mode(self) -> None:
        """Puts the whole model in training mode."""
        self.model.train()

    def train_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross entropy against the drawn contours, of the kind that the config names, and against a teacher's maps.

        Source of the second: Hinton et al., distillation (2015), eq. 1 at temperature 1, for two classes a pixel.
        """
        pixel_values, labels = jitter_size(batch["pixel_values"], batch["labels"], self.arguments.crop_jitter)
        output = model(pixel_values=pixel_values, labels=labels)
        if self.teacher is None:
            return output.loss
        with torch.no_grad():
            edge_probs = self.teacher(pixel_values=pixel_values).logits.sigmoid()
        distillation = nn.functional.binary_cross_entropy_with_logits(output.logits, edge_probs)
        return output.loss + self.arguments.distillation_weight * distillation

    def evaluate(
        self, model: nn.Module, accelerator: Accelerator, *, split: str, heed: Callable[[], None]
    ) -> dict[str, Any]:
        """Loss and pixel scores at full image size."""
        loader = self.data.evaluation_loader(split)
        return evaluate_contours(
            model,
            loader,
            accelerator,
            heed=heed,
            consensus_threshold=self.config.consensus_threshold,
            sources=self.data.sources(split),
        )

    def score(self, figures: dict[str, Any]) -> float:
        """The lower the loss, the better."""
        return -figures["loss"]

    def draw(self, model: nn.Module, folder: Path) -> None:
        """Draws contours beside their drawings, of the first images of a split that was not trained on, if any."""
        split = self.arguments.validation_split or self.arguments.test_split or self.arguments.train_split
        samples = self.data.evaluated(split)
        chosen = [samples[index] for index in range(min(self.arguments.num_images, len(samples)))]
        if chosen:
            path = folder / "images" / "contours.png"
            mean, std = self.config.image_mean, self.config.image_std
            draw_contours(model, chosen, path, image_mean=mean, image_std=std)

    def describe(self) -> dict[str, Any]:
        """Facts about the data for the results file."""
        return {}


def jitter_size(pixel_values: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Both without up to `most` rows at the bottom and columns at the right, drawn anew for each batch.

    The extractor pads images to a multiple of its stride. Crops that all have one size show it one padding only,
    and it then takes the border of other images for contours.

    Args:
        pixel_values: `(B, C, H, W)`.
        labels: `(B, ..., H, W)`.
        most: 0 leaves both as they are. At least one row and column stay.
    """
    if not most:
        return pixel_values, labels
    height, width = pixel_values.shape[-2:]
    rows, columns = torch.randint(0, most + 1, (2,)).tolist()
    bottom, right = max(1, height - rows), max(1, width - columns)
    return pixel_values[..., :bottom, :right], labels[..., :bottom, :right]


def build_extractor(arguments: ContourArguments) -> ContourExtractorForPreTraining:
    """The extractor with its single-channel layer, from the `model` fields or from a trained one.

    Raises:
        ValueError: For a field that there is not, and if the weights to start from do not fit.
    """
    fields = arguments.mapping("model")
    refuse_unknown_fields(fields, ContourExtractorConfig)
    if arguments.init_from:
        if arguments.backbone_weights:
            raise ValueError("init_from names all weights; leave backbone_weights out.")
        return ContourExtractorForPreTraining.from_pretrained(arguments.init_from, **fields)
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**fields))
    if arguments.backbone_weights:
        if len(arguments.backbone_weights) != 1:
            raise ValueError(f"backbone_weights names {len(arguments.backbone_weights)} files; expected one.")
        model.contour_extractor.load_backbone_weights(arguments.backbone_weights[0])
    return model


def load_teacher(folder: str, config: ContourExtractorConfig) -> ContourExtractorForPreTraining:
    """A trained extractor to learn from, for inference only.

    Raises:
        ValueError: If it sees images normalised in another way than the model of `config`.
    """
    teacher = ContourExtractorForPreTraining.from_pretrained(folder)
    for field in ("num_channels", "image_mean", "image_std"):
        if getattr(teacher.config, field) != getattr(config, field):
            raise ValueError(
                f"The teacher {folder} has {field} {getattr(teacher.config, field)}, the model "
                f"{getattr(config, field)}; give the model the teacher's, since both see the same tensors."
            )
    return fold_batch_norms(teacher).requires_grad_(False)
