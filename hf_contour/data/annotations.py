"""Drawn contours: reading one map per annotator, and their mean, the consensus that the loss learns from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from hf_contour.image_processing_contour import open_image

MAX_EDGE_SHARE = 0.5  # see `read_annotations`; lines cover a few hundredths of an image
BLACK = (0, 0, 0)


def read_annotations(
    contours: Sequence[Any],
    *,
    name: str,
    image_size: tuple[int, int] | None = None,
    max_edge_share: float = MAX_EDGE_SHARE,
) -> np.ndarray:
    """Read the contour maps of one image.

    Maps are drawn white on black. Images are opened by `open_image`, transparent pixels black, and turned grey; a
    pixel is a contour above the middle of the range: 127 in 8 bits (32767 in 16 bits and 0.5 in floats, in arrays).
    Boolean maps are taken as they are, and integers of which none is above 1 as 0 and 1.

    Args:
        contours: one per annotator: `{"bytes", "path"}`, a path, bytes, a PIL image or an array `(height, width)`.
        name: the image's name, for messages.
        image_size: `(height, width)` of the image, which every map must have.
        max_edge_share: a map with a larger share of contour pixels is refused as drawn black on white; 1 takes any.

    Returns:
        `(annotators, height, width)`, boolean.

    Raises:
        ValueError: If there is no map, one cannot be read, sizes differ, or one is probably inverted.
    """
    if not contours:
        raise ValueError(f"{name} has no contour map; expected one per annotator. Draw one or remove the row.")
    maps = [read_contour_map(contour, name=f"{name}, contour map {index}") for index, contour in enumerate(contours)]
    size, origin = (image_size, "the image") if image_size else (maps[0].shape, "contour map 0")
    for index, edge_map in enumerate(maps):
        if edge_map.shape != tuple(size):
            raise ValueError(
                f"{name}, contour map {index} is {edge_map.shape[0]}x{edge_map.shape[1]} (height x width), but "
                f"{origin} is {size[0]}x{size[1]}. Draw contours at the size of the image."
            )
        share = edge_map.mean()
        if share > max_edge_share:
            raise ValueError(
                f"{name}, contour map {index} has {share:.0%} of its pixels set, more than {max_edge_share:.0%}; "
                "it is probably drawn black on white. Invert it, or raise max_edge_share."
            )
    return np.stack(maps)


def read_contour_map(contour: Any, *, name: str) -> np.ndarray:
    """Read one contour map, white on black, as a boolean `(height, width)` array; see `read_annotations`."""
    if isinstance(contour, dict):
        contour = contour["bytes"] if contour.get("bytes") is not None else contour.get("path")
    if isinstance(contour, np.ndarray):
        return _threshold_array(contour, name)
    if not isinstance(contour, str | Path | bytes | PILImage.Image):
        raise ValueError(f"{name} is a {type(contour).__name__}; expected bytes, a path, a PIL image or an array.")
    grey = np.asarray(open_image(contour, name=name, background_color=BLACK).convert("L"))
    return _threshold_array(grey, name)


def _threshold_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} is an array of shape {array.shape}; expected (height, width).")
    if array.dtype == bool:
        return array
    if array.dtype.kind == "f":
        return array > 0.5
    if array.max() <= 1:
        return array > 0
    return array > (32767 if array.dtype == np.uint16 else 127)


def consensus(annotations: np.ndarray) -> np.ndarray:
    """Share of the annotators who drew each pixel.

    Where the share lies above 0 but below the `consensus_threshold` of the loss, annotators disagree; the loss does
    not count these pixels (the ignore band). Pixels that augmentation moved in from outside the image are set to
    `IGNORE_LABEL` later, with the sample.

    Args:
        annotations: `(annotators, height, width)`, boolean.

    Returns:
        `(height, width)` float32 in [0, 1].
    """
    if annotations.ndim != 3 or not len(annotations):
        raise ValueError(f"annotations have shape {annotations.shape}; expected (annotators, height, width).")
    return annotations.mean(axis=0, dtype=np.float32)
