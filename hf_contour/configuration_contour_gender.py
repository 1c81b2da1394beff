"""Configuration of the classifier that sees contours beside the image."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_checks_contour import (
    MAX_CHANNELS,
    MAX_LABELS,
    MAX_STRIDE,
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
from .configuration_contour_extractor import ContourExtractorConfig

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
FUSIONS = ("concat", "conv", "concat_conv", "late")
HEADS = ("linear", "mlp", "cnn")
LABELS = ("men", "women")
CALIBRATED_FIELDS = ("temperature", "abstain_threshold")  # fitted to a model that knows its labels
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")

MAX_BACKBONES = 4
MAX_HEAD_CELLS = 64
MAX_PROTOTYPES = 65_536


@strict
class ContourGenderConfig(PreTrainedConfig):
    """Settings of `ContourGenderForImageClassification`.

    Args:
        extractor_config: the frozen contour extractor, a `ContourExtractorConfig` or its dictionary.
        backbone: bare name, or names, of timm architectures, or of torchvision's ShuffleNets; `None` for none at all:
            contours alone decide.
        backbone_scale: share of height and width at which the backbones see the image, in (0, 1]: contours can be
            taken from a larger one.
        contour_features: `levels` uses the extractor's unified maps as they are, `fused` its fused map, and `none`
            leaves the extractor out: the backbones alone, with the same fusion and head.
        contour_levels: with `levels`, which: numbers from 0 (finest), or kinds among `texture`, `edges` and
            `outline` (the fine, middle and coarse thirds). `None` is `texture`, which did as well as all of them and
            costs least.
        contour_downsampling: how contour features come down to the grid on which they join those of the image:
            `conv` learns it, 3x3 convolutions of stride 2 one after the other; `average` takes the mean of a cell.
        contour_channels: with `conv`, their channels at the end; they grow evenly up to it.
        contour_stride: pixels of the image to a cell of the grid to which contours are brought down where they have
            one of their own: with `fusion` `late`, or without a backbone. A power of two.
        freeze_extractor: whether the extractor is never trained, as the method has it; without, it learns with the
            rest, for comparison.
        fusion: `concat` joins contour and image features on the channel axis; `conv` adds their projections
            and runs the cascaded convolutions; `concat_conv` runs them on the concatenation; `late` gives each branch
            a head of its own and adds their logits.
        contour_weight: of the contour branch's logits beside those of the image branch, with `late`.
        branch_loss_weight: of the losses of each branch's own logits, with `late`.
        branch_dropout: share of the images, while training, of which one of the branches, at random, is not seen.
        fusion_layers: how many convolutions are cascaded.
        fusion_kernel_size: their size N, odd.
        fusion_channels: their channels.
        head: `linear`, `mlp` (one hidden layer) or `cnn` (a residual convolution module before the linear).
        head_channels: channels of the hidden layer of `mlp`.
        head_grid: rows and columns to which the head averages the map before it flattens it, so that it knows the
            place of what it sees; `[1, 1]` averages over the whole image, as the image branch of `late` always does.
        head_dropout: share of features dropped before the last layer while training.
        temperature: divides the logits in evaluation mode, so that confidence is calibrated; fitted after
            training.
        abstain_threshold: confidence below which a caller should rather not decide; 0 decides always. Chosen after
            training, and heeded by the pipeline on request.
        num_prototypes: features of training images that the model remembers, to tell how familiar another one is.
        familiarity_scale: distance to them at which the familiarity is .5; the median of known images.
        familiarity_threshold: familiarity below which a caller should rather not decide; 0 decides always.
        image_mean: mean of each channel that the images are normalised with, for pixels in [0, 1].
        image_std: standard deviation of each channel that they are normalised with.

    Raises:
        ValueError: For impossible values, naming the field.

    Source: CN113298092B, claims 3 to 5, steps S203 to S206.
    """

    model_type: ClassVar[str] = "contour_gender"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "hidden_states",
        "level_features",
        "branch_logits",
        "familiarity",
    ]
    sub_configs: ClassVar[dict[str, Any]] = {"extractor_config": ContourExtractorConfig}

    extractor_config: Any = None
    backbone: str | list[str] | tuple[str, ...] | None = "tf_efficientnet_lite0"
    backbone_scale: float | int = 1.0
    contour_features: str = "levels"
    contour_levels: list[int] | list[str] | tuple[int, ...] | tuple[str, ...] | None = None
    contour_downsampling: str = "conv"
    contour_channels: int = 128
    contour_stride: int = 16
    freeze_extractor: bool = True
    fusion: str = "concat_conv"
    fusion_layers: int = 2
    fusion_kernel_size: int = 3
    fusion_channels: int = 128
    contour_weight: float | int = 0.3
    branch_loss_weight: float | int = 0.0
    branch_dropout: float | int = 0.0
    head: str = "linear"
    head_channels: int = 128
    head_grid: list[int] | tuple[int, ...] = (4, 3)
    head_dropout: float | int = 0.0
    temperature: float | int = 1.0
    abstain_threshold: float | int = 0.0
    num_prototypes: int = 0
    familiarity_scale: float | int = 1.0
    familiarity_threshold: float | int = 0.0
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
        self.id2label = dict(self.id2label)  # whatever label2id came

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field; other labels than at the construction take their numbers along, in `label2id`."""
        super().__setattr__(name, value)
        if name == "id2label" and isinstance(value, Mapping) and "label2id" in vars(self):
            super().__setattr__("label2id", {label: index for index, label in value.items()})

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
        return [self.backbone] if isinstance(self.backbone, str) else list(self.backbone or ())

    @property
    def has_contour_grid(self) -> bool:
        """Whether contours are brought down to a grid of their own, and not to that of the backbones."""
        return self.contour_features != "none" and (self.fusion == "late" or not self.backbones)

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
        check_range("len(backbone)", len(self.backbones), 0 if self.backbone is None else 1, MAX_BACKBONES)
        if self.backbone is None and self.contour_features == "none":
            raise ValueError("backbone is None and contour_features is 'none': nothing would be seen; set one.")
        check_range("backbone_scale", self.backbone_scale, 0.01, 1)
        for name in self.backbones:
            check_backbone_name("backbone", name, extra_names=SHUFFLENETS)
        check_normalisation(self.image_mean, self.image_std, 3)

    def validate_branches(self) -> None:
        """Part of the validation by `@strict`: how the branches decide together, and what is remembered."""
        check_range("contour_stride", self.contour_stride, 1, MAX_STRIDE)
        least = self.extractor_config.output_stride if self.has_contour_grid else 1
        if self.contour_stride & (self.contour_stride - 1) or self.contour_stride < least:
            raise ValueError(
                f"contour_stride is {self.contour_stride}; expected a power of two, at least the extractor's "
                f"output_stride where contours have a grid of their own ({least})."
            )
        check_range("contour_weight", self.contour_weight, 0, 100)
        check_range("branch_loss_weight", self.branch_loss_weight, 0, 100)
        check_range("branch_dropout", self.branch_dropout, 0, 1)
        if self.branch_dropout and (not self.backbones or self.contour_features == "none"):
            raise ValueError(f"branch_dropout is {self.branch_dropout}, but there is one branch alone; set it to 0.")
        check_range("num_prototypes", self.num_prototypes, 0, MAX_PROTOTYPES)
        check_range("familiarity_scale", self.familiarity_scale, 1e-6, 1e6)
        check_range("familiarity_threshold", self.familiarity_threshold, 0, 1)
        if self.familiarity_threshold and not self.num_prototypes:
            raise ValueError("familiarity_threshold is set, but num_prototypes is 0: nothing is remembered.")

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
        num_parameters += self.num_prototypes * (sum(image_channels) or channels)
        if self.fusion == "late":
            heads = self._num_head_parameters(sum(image_channels), cells=1) + self._num_head_parameters(channels)
            return num_parameters + heads
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

    def _num_head_parameters(self, fused: int, cells: int | None = None) -> int:
        num_parameters = 18 * fused**2 if self.head == "cnn" else 0
        flat = fused * (cells or self.head_grid[0] * self.head_grid[1])
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
