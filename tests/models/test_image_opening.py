"""`open_image`: every kind of image by its stated rule, and one clear error for what is none."""

import io
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from image_corpus import bomb
from odd_images import HEIGHT, ODD_IMAGES, WIDTH, colours, encode, grey, hsv_to_rgb, over, write_png, ycbcr_to_rgb
from PIL import Image

from hf_contour.image_processing_contour import ImageReadError, open_image

VIOLET = (128, 0, 255)


def worst(image: Image.Image, expected: np.ndarray) -> float:
    assert image.mode == "RGB"
    opened = np.asarray(image).astype(float)
    assert opened.shape == expected.shape
    return float(np.abs(opened - expected).max())


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_file_of_every_kind(kind: str, tmp_path: Path) -> None:
    photo = ODD_IMAGES[kind]
    path = tmp_path / "image"
    path.write_bytes(photo.content)
    from_bytes = open_image(photo.content)
    assert worst(from_bytes, photo.expected) <= photo.tolerance
    for source in (path, str(path), bytearray(photo.content)):
        assert np.array_equal(np.asarray(open_image(source)), np.asarray(from_bytes))
    with Image.open(path) as lazily_opened:
        assert np.array_equal(np.asarray(open_image(lazily_opened)), np.asarray(from_bytes))


@pytest.mark.parametrize(
    "kind", ["exif_6_jpeg", "rgba_png", "deep_grey_png", "two_bit_transparent_png", "twelve_bit_tiff"]
)
def test_opening_again_changes_nothing(kind: str) -> None:
    image = Image.open(io.BytesIO(ODD_IMAGES[kind].content))
    first, again = open_image(image), open_image(image)
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert np.array_equal(np.asarray(open_image(first)), np.asarray(first))


def test_alpha_on_a_chosen_background() -> None:
    rgba = colours(4)
    expected = over(rgba[..., :3], rgba[..., 3], VIOLET)
    for source in (encode(Image.fromarray(rgba), "png"), Image.fromarray(rgba), rgba, torch.from_numpy(rgba)):
        assert worst(open_image(source, background_color=VIOLET), expected) <= 0.5


def test_every_alpha_rounds_to_nearest() -> None:
    """All 256 x 256 pairs of colour and alpha, on black, against exact fractions."""
    colour, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([colour, colour, colour, alpha], axis=-1)
    expected = np.floor(colour.astype(float) * alpha / 255 + 0.5)
    assert worst(open_image(Image.fromarray(rgba), background_color=(0, 0, 0)), grey(expected)) == 0


def test_every_16_bit_value_rounds_to_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(values.astype(float) * 255 / 65535 + 0.5)
    assert worst(open_image(values), grey(expected)) == 0
    assert worst(open_image(encode(Image.fromarray(values), "png")), grey(expected)) == 0


def test_modes_that_only_pillow_images_have() -> None:
    ycbcr, hsv = colours(3, seed=5), colours(3, seed=6)
    assert worst(open_image(Image.fromarray(ycbcr, mode="YCbCr")), ycbcr_to_rgb(ycbcr)) <= 1.5
    assert worst(open_image(Image.fromarray(hsv, mode="HSV")), hsv_to_rgb(hsv)) <= 1.5
    rgba = colours(4)
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    opaque_enough = np.where(rgba[..., 3:] > 127, over(rgba[..., :3], rgba[..., 3]), np.nan)
    difference = np.asarray(open_image(premultiplied)) - opaque_enough
    assert np.nanmax(np.abs(difference)) <= 2  # the colours were rounded when alpha was multiplied in
    grey_alpha = Image.fromarray(np.full((2, 3, 2), [100, 51], dtype=np.uint8), mode="LA")
    # 51 = 255/5, so 100/5 + 255*4/5 = 224; with alpha multiplied in, 100/5 = 20 is exact.
    assert worst(open_image(grey_alpha.convert("La")), np.full((2, 3, 3), 224)) == 0
    indexed = Image.fromarray(colours()).quantize(8).convert("PA")
    assert worst(open_image(indexed), np.asarray(indexed.convert("RGB"))) == 0


def test_arrays_and_tensors_of_every_layout() -> None:
    rgb, level = colours(), colours(1)
    for source in (rgb, rgb.transpose(2, 0, 1), torch.from_numpy(rgb), torch.from_numpy(rgb).permute(2, 0, 1)):
        assert worst(open_image(source), rgb) == 0
    for source in (level[..., 0], level, level.transpose(2, 0, 1), torch.from_numpy(level[..., 0])):
        assert worst(open_image(source), grey(level[..., 0])) == 0


