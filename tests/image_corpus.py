"""Bad images on purpose: faults of every format, files that claim to be huge, and mutations by the thousand.

`python tests/image_corpus.py COUNT SEED MAX_PIXELS` opens so many mutated files in a process of its own and prints
what became of them as JSON; the number of the file at hand goes to the standard error, so that a crash names it.
"""

import io
import json
import random
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from odd_images import ODD_IMAGES, encode
from PIL import Image

from hf_contour.image_opening_contour import ImageReadError, open_image

PNG_START = b"\x89PNG\r\n\x1a\n"
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MAX_SECONDS = 2.0


def photograph(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, which every format compresses in its own way."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 5), np.cos(columns / 7), np.sin((rows + columns) / 9)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 6, waves.shape)
    return Image.fromarray((waves * 110 + 128 + noise).clip(0, 255).astype(np.uint8))


def plain_files() -> dict[str, bytes]:
    """A sound file of each format and compression that Pillow writes here."""
    image, frames = photograph(), [photograph(seed=seed) for seed in (1, 2)]
    grey, indexed, inks = image.convert("L"), image.quantize(32), image.convert("CMYK")
    clear = image.copy()
    clear.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    several = {"save_all": True, "append_images": frames}
    files = {
        "png": encode(image, "png"),
        "png_palette": encode(indexed, "png", transparency=3),
        "png_alpha": encode(clear, "png"),
        "png_animated": encode(image, "png", **several),
        "jpeg": encode(image, "jpeg", quality=80, exif=exif),
        "jpeg_progressive": encode(image, "jpeg", progressive=True),
        "jpeg_restarts": encode(image, "jpeg", restart_marker_rows=1),
        "jpeg_grey": encode(grey, "jpeg"),
        "jpeg_inks": encode(inks, "jpeg"),
        "gif": encode(indexed, "gif"),
        "gif_animated": encode(indexed, "gif", save_all=True, append_images=[frame.quantize(16) for frame in frames]),
        "tiff": encode(image, "tiff"),
        "tiff_pages": encode(image, "tiff", **several),
        "tiff_inks": encode(inks, "tiff"),
        "webp": encode(image, "webp", exif=exif),
        "webp_lossless": encode(clear, "webp", lossless=True),
        "webp_animated": encode(image, "webp", **several),
        "bmp": encode(image, "bmp"),
        "bmp_palette": encode(indexed, "bmp"),
        "ppm": encode(image, "ppm"),
        "ppm_text": b"P3 2 2 255\n" + b"1 2 3  255 0 0  0 255 0  9 9 9\n",
        "jpeg2000": encode(image, "jpeg2000"),
        "avif": encode(image, "avif", speed=10),
        "avif_alpha": encode(clear, "avif", speed=10),
    }
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        page = image.convert("1") if name == "group4" else image
        files[f"tiff_{name.removeprefix('tiff_')}"] = encode(page, "tiff", compression=name)
    return files


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_file(*chunks: bytes, width: int = 4, height: int = 4, depth: int = 8, colour_type: int = 2) -> bytes:
    """A PNG of a header and whatever chunks are given."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + b"".join(chunks)


def tiff_file(entries: list[tuple[int, int, int, int]], *, following: int = 0, body: bytes = bytes(64)) -> bytes:
    """A little-endian TIFF of one directory; entries of tag, type, count and value. The body starts at byte 8."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = 8 + len(body)
    directory = struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", start) + body + directory


def tiff_entries(width: int, height: int, **changes: int) -> list[tuple[int, int, int, int]]:
    """What a grey TIFF needs; `changes` by tag number, as `t273=...`."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 16}
    tags |= {int(name[1:]): value for name, value in changes.items()}
    return [(tag, 4, 1, value) for tag, value in sorted(tags.items())]


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Faulty files by kind: content, and "read", "refused" or "either" where both would be right."""
    plain = plain_files()
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + bytes(range(12))) * 4))
    end = chunk(b"IEND", b"")
    files: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "refused"),
        "one byte": (b"\x89", "refused"),
        "text": (b"not an image", "refused"),
        "html": (b"<!DOCTYPE html><html></html>", "refused"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "refused"),
        "pdf": (b"%PDF-1.7\n", "refused"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "refused"),
        "zip": (b"PK\x03\x04" + bytes(60), "refused"),
        "zeros": (bytes(4096), "refused"),
        "png signature alone": (PNG_START, "refused"),
        "png without pixels": (png_file(end), "refused"),
        "png without end": (png_file(pixels), "either"),
        "png of no width": (png_file(pixels, end, width=0), "refused"),
        "png of negative width": (png_file(pixels, end, width=0xFFFFFFFF), "refused"),
        "png of unknown depth": (png_file(pixels, end, depth=7), "refused"),
        "png of unknown colours": (png_file(pixels, end, colour_type=5), "refused"),
        "png with a wrong checksum": (png_file(pixels[:-1] + b"\0", end), "either"),
        "png with two headers": (png_file(chunk(b"IHDR", bytes(13)), pixels, end), "refused"),
        "png without its palette": (png_file(pixels, end, colour_type=3), "either"),
        "png with a short palette": (png_file(chunk(b"PLTE", b"\1\2\3"), pixels, end, colour_type=3), "either"),
        "png with a text bomb": (
            png_file(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**25))), pixels, end),
            "either",
        ),
        "png with a profile bomb": (
            png_file(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**25))), pixels, end),
            "either",
        ),
        "png with too many pixels": (png_file(chunk(b"IDAT", zlib.compress(bytes(2**22))), end), "read"),
        "png with a chunk of 4 GB": (png_file(struct.pack(">I", 0xFFFFFFF0) + b"IDAT"), "refused"),
        "png with broken exif": (png_file(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"), pixels, end), "read"),
        "png with rubbish behind": (plain["png"] + bytes(1000), "read"),
        "jpeg start alone": (b"\xff\xd8\xff", "refused"),
        "jpeg without end": (plain["jpeg"][:-2], "either"),
        "jpeg of no height": (with_jpeg_size(plain["jpeg"], 0, 48), "refused"),
        "jpeg with two images": (plain["jpeg"] * 2, "read"),
        "jpeg with a marker that has no length": (b"\xff\xd8\xff\xe0\0\0" + plain["jpeg"][2:], "either"),
        "gif of no size": (b"GIF89a" + bytes(7) + b";", "refused"),
        "gif without a frame": (plain["gif"][:13] + b";", "refused"),
        "gif with a wrong code size": (with_gif_code_size(plain["gif"], 13), "either"),
        "gif named as png": (plain["gif"], "read"),
        "tiff without entries": (tiff_file([]), "refused"),
        "tiff whose directories go round": (tiff_file(tiff_entries(4, 4), following=72), "either"),
        "tiff with its directory outside": (b"II*\0\xff\xff\xff\x7f", "refused"),
        "tiff with its strips outside": (tiff_file(tiff_entries(4, 4, t273=10**9)), "refused"),
        "tiff with a count of 4 G": (tiff_file([*tiff_entries(4, 4)[:-1], (279, 4, 0xFFFFFFFF, 8)]), "either"),
        "tiff of no width": (tiff_file(tiff_entries(0, 4)), "refused"),
        "tiff of unknown compression": (tiff_file(tiff_entries(4, 4, t259=999)), "refused"),
        "tiff of 64 bits": (tiff_file(tiff_entries(4, 4, t258=64)), "refused"),
        "tiff of 200 channels": (tiff_file(tiff_entries(4, 4, t277=200)), "refused"),
        "webp with a wrong length": (plain["webp"][:4] + b"\xff\xff\xff\xff" + plain["webp"][8:], "either"),
        "webp container alone": (b"RIFF\x04\0\0\0WEBP", "refused"),
        "avif box alone": (b"\0\0\0\x1cftypavif" + bytes(16), "refused"),
        "bmp that stands on its head": (with_bmp_height(plain["bmp"], -40), "read"),
        "bmp of no width": (plain["bmp"][:18] + bytes(4) + plain["bmp"][22:], "refused"),
        "bmp with a palette of 4 G": (plain["bmp"][:46] + b"\xff\xff\xff\xff" + plain["bmp"][50:], "either"),
        "ppm of no size": (b"P6 0 0 255\n", "refused"),
        "ppm of negative size": (b"P6 -4 4 255\n" + bytes(48), "refused"),
        "ppm of white 0": (b"P6 4 4 0\n" + bytes(48), "refused"),
        "ppm with letters for numbers": (b"P6 four 4 255\n" + bytes(48), "refused"),
        "jpeg2000 start alone": (b"\0\0\0\x0cjP  \r\n\x87\n", "refused"),
    }
    for name in ("png", "jpeg", "gif", "tiff", "webp", "bmp", "avif", "jpeg2000", "ppm"):
        files[f"{name} cut in half"] = (plain[name][: len(plain[name]) // 2], "refused")
        # A PPM has nothing but numbers behind its start, and zeros are black.
        came = "read" if name == "ppm" else "refused"
        files[f"{name} of zeros behind its start"] = (plain[name][:16] + bytes(len(plain[name]) - 16), came)
    return files


def with_jpeg_size(content: bytes, height: int, width: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    marker = next(
        place for place in range(2, len(content)) if content[place : place + 2] in (b"\xff\xc0", b"\xff\xc2")
    )
    return content[: marker + 5] + struct.pack(">HH", height, width) + content[marker + 9 :]


def with_gif_code_size(content: bytes, size: int) -> bytes:
    start = content.index(b"\x2c", 13 + 3 * 2 ** ((content[10] & 7) + 1))
    return content[: start + 10] + bytes([size]) + content[start + 11 :]


def with_bmp_height(content: bytes, height: int) -> bytes:
    return content[:22] + struct.pack("<i", height) + content[26:]


def bomb(file_format: str, side: int) -> bytes:
    """A few bytes that claim `side` x `side` pixels."""
    plain = plain_files() if file_format in ("gif", "bmp", "jpeg", "jpeg2000", "webp", "avif") else {}
    if file_format == "png":
        return png_file(chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""), width=side, height=side)
    if file_format == "tiff":
        return tiff_file(tiff_entries(side, side))
    if file_format == "ppm":
        return b"P6 %d %d 255\n" % (side, side) + bytes(1000)
    if file_format == "bmp":
        return plain["bmp"][:18] + struct.pack("<ii", side, side) + plain["bmp"][26:]
    if file_format == "jpeg":
        return with_jpeg_size(plain["jpeg"], side, side)
    if file_format == "webp":  # the canvas of an extended file: 24 bits a side, less one
        canvas = (side - 1).to_bytes(3, "little") * 2
        body = plain["webp_animated"][12:]
        start = body.index(b"VP8X")
        return plain["webp_animated"][:12] + body[: start + 12] + canvas + body[start + 18 :]
    if file_format == "jpeg2000":
        place = plain["jpeg2000"].index(b"ihdr") + 4
        sizes = struct.pack(">II", side, side)
        return plain["jpeg2000"][:place] + sizes + plain["jpeg2000"][place + 8 :]
    if file_format == "avif":
        place = plain["avif"].index(b"ispe") + 8
        return plain["avif"][:place] + struct.pack(">II", side, side) + plain["avif"][place + 8 :]
    gif = bytearray(plain["gif"])
    gif[6:10] = struct.pack("<HH", side, side)
    start = gif.index(b"\x2c", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    gif[start + 5 : start + 9] = struct.pack("<HH", side, side)
    return bytes(gif)


def _flip_bits(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8, 32))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def _edit_header(content: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 2, 4))):
        content[draw.randrange(min(len(content), 128))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _edit_field(content: bytearray, draw: random.Random) -> None:
    """A number of one, two or four bytes, in either byte order, at its limits."""
    size = draw.choice((1, 2, 4))
    place = draw.randrange(max(len(content) - size, 1)) if draw.random() < 0.5 else draw.randrange(96)
    value = draw.choice(EXTREMES) % 256**size
    content[place : place + size] = value.to_bytes(size, draw.choice(("little", "big")))


def _truncate(content: bytearray, draw: random.Random) -> None:
    del content[draw.randrange(len(content)) :]


def _remove(content: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(content))
    del content[place : place + draw.choice((1, 2, 16, 200))]


def _repeat(content: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(content))
    content[place:place] = content[place : place + draw.choice((1, 4, 64))] * draw.choice((1, 3))


def _insert(content: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(content))
    content[place:place] = draw.randbytes(draw.choice((1, 4, 64)))


def _blank(content: bytearray, draw: random.Random) -> None:
    place, size = draw.randrange(len(content)), draw.choice((4, 32, 256))
    content[place : place + size] = bytes([draw.choice((0, 255))]) * len(content[place : place + size])


def _exchange(content: bytearray, draw: random.Random) -> None:
    first, second, size = draw.randrange(len(content)), draw.randrange(len(content)), draw.choice((4, 32))
    one, other = content[first : first + size], content[second : second + size]
    if len(one) == len(other):
        content[first : first + size], content[second : second + size] = other, one


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bits,
    _edit_header,
    _edit_field,
    _truncate,
    _remove,
    _repeat,
    _insert,
    _blank,
    _exchange,
)


def mend_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have right checksums again, so that a mutation gets past them to the decoder."""
    place, parts = len(PNG_START), [content[: len(PNG_START)]]
    while place + 12 <= len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        body = content[place + 4 : place + 8 + size]
        if place + 12 + size > len(content):
            break
        parts.append(content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + size
    return b"".join(parts) + content[place:]


def mutated_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of mutated files: every sound file of this module and of `odd_images` in turn."""
    bases = {**plain_files(), **{kind: photo.content for kind, photo in ODD_IMAGES.items()}}
    names = sorted(bases)
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        name = names[number % len(names)]
        mutation = MUTATIONS[number // len(names) % len(MUTATIONS)]
        content = bytearray(bases[name])
        mutation(content, draw)
        changed = bytes(content)
        if changed.startswith(PNG_START) and draw.random() < 0.7:
            changed = mend_checksums(changed)
        yield f"{number}: {name}{mutation.__name__}", changed


def outcome(content: bytes, **options: Any) -> str:
    """What becomes of a file: "read", "converted" or "refused"; anything else is raised."""
    try:
        image = open_image(content, name="file", **options)
    except ImageReadError as error:
        if not str(error).startswith("file: ") or "expected" not in str(error):
            raise AssertionError(f"a message without name or expectation: {error}") from error
        return "refused"
    pixels = np.asarray(image)
    if image.mode != "RGB" or pixels.shape != (image.height, image.width, 3) or pixels.dtype != np.uint8:
        raise AssertionError(f"{image.mode} {pixels.shape} {pixels.dtype} came; expected 8-bit RGB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return "read" if Image.open(io.BytesIO(content)).mode == "RGB" else "converted"


def peak_memory() -> int:
    """Largest resident size since `forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    """Start `peak_memory` afresh from the present size (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def try_files(files: Iterator[tuple[str, bytes]], *, announce: bool = False, **options: Any) -> dict[str, Any]:
    """Opens files one by one.

    Returns:
        `counts` of the outcomes, `failures` with their tracebacks, `slow` ones over `MAX_SECONDS` of processor time,
        `slowest` in seconds, and `growth` of the largest resident size in bytes.
    """
    counts: Counter[str] = Counter()
    failures, slow, slowest = [], [], 0.0
    forget_peak()
    before = peak_memory()
    for name, content in files:
        if announce:
            print(name, file=sys.stderr)
        start = time.process_time()
        try:
            counts[outcome(content, **options)] += 1
        except BaseException:  # whatever comes is the finding
            failures.append(f"{name}\n{traceback.format_exc()}")
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        if seconds > MAX_SECONDS:
            slow.append(f"{name}: {seconds:.1f} s")
    return {
        "counts": dict(counts),
        "failures": failures,
        "slow": slow,
        "slowest": slowest,
        "growth": peak_memory() - before,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Pillow's remarks on damaged files
    number, first_seed, most = (int(word) for word in sys.argv[1:])
    for warm in plain_files().values():
        open_image(warm)  # the decoders are loaded before memory is measured
    print(json.dumps(try_files(mutated_files(number, first_seed), announce=True, max_pixels=most)))
