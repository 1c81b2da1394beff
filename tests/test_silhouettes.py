"""The drawn garments: repeatable, exact contours, a label in the shape and none in the colour."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from hf_contour.data.silhouettes import draw_garment, embedded_dataset


@pytest.fixture(scope="module")
def garments():
    return [draw_garment(index, seed=5, size=(48, 48)) for index in range(400)]


def test_a_garment_is_drawn_the_same_every_time():
    first, second = draw_garment(11, seed=2), draw_garment(11, seed=2)
    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.contour, second.contour)
    assert first.image.tobytes() != draw_garment(11, seed=3).image.tobytes()
    assert first.image.tobytes() != draw_garment(11, seed=2, split="test").image.tobytes()


@pytest.mark.parametrize("size", [(32, 80), (96, 64), (300, 512)])
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_the_outer_edge_is_the_boundary_of_the_garment(size, index):
    garment = draw_garment(index, size=size)
    assert garment.image.size == size[::-1]
    assert garment.contour.shape == garment.mask.shape == size
    boundary = garment.mask & ~ndimage.binary_erosion(garment.mask)
    near_contour = ndimage.binary_dilation(garment.contour, np.ones((3, 3)))
    assert near_contour[boundary].all()  # every pixel of the boundary is drawn, to one pixel
    near_mask = ndimage.binary_dilation(garment.mask, np.ones((3, 3)))
    assert near_mask[garment.contour].all()  # and nothing is drawn away from the garment
    _, num_parts = ndimage.label(
        garment.contour & ~ndimage.binary_erosion(near_mask, np.ones((5, 5))), np.ones((3, 3))
    )
    assert num_parts == 1  # the outer edge is one line


def test_seams_are_drawn_and_cloth_is_not(garments):
    inner = [(g.contour & ndimage.binary_erosion(g.mask, np.ones((5, 5)))).sum() for g in garments]
    assert np.mean(np.array(inner) > 0) > 0.95  # the smallest garments have no inside left
    shares = [g.contour.sum() / g.mask.sum() for g in garments if g.attributes["texture"] == "dots"]
    plain = [g.contour.sum() / g.mask.sum() for g in garments if g.attributes["texture"] == "plain"]
    assert np.mean(shares) == pytest.approx(np.mean(plain), rel=0.1)


def cropped(mask: np.ndarray) -> Image.Image:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).convert("L")


def test_the_label_is_in_the_shape_and_not_in_the_colour(garments):
    labels = np.array([garment.label for garment in garments])
    assert labels.mean() == 0.5
    pixels = [np.asarray(garment.image).reshape(-1, 3) for garment in garments]
    colours = np.array(
        [np.concatenate([np.histogram(p[:, c], bins=8, range=(0, 256))[0] / len(p) for c in range(3)]) for p in pixels]
    )
    shapes = np.array([np.asarray(cropped(garment.mask).resize((16, 16))).ravel() for garment in garments])
    scores = {
        name: cross_val_score(LogisticRegression(max_iter=2000), features, labels, cv=5).mean()
        for name, features in {"colours": colours, "shapes": shapes / 255}.items()
    }
    # The half-width of a 99.9 % interval about chance for 400 garments is 0.082.
    assert abs(scores["colours"] - 0.5) < 0.085
    assert scores["shapes"] > 0.68


def test_the_data_set_has_the_standard_columns():
    rows = embedded_dataset("validation", num_samples=6, seed=1, size=(40, 32))
    assert rows.column_names == ["image", "contours", "label", "article"]
    assert rows.features["label"].names == ["men", "women"]
    assert rows["label"] == [0, 1] * 3
    for index, row in enumerate(rows):
        garment = draw_garment(index, seed=1, split="validation", size=(40, 32))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), np.asarray(garment.image))
        (contour,) = row["contours"]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(contour["bytes"]))), garment.contour)


def test_splits_share_no_garment():
    pictures = [
        row["image"]["bytes"]
        for split in ("train", "validation", "test")
        for row in embedded_dataset(split, num_samples=20, size=(32, 32))
    ]
    assert len(set(pictures)) == 60


@pytest.mark.parametrize(
    ("split", "options", "said"),
    [
        ("dev", {}, "dev.*train, validation, test"),
        ("train", {"size": (8, 64)}, r"\(8, 64\).*16 to 4096"),
        ("train", {"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_impossible_requests_are_named(split, options, said):
    with pytest.raises(ValueError, match=said):
        embedded_dataset(split, **options)
