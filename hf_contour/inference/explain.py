"""Why a classifier says what it says of one image.

explanation = explain(load_classifier("path/to/classifier"), "shirt.jpg")
print(explanation.text)
draw_explanation(explanation).save("why.png")

Shapes: H x W pixels of the model's input.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hf_contour.evaluation.run import load_model
from hf_contour.image_processing_contour import ContourImageProcessor, ImageSource, open_image, place_image
from hf_contour.inference.contours import activation_map
from hf_contour.inference.faithfulness import Faithfulness, faithfulness, patch_means
from hf_contour.inference.heat_maps import evidence, heat_maps
from hf_contour.inference.left_out import LEFT_OUT
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification

BRANCHES = ("image", "contour")
MAX_SHOWN = 1024  # pixels of the longer side of what is shown; the classifier gets the image as it came


@dataclass(frozen=True)
class Classifier:
    """A classifier and the processor that goes with it."""

    model: ContourGenderForImageClassification
    processor: ContourImageProcessor

    @property
    def names(self) -> list[str]:
        """The classes in their order."""
        return list(self.model.config.id2label.values())

    @torch.inference_mode()
    def logits(self, pixel_values: Tensor, **features: Any) -> Tensor:
        """`(B, K)` float32 on the CPU."""
        return self.model(pixel_values=pixel_values, **features).logits.float().cpu()

    @torch.inference_mode()
    def familiarity(self, pixel_values: Tensor) -> float | None:
        """Of the first image, in 0..1; `None` where the model remembers no images."""
        if self.model.familiarity is None:
            return None
        return self.model(pixel_values=pixel_values, output_familiarity=True).familiarity[0].item()

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.model.config.problem_type == "multi_label_classification"

    def probabilities(self, logits: Tensor) -> Tensor:
        """`(B, K)`."""
        return logits.sigmoid() if self.several else logits.softmax(dim=1)

    def evidence(self, logits: Tensor, label: int) -> float:
        """Of the first image, for a class."""
        return evidence(logits, label, several=self.several)[0].item()

    def pixel_values(self, image: Image.Image) -> Tensor:
        """`(1, 3, H, W)`, on the model's device."""
        return self.processor(image, return_tensors="pt")["pixel_values"].to(self.model.device)


@dataclass(frozen=True)
class Contribution:
    """What the two branches say, each with the other one seeing the empty ground.

    Attributes:
        both: evidence of the whole classifier.
        image_alone: the extractor sees the ground.
        contour_alone: the backbones see the ground.
        neither: both do.
    """

    both: float
    image_alone: float
    contour_alone: float
    neither: float

    @property
    def image(self) -> float:
        """Share of the backbones, averaged over what the extractor sees (Shapley's value of two players)."""
        return ((self.image_alone - self.neither) + (self.both - self.contour_alone)) / 2

    @property
    def contour(self) -> float:
        """Share of the extractor; with that of the backbones it makes up `both - neither`."""
        return ((self.contour_alone - self.neither) + (self.both - self.image_alone)) / 2


@dataclass(frozen=True)
class Change:
    """What the classifier says of the image without something.

    Attributes:
        without: a key of `LEFT_OUT`.
        label: what it then decides for.
        score: probability, then, of the class that is explained.
        changed: share of the pixels that were taken out, in 0..1.
    """

    without: str
    label: str
    score: float
    changed: float


