"""Files of every kind with the 8-bit RGB that must come out of them, computed without Pillow's conversions."""

import colorsys
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 7, 9
BACKGROUND = (255, 255, 255)
DEEP = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)


@dataclass
class OddImage:
    content: bytes
    expected: np.ndarray  # (H, W, 3), real numbers in 0..255
    tolerance: float = 0.5  # rounding to nearest, in steps of 1/255


def colours(channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels `(H, W, C)`, `uint8`, that hold 0 and 255 in each channel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    pixels[0, 0], pixels[-1, -1] = 0, 255
    return pixels


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def write_png(rows: np.ndarray, depth: int, colour_type: int, **chunks: bytes) -> bytes:
    """A PNG written by hand, as Pillow writes neither 16-bit colour nor 2- and 4-bit grey.

    Args:
        rows: `(H, bytes per row)`, `uint8`, samples already packed, most significant byte first.
        depth: bits per sample.
        colour_type: 0 grey, 2 colour, 3 palette, 4 grey with alpha, 6 colour with alpha.
        chunks: other chunks by their four letters, in order.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, 0)
    extra = b"".join(chunk(kind.encode(), content) for kind, content in chunks.items())
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def sixteen_bits(samples: np.ndarray) -> np.ndarray:
    """`(H, W)` or `(H, W, C)`, `uint16`, to the rows of a PNG."""
    return np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(HEIGHT, -1)


def packed(samples: np.ndarray, depth: int) -> np.ndarray:
    """`(H, W)` of `depth` bits each to the rows of a PNG."""
    bits = np.unpackbits(samples[..., None].astype(np.uint8), axis=-1)[..., 8 - depth :]
    return np.packbits(bits.reshape(HEIGHT, -1), axis=1)


def write_twelve_bit_tiff(samples: np.ndarray) -> bytes:
    """A grey TIFF of 12 bits by hand; `samples` `(H, W)` in 0..4095."""
    bits = np.unpackbits(samples.astype(">u2")[..., None].view(np.uint8), axis=-1)[..., 4:]
    body = np.packbits(bits.reshape(HEIGHT, -1), axis=1).tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: HEIGHT, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


def over(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int] = BACKGROUND) -> np.ndarray:
    """The composite in real numbers; `alpha` `(H, W)` in 0..255."""
    share = alpha[..., None].astype(float) / 255
    return share * colour + (1 - share) * np.array(background, dtype=float)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None].astype(float), 3, axis=2)


def ycbcr_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """JFIF's conversion, clipped."""
    luma, blue, red = (pixels[..., channel].astype(float) for channel in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return rgb.clip(0, 255)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D50) to sRGB in 0..255; the matrix is Lindbloom's, adapted to D50 by Bradford."""
    lightness = (lab[..., 0] + 16) / 116
    cubes = np.stack([lightness + lab[..., 1] / 500, lightness, lightness - lab[..., 2] / 200], axis=-1)
    xyz = np.where(cubes > 6 / 29, cubes**3, 3 * (6 / 29) ** 2 * (cubes - 4 / 29)) * [0.96422, 1.0, 0.82521]
    matrix = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    linear = (xyz @ matrix.T).clip(0, 1)
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255


def plain_images() -> dict[str, OddImage]:
    rgb, level = colours(), colours(1)[..., 0]
    image, mask = Image.fromarray(rgb), level > 127
    formats = {"png": {}, "bmp": {}, "ppm": {}, "tiff": {}, "webp": {"lossless": True}}
    images = {f"rgb_{name}": OddImage(encode(image, name, **options), rgb) for name, options in formats.items()}
    flat = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 90))
    images["rgb_jpeg"] = OddImage(encode(flat, "jpeg", quality=95), np.asarray(flat), 3)
    images["grey_jpeg"] = OddImage(
        encode(flat.convert("L"), "jpeg", quality=95), grey(np.asarray(flat.convert("L"))), 3
    )
    images["rgb_avif"] = OddImage(encode(flat, "avif", quality=100), np.asarray(flat), 3)
    images["rgb_jpeg2000"] = OddImage(encode(image, "jpeg2000"), rgb)
    images["grey_png"] = OddImage(encode(Image.fromarray(level), "png"), grey(level))
    images["one_bit_png"] = OddImage(encode(Image.fromarray(mask), "png"), grey(mask * 255))
    images["two_bit_png"] = OddImage(write_png(packed(level >> 6, 2), 2, 0), grey((level >> 6) * 85))
    images["four_bit_png"] = OddImage(write_png(packed(level >> 4, 4), 4, 0), grey((level >> 4) * 17))
    images["palette_png"] = OddImage(encode(image.quantize(200), "png"), rgb)
    return images


