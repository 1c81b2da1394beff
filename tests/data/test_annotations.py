"""Contour maps are read white on black from any form, and averaged over the annotators."""

import numpy as np
import pytest
import torch
from odd_images import encode
from PIL import Image

from hf_contour.data.annotations import check_orientation, consensus, read_annotations
from hf_contour.data.rows import RowDrawer
from hf_contour.loss_contour import IGNORE_LABEL, edge_loss

CROSS = np.zeros((4, 6), dtype=bool)
CROSS[1, :] = True
CROSS[:, 2] = True
assert CROSS.sum() == 9


def content(image: Image.Image, file_format: str = "PNG") -> bytes:
    return encode(image, file_format)


def with_alpha(rgb: int, alpha: np.ndarray) -> Image.Image:
    array = np.full((*alpha.shape, 4), rgb, dtype=np.uint8)
    array[..., 3] = alpha
    return Image.fromarray(array, mode=None)


@pytest.mark.parametrize(
    "contour",
    [
        pytest.param(CROSS, id="boolean array"),
        pytest.param(CROSS.astype(np.int64), id="array of 0 and 1"),
        pytest.param(CROSS.astype(np.float32), id="array of floats"),
        pytest.param(np.where(CROSS, 40000, 30000).astype(np.uint16), id="16-bit array"),
        pytest.param(np.where(CROSS, 128, 127).astype(np.uint8), id="grey array, either side of the middle"),
        pytest.param(Image.fromarray(CROSS), id="PIL 1 bit"),
        pytest.param(content(Image.fromarray(CROSS)), id="1-bit PNG"),
        pytest.param({"bytes": content(Image.fromarray(CROSS)), "path": "gone.png"}, id="cell with bytes"),
        pytest.param(content(Image.fromarray(np.where(CROSS, 128, 127).astype(np.uint8))), id="grey PNG"),
        pytest.param(content(Image.fromarray(CROSS.astype(np.uint8))), id="PNG of 0 and 1"),
        pytest.param(content(Image.fromarray(np.where(CROSS, 40000, 30000).astype(np.uint16))), id="16-bit PNG"),
        pytest.param(content(Image.fromarray(CROSS.astype(np.float32)), "TIFF"), id="float TIFF"),
        pytest.param(content(Image.fromarray(np.where(CROSS, 255, 0).astype(np.uint8)).convert("RGB")), id="colour"),
        pytest.param(content(Image.fromarray(np.where(CROSS, 255, 0).astype(np.uint8)).convert("P")), id="palette"),
        pytest.param(content(with_alpha(255, np.where(CROSS, 255, 0))), id="white drawn on nothing"),
        pytest.param(content(with_alpha(0, np.where(CROSS, 255, 0))), id="black ink drawn on nothing"),
        pytest.param(content(Image.fromarray(np.where(CROSS[..., None], (200, 0, 0), 0).astype(np.uint8))), id="red"),
        pytest.param(content(Image.fromarray(CROSS.astype(np.uint16))), id="16-bit PNG of 0 and 1"),
    ],
)
def test_every_form_gives_the_same_map(contour):
    annotations = read_annotations([contour], name="a.jpg", image_size=(4, 6))
    assert annotations.dtype == bool
    assert annotations.shape == (1, 4, 6)
    assert (annotations[0] == CROSS).all()


def test_a_map_in_a_file(tmp_path):
    Image.fromarray(CROSS).save(tmp_path / "c.png")
    for contour in (tmp_path / "c.png", str(tmp_path / "c.png"), {"bytes": None, "path": str(tmp_path / "c.png")}):
        assert (read_annotations([contour], name="a.jpg")[0] == CROSS).all()


