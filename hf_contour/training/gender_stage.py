"""Stage 2: backbones, fusion and head learn labels beside the frozen extractor."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import IterableDataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.data.fingerprints import listing_sha256, rows_sha256
from hf_contour.data.labels import label_names
from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.loops import evaluate_classes
from hf_contour.io import state_dict_sha256
from hf_contour.loss_contour import branched_loss
from hf_contour.modeling_contour_extractor import ContourExtractorModel
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.training.arguments import GenderArguments
from hf_contour.training.building import build_processor, refuse_absent, refuse_unknown_fields
from hf_contour.training.feature_cache import CollateWithFeatures, cached_features, rows_of_sources
from hf_contour.training.rows import Rows, load_train_rows
from hf_contour.training.stage_data import Figures, StageData

_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the initial weights, that are tried


class GenderTask:
    """Stage 2: backbones, fusion and head learn labels beside the frozen extractor.

    Source: CN113298092B, claims 3 to 5, steps S203 to S206.
    """

    def __init__(self, arguments: GenderArguments, accelerator: Accelerator) -> None:
        self.arguments = arguments
        refuse_absent(arguments.extractor, *(arguments.backbone_weights or ()))
        rows = load_train_rows(arguments, accelerator)
        self.label_names = label_names(rows.first)
        is_multi_label = not hasattr(rows.first.features["label"], "names")
        self.model = build_classifier(arguments, self.label_names, is_multi_label=is_multi_label)
        self.config = self.model.config
        self.frozen_parts = freeze_parts(self.model, arguments.train_parts)
        self.initial_weights = (
            {key: value.clone() for key, value in self.model.image_backbones.state_dict().items()}
            if arguments.initial_weights_share
            else {}
        )
        self.processor = build_processor(arguments.image_size, self.config)
        self.data = StageData(arguments, self.processor, rows, accelerator)
        self.class_weights = class_weights(rows.first, len(self.label_names)) if arguments.class_balance else None
        self.folded_extractor: nn.Module | None = None
        if self.model.extractor is not None and self.config.freeze_extractor:
            self.folded_extractor = fold_batch_norms(self.model.extractor).to(accelerator.device)
            if arguments.channels_last:
                self.folded_extractor.to(memory_format=torch.channels_last)
        if arguments.feature_cache and not self._frozen_networks():
            raise ValueError("feature_cache needs a frozen extractor, or --train_parts head; here all parts learn.")

        # Kumar et al., fine-tuning can distort pretrained features (2022): a head that fits spares them.
        self.head_steps = arguments.head_epochs * self.data.steps_per_epoch
        highest = arguments.learning_rate or 1.0
        self.head_scale = 1.0 if arguments.head_learning_rate is None else arguments.head_learning_rate / highest
        self._is_head_alone = False

    def train_loader(self, *, start_step: int, num_steps: int) -> DataLoader:
        """As `StageData.train_loader`; with a feature cache what is not in it is computed first."""
        if self.arguments.feature_cache:
            self.data.collate_train = CollateWithFeatures(self._cached_features())
            branches = (len(self.model.image_backbones) > 0) + (self.model.extractor is not None)
            all_frozen = len(self._frozen_networks()) == branches
            # A row that takes a bad one's place has a label of its own, which only its image's reader knows.
            self.data.needs_images = not all_frozen or self.arguments.on_bad_image == "skip"
        return self.data.train_loader(start_step=start_step, num_steps=num_steps)

    def _frozen_networks(self) -> dict[str, nn.Module]:
        """The networks whose features do not change while the rest learns, by the name of the features."""
        frozen: dict[str, nn.Module] = {}
        if self.model.extractor is not None and self.config.freeze_extractor:
            frozen["contour_features"] = self.model.extractor
        if len(self.model.image_backbones) and self.model.image_backbones in self.frozen_parts:
            frozen["image_features"] = self.model.image_backbones
        return frozen

    def _cached_features(self) -> dict[str, list[NDArray[np.float16]]]:
        """Of each frozen network the features of one source after the other, which other mixtures share."""
        arguments, cached = self.arguments, defaultdict(list)
        compute: dict[str, Callable[[Tensor], list[Tensor]]] = {
            "contour_features": self._frozen_contours,
            "image_features": partial(self._frozen_images, fold_batch_norms(self.model.image_backbones)),
        }
        described = {  # what weights alone do not say
            "contour_features": {
                "extractor": self.config.extractor_config.to_dict(),
                "contours": self.config.contour_features,
                "levels": self.config.contour_level_indices,
                "averaged": repr(self.model.contour_pooling),
            },
            "image_features": {"backbones": self.config.backbones, "scale": self.config.backbone_scale},
        }
        for name, network in self._frozen_networks().items():
            network.eval()
            key = {
                **described[name],
                "weights": state_dict_sha256(network.state_dict()),
                "processor": self.processor.to_dict(),
                "stride": self.model.stride,
            }
            for rows in rows_of_sources(self.data.rows):
                images = rows.select_columns(["image"])
                found = cached_features(
                    Path(str(arguments.feature_cache)),
                    ContourSamples(
                        rows, self.processor, stage="gender", skip_bad_images=arguments.on_bad_image == "skip"
                    ),
                    compute[name],
                    key={**key, "rows": listing_sha256(images), "probes": rows_sha256(images)},
                    loading={"batch_size": arguments.eval_batch_size, "num_workers": arguments.num_workers},
                    accelerator=self.data.accelerator,
                    show_progress=arguments.progress,
                )
                for number, maps in enumerate(found):
                    cached[f"{name}_{number}"].append(maps)
        return dict(cached)

    def begin_step(self, step: int) -> None:
        """Lets the backbone stand still in the first passes, where the settings say so, and learn after them."""
        is_head_alone = step < self.head_steps
        if is_head_alone == self._is_head_alone:
            return
        self._is_head_alone = is_head_alone
        self.model.image_backbones.requires_grad_(not is_head_alone)
        self.set_train_mode()

    def set_train_mode(self) -> None:
        """Puts the model in training mode; parts that are not trained keep their statistics too."""
        self.model.train()
        for part in [*self.frozen_parts, *([self.model.image_backbones] if self._is_head_alone else [])]:
            part.eval()
        if self.arguments.freeze_norm:
            for module in self.model.image_backbones.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def finish(self, evaluate: Callable[[], Figures]) -> dict[str, Any]:
        """Mixes the weights that the backbone began with into it, where the settings say so.

        Source: Wortsman et al., robust fine-tuning of zero-shot models (2022), eq. 1.
        """
        if not self.initial_weights:
            return {}
        trained = {key: value.clone() for key, value in self.model.image_backbones.state_dict().items()}
        figures = {}
        for share in _SHARES if self.arguments.validation_split else ():
            self._mix(trained, share)
            figures[str(share)] = evaluate()
        self._mix(trained, self.arguments.initial_weights_share)
        return {"initial_weights_share": {"published": self.arguments.initial_weights_share, "validation": figures}}

    def _mix(self, trained: Mapping[str, Tensor], share: float) -> None:
        """Puts so much of the initial weights beside the trained ones into the backbone."""
        mixed = {
            key: torch.lerp(value, self.initial_weights[key].to(value.device), share)
            if value.is_floating_point()
            else value
            for key, value in trained.items()
        }
        self.model.image_backbones.load_state_dict(mixed)

    def train_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross entropy against the labels, smoothed and weighed as the arguments say."""
        pixel_values, contours = batch.get("pixel_values"), batch.get("contour_features_0")
        if contours is None and self.folded_extractor is not None:
            (contours,) = self._frozen_contours(batch["pixel_values"])
        maps = [batch[name] for name in sorted(batch) if name.startswith("image_features_")]
        outputs = model(
            pixel_values=pixel_values,
            contour_features=contours,
            image_features=maps or None,
            output_branch_logits=self.config.fusion == "late",
        )
        return branched_loss(
            outputs.logits,
            outputs.branch_logits or (),
            batch["labels"],
            branch_loss_weight=self.config.branch_loss_weight,
            problem_type=self.config.problem_type,
            class_weights=self.class_weights,
            label_smoothing=self.arguments.label_smoothing,
        )

    def _frozen_contours(self, pixel_values: Tensor) -> list[Tensor]:
        """What the frozen extractor gives, its normalisation folded: faster than within the model."""
        with torch.no_grad():
            return [self.model.contour_features(pixel_values, self.folded_extractor)]

    def _frozen_images(self, folded_backbones: nn.ModuleList, pixel_values: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self.model.image_features(pixel_values, folded_backbones)

    def evaluate(
        self, model: nn.Module, accelerator: Accelerator, *, split: str, heed: Callable[[], None]
    ) -> dict[str, Any]:
        """Loss and class scores."""
        loader = self.data.evaluation_loader(split)
        return evaluate_classes(
            model,
            loader,
            accelerator,
            heed=heed,
            class_names=self.label_names,
            problem_type=self.config.problem_type,
            sources=self.data.sources(split),
        )

    def score(self, figures: dict[str, Any]) -> float:
        """The higher the accuracy, the better."""
        return figures["accuracy"]

    def draw(self, model: nn.Module, folder: Path) -> None:
        """Nothing: a label is no image."""

    def describe(self) -> dict[str, Any]:
        """Facts about the data for the results file."""
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return {"label_names": self.label_names, "class_weights": weights}


def build_classifier(
    arguments: GenderArguments, names: list[str], *, is_multi_label: bool
) -> ContourGenderForImageClassification:
    """The classifier beside the extractor of `arguments.extractor`, or of this run's contour stage.

    Raises:
        ValueError: If there is no extractor.
    """
    folder = Path(arguments.extractor or arguments.folder.parent / "contour" / "model")
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{folder} holds no contour extractor; train one with --stage contour, or give --extractor FOLDER."
        )
    extractor = ContourExtractorModel.from_pretrained(folder)
    if arguments.extractor_weights != "trained":
        extractor = ContourExtractorModel(extractor.config)
        if arguments.extractor_weights != "random":
            extractor.load_backbone_weights(arguments.extractor_weights)
    problem_type = "multi_label_classification" if is_multi_label else "single_label_classification"
    refuse_unknown_fields(arguments.mapping("model"), ContourGenderConfig)
    fields = {"id2label": dict(enumerate(names)), "problem_type": problem_type, **arguments.mapping("model")}
    backbone = fields.pop("backbone", ContourGenderConfig.backbone)
    if arguments.backbone:
        backbone = arguments.backbone[0] if len(arguments.backbone) == 1 else arguments.backbone
    return ContourGenderForImageClassification.from_extractor_and_backbone(
        extractor, backbone, backbone_weights=arguments.backbone_weights, **fields
    )