@dataclass(frozen=True)
class Explanation:
    """Everything that is shown of one image.

    Attributes:
        image: upright, RGB, at most `MAX_SHOWN` pixels long.
        label: the class that is explained.
        predicted: the class with the highest score.
        scores: class -> probability.
        familiarity: in 0..1, .5 is typical of known images; `None` where the classifier remembers none.
        abstained: why the classifier would rather not decide, or `None`.
        heat_maps: name -> `(height, width)` float32 of the image's size, positive where it speaks for the class:
            `both`, `image` and `contour`, as fine as the patches of `faithfulness`.
        contours: name -> `(height, width)` in 0..1: `contours`, and the `level 0` and so on from fine to coarse.
        contribution: of the branches; `None` where there is only one.
        changes: what happens without something.
        faithfulness: whether the heat map `both` means anything.
    """

    image: Image.Image
    label: str
    predicted: str
    scores: dict[str, float]
    familiarity: float | None
    abstained: str | None
    heat_maps: dict[str, np.ndarray]
    contours: dict[str, np.ndarray]
    contribution: Contribution | None
    changes: list[Change]
    faithfulness: Faithfulness

    @property
    def text(self) -> str:
        """The explanation in a few lines."""
        lines = [", ".join(f"{name} {score:.3f}" for name, score in sorted(self.scores.items(), key=lambda i: -i[1]))]
        if self.familiarity is not None:
            lines.append(f"familiarity {self.familiarity:.2f}; 0.5 is typical of images like those of the training")
        if self.abstained:
            lines.append(self.abstained)
        if self.contribution:
            found = self.contribution
            lines.append(
                f"evidence for {self.label} {found.both:+.2f}: image {found.image:+.2f}, "
                f"contours {found.contour:+.2f}, without either {found.neither:+.2f}"
            )
        for change in self.changes:
            turned = f"; it becomes {change.label}" if change.label != self.predicted else ""
            taken_out = f"without {change.without} ({change.changed:.0%} of the image)"
            lines.append(f"{taken_out}: {self.label} {change.score:.3f}{turned}")
        return "\n".join([*lines, self.faithfulness.sentence])

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values, without maps."""
        contribution = self.contribution
        shares = {branch: getattr(contribution, branch) for branch in BRANCHES} if contribution else {}
        return {
            "label": self.label,
            "predicted": self.predicted,
            "scores": self.scores,
            "familiarity": self.familiarity,
            "abstained": self.abstained,
            "contribution": asdict(contribution) | shares if contribution else None,
            "without": [asdict(change) for change in self.changes],
            "faithfulness": asdict(self.faithfulness) | {"is_meaningful": self.faithfulness.is_meaningful},
        }


def load_classifier(folder: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """A classifier's folder, ready to explain.

    Raises:
        ValueError: If it holds another kind of model.
    """
    model = load_model(str(folder))
    if not isinstance(model, ContourGenderForImageClassification):
        raise ValueError(f"{folder} holds a {model.config.model_type} model; expected a classifier's folder.")
    return Classifier(model.float().to(device).eval(), ContourImageProcessor.from_pretrained(folder))


def explain(classifier: Classifier, source: ImageSource, *, label: str | None = None) -> Explanation:
    """Explain what a classifier says of an image.

    Args:
        classifier: of `load_classifier`.
        source: path, bytes, Pillow image, array or tensor.
        label: the class to explain; the one with the highest score by default.

    Raises:
        ValueError: If the image cannot be read, or the class is none of the classifier's.
    """
    names = classifier.names
    if label is not None and label not in names:
        raise ValueError(f"label is {label!r}; this classifier knows {', '.join(names)}.")
    processor = classifier.processor
    image = open_image(source, **processor.opening_whole)
    pixel_values = classifier.pixel_values(image)
    logits = classifier.logits(pixel_values)
    scores, familiarity = classifier.probabilities(logits)[0], classifier.familiarity(pixel_values)
    predicted = int(scores.argmax())
    index = predicted if label is None else names.index(label)
    ground = classifier.pixel_values(Image.new("RGB", image.size, tuple(processor.background_color)))
    found = heat_maps(classifier.model, pixel_values, index)
    heats = {"both": found.both, "image": found.image} | (
        {"contour": found.contour} if found.contour is not None else {}
    )
    shown = image.copy()
    shown.thumbnail((MAX_SHOWN, MAX_SHOWN))
    return Explanation(
        image=shown,
        label=names[index],
        predicted=names[predicted],
        scores=dict(zip(names, scores.tolist(), strict=True)),
        familiarity=familiarity,
        abstained=abstaining(classifier, scores.max().item(), familiarity),
        heat_maps={name: _smooth_on_image(heat, shown, processor) for name, heat in heats.items()},
        contours=contour_maps(classifier, pixel_values, shown),
        contribution=contribution(classifier, pixel_values, ground, index),
        changes=changes(classifier, image, index),
        faithfulness=faithfulness(
            lambda pixels: classifier.probabilities(classifier.logits(pixels))[:, index],
            pixel_values,
            ground,
            found.both,
        ),
    )


def abstaining(classifier: Classifier, score: float, familiarity: float | None = None) -> str | None:
    """Why the classifier would rather not decide, in a sentence; `None` where it decides."""
    config = classifier.model.config
    if familiarity is not None and familiarity < config.familiarity_threshold:
        threshold = config.familiarity_threshold
        return f"undecided: the image is strange, familiarity {familiarity:.3f} below the threshold {threshold:.3f}"
    if classifier.several or score >= config.abstain_threshold:
        return None
    return f"undecided: the highest score {score:.3f} lies below the abstain threshold {config.abstain_threshold:.3f}"


def contribution(classifier: Classifier, pixel_values: Tensor, ground: Tensor, label: int) -> Contribution | None:
    """Evidence with each branch's view exchanged for the ground; `None` where there is only one branch."""
    model = classifier.model
    if model.extractor is None or not len(model.image_backbones):
        return None
    with torch.inference_mode():
        image_features = [model.image_features(view) for view in (pixel_values, ground)]
        contour_features = [model.contour_features(view) for view in (pixel_values, ground)]

    def found(image: int, contour: int) -> float:
        features = {"image_features": image_features[image], "contour_features": contour_features[contour]}
        return classifier.evidence(classifier.logits(pixel_values, **features), label)

    return Contribution(both=found(0, 0), image_alone=found(0, 1), contour_alone=found(1, 0), neither=found(1, 1))


