"""Opening images: whatever an image is kept in, upright 8-bit RGB comes out, by one stated rule per kind.

Stands alone, so that training, evaluation, the processor and `pipeline` read a file in the same way.

Files (paths and bytes; `READ_FORMATS`, and HEIC with pillow-heif) and Pillow images, by mode:

* `RGB`: as it is. `L`, `1`: the grey in all three channels, white of `1` = 255.
* `P`, `CMYK`, `YCbCr`, `HSV`, `RGBX`: Pillow's conversion; `LAB`: to sRGB by LittleCMS. Colour profiles
  within files are not applied.
* `RGBA`, `LA`, `PA`, `RGBa`, `La`, palettes with transparency, and `L`, `RGB` or 16-bit grey with a
  transparent colour: `round((alpha * colour + (255 - alpha) * background) / 255)` for each channel.
* 16-bit grey (`I;16`, any byte order): `round(value * 255 / 65535)`; 12-bit TIFF is first taken times 16.
  16-bit colour reaches us from Pillow cut to its upper byte, which is less than 1/255 away from that.
* `I` and arrays of other integers than 8 and unsigned 16 bits: values within 0..255 as they are, else
  within 0..65535 as 16 bits, else stretched so that the least becomes 0 and the greatest 255.
* `F` and floating arrays: values within 0..1 times 255, else within 0..255 as they are, else stretched
  likewise. Rounded to nearest. NaN and infinity are refused; an image of one value that would have to be
  stretched is black.

The EXIF orientations 1 to 8 are applied (others count as 1). Of an animation or a file of several pages
the first is taken; of a Pillow image the frame at which it stands.

NumPy arrays and tensors are `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels (the fourth is
alpha), of type bool (True = 255), `uint8`, `uint16` (as 16 bits), other integers or floats. Where both ends
could be the channels, an array has them last and a tensor first; `input_data_format` decides otherwise.
"""

import importlib
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from .image_arrays_contour import (
    DEFAULT_MAX_PIXELS,
    WHITE,
    ImageReadError,
    check_pixel_count,
    composite,
    read_array,
    to_uint8,
)

# Formats that can be recognised by their first bytes and run no program of their own (EPS starts Ghostscript).
READ_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000")
# Brands of HEIC (ISO 23008-12, annex B), which is read where pillow-heif is installed.
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
ORIENTATION_TAG = 0x0112
BITS_PER_SAMPLE_TAG = 0x0102
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_THEIR_SIDE = (5, 6, 7, 8)  # height and width change places
# Pillow widens 2- and 4-bit grey to 8 bits and cuts 16-bit colour down to 8, but leaves the transparent
# colour of a PNG in the file's own depth: (factor, shift) that bring it to 8 bits.
TRANSPARENT_DEPTH = {"L;2": (85, 0), "L;4": (17, 0), "RGB;16B": (1, 8)}

ImageSource: TypeAlias = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor


