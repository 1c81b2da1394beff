"""What the check before training looks at in one image and its contour maps."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage

from hf_contour.data.annotations import MAX_EDGE_SHARE, check_orientation, encoded, read_contour_map
from hf_contour.image_opening_contour import ORIENTATION_TAG
from hf_contour.image_processing_contour import ImageReadError, open_image

_MODE_KINDS = {"L": "mode_grey", "LA": "mode_grey", "1": "mode_grey", "F": "mode_float", "CMYK": "mode_cmyk"}
_MODE_KINDS |= {"P": "mode_palette", "PA": "mode_palette", "RGB": "", "RGBA": "", "RGBa": "", "RGBX": ""}


@dataclass(frozen=True)
class ImageLimits:
    """From where on an image or contour map is reported.

    Attributes:
        min_side: shortest side in pixels that is not tiny.
        max_aspect: longest side over shortest side that is not extreme.
        max_edge_share: largest share of contour pixels in a map that is not inverted.
    """

    min_side: int = 16
    max_aspect: float = 8.0
    max_edge_share: float = MAX_EDGE_SHARE


@dataclass(frozen=True)
class ImageCheck:
    """Problems of one image as (kind, message); `(height, width)` and a digest of the pixels if it can be read."""

    problems: list[tuple[str, str]]
    size: tuple[int, int] | None = None
    digest: bytes | None = None


def check_image(cell: dict[str, Any], *, name: str, limits: ImageLimits) -> ImageCheck:
    """Open an image as training does and look at its size, mode and orientation."""
    content = encoded(cell)
    if content is None:
        return ImageCheck([("image_unreadable", "there is no image.")])
    try:
        image = open_image(content, name=name)
    except ImageReadError as error:
        is_bomb = "max_pixels" in str(error).removeprefix(name)
        return ImageCheck([("image_bomb" if is_bomb else "image_unreadable", str(error))])
    with PILImage.open(io.BytesIO(content) if isinstance(content, bytes) else content) as stored:
        problems = _mode_problems(stored)
    short, long = sorted(image.size)
    if short < limits.min_side:
        problems.append(("size_tiny", f"is {image.height}x{image.width} (height x width)."))
    if long > limits.max_aspect * short:
        problems.append(("size_extreme_aspect", f"is {image.height}x{image.width} (height x width)."))
    digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
    return ImageCheck(problems, (image.height, image.width), digest)


def _mode_problems(stored: PILImage.Image) -> list[tuple[str, str]]:
    """What a stored image has that 8-bit RGB does not; each is converted on opening."""
    problems = []
    kind = "mode_high_bit_depth" if stored.mode.startswith("I") else _MODE_KINDS.get(stored.mode, "mode_other")
    if kind:
        problems.append((kind, f"is stored in mode {stored.mode}."))
    orientation = stored.getexif().get(ORIENTATION_TAG, 1)
    if orientation not in (0, 1):
        problems.append(("exif_rotated", f"is turned upright by EXIF orientation {orientation}."))
    num_frames = 1 if stored.format == "MPO" else getattr(stored, "n_frames", 1)  # MPO: previews of a phone's JPEG
    if num_frames > 1:
        problems.append(("several_frames", f"has {num_frames} frames; the first is used."))
    if stored.has_transparency_data and stored.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        problems.append(("mode_alpha", "has transparent pixels, which are laid on the background colour."))
    return problems


def check_contours(
    contours: Sequence[Any], size: tuple[int, int] | None, *, image: Any, name: str, limits: ImageLimits
) -> list[tuple[str, str]]:
    """Read the contour maps of one image, each by itself.

    Args:
        contours: the maps.
        size: `(height, width)` of the image; None where it cannot be read.
        image: the image's cell, for its orientation.
        name: the image's name.
        limits: from where on a map is reported.
    """
    if not contours:
        return [("contours_missing", "has no contour map.")]
    problems = []
    try:
        check_orientation(encoded(image), contours, name=name)
    except ValueError as error:
        problems.append(("contour_not_turned", str(error)))
    for index, contour in enumerate(contours):
        map_name = f"contour map {index}"
        try:
            edge_map = read_contour_map(contour, name=map_name)
        except ValueError as error:
            problems.append(("contour_unreadable", str(error)))
            continue
        if size is not None and edge_map.shape != size:
            found, expected = ("x".join(map(str, shape)) for shape in (edge_map.shape, size))
            problems.append(("contour_other_size", f"{map_name} is {found} (height x width), the image {expected}."))
        share = edge_map.mean()
        if share == 0:
            problems.append(("contour_blank", f"{map_name} has no contour pixel."))
        elif share > limits.max_edge_share:
            message = f"{map_name} has {share:.0%} of its pixels set; it is probably drawn black on white."
            problems.append(("contour_inverted", message))
    return problems