def deep_images() -> dict[str, OddImage]:
    """More than 8 bits."""
    third = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=-1)
    alpha = DEEP[::-1, ::-1]
    scaled = DEEP / 257
    little, big = Image.fromarray(DEEP), Image.frombytes("I;16B", (WIDTH, HEIGHT), DEEP.astype(">u2").tobytes())
    integers = DEEP.astype(np.int32)
    fractions = np.linspace(0, 1, DEEP.size, dtype=np.float32).reshape(DEEP.shape)
    images = {
        "deep_grey_png": OddImage(encode(little, "png"), grey(scaled)),
        "deep_grey_tiff": OddImage(encode(little, "tiff"), grey(scaled)),
        "deep_grey_big_endian_tiff": OddImage(encode(big, "tiff"), grey(scaled)),
        "deep_grey_pgm": OddImage(b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP.astype(">u2").tobytes(), grey(scaled)),
        "twelve_bit_tiff": OddImage(write_twelve_bit_tiff(DEEP >> 4), grey((DEEP >> 4) / 4095 * 255), 0.6),
        "deep_colour_png": OddImage(write_png(sixteen_bits(third), 16, 2), third / 257, 1),
        "deep_alpha_grey_png": OddImage(
            write_png(sixteen_bits(np.stack([DEEP, alpha], -1)), 16, 4), over(grey(scaled), alpha / 257), 2
        ),
        "deep_alpha_colour_png": OddImage(
            write_png(sixteen_bits(np.concatenate([third, alpha[..., None]], -1)), 16, 6),
            over(third / 257, alpha / 257),
            2,
        ),
    }
    ranges = {
        "within_16_bits": (integers, scaled),
        "within_8_bits": (integers // 257, integers // 257),
        "stretched": (integers * 30000 - 10**9, fractions * 255),
    }
    for name, (values, levels) in ranges.items():
        # Whole numbers stretch from their own least to their own greatest.
        if name == "stretched":
            levels = (values - values.min()) / (int(values.max()) - int(values.min())) * 255
        images[f"int32_{name}_tiff"] = OddImage(encode(Image.fromarray(values.astype(np.int32)), "tiff"), grey(levels))
    floats = {
        "within_1": (fractions, fractions * 255),
        "within_255": (fractions * 200, fractions * 200),
        "stretched": (fractions * 8 - 3, fractions * 255),
    }
    for name, (values, levels) in floats.items():
        images[f"float_{name}_tiff"] = OddImage(encode(Image.fromarray(values), "tiff"), grey(levels), 0.51)
    return images


def alpha_images() -> dict[str, OddImage]:
    rgba, two = colours(4), colours(2)
    rgb, level = colours(), colours(1)[..., 0]
    see_through = np.linspace(0, 255, 200).astype(np.uint8)
    indexed = Image.fromarray(rgb).quantize(200)
    indices = np.asarray(indexed)
    mixed, mixed_grey = over(rgba[..., :3], rgba[..., 3]), over(grey(two[..., 0]), two[..., 1])
    wide = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=-1)
    white_where = np.array(BACKGROUND, dtype=float)
    return {
        "rgba_png": OddImage(encode(Image.fromarray(rgba), "png"), mixed),
        "rgba_tiff": OddImage(encode(Image.fromarray(rgba), "tiff"), mixed),
        "rgba_webp": OddImage(encode(Image.fromarray(rgba), "webp", lossless=True, exact=True), mixed),
        "grey_alpha_png": OddImage(encode(Image.fromarray(two, mode="LA"), "png"), mixed_grey),
        "palette_alpha_png": OddImage(
            encode(indexed, "png", transparency=see_through.tobytes()), over(rgb, see_through[indices])
        ),
        "palette_one_transparent_png": OddImage(
            encode(indexed, "png", transparency=int(indices[2, 3])),
            np.where((indices == indices[2, 3])[..., None], white_where, rgb),
        ),
        "palette_transparent_gif": OddImage(
            encode(indexed, "gif", transparency=int(indices[2, 3])),
            np.where((indices == indices[2, 3])[..., None], white_where, rgb),
        ),
        "colour_with_transparent_colour_png": OddImage(
            encode(Image.fromarray(rgb), "png", transparency=tuple(int(value) for value in rgb[2, 3])),
            np.where((rgb == rgb[2, 3]).all(-1, keepdims=True), white_where, rgb),
        ),
        "grey_with_transparent_level_png": OddImage(
            encode(Image.fromarray(level), "png", transparency=int(level[2, 3])),
            np.where((level == level[2, 3])[..., None], white_where, grey(level)),
        ),
        "two_bit_transparent_png": OddImage(
            write_png(packed(level >> 6, 2), 2, 0, tRNS=struct.pack(">H", 1)),
            np.where(((level >> 6) == 1)[..., None], white_where, grey((level >> 6) * 85)),
        ),
        "four_bit_transparent_png": OddImage(
            write_png(packed(level >> 4, 4), 4, 0, tRNS=struct.pack(">H", 5)),
            np.where(((level >> 4) == 5)[..., None], white_where, grey((level >> 4) * 17)),
        ),
        "one_bit_transparent_png": OddImage(
            write_png(packed(level >> 7, 1), 1, 0, tRNS=struct.pack(">H", 0)), grey(np.full(level.shape, 255))
        ),
        "deep_grey_transparent_png": OddImage(
            write_png(sixteen_bits(DEEP), 16, 0, tRNS=struct.pack(">H", DEEP[2, 3])),
            np.where(np.equal(DEEP, DEEP[2, 3])[..., None], white_where, grey(DEEP / 257)),
        ),
        "deep_colour_transparent_png": OddImage(
            write_png(sixteen_bits(wide), 16, 2, tRNS=struct.pack(">HHH", *wide[2, 3])),
            np.where((wide == wide[2, 3]).all(-1, keepdims=True), white_where, wide / 257),
            1,
        ),
    }


