"""What differs between the two stages: data, model, loss, evaluation and images."""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.data.augmentation.colour import ColourTransform
from hf_contour.data.augmentation.recipe import Augmentation, AugmentationRecipe
from hf_contour.data.fingerprints import listing_sha256, rows_sha256
from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.data.labels import label_names
from hf_contour.data.samples import ContourSamples, ContourStream, collate_contour, collate_gender
from hf_contour.data.sources import ColumnNames, load_source
from hf_contour.evaluation.loops import evaluate_classes, evaluate_contours
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import state_dict_sha256
from hf_contour.loss_contour import classification_loss
from hf_contour.modeling_contour_extractor import (
    ContourExtractorForPreTraining,
    ContourExtractorModel,
    fold_batch_norms,
)
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.training.arguments import EMBEDDED, ContourTrainingArguments
from hf_contour.training.drawings import draw_contours
from hf_contour.training.feature_cache import CollateWithFeatures, LabelledPlaces, cached_features
from hf_contour.training.interrupts import ignore_stop_requests
from hf_contour.training.order import PlacedSamples, SampleOrder, StreamOrder

Rows: TypeAlias = Dataset | IterableDataset
Collate: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]


class StageData:
    """The splits of one stage: rows, samples and loaders.

    Args:
        arguments: settings.
        processor: makes `pixel_values`.
        rows: rows of the training split.
    """

    def __init__(self, arguments: ContourTrainingArguments, processor: ContourImageProcessor, rows: Rows) -> None:
        self.arguments, self.processor, self.rows = arguments, processor, rows
        self.collate: Collate = collate_contour if arguments.stage == "contour" else collate_gender
        self.collate_train = self.collate
        self.needs_images = True
        recipe, colour = arguments.mapping("augmentation"), arguments.mapping("colour")
        options: dict[str, Any] = {
            "stage": arguments.stage,
            "augmentation": Augmentation(AugmentationRecipe.from_dict(recipe)) if recipe else None,
            "colour": ColourTransform.from_dict(colour) if colour else None,
            "seed": arguments.seed,
            "skip_bad_images": arguments.on_bad_image == "skip",
        }
        self.train: ContourSamples | ContourStream
        if isinstance(rows, IterableDataset):
            self.train = ContourStream(rows, processor, **options)
        else:
            self.train = ContourSamples(rows, processor, cache=arguments.cache, **options)
        self._evaluated: dict[str, ContourSamples] = {}

    def evaluated(self, split: str) -> ContourSamples:
        """The samples of a split as they are, without augmentation."""
        if split not in self._evaluated:
            names = label_names(self.rows) if "label" in (self.rows.features or {}) else None
            rows = load_rows(self.arguments, split, label_names=names)
            self._evaluated[split] = ContourSamples(rows, self.processor, stage=self.arguments.stage)
        return self._evaluated[split]

    def steps_per_epoch(self, num_processes: int) -> int:
        """Steps in a pass over the training split; all of them for a stream, whose length is not known."""
        if isinstance(self.train, ContourStream):
            return self.arguments.max_steps
        return self._order(num_processes, 0, num_steps=0).steps_per_epoch

    def train_loader(self, accelerator: Accelerator, *, start_step: int, num_steps: int) -> DataLoader:
        """Micro-batches of this process from a step on."""
        arguments = self.arguments
        options: dict[str, Any] = {
            "collate_fn": self.collate_train,
            "num_workers": arguments.num_workers,
            "worker_init_fn": ignore_stop_requests,
            "pin_memory": accelerator.device.type == "cuda",
            "generator": torch.Generator(),  # else the loader would draw from the generator of dropout
        }
        if isinstance(self.train, ContourStream):
            per_step = arguments.gradient_accumulation_steps * accelerator.num_processes
            stream = StreamOrder(
                self.train,
                arguments.batch_size,
                num_processes=accelerator.num_processes,
                process_index=accelerator.process_index,
                start_batch=start_step * per_step,
            )
            # One worker at most: several would deal the samples out in another order.
            options["num_workers"] = min(1, arguments.num_workers)
            return DataLoader(stream, batch_size=arguments.batch_size, **options)
        order = self._order(accelerator.num_processes, accelerator.process_index, num_steps=num_steps)
        order.start_step = start_step
        placed = PlacedSamples(self.train) if self.needs_images else LabelledPlaces(self.train)
        return DataLoader(placed, batch_sampler=order, **options)

    def evaluation_loader(self, accelerator: Accelerator, split: str) -> DataLoader:
        """Batches of a split, dealt out to the processes."""
        loader = DataLoader(
            self.evaluated(split),
            # Whole images differ in size.
            batch_size=1 if self.arguments.stage == "contour" else self.arguments.eval_batch_size,
            collate_fn=self.collate,
            num_workers=self.arguments.num_workers,
            worker_init_fn=ignore_stop_requests,
            generator=torch.Generator(),
        )
        return accelerator.prepare_data_loader(loader)

    def sample_name(self, index: int) -> str:
        """Row number, and file name where the source knows it."""
        if isinstance(self.rows, IterableDataset):
            return f"position {index} of the stream"
        image = self.rows[index]["image"]
        path = image.get("path") if isinstance(image, dict) else None
        return f"row {index}" + (f", {path}" if path else "")

    def _order(self, num_processes: int, process_index: int, *, num_steps: int) -> SampleOrder:
        assert isinstance(self.train, ContourSamples)
        return SampleOrder(
            len(self.train),
            self.arguments.batch_size,
            num_steps,
            seed=self.arguments.seed,
            accumulation_steps=self.arguments.gradient_accumulation_steps,
            num_processes=num_processes,
            process_index=process_index,
        )