def open_image(
    source: ImageSource,
    *,
    name: str | None = None,
    background_color: Sequence[int] = WHITE,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    least_size: tuple[int, int] | None = None,
    input_data_format: str | None = None,
) -> Image.Image:
    """Opens an image as upright 8-bit RGB, by the rules at the top of this module.

    Args:
        source: a path, the bytes of a file, a Pillow image, an array or a tensor.
        name: what errors call the image; by default its path.
        background_color: three values in 0..255, shown through transparent pixels.
        max_pixels: largest height times width. Larger images are refused from the header, before decoding.
        least_size: height and width that are enough: the file of a JPEG is decoded at a half, a quarter or an eighth
            of its size where that divides both sides and the upright image is then still no smaller. Other images
            keep their size.
        input_data_format: `channels_first` or `channels_last`; arrays and tensors only.

    Returns:
        A loaded image of mode `RGB`. A Pillow image that needs no change is returned itself.

    Raises:
        ImageReadError: If there is no such file, it is no complete image, or it is too large.
        TypeError: If `source` is of another type.
    """
    check_background_color(background_color)
    if isinstance(source, np.ndarray | torch.Tensor):
        pixels = read_array(
            source,
            name=name,
            background_color=background_color,
            max_pixels=max_pixels,
            input_data_format=input_data_format,
        )
        return Image.fromarray(pixels)
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "") or f"a Pillow image of mode {source.mode}")
        return _finish(source, name, background_color, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        name = name or f"{len(content)} bytes"
        return _read_stream(io.BytesIO(content), name, background_color, max_pixels, least_size)
    if isinstance(source, str | Path):
        return _read_path(source, name or _shorten(str(source)), background_color, max_pixels, least_size)
    raise TypeError(
        f"an image came as {type(source).__name__}; expected a path, bytes, a Pillow image, a NumPy array or a tensor."
    )


def check_background_color(background_color: Sequence[int]) -> None:
    """Refuses anything but three whole numbers within 0..255.

    Raises:
        ValueError: Naming `background_color` and what came.
    """
    values = list(background_color) if isinstance(background_color, Sequence | np.ndarray) else []
    whole = [isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values]
    if len(values) != 3 or not all(whole) or not all(0 <= value <= 255 for value in values):
        raise ValueError(
            f"background_color is {background_color!r}; expected three whole numbers in 0..255 (red, green, blue)."
        )


def _shorten(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def _read_path(
    path: str | Path, name: str, background_color: Sequence[int], max_pixels: int, least_size: tuple[int, int] | None
) -> Image.Image:
    """Opens a file; a folder, a pipe or a device is not waited for."""
    if str(path).startswith(("http://", "https://")):
        raise ImageReadError(
            f"{name}: an address came, expected a file. Download it, or use the pipeline, which does."
        )
    try:
        path = Path(path)
        if not path.is_file():
            came = "a folder" if path.is_dir() else "something not a file" if path.exists() else "no such file"
            raise ImageReadError(f"{name}: {came}; expected the path of an image.")
        with path.open("rb") as stream:
            return _read_stream(stream, name, background_color, max_pixels, least_size)
    except ImageReadError:
        raise
    except (OSError, ValueError) as error:  # no permission, a name too long, a null character
        raise ImageReadError(f"{name}: cannot be opened ({error}); expected the path of an image.") from error


def _read_stream(
    stream: IO[bytes], name: str, background_color: Sequence[int], max_pixels: int, least_size: tuple[int, int] | None
) -> Image.Image:
    start = stream.read(512)
    try:
        image = _parse_header(stream, start)
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{name}: {error}; expected at most {max_pixels} pixels (max_pixels).") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageReadError(f"{name}: a damaged image ({error}); expected a complete one.") from error
    if image is None:
        expected = ", ".join(READ_FORMATS)
        raise ImageReadError(f"{name}: {_describe_content(start)}; expected an image in one of {expected}.")
    return _finish(image, name, background_color, max_pixels, least_size)


def _parse_header(stream: IO[bytes], start: bytes) -> Image.Image | None:
    """Finds the format and reads its header, as `Image.open` does; None if no format knows it.

    `Image.open` checks for bombs by a process-wide setting and a warning; silencing that warning would change
    the warning filters under the feet of other threads.
    """
    Image.preinit()
    if not set(READ_FORMATS) <= set(Image.OPEN):
        Image.init()
    is_heic = _is_heic(start)
    if is_heic and not _registers_heif():
        return None
    for file_format in ("HEIF",) if is_heic else READ_FORMATS:
        factory, accept = Image.OPEN.get(file_format, (None, None))
        if factory is None or (accept is not None and accept(start[:16]) is not True):
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, KeyError, struct.error) as error:
            raise OSError(f"its {file_format} header cannot be read: {error}") from error
    return None


def _is_heic(start: bytes) -> bool:
    """Whether a file begins with a box that names a brand of HEIC; AVIF has the same box."""
    box = start[: int.from_bytes(start[:4], "big")]
    brands = {box[place : place + 4] for place in range(8, len(box), 4)}
    return box[4:8] == b"ftyp" and not HEIC_BRANDS.isdisjoint(brands)


def _registers_heif() -> bool:
    """Has Pillow read HEIC, if pillow-heif is installed. By name: remote code must not need what is optional."""
    try:
        library = importlib.import_module("pillow_heif")
    except ImportError:
        return False
    if "HEIF" not in Image.OPEN:
        library.register_heif_opener()
    return True


def _describe_content(start: bytes) -> str:
    """Says in words what a file is whose first bytes belong to no known image format."""
    if not start:
        return "an empty file"
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing (not made of pixels)"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if _is_heic(start):
        return "a HEIC image, which needs pillow-heif (pip install 'hf_contour[heif]')"
    if head.startswith(b"%pdf"):
        return "a PDF document"
    try:
        start[:-3].decode("utf-8", errors="strict") if len(start) == 512 else start.decode("utf-8")
    except UnicodeDecodeError:
        return f"a file of an unknown kind (first bytes {start[:8].hex(' ')})"
    return "a text file" if b"\0" not in start else f"a file of an unknown kind (first bytes {start[:8].hex(' ')})"


def _finish(
    image: Image.Image,
    name: str,
    background_color: Sequence[int],
    max_pixels: int,
    least_size: tuple[int, int] | None = None,
) -> Image.Image:
    """Decodes, converts to RGB and turns upright an image whose header has been read."""
    try:
        check_pixel_count(image.height, image.width, max_pixels)
        raw_mode = _raw_mode(image)
        if least_size is not None and image.format == "JPEG":
            _reduce(image, least_size)
        image.load()
        orientation = _orientation(image)
        rgb = _to_rgb(image, raw_mode, background_color)
    except ImageReadError as error:
        raise ImageReadError(f"{name}: {error}") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        kind = f"{image.format} " if image.format else ""
        raise ImageReadError(
            f"{name}: a truncated or damaged {kind}image ({error}); expected a complete one."
        ) from error
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
        rgb.info = {}  # or it would be turned again when opened again
    elif getattr(rgb, "is_animated", False):
        rgb = rgb.copy()  # let go of the other frames
    return rgb


def _reduce(image: Image.Image, least_size: tuple[int, int]) -> None:
    """Has a JPEG decoded at the smallest scale that divides both sides and leaves enough of them."""
    least_height, least_width = least_size[::-1] if _orientation(image) in ON_THEIR_SIDE else least_size
    for scale in (8, 4, 2):
        (height, rest), (width, other) = divmod(image.height, scale), divmod(image.width, scale)
        if rest == other == 0 and height >= least_height and width >= least_width:
            image.draft(None, (width, height))
            return


def _raw_mode(image: Image.Image) -> str:
    """The layout of the pixels in the file, such as `L;4`; empty where it is not known or already decoded."""
    tiles: Any = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # an EXIF block that cannot be read says nothing about the orientation
        return 1


def _to_rgb(image: Image.Image, raw_mode: str, background_color: Sequence[int]) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_deep_to_rgb(image, background_color))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    transparent = image.info.get("transparency")
    if raw_mode in TRANSPARENT_DEPTH and transparent is not None:
        factor, shift = TRANSPARENT_DEPTH[raw_mode]
        values = transparent if isinstance(transparent, tuple) else (transparent,)
        scaled = tuple((value * factor) >> shift for value in values)
        # Kept in the image, as its depth in the file is forgotten once it is loaded.
        image.info["transparency"] = scaled if isinstance(transparent, tuple) else scaled[0]
    straight = image.convert("LA") if image.mode == "La" else image
    return Image.fromarray(composite(np.asarray(straight.convert("RGBA")), background_color))


def _deep_to_rgb(image: Image.Image, background_color: Sequence[int]) -> np.ndarray:
    """Grey of more than 8 bits to `(H, W, 3)`, 8 bits."""
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF, and still there once its pixels are loaded
    grey = to_uint8(values * 16 if tags.get(BITS_PER_SAMPLE_TAG) == (12,) else values)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and image.mode.startswith("I;16"):
        rgb[values == transparent] = background_color
    return rgb
