"""Images made ready for a model one by one, so that a thread never holds more than one whole image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.parts import Item


class Preparation:
    """What the processor does, to the bit, in two steps: each image to 8 bits at its size, then a batch to floats.

    Args:
        processor: of the model.
    """

    def __init__(self, processor: ContourImageProcessor):
        self.processor = processor
        self._to_size = processor.with_settings(do_rescale=False, do_normalize=False)
        self._floats = {
            name: getattr(processor, name)
            for name in ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        }

    def image(self, item: Item) -> Tensor:
        """`(3, H, W)`, `uint8`: opened, and brought to the model's size.

        Raises:
            ImageReadError: If it cannot be read.
        """
        return self._to_size(item.source())

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """`pixel_values` of `(B, 3, H, W)`, for images of one size."""
        return self.processor.rescale_and_normalize(torch.stack(list(images)), **self._floats)


def by_shape(images: Sequence[Any]) -> list[list[int]]:
    """Positions of the images of each shape, in their order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(position)
    return list(groups.values())