def freeze_parts(model: ContourGenderForImageClassification, train_parts: str) -> list[nn.Module]:
    """Takes the gradient from what `train_parts` leaves out, and returns those parts.

    The fusion belongs to neither network and always learns. Source: CN113298092B, claim 4.
    """
    frozen: dict[str, list[nn.Module]] = {"both": [], "head": [model.image_backbones], "backbone": [model.classifier]}
    for part in frozen[train_parts]:
        part.requires_grad_(False)
    return frozen[train_parts]


def class_weights(rows: Rows, num_labels: int) -> Tensor:
    """`(num_labels,)` weights by which every class counts alike in the training split; their mean over rows is 1.

    For several labels a row: negatives to a positive, of each label.

    Raises:
        ValueError: For a stream, whose counts are not known, and for a label without rows.
    """
    if isinstance(rows, IterableDataset):
        raise ValueError("class_balance counts the labels of the training split; it cannot be used with streaming.")
    labels = rows["label"]
    is_multi_label = not hasattr(rows.features["label"], "names")
    counted = Counter(one for row in labels for one in (row if is_multi_label else [row]))
    counts = torch.tensor([counted[number] for number in range(num_labels)], dtype=torch.float32)
    if not counts.all():
        raise ValueError(
            f"The training split has no row of label number {int(counts.argmin())}; class_balance needs one."
        )
    return (len(labels) - counts) / counts if is_multi_label else len(labels) / (num_labels * counts)