def changes(classifier: Classifier, image: Image.Image, label: int) -> list[Change]:
    """What the classifier says of the image without each thing of `LEFT_OUT`."""
    pixels = np.asarray(image)
    changed = {name: leave_out(pixels) for name, leave_out in LEFT_OUT.items()}
    views = torch.cat([classifier.pixel_values(Image.fromarray(view)) for view in changed.values()])
    scores = classifier.probabilities(classifier.logits(views))
    return [
        Change(name, classifier.names[int(row.argmax())], row[label].item(), float((view != pixels).any(-1).mean()))
        for (name, view), row in zip(changed.items(), scores, strict=True)
    ]


@torch.inference_mode()
def contour_maps(classifier: Classifier, pixel_values: Tensor, image: Image.Image) -> dict[str, np.ndarray]:
    """What the frozen extractor finds, as the mean absolute activation of its fused map and of each level.

    A classifier's folder has no single-channel layer; `hf-contour predict --contours` draws thin contours.
    """
    extractor = classifier.model.extractor
    if extractor is None:
        return {}
    # The model's own forward brings the pixels to the extractor's normalisation, and a hook sees what it finds there.
    seen: list[Any] = []
    handle = extractor.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        classifier.model(pixel_values=pixel_values, output_level_features=True)
    finally:
        handle.remove()
    stride = classifier.model.stride
    named = {"contours": seen[0].last_hidden_state}
    named |= {f"level {number}": level for number, level in enumerate(seen[0].level_features)}
    size = pixel_values.shape[-2:]
    return {
        name: on_image(activation_map(features, size, stride=stride), image, classifier.processor).numpy()
        for name, features in named.items()
    }


def _smooth_on_image(heat: Tensor, image: Image.Image, processor: ContourImageProcessor) -> np.ndarray:
    means = patch_means(heat)[None, None]
    smooth = nn.functional.interpolate(means, size=heat.shape, mode="bilinear", align_corners=False)[0, 0]
    return on_image(smooth, image, processor).numpy()


def on_image(values: Tensor, image: Image.Image, processor: ContourImageProcessor) -> Tensor:
    """A map of the model's input `(H, W)` on the image itself `(height, width)`, the padding cut off."""
    size = (processor.size["height"], processor.size["width"])
    placed = place_image(
        image.height, image.width, size, do_resize=bool(processor.do_resize), do_pad=bool(processor.do_pad)
    )
    cropped = placed.crop(values)[None, None].float()
    whole = nn.functional.interpolate(
        cropped, size=(image.height, image.width), mode="bilinear", align_corners=False, antialias=True
    )
    return whole[0, 0]
