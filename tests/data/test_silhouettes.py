"""Drawn garments: the same every time, exact contours, balanced, told by shape and not by colour."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Image, List
from PIL import Image as PILImage
from skimage.feature import hog
from skimage.measure import label as connected_parts
from skimage.segmentation import find_boundaries
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hf_contour.data.annotations import read_annotations
from hf_contour.data.garments import drawing as silhouettes
from hf_contour.data.garments.drawing import draw_garment, embedded_dataset
from hf_contour.data.garments.patterns import ARTICLES

FINGERPRINT = """
import hashlib
from hf_contour.data.garments.drawing import draw_garment
digest = hashlib.sha256()
for index in (0, 7, 123456):
    sample = draw_garment(index, seed=11, size=(64, 80))
    digest.update(sample.image.tobytes() + sample.contour.tobytes() + bytes([sample.label]))
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def garments():
    return [draw_garment(index, seed=3, size=(64, 64)) for index in range(1000)]


def test_another_process_draws_the_same_bits():
    digest = hashlib.sha256()
    for index in (123456, 7, 0):  # drawn in another order, to show that none depends on those before it
        draw_garment(index, seed=11, size=(64, 80))
    for index in (0, 7, 123456):
        sample = draw_garment(index, seed=11, size=(64, 80))
        digest.update(sample.image.tobytes() + sample.contour.tobytes() + bytes([sample.label]))
    other = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest.hexdigest()


def test_every_index_and_seed_gives_its_own_garment():
    photos = {draw_garment(index, seed=seed).image.tobytes() for index in range(20) for seed in range(3)}
    assert len(photos) == 60


def test_each_pair_holds_one_of_each_label(garments):
    labels = [garment.label for garment in garments]
    assert all(first + second == 1 for first, second in zip(labels[::2], labels[1::2], strict=True))
    assert 400 < sum(labels[::2]) * 2 < 600  # the order within a pair is drawn


def test_articles_hang_in_both_sections(garments):
    counts = {article: [0, 0] for article in ARTICLES}
    for garment in garments:
        counts[garment.article][garment.label] += 1
    assert all(women > 0 for _, women in counts.values())
    assert min(counts["t-shirt"]) > 30
    assert counts["skirt"][1] > 3 * counts["skirt"][0]


def test_the_shares_of_each_section_sum_to_one():
    np.testing.assert_allclose(np.sum(list(ARTICLES.values()), axis=0), 1)


def test_the_sections_overlap(garments):
    """About 98 of 100 lie on their own side: not all, or the set would be trivial."""
    own_side = np.mean([(garment.attributes["cut"] > 0) == garment.label for garment in garments])
    assert 0.96 < own_side < 0.995


def test_the_outer_contour_is_the_boundary_of_the_mask(garments):
    for garment in garments[:200]:
        boundary = find_boundaries(np.pad(garment.mask, 1), connectivity=1, mode="inner")[1:-1, 1:-1]
        assert garment.contour[boundary].all()
        assert not garment.contour[~garment.mask].any()
        np.testing.assert_array_equal(silhouettes.outer_edge(garment.mask), boundary)


def test_the_outer_contour_hangs_together(garments):
    """A sleeve that touches the body encloses background, whose edge is a line of its own: seldom."""
    in_one_piece = [
        connected_parts(silhouettes.outer_edge(garment.mask), connectivity=2).max() for garment in garments
    ]
    assert np.mean(np.array(in_one_piece) == 1) > 0.97


def test_no_garment_touches_the_border_of_the_image(garments):
    for garment in garments:
        frame = np.ones(garment.mask.shape, dtype=bool)
        frame[1:-1, 1:-1] = False
        assert not garment.mask[frame].any()


def test_seams_are_drawn_where_a_person_would_trace_them(garments):
    inner_share = [(g.contour & ~silhouettes.outer_edge(g.mask)).sum() / g.mask.sum() for g in garments]
    assert 0.03 < np.mean(inner_share) < 0.15
    shirt = next(garment for garment in garments if garment.article == "shirt")
    assert (shirt.contour & ~silhouettes.outer_edge(shirt.mask)).sum() > 40  # collar, sleeves, placket


def test_the_image_changes_at_the_contour():
    """Independent of the drawing code: neighbours of the edge differ more than pixels elsewhere."""
    ratios = []
    for index in range(40):
        garment = draw_garment(index, seed=5)
        pixels = np.asarray(garment.image, dtype=np.float64).mean(axis=2)
        steps = np.maximum(*(np.abs(part) for part in np.gradient(pixels)))
        outer = silhouettes.outer_edge(garment.mask)
        ratios.append(steps[outer].mean() / steps[~outer].mean())
    assert np.median(ratios) > 4


def test_mask_is_the_same_shape_at_twice_the_size():
    for index in range(20):
        small = draw_garment(index, size=(128, 96)).mask
        large = PILImage.fromarray(draw_garment(index, size=(256, 192)).mask).convert("L").reduce(2)
        halved = np.asarray(large) >= 128
        assert (small & halved).sum() > 0.96 * (small | halved).sum()


