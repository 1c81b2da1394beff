"""Where an image lies on the canvas that a model sees; preprocessing and its undoing share it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the canvas that the model sees.

    Args:
        height: rows of the resized image, from 1 to `canvas_height`.
        width: columns of the resized image.
        top: rows of padding above it.
        left: columns of padding to its left.
        canvas_height: rows of `pixel_values`.
        canvas_width: columns of `pixel_values`.
    """

    height: int
    width: int
    top: int
    left: int
    canvas_height: int
    canvas_width: int

    def crop(self, maps: Tensor) -> Tensor:
        """`(..., canvas_height, canvas_width)` to `(..., height, width)`, the padding taken off."""
        return maps[..., self.top : self.top + self.height, self.left : self.left + self.width]


def place_image(height: int, width: int, size: tuple[int, int], *, do_resize: bool, do_pad: bool) -> Placement:
    """Computes where an image of `height` x `width` goes; preprocessing and its undoing share this.

    With both, the image is scaled by the one factor that makes it just fit inside `size`, sides rounded to
    nearest and at least 1, and centred; an odd row or column of padding goes below or to the right.

    Raises:
        ValueError: If `do_pad` alone is given an image larger than `size`.
    """
    canvas_height, canvas_width = size
    if not do_pad:
        height, width = size if do_resize else (height, width)
        return Placement(height, width, 0, 0, height, width)
    if do_resize:
        height, width = _fit_inside(height, width, size)
    elif height > canvas_height or width > canvas_width:
        raise ValueError(
            f"an image of {height}x{width} pixels does not fit the size {canvas_height}x{canvas_width}, and it may "
            "not be resized. Set do_resize=True, or a larger size."
        )
    top, left = (canvas_height - height) // 2, (canvas_width - width) // 2
    return Placement(height, width, top, left, canvas_height, canvas_width)


def _fit_inside(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    if height * size[1] >= width * size[0]:  # as tall as the canvas
        return size[0], max(1, (2 * width * size[0] + height) // (2 * height))
    return max(1, (2 * height * size[1] + width) // (2 * width)), size[1]
