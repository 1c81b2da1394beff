"""Arrays and tensors as images: any layout and type to `(H, W, 3)`, by the rules of `image_opening_contour`."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

DEFAULT_MAX_PIXELS = 2**26  # 8192 x 8192; 192 MiB when decoded
STRIP_PIXELS = 2**18  # converted at a time
WHITE = (255, 255, 255)
CHANNEL_COUNTS = (1, 3, 4)


class ImageReadError(ValueError):
    """An image cannot be read; the message names it and says what came and what was expected."""


def check_pixel_count(height: int, width: int, max_pixels: int) -> None:
    """Raises `ImageReadError` for no pixels, or too many."""
    if height < 1 or width < 1:
        raise ImageReadError(f"an image of {height}x{width} pixels; expected at least 1x1.")
    if height * width > max_pixels:
        raise ImageReadError(
            f"an image of {height}x{width} = {height * width} pixels; expected at most {max_pixels}. "
            "Nothing was decoded. Make it smaller, or raise max_pixels if you trust it."
        )


def composite(rgba: np.ndarray, background_color: Sequence[int]) -> np.ndarray:
    """Lays colours with alpha on a background, rounded to nearest.

    Args:
        rgba: `(H, W, 4)`, `uint8`, alpha not multiplied in.
        background_color: three values in 0..255.

    Returns:
        `(H, W, 3)`, `uint8`.
    """
    background = np.array(background_color, dtype=np.uint16)

    def mix(rows: np.ndarray) -> np.ndarray:
        alpha = rows[..., 3:].astype(np.uint16)
        # 255 is odd, so no value lies half way, and the greatest sum, 255 * 255 + 127, fits 16 bits.
        return (rows[..., :3] * alpha + background * (255 - alpha) + 127) // 255

    return _by_strips(mix, rgba, channels=(3,))


def _by_strips(
    convert: Callable[[np.ndarray], np.ndarray], values: np.ndarray, channels: tuple[int, ...]
) -> np.ndarray:
    """Converts some rows at a time: the arrays in between, wider than the result, stay small.

    Args:
        convert: makes of rows `(h, W, ...)` values in 0..255, `(h, W, *channels)`.
        values: `(H, W, ...)`.
        channels: the last dimensions of the result.

    Returns:
        `(H, W, *channels)`, `uint8`.
    """
    height, width = values.shape[:2]
    result = np.empty((height, width, *channels), dtype=np.uint8)
    step = max(STRIP_PIXELS // width, 1)
    for top in range(0, height, step):
        result[top : top + step] = convert(values[top : top + step])
    return result


def read_array(
    source: np.ndarray | torch.Tensor,
    *,
    name: str | None = None,
    background_color: Sequence[int] = WHITE,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    input_data_format: str | None = None,
    keep_unit: bool = False,
) -> np.ndarray:
    """Reads an array or a tensor by the rules of `image_opening_contour`.

    Args:
        source: of any layout and type.
        name: for messages.
        background_color: shown through transparent pixels.
        max_pixels: largest height times width.
        input_data_format: `channels_first` or `channels_last`; told by the shape where it is not given.
        keep_unit: floats in 0..1 stay such, as float32.

    Returns:
        `(H, W, 3)`, `uint8` (or float32); a view of `source` where nothing had to change.

    Raises:
        ImageReadError: If shape, type or values are none of an image's.
    """
    values = _tensor_to_array(source) if isinstance(source, torch.Tensor) else source
    kind = "a tensor" if isinstance(source, torch.Tensor) else "an array"
    name = name or f"{kind} of shape {tuple(source.shape)} and type {source.dtype}"
    try:
        values = _channels_last(values, input_data_format, first=isinstance(source, torch.Tensor))
        check_pixel_count(values.shape[0], values.shape[1], max_pixels)
        if keep_unit and values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
            values = values.astype(np.float32)
        else:
            values = to_uint8(values)
    except ImageReadError as error:
        raise ImageReadError(f"{name}: {error}") from error
    if values.shape[2] == 4 and values.dtype == np.float32:
        alpha = values[..., 3:]
        return values[..., :3] * alpha + np.array(background_color, dtype=np.float32) / 255 * (1 - alpha)
    if values.shape[2] == 4:
        return composite(values, background_color)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def _tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _channels_last(values: np.ndarray, input_data_format: str | None, *, first: bool) -> np.ndarray:
    """Brings any layout to `(H, W, C)`; `first` says where the channels are when both ends could be."""
    if values.ndim == 2:
        return values[..., None]
    expected = "expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels"
    if values.ndim != 3:
        raise ImageReadError(f"the shape {values.shape} is not one image's; {expected}.")
    if input_data_format is not None:
        first = str(getattr(input_data_format, "value", input_data_format)) in ("channels_first", "first")
    elif (values.shape[0] in CHANNEL_COUNTS) != (values.shape[-1] in CHANNEL_COUNTS):
        first = values.shape[0] in CHANNEL_COUNTS
    if values.shape[0 if first else 2] not in CHANNEL_COUNTS:
        raise ImageReadError(f"the shape {values.shape} has no channels to read; {expected}.")
    return np.moveaxis(values, 0, -1) if first else values


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Scales values of any type to 0..255 by the rules of `image_opening_contour`."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _scale_16_bits(values)
    if values.dtype.kind not in "iuf":
        raise ImageReadError(f"values of type {values.dtype}; expected bool, integers or floats.")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageReadError("NaN or infinity among the values; expected finite numbers.")
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return _by_strips(lambda rows: np.rint(rows.astype(np.float64) * 255), values, values.shape[2:])
    if low >= 0 and high <= 255:
        return _by_strips(np.rint, values, values.shape[2:])
    if values.dtype.kind != "f" and low >= 0 and high <= 65535:
        return _scale_16_bits(values)
    return _by_strips(
        lambda rows: _stretch(rows.astype(np.float64), float(low), float(high)), values, values.shape[2:]
    )


def _scale_16_bits(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high / 2 - low / 2  # halved, as the whole can exceed the largest float
    if span <= 0:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint((values / 2 - low / 2) / span * 255).astype(np.uint8)
