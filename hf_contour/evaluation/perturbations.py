"""What is done to images, or to the contour branch, at test time, to learn what a classifier relies on.

Images are disturbed as decoded, RGB before the processor; the contour branch by what its extractor gives, whatever
the classifier then does with it. Shapes: B images, H x W pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms
from transformers.utils import ModelOutput

from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.arguments import COLOUR_PERTURBATIONS

# Orders of the channels other than their own.
PERMUTATIONS = [list(order) for order in permutations(range(3))][1:]
HUE_TURNS = {"hue_90": 0.25, "hue_180": 0.5, "hue_270": -0.25}  # parts of the whole circle, as torchvision takes them


class ColourDisturbedSamples(Dataset[dict[str, Any]]):
    """Samples of a split whose images have other colours.

    Args:
        samples: of the stage "gender", neither augmented nor recoloured.
        name: one of `COLOUR_PERTURBATIONS`.
        seed: of the order of the channels; an image has the same order whatever process reads it.
    """

    def __init__(self, samples: ContourSamples, name: str, *, seed: int = 0) -> None:
        self.samples, self.name, self.seed = samples, name, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        decoded = self.samples.decoded(index)
        pixels = disturb_colours(decoded.pixels, self.name, seed=self.seed, index=index)
        return self.samples.builder.build(replace(decoded, pixels=pixels), index, epoch=0)


def disturb_colours(pixels: NDArray[np.uint8], name: str, *, seed: int, index: int) -> NDArray[np.uint8]:
    """An image with other colours.

    Args:
        pixels: `(H, W, 3)` uint8, RGB.
        name: one of `COLOUR_PERTURBATIONS`.
        seed: with `index` decides the order of the channels.
        index: row of the image.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        ValueError: If there is no such perturbation.
    """
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    if name == "channels_permuted":
        order = PERMUTATIONS[np.random.default_rng((seed, index)).integers(len(PERMUTATIONS))]
        disturbed = transforms.permute_channels(image, order)
    elif name in HUE_TURNS:
        disturbed = transforms.adjust_hue(image, HUE_TURNS[name])
    elif name == "grey":
        disturbed = transforms.rgb_to_grayscale(image, num_output_channels=3)
    else:
        raise ValueError(f"there is no perturbation {name!r}; expected one of {', '.join(COLOUR_PERTURBATIONS)}.")
    return disturbed.permute(1, 2, 0).contiguous().numpy()


class SamplesWithAnother(Dataset[dict[str, Any]]):
    """Samples whose `pixel_values` `(2, 3, H, W)` hold the image and another one of the split.

    Args:
        samples: of the stage "gender", neither augmented nor recoloured; at least two.
        seed: of the drawing.

    Raises:
        ValueError: If there is only one image.
    """

    def __init__(self, samples: ContourSamples, *, seed: int = 0) -> None:
        self.samples, self.partners = samples, partners(len(samples), seed=seed)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        own, other = self.samples[index], self.samples[int(self.partners[index])]
        return {**own, "pixel_values": torch.stack([own["pixel_values"], other["pixel_values"]])}


def partners(count: int, *, seed: int) -> NDArray[np.int64]:
    """For each of `count` rows another one, each row once: the next along a circle in random order.

    Raises:
        ValueError: If there are fewer than two.
    """
    if count < 2:
        raise ValueError(f"there are {count} images; feeding another image's contours takes at least 2.")
    order = np.random.default_rng(seed).permutation(count)
    chosen = np.empty(count, dtype=np.int64)
    chosen[order] = np.roll(order, -1)
    return chosen


@contextmanager
def zeroed_contours(model: nn.Module) -> Iterator[nn.Module]:
    """A classifier whose extractor gives zeros, within the block.

    Args:
        model: has an `extractor` whose output is a `ModelOutput`.
    """
    handle = model.extractor.register_forward_hook(lambda *seen: _of_each_tensor(seen[2], torch.zeros_like))
    try:
        yield model
    finally:
        handle.remove()


class ContoursOfAnother(nn.Module):
    """A classifier that sees one image and is given the contour features of another.

    Both go through the model in one batch; in between, the extractor's outputs change places.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> ModelOutput:
        """Classifies the first of each two images with the contours of the second.

        Args:
            pixel_values: `(B, 2, 3, H, W)`, as `SamplesWithAnother` gives them.

        Returns:
            Output with `logits` `(B, K)`.
        """
        own, other = pixel_values.unbind(dim=1)
        handle = self.model.extractor.register_forward_hook(
            lambda *seen: _of_each_tensor(seen[2], lambda tensor: tensor.roll(len(tensor) // 2, dims=0))
        )
        try:
            logits = self.model(pixel_values=torch.cat([own, other])).logits
        finally:
            handle.remove()
        return ModelOutput(logits=logits[: len(own)])


def _of_each_tensor(value: Any, change: Any) -> Any:
    """The same output with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: _of_each_tensor(part, change) for name, part in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(_of_each_tensor(part, change) for part in value)
    return value