def test_ambiguous_layouts_follow_the_stated_rule() -> None:
    cube = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    assert worst(open_image(cube), cube) == 0
    assert worst(open_image(cube, input_data_format="channels_first"), cube.transpose(1, 2, 0)) == 0
    assert worst(open_image(torch.from_numpy(cube)), cube.transpose(1, 2, 0)) == 0
    assert worst(open_image(torch.from_numpy(cube), input_data_format="channels_last"), cube) == 0


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 65535]], dtype=np.uint16), [0, 255]),
        (np.array([[0, 1]], dtype=np.uint16), [0, 0]),
        (np.array([[0, 200]], dtype=np.int64), [0, 200]),
        (np.array([[0, 256]], dtype=np.int64), [0, 1]),
        (np.array([[-128, 127]], dtype=np.int8), [0, 255]),
        (np.array([[-1, 0, 1]], dtype=np.int16), [0, 128, 255]),
        (np.array([[7, 70000]], dtype=np.uint32), [0, 255]),
        (np.array([[0, 0.25, 1]]), [0, 64, 255]),
        (np.array([[0, 0.25, 2]], dtype=np.float16), [0, 0, 2]),
        (np.array([[0, 1.5, 255]], dtype=np.float32), [0, 2, 255]),
        (np.array([[-1.0, 0.5, 3.0]]), [0, 96, 255]),
        (np.array([[-1e308, 1e308]]), [0, 255]),
        (np.array([[-2.0, -2.0]]), [0, 0]),
        (torch.tensor([[0.0, 0.5]], dtype=torch.bfloat16), [0, 128]),
        (torch.tensor([[0.0, 1.0]], requires_grad=True), [0, 255]),
    ],
)
def test_values_of_every_type(values: np.ndarray | torch.Tensor, levels: list[int]) -> None:
    assert np.asarray(open_image(values))[0, :, 0].tolist() == levels


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    values = np.array([[0.5, bad]], dtype=np.float32)
    for source in (values, torch.from_numpy(values), Image.fromarray(values)):
        with pytest.raises(ImageReadError, match=r"NaN or infinity .*; expected finite"):
            open_image(source)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros((5, 6, 2)), np.zeros((2, 3, 4, 5)), np.zeros((0, 4)), np.zeros((2, 2), dtype=complex)],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageReadError, match=r"^shirt 7: .*expected"):
        open_image(array, name="shirt 7")


def test_extreme_sizes() -> None:
    for size in ((1, 1), (5000, 1), (1, 5000)):
        image = Image.new("RGB", size, VIOLET)
        assert open_image(encode(image, "png")).size == size


