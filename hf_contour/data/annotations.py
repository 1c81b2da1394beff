"""Drawn contours: reading one map per annotator, and their mean, the consensus that the loss learns from."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

MAX_EDGE_SHARE = 0.5  # BSDS500 maps have 0.2 % to 12 % of their pixels set


def read_annotations(
    contours: Sequence[Any],
    *,
    name: str,
    image_size: tuple[int, int] | None = None,
    max_edge_share: float = MAX_EDGE_SHARE,
) -> np.ndarray:
    """Read the contour maps of one picture.

    Maps are drawn white on black. A 1-bit map is taken as it is; in a map with more levels a pixel is a contour above
    the middle of the range (above 127 in 8 bit, 32767 in 16 bit, 0.5 in floats). A colour map is turned grey first,
    transparent pixels count as black. Boolean arrays are taken as they are; an integer array with no value above 1
    holds 0 and 1.

    Args:
        contours: one per annotator: `{"bytes", "path"}`, a path, bytes, a PIL image or an array `(height, width)`.
        name: the picture's name, for messages.
        image_size: `(height, width)` of the picture, which every map must have.
        max_edge_share: a map with a larger share of contour pixels is refused as drawn black on white; 1 takes any.

    Returns:
        `(annotators, height, width)`, boolean.

    Raises:
        ValueError: If there is no map, one cannot be read, sizes differ, or one is probably inverted.
    """
    if not contours:
        raise ValueError(f"{name} has no contour map; expected one per annotator. Draw one or remove the row.")
    maps = [read_contour_map(contour, name=f"{name}, contour map {index}") for index, contour in enumerate(contours)]
    size, origin = (image_size, "the picture") if image_size else (maps[0].shape, "contour map 0")
    for index, edge_map in enumerate(maps):
        if edge_map.shape != tuple(size):
            raise ValueError(
                f"{name}, contour map {index} is {edge_map.shape[0]}x{edge_map.shape[1]} (height x width), but "
                f"{origin} is {size[0]}x{size[1]}. Draw contours at the size of the picture."
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
    if isinstance(contour, PILImage.Image):
        return _threshold_image(contour)
    if not isinstance(contour, str | Path | bytes):
        raise ValueError(f"{name} is a {type(contour).__name__}; expected bytes, a path, a PIL image or an array.")
    try:
        with PILImage.open(io.BytesIO(contour) if isinstance(contour, bytes) else contour) as image:
            return _threshold_image(image)
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error}). Replace or remove it.") from error


def _threshold_image(image: PILImage.Image) -> np.ndarray:
    if image.mode == "1":
        return np.asarray(image)
    if image.mode.startswith("I"):  # 16 bit, or 32 bit holding it
        return np.asarray(image) > 32767
    if image.mode == "F":
        return np.asarray(image) > 0.5
    if "transparency" in image.info or image.mode in {"LA", "RGBA", "PA", "La", "RGBa"}:
        image = image.convert("RGBA")
        image = PILImage.alpha_composite(PILImage.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.asarray(image.convert("L")) > 127


def _threshold_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2:
        raise ValueError(f"{name} is an array of shape {array.shape}; expected (height, width).")
    if array.dtype == bool:
        return array
    if np.issubdtype(array.dtype, np.floating):
        return array > 0.5
    if array.size and array.max() <= 1:
        return array > 0
    return array > np.iinfo(array.dtype).max // 2 if array.dtype.kind == "u" else array > 127


def consensus(annotations: np.ndarray) -> np.ndarray:
    """Share of the annotators who drew each pixel.

    Where the share lies above 0 but below the `consensus_threshold` of the loss, annotators disagree; the loss does
    not count these pixels (the ignore band). Pixels that augmentation moved in from outside the picture are set to
    `IGNORE_LABEL` later, with the sample.

    Args:
        annotations: `(annotators, height, width)`, boolean.

    Returns:
        `(height, width)` float32 in [0, 1].
    """
    if annotations.ndim != 3 or not len(annotations):
        raise ValueError(f"annotations have shape {annotations.shape}; expected (annotators, height, width).")
    return annotations.mean(axis=0, dtype=np.float32)