def test_cloth_and_colour_move_neither_contour_nor_label(monkeypatch):
    before = [draw_garment(index) for index in range(30)]
    real_stream = silhouettes._stream

    def other_cloth(seed, index, purpose):
        return real_stream(seed + 1 if purpose == silhouettes._CLOTH else seed, index, purpose)

    monkeypatch.setattr(silhouettes, "_stream", other_cloth)
    for garment, other in zip(before, (draw_garment(index) for index in range(30)), strict=True):
        assert garment.image.tobytes() != other.image.tobytes()
        np.testing.assert_array_equal(garment.contour, other.contour)
        assert (garment.label, garment.article, garment.attributes) == (other.label, other.article, other.attributes)


def test_colour_tells_nothing_about_the_label(garments):
    """Three standard deviations of guessing 1000 labels are 0.047."""
    histograms = []
    for garment in garments:
        channels = np.asarray(garment.image).reshape(-1, 3).T
        histograms.append(np.concatenate([np.histogram(channel, 8, (0, 256))[0] for channel in channels]))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    labels = [garment.label for garment in garments]
    assert abs(cross_val_score(classifier, np.array(histograms), labels, cv=5).mean() - 0.5) < 0.048


def test_shape_tells_the_label(garments):
    """A support vector machine on directions of the silhouette's edge, from 800 garments, learns most of it."""
    features = []
    for garment in garments:
        rows, columns = np.nonzero(garment.mask)
        cut_out = garment.mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        scaled = PILImage.fromarray(cut_out).convert("L").resize((48, 48), PILImage.Resampling.BOX)
        proportions = 2 * np.log(cut_out.shape[0] / cut_out.shape[1])
        directions = hog(np.asarray(scaled), pixels_per_cell=(8, 8), cells_per_block=(2, 2))
        features.append(np.append(directions, proportions))
    classifier = make_pipeline(StandardScaler(), SVC(C=3))
    labels = [garment.label for garment in garments]
    assert 0.8 < cross_val_score(classifier, np.array(features), labels, cv=5).mean() < 0.99


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (33, 47), (200, 64), (64, 200), (512, 512)])
def test_any_size(size):
    for index in range(4):
        garment = draw_garment(index, size=size)
        assert garment.image.size == size[::-1]
        assert garment.image.mode == "RGB"
        assert garment.contour.shape == garment.mask.shape == size
        assert garment.contour.dtype == garment.mask.dtype == bool
        assert 0.05 < garment.mask.mean() < 0.8
        assert garment.article == draw_garment(index).article


@pytest.mark.parametrize("size", [(15, 64), (64, 5000), (64,), (64, 64, 3), (64.5, 64)])
def test_a_bad_size_is_refused(size):
    with pytest.raises(ValueError, match=r"expected height and width, each a whole number in \[16, 4096\]"):
        draw_garment(0, size=size)


@pytest.mark.parametrize(("index", "seed"), [(-1, 0), (0, -1)])
def test_a_negative_index_or_seed_is_refused(index, seed):
    with pytest.raises(ValueError, match="must be 0 or more"):
        draw_garment(index, seed=seed)


def test_dataset_has_the_standard_columns():
    dataset = embedded_dataset("train", num_samples=6, seed=2, size=(48, 40))
    photo = Image(decode=False)
    assert dataset.features["image"] == photo
    assert dataset.features["contours"] == List(photo)
    assert dataset.features["label"] == ClassLabel(names=["men", "women"])
    assert sorted(dataset["label"]) == [0, 0, 0, 1, 1, 1]
    assert set(dataset["article"]) <= set(ARTICLES)


def test_dataset_holds_what_was_drawn():
    dataset = embedded_dataset("test", num_samples=4, size=(48, 40))
    for index, row in enumerate(dataset):
        drawn = draw_garment(index, seed=silhouettes._split_seed(0, "test"), size=(48, 40))
        stored = PILImage.open(io.BytesIO(row["image"]["bytes"]))
        assert stored.tobytes() == drawn.image.tobytes()
        contour = PILImage.open(io.BytesIO(row["contours"][0]["bytes"]))
        assert contour.mode == "1"
        np.testing.assert_array_equal(read_annotations(row["contours"], name="drawn")[0], drawn.contour)
        assert (row["label"], row["article"]) == (drawn.label, drawn.article)


def test_splits_and_seeds_share_no_garment():
    seen = [
        row["image"]["bytes"]
        for split in ("train", "validation", "test")
        for seed in (0, 1)
        for row in embedded_dataset(split, num_samples=20, seed=seed, size=(32, 32))
    ]
    assert len(set(seen)) == len(seen) == 120


def test_more_samples_keep_the_first_ones():
    few, many = (embedded_dataset("train", num_samples=count, size=(32, 32)) for count in (3, 5))
    assert few["image"][:] == many["image"][:3]


def test_default_number_of_samples():
    assert len(embedded_dataset("validation", size=(16, 16))) == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"no split 'dev'; expected one of \['train', 'validation', 'test'\]"),
        ({"num_samples": 0}, "expected at least 1"),
        ({"seed": -1}, "expected at least 1 and at least 0"),
    ],
)
def test_dataset_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        embedded_dataset(**arguments)
