"""One row of a source: read from its columns, then augmented and recoloured as (seed, epoch, row) say.

What `samples` turns into tensors and `offline` writes out, so that both hold the same images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hf_contour.data.annotations import check_orientation, encoded, read_annotations
from hf_contour.data.augmentation.colour import ColourChange, ColourPlan, ColourTransform
from hf_contour.data.augmentation.recipe import Augmentation, sample_rng
from hf_contour.image_processing_contour import open_image


@dataclass(frozen=True)
class DrawnSample:
    """A row as it is before the processor: read, augmented, recoloured.

    Attributes:
        image: RGB.
        annotations: `(num_annotators, height, width)` bool, or None where the row has none.
        valid: `(height, width)` bool, False outside the image; None if the image fills it.
        label: class number, list of them, or None.
        operations: what the augmentation did, by name.
        colour: what the colour transform did.
        label_tolerance: pixels by which the drawn contours may be off.
    """

    image: Image.Image
    annotations: np.ndarray | None
    valid: np.ndarray | None
    label: int | list[int] | None
    operations: dict[str, Any]
    colour: ColourChange
    label_tolerance: int = 0


@dataclass(frozen=True)
class DecodedRow:
    """A row in memory; masks are packed, eight pixels a byte, so that a whole set fits.

    Attributes:
        pixels: `(height, width, 3)` uint8.
        masks: `(num_annotators, height, ceil(width / 8))` uint8, or None.
        valid: `(1, height, ceil(width / 8))` uint8, or None.
        label: as in the source.
        label_tolerance: as in the source, 0 where it has none.
    """

    pixels: np.ndarray
    masks: np.ndarray | None
    valid: np.ndarray | None
    label: int | list[int] | None
    label_tolerance: int = 0


class RowDrawer:
    """Reads rows and makes the random choices of an epoch.

    Args:
        num_samples: length of the source, or None if it is not known.
        augmentation: applied to image and contours, or None.
        colour: applied to the augmented image, or None.
        seed: of every random choice.
        read_contours: whether contours, where a row has them, are needed.
        reading: further arguments of `open_image`, such as those of the processor that the images go to.
    """

    def __init__(
        self,
        *,
        num_samples: int | None,
        augmentation: Augmentation | None = None,
        colour: ColourTransform | None = None,
        seed: int = 0,
        read_contours: bool = True,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self.read_contours, self.reading = read_contours, dict(reading or {})
        self.augmentation, self.colour = augmentation, colour
        self.num_samples, self.seed = num_samples, seed
        self._plan: ColourPlan | None = None
        self.plan(0)  # refuses an impossible plan now, not in a worker

    def plan(self, epoch: int) -> ColourPlan | None:
        """The colour transform's plan of an epoch; None without a transform."""
        if self.colour is not None and (self._plan is None or self._plan.epoch != epoch):
            self._plan = self.colour.plan(self.num_samples, seed=self.seed, epoch=epoch)
        return self._plan

    def decode(self, row: Mapping[str, Any], index: int) -> DecodedRow:
        """Read a row's image and, where it has them, its contours.

        Raises:
            ImageReadError: If the image cannot be read; names row and file.
            ValueError: If a contour map cannot be read or has another size than the image.
        """
        name = row_name(row, index)
        pixels = np.asarray(open_image(encoded(row["image"]), name=name, **self.reading))
        contours = row.get("contours") if self.read_contours else None
        size = pixels.shape[:2]
        if contours:
            check_orientation(encoded(row["image"]), contours, name=name)
        annotations = read_annotations(contours, name=name, image_size=size) if contours else None
        valid = None
        if self.read_contours and row.get("valid"):  # a column that `offline` writes
            name = f"{name}, column valid"
            valid = read_annotations([row["valid"]], name=name, image_size=size, max_edge_share=1.0)
        tolerance = row.get("label_tolerance") or 0  # a column of several sources together
        return DecodedRow(pixels, _pack(annotations), _pack(valid), row.get("label"), tolerance)

    def draw(self, decoded: DecodedRow, index: int, *, epoch: int) -> DrawnSample:
        """Augment and recolour a row, as the epoch's draws say."""
        image, width = Image.fromarray(decoded.pixels), decoded.pixels.shape[1]
        annotations, valids = _unpack(decoded.masks, width), _unpack(decoded.valid, width)
        valid = None if valids is None else valids[0]
        operations: dict[str, Any] = {}
        if self.augmentation is not None:
            rng = sample_rng(self.seed, epoch, index)
            augmented = self.augmentation(image, annotations, rng=rng, valid=valid)
            image, annotations, valid = augmented.image, augmented.annotations, augmented.valid
            operations = augmented.operations
        change = ColourChange()
        plan = self.plan(epoch)
        if self.colour is not None and plan is not None:
            image, change = self.colour(image, index, plan=plan)
        return DrawnSample(image, annotations, valid, decoded.label, operations, change, decoded.label_tolerance)


def row_name(row: Mapping[str, Any], index: int) -> str:
    """Words that name a row in a message."""
    path = row["image"].get("path") if isinstance(row["image"], Mapping) else None
    return f"row {index} ({path})" if path else f"row {index}"


def _pack(masks: np.ndarray | None) -> np.ndarray | None:
    return None if masks is None else np.packbits(masks, axis=-1)


def _unpack(packed: np.ndarray | None, width: int) -> np.ndarray | None:
    return None if packed is None else np.unpackbits(packed, axis=-1, count=width).view(bool)