def test_consensus_is_the_share_of_the_annotators():
    maps = np.zeros((4, 2, 3), dtype=bool)
    maps[:1, 0, 0] = True
    maps[:2, 0, 1] = True
    maps[:, 1, 2] = True
    shares = consensus(maps)
    assert shares.dtype == np.float32
    assert shares.tolist() == [[0.25, 0.5, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        consensus(maps[0])


def test_the_ignore_band_of_the_loss():
    # One of four annotators drew the pixel: below the threshold, so neither contour nor background.
    shares = torch.tensor(consensus(np.array([[[1, 1, 0]], [[1, 0, 0]], [[1, 0, 0]], [[1, 0, 0]]], dtype=bool)))[None]
    assert shares.tolist() == [[[1, 0.25, 0]]]
    ignored = shares.clone()
    ignored[0, 0, 1] = IGNORE_LABEL
    logits = torch.tensor([[[0.3, 5.0, -0.2]]])
    assert edge_loss(logits, shares, consensus_threshold=0.3) == edge_loss(logits, ignored, consensus_threshold=0.3)
    assert edge_loss(logits, shares, consensus_threshold=0.25) != edge_loss(logits, ignored, consensus_threshold=0.25)


def test_sizes_must_be_the_size_of_the_image():
    with pytest.raises(ValueError, match=r"a\.jpg, contour map 1 is 6x4 .*but the image is 4x6"):
        read_annotations([CROSS, CROSS.T], name="a.jpg", image_size=(4, 6))
    with pytest.raises(ValueError, match=r"contour map 1 is 6x4 .*but contour map 0 is 4x6"):
        read_annotations([CROSS, CROSS.T], name="a.jpg")


def test_inverted_maps_are_refused():
    with pytest.raises(ValueError, match=r"a\.jpg, contour map 1 has 62% of its pixels set.*black on white"):
        read_annotations([CROSS, ~CROSS], name="a.jpg")
    assert read_annotations([~CROSS], name="a.jpg", max_edge_share=1).sum() == 15
    half = np.zeros((4, 6), dtype=bool)
    half[:2] = True
    assert read_annotations([half], name="a.jpg").sum() == 12


def test_blank_maps_are_allowed():
    assert read_annotations([np.zeros((4, 6), dtype=np.uint8)], name="a.jpg").sum() == 0


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        ([], r"a\.jpg has no contour map"),
        (None, r"a\.jpg has no contour map"),
        ([b"no image"], r"a\.jpg, contour map 0.*text"),
        ([content(Image.fromarray(CROSS))[:40]], r"a\.jpg, contour map 0.*damaged"),
        ([{"bytes": None, "path": "gone.png"}], r"a\.jpg, contour map 0.*no such file"),
        ([{"bytes": None, "path": None}], r"a\.jpg, contour map 0 is a NoneType"),
        ([CROSS[None]], r"a\.jpg, contour map 0 is an array of shape \(1, 4, 6\)"),
        ([7], r"a\.jpg, contour map 0 is a int"),
    ],
)
def test_what_is_no_map_is_refused_with_the_name(contours, message):
    with pytest.raises(ValueError, match=message):
        read_annotations(contours, name="a.jpg")


def palette_of_classes(values: np.ndarray) -> Image.Image:
    """Class numbers in the colours of the VOC sets: 1 dark red, 2 dark green, 3 dark yellow."""
    image = Image.fromarray(values.astype(np.uint8), mode=None).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return image


REGIONS = np.repeat([0, 1, 2, 3], 6).reshape(4, 6)


@pytest.mark.parametrize(
    ("contour", "message"),
    [
        (content(palette_of_classes(REGIONS)), "marks of the colours of a palette, as a map of regions"),
        (content(Image.fromarray(REGIONS.astype(np.uint8))), "values from 0 to 3, but none above 127"),
        (content(palette_of_classes(REGIONS).convert("RGB")), "marks of several colours"),
        (REGIONS, "values from 0 to 3, but none above 127"),
        (content(Image.fromarray(np.where(CROSS, 100, 0).astype(np.uint8))), "values from 0 to 100, but none"),
        (content(Image.fromarray(np.where(CROSS, 300, 0).astype(np.uint16))), "values from 0 to 300, but none above"),
        (np.where(CROSS, 0.4, 0.0), "values from 0 to 0.4, but none above 0.5"),
    ],
)
def test_marks_that_give_no_contour_are_refused(contour, message):
    with pytest.raises(ValueError, match=rf"a\.jpg, contour map 0 .*{message}"):
        read_annotations([contour], name="a.jpg")


def turned_jpeg(size: tuple[int, int], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.new("RGB", size, (90, 90, 90)), "JPEG", exif=exif)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("size", [(6, 6), (6, 4)])
def test_contours_of_an_image_that_its_exif_data_turn_are_refused_unless_theirs_do_too(size, orientation):
    """A square image would else train with a map that lies across it."""
    plain = content(Image.new("L", size))
    with pytest.raises(ValueError, match=rf"a\.jpg is turned upright by its EXIF orientation {orientation}.* none"):
        check_orientation(turned_jpeg(size, orientation), [plain], name="a.jpg")
    check_orientation(turned_jpeg(size, orientation), [turned_jpeg(size, orientation)], name="a.jpg")
    check_orientation(turned_jpeg(size, 1), [plain], name="a.jpg")
    row = {"image": {"bytes": turned_jpeg(size, orientation), "path": None}, "contours": [{"bytes": plain}]}
    with pytest.raises(ValueError, match="row 0 is turned upright"):
        RowDrawer(num_samples=1).decode(row, 0)