def colour_space_images() -> dict[str, OddImage]:
    inks = colours(4)
    lab = np.random.default_rng(3).integers([60, -15, -15], [90, 15, 15], (HEIGHT, WIDTH, 3))
    stored = np.stack([np.rint(lab[..., 0] * 2.55), lab[..., 1] % 256, lab[..., 2] % 256], axis=-1).astype(np.uint8)
    exact = np.stack([stored[..., 0] / 2.55, lab[..., 1], lab[..., 2]], axis=-1)
    light = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    return {
        "cmyk_tiff": OddImage(encode(Image.fromarray(inks, mode="CMYK"), "tiff"), light, 1),
        "lab_tiff": OddImage(
            encode(Image.frombytes("LAB", (WIDTH, HEIGHT), stored.tobytes()), "tiff"), lab_to_rgb(exact), 1.5
        ),
    }


def first_frame_images() -> dict[str, OddImage]:
    first, second = colours(seed=0), colours(seed=1)
    frames = [Image.fromarray(first), Image.fromarray(second)]
    options: dict[str, dict[str, object]] = {"png": {}, "webp": {"lossless": True}, "tiff": {}}
    images = {
        f"animated_{name}": OddImage(encode(frames[0], name, save_all=True, append_images=frames[1:], **chosen), first)
        for name, chosen in options.items()
    }
    indexed = [frame.quantize(200) for frame in frames]
    images["animated_gif"] = OddImage(encode(indexed[0], "gif", save_all=True, append_images=indexed[1:]), first)
    return images


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


def turned_images() -> dict[str, OddImage]:
    """The eight EXIF orientations; what each means is EXIF 2.3, tag 274."""
    rgb = colours()
    images = {}
    for orientation, turn in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name, options in {"png": {}, "webp": {"lossless": True}, "tiff": {}}.items():
            content = encode(Image.fromarray(rgb), name, exif=exif, **options)
            images[f"exif_{orientation}_{name}"] = OddImage(content, turn(rgb))
        deep = encode(Image.fromarray(DEEP), "png", exif=exif)
        images[f"exif_{orientation}_deep_png"] = OddImage(deep, turn(grey(DEEP / 257)))
        blocks = np.kron(rgb[:2, :3], np.ones((16, 16, 1), dtype=np.uint8))  # flat blocks come through JPEG
        content = encode(Image.fromarray(blocks), "jpeg", exif=exif, quality=100, subsampling=0)
        images[f"exif_{orientation}_jpeg"] = OddImage(content, turn(blocks), 3)
    return images


def hsv_to_rgb(pixels: np.ndarray) -> np.ndarray:
    flat = [colorsys.hsv_to_rgb(*(pixel / 255)) for pixel in pixels.reshape(-1, 3)]
    return np.array(flat).reshape(pixels.shape) * 255


ODD_IMAGES = {
    **plain_images(),
    **deep_images(),
    **alpha_images(),
    **colour_space_images(),
    **first_frame_images(),
    **turned_images(),
}