class ContourTask:
    """Stage 1: the extractor learns to draw contours through its single-channel layer.

    Source: CN113298092B, claims 1 and 2, steps S101 and S102.
    """

    def __init__(self, arguments: ContourTrainingArguments, accelerator: Accelerator) -> None:
        self.arguments = arguments
        refuse_absent(arguments.teacher, arguments.init_from, *(arguments.backbone_weights or ()))
        rows = load_train_rows(arguments, accelerator)
        self.model = build_extractor(arguments)
        self.start_sha256 = state_dict_sha256(self.model.state_dict()) if arguments.init_from else None
        self.config = self.model.config
        self.teacher = load_teacher(arguments.teacher, self.config) if arguments.teacher else None
        if self.teacher is not None:
            self.teacher.to(accelerator.device)
        self.processor = build_processor(arguments, self.config)
        self.data = StageData(arguments, self.processor, rows)
        self.steps_per_epoch = self.data.steps_per_epoch(accelerator.num_processes)
        self.train_loader = self.data.train_loader
        self.sample_name = self.data.sample_name

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
        loader = self.data.evaluation_loader(accelerator, split)
        return evaluate_contours(
            model, loader, accelerator, heed=heed, consensus_threshold=self.config.consensus_threshold
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


class GenderTask:
    """Stage 2: backbones, fusion and head learn labels beside the frozen extractor.

    Source: CN113298092B, claims 3 to 5, steps S203 to S206.
    """

    def __init__(self, arguments: ContourTrainingArguments, accelerator: Accelerator) -> None:
        self.arguments = arguments
        refuse_absent(arguments.extractor, *(arguments.backbone_weights or ()))
        rows = load_train_rows(arguments, accelerator)
        self.label_names = label_names(rows)
        is_multi_label = not hasattr(rows.features["label"], "names")
        self.model = build_classifier(arguments, self.label_names, is_multi_label=is_multi_label)
        self.config = self.model.config
        self.frozen_parts = freeze_parts(self.model, arguments.train_parts)
        self.processor = build_processor(arguments, self.config)
        self.data = StageData(arguments, self.processor, rows)
        self.class_weights = class_weights(rows, len(self.label_names)) if arguments.class_balance else None
        self.folded_extractor: nn.Module | None = None
        if self.model.extractor is not None and self.config.freeze_extractor:
            self.folded_extractor = fold_batch_norms(self.model.extractor).to(accelerator.device)
            if arguments.channels_last:
                self.folded_extractor.to(memory_format=torch.channels_last)
        if arguments.feature_cache and not self._frozen_networks():
            raise ValueError("feature_cache needs a frozen extractor, or --train_parts head; here all parts learn.")
        self.steps_per_epoch = self.data.steps_per_epoch(accelerator.num_processes)
        self.sample_name = self.data.sample_name

    def train_loader(self, accelerator: Accelerator, *, start_step: int, num_steps: int) -> DataLoader:
        """As `StageData.train_loader`; with a feature cache what is not in it is computed first."""
        if self.arguments.feature_cache:
            with accelerator.main_process_first():
                self.data.collate_train = CollateWithFeatures(self._cached_features(accelerator))
            all_frozen = len(self._frozen_networks()) == 1 + (self.model.extractor is not None)
            # A row that takes a bad one's place has a label of its own, which only its image's reader knows.
            self.data.needs_images = not all_frozen or self.arguments.on_bad_image == "skip"
        return self.data.train_loader(accelerator, start_step=start_step, num_steps=num_steps)

    def _frozen_networks(self) -> dict[str, nn.Module]:
        """The networks whose features do not change while the rest learns, by the name of the features."""
        frozen: dict[str, nn.Module] = {}
        if self.model.extractor is not None and self.config.freeze_extractor:
            frozen["contour_features"] = self.model.extractor
        if self.model.image_backbones in self.frozen_parts:
            frozen["image_features"] = self.model.image_backbones
        return frozen

    def _cached_features(self, accelerator: Accelerator) -> dict[str, NDArray[np.float16]]:
        assert isinstance(self.data.train, ContourSamples)
        arguments = self.arguments
        compute = {"contour_features": self._frozen_contours, "image_features": self._frozen_images}
        shared = {
            "rows": listing_sha256(self.data.rows),
            "probes": rows_sha256(self.data.rows),
            "processor": self.processor.to_dict(),
            "stride": self.model.stride,
        }
        described = {  # what weights alone do not say
            "contour_features": {
                "extractor": self.config.extractor_config.to_dict(),
                "contours": self.config.contour_features,
                "levels": self.config.contour_level_indices,
            },
            "image_features": {"backbones": self.config.backbones},
        }
        cached: dict[str, NDArray[np.float16]] = {}
        for name, network in self._frozen_networks().items():
            network.eval()
            key = {**shared, **described[name]}
            found = cached_features(
                Path(str(arguments.feature_cache)),
                self.data.train,
                compute[name],
                key={**key, "weights": state_dict_sha256(network.state_dict())},
                loading={"batch_size": arguments.eval_batch_size, "num_workers": arguments.num_workers},
                device=accelerator.device,
                show_progress=arguments.progress and accelerator.is_local_main_process,
            )
            cached |= {f"{name}_{number}": maps for number, maps in enumerate(found)}
        return cached

    def set_train_mode(self) -> None:
        """Puts the model in training mode; parts that are not trained keep their statistics too."""
        self.model.train()
        for part in self.frozen_parts:
            part.eval()

    def train_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross entropy against the labels, smoothed and weighed as the arguments say."""
        pixel_values, contours = batch.get("pixel_values"), batch.get("contour_features_0")
        if contours is None and self.folded_extractor is not None:
            (contours,) = self._frozen_contours(batch["pixel_values"])
        maps = [batch[name] for name in sorted(batch) if name.startswith("image_features_")]
        return classification_loss(
            model(pixel_values=pixel_values, contour_features=contours, image_features=maps or None).logits,
            batch["labels"],
            problem_type=self.config.problem_type,
            class_weights=self.class_weights,
            label_smoothing=self.arguments.label_smoothing,
        )

    def _frozen_contours(self, pixel_values: Tensor) -> list[Tensor]:
        """What the frozen extractor gives, its normalisation folded: faster than within the model."""
        with torch.no_grad():
            return [self.model.contour_features(pixel_values, self.folded_extractor)]

    def _frozen_images(self, pixel_values: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self.model.image_features(pixel_values)

    def evaluate(
        self, model: nn.Module, accelerator: Accelerator, *, split: str, heed: Callable[[], None]
    ) -> dict[str, Any]:
        """Loss and class scores."""
        loader = self.data.evaluation_loader(accelerator, split)
        return evaluate_classes(
            model,
            loader,
            accelerator,
            heed=heed,
            class_names=self.label_names,
            problem_type=self.config.problem_type,
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


def load_rows(
    arguments: ContourTrainingArguments,
    split: str,
    *,
    label_names: Sequence[str] | None = None,
    streaming: bool = False,
) -> Rows:
    """Rows of a split with the standard columns, no more of them than the arguments allow."""
    is_train = split == arguments.train_split
    is_contour = arguments.stage == "contour"
    if arguments.data == EMBEDDED:
        count = arguments.embedded_train_samples if is_train else arguments.embedded_eval_samples
        height, width = arguments.embedded_size
        rows = embedded_dataset(split, num_samples=count, seed=arguments.seed, size=(height, width))
        return rows if is_contour else rows.remove_columns("contours")
    rows = load_source(
        arguments.data,
        split=split,
        columns=ColumnNames(
            arguments.image_column,
            arguments.contours_column if is_contour else None,
            None if is_contour else arguments.label_column,
        ),
        streaming=streaming,
        label_names=label_names or arguments.label_names,
        config_name=arguments.data_config,
        multi_label=arguments.multi_label,
    )
    unused = "label" if is_contour else "contours"
    if unused in rows.column_names:  # else contours would be decoded for a stage that does not look at them
        rows = rows.remove_columns(unused)
    limit = arguments.max_train_samples if is_train else arguments.max_eval_samples
    if limit and isinstance(rows, IterableDataset):
        return rows.take(limit)
    return rows.select(range(min(limit, len(rows)))) if limit else rows


def load_train_rows(arguments: ContourTrainingArguments, accelerator: Accelerator) -> Rows:
    """Rows of the training split, read by one process first, so that the others find its cache."""
    with accelerator.main_process_first():
        rows = load_rows(arguments, arguments.train_split, streaming=arguments.streaming)
    if isinstance(rows, IterableDataset):
        return rows.shuffle(seed=arguments.seed, buffer_size=arguments.shuffle_buffer)
    return rows


def refuse_unknown_fields(fields: dict[str, Any], config_class: Any) -> None:
    """Raises `ValueError` for a field that the config does not have, and would take without a word."""
    known = {field.name for field in dataclasses.fields(config_class)}
    for name in fields:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=3)
            raise ValueError(
                f"model has the field {name!r}, which {config_class.__name__} does not know; "
                f"nearest: {', '.join(nearest) or 'none'}."
            )


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


def build_extractor(arguments: ContourTrainingArguments) -> ContourExtractorForPreTraining:
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


def refuse_absent(*paths: str | None) -> None:
    """Refuses trained parts that are not there, before any data is read; a Hub id is no path.

    Raises:
        FileNotFoundError: Naming the path.
    """
    for path in paths:
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"{path} is not there; expected a folder or file of trained weights.")


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


def build_classifier(
    arguments: ContourTrainingArguments, names: list[str], *, is_multi_label: bool
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


def build_processor(arguments: ContourTrainingArguments, config: Any) -> ContourImageProcessor:
    """The image processor that the model is saved with: its normalisation, and `image_size` where given."""
    normalisation = {"image_mean": config.image_mean, "image_std": config.image_std}
    if arguments.image_size is None:
        return ContourImageProcessor(do_resize=False, do_pad=False, **normalisation)
    height, width = arguments.image_size
    return ContourImageProcessor(do_resize=True, do_pad=True, size={"height": height, "width": width}, **normalisation)


TASKS: dict[str, type[ContourTask] | type[GenderTask]] = {"contour": ContourTask, "gender": GenderTask}