UNREADABLE = {
    "empty": (b"", "an empty file"),
    "text": ("a shirt, größer".encode(), "a text file"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "pdf": (b"%PDF-1.7 ...", "a PDF document"),
    "noise": (bytes(range(128, 256)), "unknown kind"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a text file"),
    "header only": (ODD_IMAGES["rgb_png"].content[:20], "damaged"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_image_is_named(kind: str, tmp_path: Path) -> None:
    content, came = UNREADABLE[kind]
    path = tmp_path / "shirt.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"shirt\.jpg: .*{came}.*; expected an? "):
        open_image(path)
    with pytest.raises(ImageReadError, match=rf"^row 12: .*{came}"):
        open_image(content, name="row 12")


def heic(*, brand: bytes = b"heic") -> bytes:
    """An orange image; of `mif1` the first brand says only that there are images, as with some phones."""
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 48), (250, 120, 20))).save(stream)
    content = stream.getvalue()
    assert content[4:12] == b"ftypheic"
    return content[:8] + brand + content[12:]


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_is_read_though_nobody_has_registered_its_opener(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    assert worst(open_image(heic(brand=brand)), np.full((48, 64, 3), (250, 120, 20))) <= 6


def test_heic_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    content = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ImageReadError, match=r"^shirt: a HEIC image, which needs pillow-heif \(pip .*hf_contour\[heif\]"
    ):
        open_image(content, name="shirt")


@pytest.mark.parametrize(
    "kind", ["rgb_png", "rgb_jpeg", "rgb_webp", "rgb_tiff", "animated_gif", "rgb_bmp", "rgb_avif"]
)
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    content = ODD_IMAGES[kind].content
    path = tmp_path / "cut"
    for length in (len(content) // 3, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(ImageReadError, match=r"/cut: .*expected a"):
            open_image(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"absent\.png: no such file"):
        open_image(tmp_path / "absent.png")
    with pytest.raises(ImageReadError, match="a folder"):
        open_image(tmp_path)
    for path in ("nul\0character", "long" * 2000, "https://example.invalid/shirt.jpg", ""):
        with pytest.raises(ImageReadError, match="expected"):
            open_image(path)
    with pytest.raises(TypeError, match="came as int"):
        open_image(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("file_format", ["png", "gif"])
@pytest.mark.parametrize("side", [10_000, 14_000, 65_535])
def test_bombs_are_refused_before_decoding(file_format: str, side: int) -> None:
    content = bomb(file_format, side)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        with pytest.raises(ImageReadError, match=rf"^bomb: an image of {side}x{side} = \d+ pixels; expected at most"):
            open_image(content, name="bomb")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (peak < 5e6, limit) == (True, Image.MAX_IMAGE_PIXELS)


def test_the_bound_is_an_argument() -> None:
    content = ODD_IMAGES["rgb_png"].content
    assert open_image(content, max_pixels=HEIGHT * WIDTH).size == (WIDTH, HEIGHT)
    for source in (content, Image.open(io.BytesIO(content)), colours(), torch.from_numpy(colours())):
        with pytest.raises(ImageReadError, match=f"expected at most {HEIGHT * WIDTH - 1}"):
            open_image(source, max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("colour", [(1, 2), (0, 0, 256), (0, 0, -1), "white", (0.5, 0, 0), None, (True, 0, 0)])
def test_impossible_backgrounds_are_refused(colour: object) -> None:
    with pytest.raises(ValueError, match=r"background_color is .*; expected three whole numbers"):
        open_image(colours(), background_color=colour)  # type: ignore[arg-type]


def test_threads_get_the_same_images() -> None:
    kinds = ["rgb_png", "exif_6_jpeg", "rgba_webp", "deep_grey_tiff"]
    expected = {kind: np.asarray(open_image(ODD_IMAGES[kind].content)) for kind in kinds}
    wrong: list[str] = []

    def read() -> None:
        for kind in kinds * 10:
            if not np.array_equal(np.asarray(open_image(ODD_IMAGES[kind].content)), expected[kind]):
                wrong.append(kind)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_broken_exif_block_means_no_orientation() -> None:
    content = write_png(colours().reshape(HEIGHT, -1), 8, 2, eXIf=b"MM\0*\xff\xff\xff\xff")
    assert worst(open_image(content), colours()) == 0


def photograph(
    height: int, width: int, *, mode: str = "RGB", orientation: int | None = None, **options: object
) -> bytes:
    """A smooth image as a JPEG file; `height` and `width` are those of the file, before it is turned upright."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([down, across, (down + across) / 2], axis=-1) * 200 + 20
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    return encode(Image.fromarray(pixels.astype(np.uint8)).convert(mode), "JPEG", quality=95, exif=exif, **options)


@pytest.mark.parametrize(
    ("least_size", "size"),
    [
        (None, (480, 640)),
        ((481, 10), (480, 640)),  # larger than the image: as it is
        ((241, 10), (480, 640)),
        ((240, 320), (240, 320)),
        ((240, 321), (480, 640)),
        ((120, 160), (120, 160)),
        ((60, 80), (60, 80)),
        ((8, 8), (60, 80)),  # there is no smaller scale than an eighth
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_needed(least_size: tuple[int, int] | None, size: tuple[int, int]) -> None:
    whole = open_image(photograph(480, 640))
    reduced = open_image(photograph(480, 640), least_size=least_size)
    assert (reduced.height, reduced.width) == size
    resized = np.asarray(whole.resize(reduced.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(resized - np.asarray(reduced)).mean() < 1


def test_a_reduced_image_is_never_smaller_than_asked_for() -> None:
    for height, width in [(255, 193), (256, 192), (300, 212), (258, 190), (129, 97), (1025, 32), (8, 8)]:
        content = photograph(height, width)
        for least in [(128, 96), (64, 48), (33, 25), (32, 24), (1, 1)]:
            reduced = open_image(content, least_size=least)
            assert reduced.height >= min(least[0], height)
            assert reduced.width >= min(least[1], width)
            scale = height // reduced.height
            assert (reduced.height * scale, reduced.width * scale) == (height, width)  # none where it does not divide
            enough = [one for one in (2, 4, 8) if height % one == width % one == 0]
            enough = [one for one in enough if height // one >= least[0] and width // one >= least[1]]
            assert scale == max(enough, default=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_that_is_enough_is_that_of_the_upright_image(orientation: int) -> None:
    photo = open_image(photograph(400, 800, orientation=orientation), least_size=(150, 390))
    on_its_side = orientation > 4  # 800 high and 400 wide: a half would be 200 wide
    assert (photo.height, photo.width) == ((800, 400) if on_its_side else (200, 400))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs_are_reduced_too(mode: str) -> None:
    photo = open_image(photograph(160, 160, mode=mode, progressive=True), least_size=(40, 40))
    assert (photo.mode, photo.size) == ("RGB", (40, 40))


def test_other_files_keep_their_size_and_bombs_are_refused_first() -> None:
    assert open_image(encode(Image.new("RGB", (64, 64)), "PNG"), least_size=(8, 8)).size == (64, 64)
    with pytest.raises(ImageReadError, match="max_pixels"):
        open_image(photograph(160, 160), least_size=(20, 20), max_pixels=100)
