"""The classifier: a frozen contour extractor beside image backbones, a fusion and a head.

Shapes: B images, C channels, H x W pixels; S is the stride at which features join, K the number of labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_contour_gender import ContourGenderConfig
from .loss_contour import branched_loss
from .modeling_contour_branches import ContourClassifier, LateClassifier, expected_normalisation, pool_to_grid
from .modeling_contour_extractor import ContourExtractorModel
from .modeling_contour_shared import ContourGenderPreTrainedModel
from .pipeline_contour import ContourImageClassificationPipeline  # noqa: F401 - saving a model copies what it imports


@dataclass
class ContourGenderModelOutput(ModelOutput):
    """Contour and image features, fused.

    Args:
        last_hidden_state: `(B, C, H/S, W/S)`: the fused map; with `late` fusion, where there is none, that of the
            image branch, or of the contours where they are alone.
        pooler_output: `(B, C)`, its mean: an embedding of the image.
        hidden_states: as in `ContourImageClassifierOutput`.
        level_features: as in `ContourImageClassifierOutput`.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    level_features: tuple[Tensor, ...] | None = None


@dataclass
class ContourImageClassifierOutput(ModelOutput):
    """Class scores, and on request what they were made from.

    Args:
        loss: scalar, when labels were given.
        logits: `(B, K)`, before the softmax (one label) or the sigmoid (several).
        hidden_states: with `output_hidden_states`: the contour features on their grid (if any), each backbone's map,
            and, but with `late` fusion, the fused map, `(B, C, H/S, W/S)`.
        attentions: always `None`; there is no attention.
        level_features: with `output_level_features`: the extractor's unified levels.
        branch_logits: with `output_branch_logits`: `(B, K)` of each branch alone, image and contour.
        familiarity: with `output_familiarity`: `(B,)` in 0..1; .5 is typical of known images, near 0 is unlike them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    level_features: tuple[Tensor, ...] | None = None
    branch_logits: tuple[Tensor, ...] | None = None
    familiarity: Tensor | None = None


class ContourGenderModel(ContourGenderPreTrainedModel):
    """Fused contour and image features without the head: embeddings of images.

    What `AutoModel` makes of a classifier's folder.
    """

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: ContourGenderConfig):
        super().__init__(config)
        self.post_init()
        self.after_loading()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_level_features: bool = False,
        **kwargs: Any,
    ) -> ContourGenderModelOutput:
        """Embeds images.

        Args:
            pixel_values: `(B, 3, H, W)` from 1 pixel up, normalised with the config's mean and deviation.
            output_hidden_states: also return the feature maps that were joined.
            output_level_features: also return the extractor's levels.
            **kwargs: only what Transformers passes to every model.

        Returns:
            The fused map and, as `pooler_output`, its mean `(B, C)`.

        Example:
            >>> import torch
            >>> from hf_contour import ContourGenderConfig, ContourGenderModel
            >>> model = ContourGenderModel(ContourGenderConfig(backbone="test_resnet")).eval()
            >>> model(torch.zeros(2, 3, 96, 64)).pooler_output.shape
            torch.Size([2, 128])
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        maps = self._branch_maps(pixel_values, with_levels=output_level_features)
        fused = maps.semantic if self.contour_fusion is None else self._fused(maps)
        return ContourGenderModelOutput(
            last_hidden_state=fused,
            pooler_output=pool_to_grid(fused, (1, 1)).flatten(1),
            hidden_states=(*maps.all, fused) if output_hidden_states else None,
            level_features=maps.levels,
        )


