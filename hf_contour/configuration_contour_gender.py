"""Configuration of the classifier that sees contours beside the image."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_contour_extractor import (
    MAX_CHANNELS,
    MAX_LABELS,
    ContourExtractorConfig,
    check_backbone_name,
    check_choice,
    check_common_fields,
    check_lengths,
    check_normalisation,
    check_num_weights,
    check_range,
    complete_auto_map,
    local_auto_map,
)

AUTO_MAP = {
    "AutoConfig": "configuration_contour_gender.ContourGenderConfig",
    "AutoModel": "modeling_contour_gender.ContourGenderModel",
    "AutoModelForImageClassification": "modeling_contour_gender.ContourGenderForImageClassification",
}
# The pipelines that a folder carries, since the stock ones open images in another way than training does.
PIPELINES = {
    "image-classification": {
        "impl": "pipeline_contour.ContourImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    },
    "image-feature-extraction": {
        "impl": "pipeline_contour.ContourImageFeatureExtractionPipeline",
        "pt": ["AutoModel"],
        "type": "image",
    },
}
IS_REMOTE_CODE = __name__.startswith("transformers_modules.")
# timm has no ShuffleNet; torchvision's serve in its place.
SHUFFLENETS = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")
CONTOUR_FEATURES = ("levels", "fused", "none")
CONTOUR_DOWNSAMPLINGS = ("conv", "average")
CONTOUR_KINDS = ("texture", "edges", "outline")
DEFAULT_LEVELS = ("texture",)
FUSIONS = ("concat", "conv", "concat_conv")
HEADS = ("linear", "mlp", "cnn")
LABELS = ("men", "women")
CALIBRATED_FIELDS = ("temperature", "abstain_threshold")  # fitted to a model that knows its labels
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")

MAX_BACKBONES = 4
MAX_HEAD_CELLS = 64


@strict
class ContourGenderConfig(PreTrainedConfig):
    """Settings of `ContourGenderForImageClassification`.

    Args:
        extractor_config: the frozen contour extractor, a `ContourExtractorConfig` or its dictionary.
        backbone: bare name, or names, of timm architectures, or of torchvision's ShuffleNets.
        contour_features: `levels` uses the extractor's unified maps as they are, `fused` its fused map, and `none`
            leaves the extractor out: the backbones alone, with the same fusion and head.
        contour_levels: with `levels`, which: numbers from 0 (finest), or kinds among `texture`, `edges` and
            `outline` (the fine, middle and coarse thirds). `None` is `texture`, which did as well as all of them and
            costs least.
        contour_downsampling: how contour features come down to the grid on which they join those of the image:
            `conv` learns it, 3x3 convolutions of stride 2 one after the other; `average` takes the mean of a cell.
        contour_channels: with `conv`, their channels at the end; they grow evenly up to it.
        freeze_extractor: whether the extractor is never trained, as the method has it; without, it learns with the
            rest, for comparison.
        fusion: `concat` joins contour and image features on the channel axis; `conv` adds their projections
            and runs the cascaded convolutions; `concat_conv` runs them on the concatenation.
        fusion_layers: how many convolutions are cascaded.
        fusion_kernel_size: their size N, odd.
        fusion_channels: their channels.
        head: `linear`, `mlp` (one hidden layer) or `cnn` (a residual convolution module before the linear).
        head_channels: channels of the hidden layer of `mlp`.
        head_grid: rows and columns to which the head averages the map before it flattens it, so that it knows the
            place of what it sees; `[1, 1]` averages over the whole image.
        head_dropout: share of features dropped before the last layer while training.
        temperature: divides the logits in evaluation mode, so that confidence is calibrated; fitted after
            training.
        abstain_threshold: confidence below which a caller should rather not decide; 0 decides always. Chosen after
            training, and heeded by the pipeline on request.
        image_mean: mean of each channel that the images are normalised with, for pixels in [0, 1].
        image_std: standard deviation of each channel that they are normalised with.

    Raises:
        ValueError: For impossible values, naming the field.

    Source: CN113298092B, claims 3 to 5, steps S203 to S206.
    """

    model_type: ClassVar[str] = "contour_gender"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["hidden_states", "level_features"]
    sub_configs: ClassVar[dict[str, Any]] = {"extractor_config": ContourExtractorConfig}

    extractor_config: Any = None
    backbone: str | list[str] | tuple[str, ...] = "tf_efficientnet_lite0"
    contour_features: str = "levels"
    contour_levels: list[int] | list[str] | tuple[int, ...] | tuple[str, ...] | None = None
    contour_downsampling: str = "conv"
    contour_channels: int = 128
    freeze_extractor: bool = True
    fusion: str = "concat_conv"
    fusion_layers: int = 2
    fusion_kernel_size: int = 3
    fusion_channels: int = 128
    head: str = "linear"
    head_channels: int = 128
    head_grid: list[int] | tuple[int, ...] = (4, 3)
    head_dropout: float | int = 0.0
    temperature: float | int = 1.0
    abstain_threshold: float | int = 0.0
    image_mean: list[float | int] | tuple[float | int, ...] = (0.5, 0.5, 0.5)
    image_std: list[float | int] | tuple[float | int, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.extractor_config is None:
            self.extractor_config = ContourExtractorConfig()
        elif isinstance(self.extractor_config, dict):
            self.extractor_config = ContourExtractorConfig(**self.extractor_config)
        # By model_type and not by class: the config of a saved folder is of another copy of the class.
        if getattr(self.extractor_config, "model_type", None) != "contour_extractor":
            raise ValueError(
                f"extractor_config is {self.extractor_config!r:.80}; "
                "expected a ContourExtractorConfig or its dictionary."
            )
        for field in ("backbone", "contour_levels", "head_grid", "image_mean", "image_std"):
            if isinstance(getattr(self, field), tuple):
                setattr(self, field, list(getattr(self, field)))
        kwargs.pop("custom_pipelines", None)  # always those of this class, whatever a file says
        check_common_fields(vars(self), kwargs, class_names=dir(type(self)))
        kwargs["auto_map"] = complete_auto_map(kwargs.get("auto_map"), AUTO_MAP)
        if self.id2label is not None:  # type: ignore[has-type]
            kwargs.pop("num_labels", None)  # the labels say how many they are
        elif "num_labels" not in kwargs and not self.transformers_version:  # a saved config without names has none
            self.id2label = dict(enumerate(LABELS))
        super().__post_init__(**kwargs)
        self.label2id = {label: index for index, label in self.id2label.items()}

    def to_dict(self) -> dict[str, Any]:
        """What is saved; see `PreTrainedConfig.to_dict`."""
        content = super().to_dict()
        auto_map = local_auto_map(content["auto_map"])
        return {**content, "auto_map": auto_map, "custom_pipelines": deepcopy(PIPELINES)}

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """The pipelines of a folder's own code; none where the package is imported, which brings its own."""
        return deepcopy(PIPELINES) if IS_REMOTE_CODE else {}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Makes a config of what a file holds; see `PreTrainedConfig.from_dict`.

        Other labels than the file's (`id2label`, `label2id` or `num_labels` given beside it) are another task:
        `temperature` and `abstain_threshold`, which were fitted to the old one, start anew.
        """
        config_dict = with_labels(config_dict, kwargs)
        check_lengths(list(cls.__dataclass_fields__), config_dict)
        if isinstance(config_dict.get("extractor_config"), dict):
            check_lengths(list(ContourExtractorConfig.__dataclass_fields__), config_dict["extractor_config"])
        return super().from_dict(config_dict, **kwargs)

    @property
    def backbones(self) -> list[str]:
        """The names of the backbones, also when there is one."""
        return [self.backbone] if isinstance(self.backbone, str) else list(self.backbone)

    @property
    def contour_level_indices(self) -> list[int]:
        """The levels that the classifier uses, as numbers."""
        num_levels = self.extractor_config.num_levels
        chosen: set[int] = set()
        for level in DEFAULT_LEVELS if self.contour_levels is None else self.contour_levels:
            if isinstance(level, str):
                kind = CONTOUR_KINDS.index(level)
                chosen.update(index for index in range(num_levels) if index * len(CONTOUR_KINDS) // num_levels == kind)
            else:
                chosen.add(level)
        return sorted(chosen)

    def validate_extractor(self) -> None:
        """Part of the validation by `@strict`: the extractor and what is used of it."""
        if self.extractor_config.num_channels != 3:
            raise ValueError(
                f"extractor_config.num_channels is {self.extractor_config.num_channels}; the backbones take 3."
            )
        check_choice("contour_features", self.contour_features, CONTOUR_FEATURES)
        check_choice("contour_downsampling", self.contour_downsampling, CONTOUR_DOWNSAMPLINGS)
        check_range("contour_channels", self.contour_channels, 1, MAX_CHANNELS // 2)
        if self.contour_levels is None:
            return
        if self.contour_features != "levels":
            raise ValueError("contour_levels chooses among levels; set contour_features to 'levels' or leave it out.")
        for level in self.contour_levels:
            if isinstance(level, str):
                check_choice("contour_levels", level, CONTOUR_KINDS)
            else:
                check_range("contour_levels", level, 0, self.extractor_config.num_levels - 1)
        if not self.contour_level_indices:
            raise ValueError(
                f"contour_levels {self.contour_levels} chooses none of {self.extractor_config.num_levels} levels."
            )

    def validate_backbone(self) -> None:
        """Part of the validation by `@strict`: the backbones and the normalisation they expect."""
        check_range("len(backbone)", len(self.backbones), 1, MAX_BACKBONES)
        for name in self.backbones:
            check_backbone_name("backbone", name, extra_names=SHUFFLENETS)
        check_normalisation(self.image_mean, self.image_std, 3)

    def validate_head(self) -> None:
        """Part of the validation by `@strict`: fusion, head and labels."""
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("head", self.head, HEADS)
        check_range("fusion_layers", self.fusion_layers, 1, 16)
        check_range("fusion_kernel_size", self.fusion_kernel_size, 1, 31)
        if self.fusion_kernel_size % 2 == 0:
            raise ValueError(f"fusion_kernel_size is {self.fusion_kernel_size}; expected an odd number.")
        check_range("fusion_channels", self.fusion_channels, 1, MAX_CHANNELS // 2)
        check_range("head_channels", self.head_channels, 1, MAX_CHANNELS)
        if len(self.head_grid) != 2:
            raise ValueError(f"head_grid is {self.head_grid}; expected rows and columns.")
        for cells in self.head_grid:
            check_range("head_grid", cells, 1, MAX_HEAD_CELLS)
        check_range("head_dropout", self.head_dropout, 0, 0.99)
        check_range("temperature", self.temperature, 1e-3, 1e3)
        check_range("abstain_threshold", self.abstain_threshold, 0, 1)
        check_range("num_labels", self.num_labels, 1, MAX_LABELS)
        if sorted(self.id2label) != list(range(self.num_labels)):
            raise ValueError(f"id2label has the numbers {sorted(self.id2label)[:8]}; expected 0 to num_labels - 1.")
        if len(set(self.id2label.values())) != self.num_labels:
            raise ValueError("id2label has a label twice; every label needs a name of its own.")
        if self.problem_type is not None:
            check_choice("problem_type", self.problem_type, PROBLEM_TYPES)

    def validate_size(self) -> None:
        """Part of the validation by `@strict`, after the single fields: how much they ask for together.

        What the backbones add is known to the model alone, which judges again before anything is allocated.
        """
        self.check_size()

    def check_size(self, image_channels: Sequence[int] = (), num_backbone_parameters: int = 0) -> None:
        """Refuses a model that would have more parameters than a config may ask for.

        Args:
            image_channels: channels of each backbone's map.
            num_backbone_parameters: of all backbones.

        Raises:
            ValueError: Naming the fields that ask for them.
        """
        check_num_weights(
            self.count_parameters(image_channels) + num_backbone_parameters,
            "backbone, fusion_channels, fusion_layers, fusion_kernel_size, head, head_grid and id2label, with the "
            "extractor's channels,",
        )

    def count_parameters(self, image_channels: Sequence[int]) -> int:
        """Parameters of downsampling, fusion and head, given the channels of each backbone's map; biases left out."""
        channels, num_parameters = self._num_contour_channels(), 0
        if channels and self.contour_downsampling == "conv":
            num_parameters += 9 * self.contour_channels * (channels + self.contour_channels)
            channels = self.contour_channels
        joined, width, area = channels + sum(image_channels), self.fusion_channels, self.fusion_kernel_size**2
        if self.fusion == "concat":
            return num_parameters + self._num_head_parameters(joined)
        num_parameters += (self.fusion_layers - 1) * width**2 * area
        num_parameters += joined * width * area if self.fusion == "concat_conv" else width * (joined + width * area)
        return num_parameters + self._num_head_parameters(width)

    def _num_contour_channels(self) -> int:
        """Channels of the contour features before they are brought down to the common grid."""
        extractor = self.extractor_config
        if self.contour_features == "none":
            return 0
        if self.contour_features == "levels":
            return extractor.level_channels * len(self.contour_level_indices)
        if extractor.fusion == "conv":
            return extractor.fusion_channels
        return extractor.level_channels * (extractor.num_levels if extractor.fusion == "concat" else 1)

    def _num_head_parameters(self, fused: int) -> int:
        num_parameters = 18 * fused**2 if self.head == "cnn" else 0
        flat = fused * self.head_grid[0] * self.head_grid[1]
        if self.head == "mlp":
            return num_parameters + self.head_channels * (flat + self.num_labels)
        return num_parameters + flat * self.num_labels


def with_labels(content: Mapping[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """A file's content with the labels that a caller asks for in their place.

    Args:
        content: of the file.
        asked: what the caller gave beside it; what concerns labels is taken out.

    Returns:
        The content; without what was calibrated, if the labels are others than the file's.
    """
    content = dict(content)
    id2label, label2id = asked.pop("id2label", None), asked.pop("label2id", None)
    num_labels = asked.pop("num_labels", None)
    if id2label is None and label2id is not None:
        id2label = {index: label for label, index in label2id.items()}
    named = content.get("id2label")
    known = {str(index): label for index, label in named.items()} if isinstance(named, dict) else None
    if id2label is None:
        if num_labels is None or num_labels == (content.get("num_labels", 2) if known is None else len(known)):
            return content
        wanted = {"num_labels": num_labels}
    elif {str(index): label for index, label in id2label.items()} == known:
        return content
    else:
        wanted = {"id2label": id2label}
    return {
        name: value
        for name, value in {**content, **wanted}.items()
        if name in wanted or name not in ("id2label", "label2id", "num_labels", *CALIBRATED_FIELDS)
    }


ContourGenderConfig.register_for_auto_class()

__all__ = ["ContourGenderConfig"]
