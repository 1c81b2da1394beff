"""Drawn contours: reading one map per annotator, and their mean, the consensus that the loss learns from."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from hf_contour.image_opening_contour import ORIENTATION_TAG, UPRIGHT
from hf_contour.image_processing_contour import open_image

MAX_EDGE_SHARE = 0.5  # see `read_annotations`; lines cover a few hundredths of an image
BLACK = (0, 0, 0)
_SAME_COLOUR = 64  # most that ink of one colour differs in a channel
_SAME_HUE = 0.25  # most that marks of one hue differ, as a share of the strongest channel


def read_annotations(
    contours: Sequence[Any],
    *,
    name: str,
    image_size: tuple[int, int] | None = None,
    max_edge_share: float = MAX_EDGE_SHARE,
) -> np.ndarray:
    """Read the contour maps of one image.

    Maps are drawn white, or in one colour, on black. Images are opened by `open_image`; a pixel is a contour where its
    strongest channel is above the middle of the range: 127 in 8 bits, 32767 in 16 bits, 0.5 in arrays of floats.
    Boolean maps are taken as they are, and integers of which none is above 1 as 0 and 1. Ink of one colour on a
    transparent ground is a contour where it is opaque. Marks of several colours, and marks of which none is above the
    middle, are refused: they are numbers of classes or regions.

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


def check_orientation(image: Any, contours: Sequence[Any], *, name: str) -> None:
    """Refuse contours of an image that is turned upright by its EXIF orientation while their own files are not.

    Whether they were drawn on the image as stored or as shown cannot be told.

    Args:
        image: bytes or path; anything else has no orientation.
        contours: as `read_annotations` takes them.
        name: the image's name, for messages.

    Raises:
        ValueError: Naming the image and its orientation.
    """
    orientation = _stored_orientation(image)
    if orientation not in UPRIGHT:
        return
    for index, contour in enumerate(contours):
        own = _stored_orientation(encoded(contour))
        if own != orientation:
            raise ValueError(
                f"{name} is turned upright by its EXIF orientation {orientation}, but contour map {index} has "
                f"{f'the orientation {own}' if own in UPRIGHT else 'none'}, so that they may not fit. Store the image "
                "upright (without EXIF orientation) and check that the map fits."
            )


def encoded(image: Any) -> Any:
    """What `open_image` takes: the bytes or path of an undecoded image, anything else as it is."""
    if not isinstance(image, Mapping):
        return image
    return image["bytes"] if image.get("bytes") is not None else image.get("path")


def png_cell(image: PILImage.Image, path: str | None = None, **options: Any) -> dict[str, Any]:
    """An image as the `{"bytes", "path"}` of a data set, encoded as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return {"bytes": buffer.getvalue(), "path": path}


def _stored_orientation(content: Any) -> int:
    """EXIF orientation of a file; 1 where it has none, or the image cannot be read, which others say."""
    if not isinstance(content, bytes | str | Path):
        return 1
    try:
        with PILImage.open(io.BytesIO(content) if isinstance(content, bytes) else content) as stored:
            return int(stored.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # damaged files make Pillow raise nearly anything
        return 1


def read_contour_map(contour: Any, *, name: str) -> np.ndarray:
    """Read one contour map, white on black, as a boolean `(height, width)` array; see `read_annotations`."""
    contour = encoded(contour)
    if isinstance(contour, np.ndarray):
        return _threshold_array(contour, name)
    if not isinstance(contour, str | Path | bytes | PILImage.Image):
        raise ValueError(f"{name} is a {type(contour).__name__}; expected bytes, a path, a PIL image or an array.")
    opened = open_image(contour, name=name, background_color=BLACK)
    if isinstance(contour, PILImage.Image):
        return _read_stored(contour, opened, name)
    with PILImage.open(io.BytesIO(contour) if isinstance(contour, bytes) else contour) as stored:
        return _read_stored(stored, opened, name)


def _read_stored(stored: PILImage.Image, opened: PILImage.Image, name: str) -> np.ndarray:
    """A map from its file (`stored`) and what `open_image` makes of it on black (`opened`)."""
    if stored.mode.startswith("I"):  # as 8 bits, maps of 0 and 1 would be blank
        values = np.asarray(stored).astype(np.int64)
        return _upright(_threshold_array(values, name, middle=_middle(values, stored.mode)), stored)
    colours = np.asarray(opened)
    if stored.mode in ("1", "L") and not stored.has_transparency_data:
        return _threshold_array(colours[..., 0], name)
    ink = _ink_on_transparency(stored)
    if ink is not None:
        return ink
    _refuse_several_colours(colours, name, is_palette=stored.mode == "P")
    return _threshold_array(colours.max(axis=2), name)


def _middle(values: np.ndarray, mode: str) -> int:
    return 127 if mode == "I" and values.max() <= 255 else 32767


def _upright(edge_map: np.ndarray, stored: PILImage.Image) -> np.ndarray:
    turned = stored.getexif().get(ORIENTATION_TAG, 1)
    return np.asarray(PILImage.fromarray(edge_map).transpose(UPRIGHT[turned])) if turned in UPRIGHT else edge_map


def _ink_on_transparency(stored: PILImage.Image) -> np.ndarray | None:
    """What is opaque, where that is of one colour and the rest is clear; else None."""
    if not stored.has_transparency_data:
        return None
    pixels = np.asarray(stored.convert("RGBA"))
    opaque = pixels[..., 3] > 127
    inked = pixels[opaque][:, :3]
    if opaque.all() or not len(inked) or (np.ptp(inked, axis=0) > _SAME_COLOUR).any():
        return None
    return _upright(opaque, stored)


def _refuse_several_colours(colours: np.ndarray, name: str, *, is_palette: bool) -> None:
    """Refuse a map whose marks are of several colours, or of a palette's, as a map of regions has."""
    marks = colours[colours.max(axis=2) > 127].astype(np.float32)
    hues = marks / np.maximum(marks.max(axis=1, keepdims=True), 1)
    has_several = len(hues) > 0 and bool((np.ptp(hues, axis=0) > _SAME_HUE).any())
    if has_several or (is_palette and (colours.max(axis=2) != colours.min(axis=2)).any()):
        raise ValueError(
            f"{name} holds marks of {'the colours of a palette' if is_palette else 'several colours'}, as a map of "
            "regions does; expected contours, white on black. Draw the borders between the regions."
        )


def _threshold_array(array: np.ndarray, name: str, *, middle: int | None = None) -> np.ndarray:
    """A map from values; refuses what has no map's shape, and marks of which none lies above the middle."""
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} is an array of shape {array.shape}; expected (height, width).")
    if array.dtype == bool:
        return array
    threshold = 0.5
    if array.dtype.kind != "f":
        threshold = 0 if array.max() <= 1 else middle or (32767 if array.dtype == np.uint16 else 127)
    edge_map = array > threshold
    if not edge_map.any() and array.min() != array.max():
        raise ValueError(
            f"{name} has marks, values from {array.min():g} to {array.max():g}, but none above {threshold:g}, from "
            "where on a pixel is a contour. Draw contours white on black (numbers of regions are no contours)."
        )
    return edge_map


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