class ContourGenderForImageClassification(ContourGenderPreTrainedModel):
    """Classifies images of garments by the section they are sold in, or by any other set of labels.

    Source: CN113298092B, claims 3 to 5, steps S201 to S206.
    """

    def __init__(self, config: ContourGenderConfig):
        super().__init__(config)
        self.loss_type = "ForImageClassification"  # Transformers would guess it from the name of a subclass
        if self.contour_fusion is None:
            self.classifier = LateClassifier(config, sum(self.image_channels), self.contour_channels)
        else:
            self.classifier = ContourClassifier(config, self.contour_fusion.channels)
        self.post_init()
        self.after_loading()

    @classmethod
    def from_extractor_and_backbone(
        cls,
        extractor: Any,
        backbone: str | Sequence[str] | None,
        *,
        backbone_weights: str | Path | Sequence[str | Path] | None = None,
        **config_fields: Any,
    ) -> "ContourGenderForImageClassification":
        """Joins a trained extractor and backbones, which start from given weights or at random.

        Args:
            extractor: a `ContourExtractorModel`, or the folder of one (with or without its single-channel head).
            backbone: bare timm or ShuffleNet name, or several; `None` for contours alone.
            backbone_weights: a `.safetensors` or `.pth` file for each backbone.
            **config_fields: further fields of `ContourGenderConfig`, such as `id2label`. Without `image_mean`
                and `image_std` the normalisation is the one that the backbone was pretrained with; without a
                backbone it is the extractor's.

        Returns:
            The model, its fusion and head with random weights. Images reach the extractor normalised as its
            own config says, whatever the backbone expects.

        Raises:
            ValueError: If weights do not fit, or backbones expect different normalisation and none was given.
        """
        if not isinstance(extractor, nn.Module):
            extractor = ContourExtractorModel.from_pretrained(extractor)
        names = [backbone] if isinstance(backbone, str) else list(backbone or ())
        if "image_mean" not in config_fields or "image_std" not in config_fields:
            own = (extractor.config.image_mean, extractor.config.image_std)
            mean, std = expected_normalisation(names) if names else own
            config_fields = {"image_mean": mean, "image_std": std, **config_fields}
        extractor_config = extractor.config.to_dict()
        extractor_config.pop("_name_or_path", None)  # where it lay on the disk of whoever trained is nobody's business
        config = ContourGenderConfig(extractor_config=extractor_config, backbone=backbone, **config_fields)
        model = cls(config)
        if model.extractor is not None:
            model.extractor.load_state_dict(extractor.state_dict())
        if backbone_weights is not None:
            files = [backbone_weights] if isinstance(backbone_weights, str | Path) else list(backbone_weights)
            if len(files) != len(names):
                raise ValueError(f"backbone_weights names {len(files)} files; expected one for each of {names}.")
            for part, file in zip(model.image_backbones, files, strict=True):
                part.load_weights(file)
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        contour_features: Tensor | None = None,
        image_features: Sequence[Tensor] | None = None,
        output_hidden_states: bool | None = None,
        output_level_features: bool = False,
        output_branch_logits: bool = False,
        output_familiarity: bool = False,
        **kwargs: Any,
    ) -> ContourImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: `(B, 3, H, W)` from 1 pixel up, normalised with the config's mean and deviation; needed
                unless all features are given.
            labels: `(B,)` or `(B, 1)` class numbers, -100 for images that do not count; `(B, K)` shares of the
                classes for one soft label an image, or zeros and ones for several labels.
            contour_features: what `contour_features` gave for these images; the extractor is then not run, and
                there are no level features.
            image_features: what `image_features` gave for these images; the backbones are then not run.
            output_hidden_states: also return the feature maps that were joined.
            output_level_features: also return the extractor's levels.
            output_branch_logits: also return what each branch decides alone, with `late` fusion.
            output_familiarity: also return how familiar the images are, of a model that remembers some.
            **kwargs: only what Transformers passes to every model.

        Returns:
            Logits `(B, K)`, divided by the config's `temperature` in evaluation mode; the loss is of the
            undivided logits. Those of the branches are undivided too.

        Raises:
            ValueError: If the model has not what is asked for.

        Example:
            >>> import torch
            >>> from hf_contour import ContourGenderConfig, ContourGenderForImageClassification
            >>> config = ContourGenderConfig(backbone="test_resnet", id2label={0: "men", 1: "women"})
            >>> model = ContourGenderForImageClassification(config).eval()
            >>> outputs = model(torch.zeros(2, 3, 96, 64), labels=torch.tensor([0, 1]))
            >>> outputs.logits.shape, outputs.loss.shape
            (torch.Size([2, 2]), torch.Size([]))
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        maps = self._branch_maps(pixel_values, contour_features, image_features, with_levels=output_level_features)
        kept = self._drop_branches(maps.all[0].shape[0])
        branch_logits, hidden_states = (), maps.all
        if self.contour_fusion is None:
            branch_logits = self.classifier(torch.cat(maps.images, dim=1) if maps.images else None, maps.contour)
            logits = self._decide_together(branch_logits, kept)
        else:
            fused = self._fused(maps, kept)
            hidden_states, logits = [*hidden_states, fused], self.classifier(fused)
        if output_branch_logits and not branch_logits:
            raise ValueError(
                f"output_branch_logits came to a model whose fusion is {self.config.fusion!r}, not 'late'."
            )
        if logits.shape[-1] != self.config.num_labels:
            raise ValueError(
                f"The config names {self.config.num_labels} labels, and the head has {logits.shape[-1]}; load it "
                "with from_pretrained(folder, id2label=..., ignore_mismatched_sizes=True) for a head of another size."
            )
        loss = None
        if labels is not None:
            weight, problem_type = self.config.branch_loss_weight, self.config.problem_type
            loss = branched_loss(logits, branch_logits, labels, branch_loss_weight=weight, problem_type=problem_type)
        if self.config.temperature != 1 and not self.training:
            logits = logits / self.config.temperature
        return ContourImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            level_features=maps.levels,
            branch_logits=branch_logits if output_branch_logits else None,
            familiarity=self._familiarity(maps) if output_familiarity else None,
        )

    def _decide_together(self, branch_logits: Sequence[Tensor], kept: tuple[Tensor, Tensor] | None) -> Tensor:
        """The weighted sum of the branches' logits `(B, K)`; a branch that is alone decides alone."""
        if len(branch_logits) == 1:
            return branch_logits[0]
        image, contour = branch_logits
        if kept is not None:
            image, contour = image * kept[1][:, None], contour * kept[0][:, None]
        return image + self.config.contour_weight * contour


ContourGenderModel.register_for_auto_class("AutoModel")
ContourGenderForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["ContourGenderForImageClassification", "ContourGenderModel"]
