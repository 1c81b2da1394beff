"""One recipe moves an image and its contours together, and draws nothing from global generators."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.draw import circle_perimeter, polygon_perimeter

from hf_contour.data.augmentation.recipe import (
    GEOMETRIC,
    OPERATIONS,
    Augmentation,
    AugmentationRecipe,
    draw_operations,
    sample_rng,
)
from hf_contour.data.augmentation.warp import plan_warp, warp_annotations, warp_image

EVERYTHING = AugmentationRecipe(**dict.fromkeys(OPERATIONS, 1.0))
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def random_image(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_drawing(height, width, seed=0, share=0.1):
    return np.random.default_rng(seed).random((2, height, width)) < share


# Recipe


def test_default_recipe_changes_nothing():
    image, drawing = random_image(7, 9), random_drawing(7, 9)
    sample = Augmentation(AugmentationRecipe())(image, drawing, rng=sample_rng(0, 0, 0))
    assert np.array_equal(sample.image, image)
    assert np.array_equal(sample.annotations, drawing)
    assert sample.valid is None
    assert sample.operations == {}


def test_recipe_survives_a_dict():
    recipe = AugmentationRecipe.from_dict({"flip": 0.5, "crop_size": [64, 48], "fill": [1, 2, 3], "rotate_step": 90})
    assert recipe.crop_size == (64, 48)
    assert AugmentationRecipe.from_dict(recipe.to_dict()) == recipe


def test_unknown_field_is_named_with_the_likely_one():
    with pytest.raises(ValueError, match=r"'rotat'.*'rotate'"):
        AugmentationRecipe.from_dict({"rotat": 1.0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip", 1.5),
        ("flip", -0.1),
        ("flip", "yes"),
        ("flip", True),
        ("flip", float("nan")),
        ("noise_std", [0.2, 0.1]),
        ("noise_std", 0.1),
        ("noise_std", [0.1, 0.2, 0.3]),
        ("scale_factor", [0.0, 1.0]),
        ("affine_degrees", [-60, 60]),
        ("rotate_degrees", [0, float("inf")]),
        ("rotate_step", -1),
        ("crop_size", [0, 5]),
        ("crop_size", [5]),
        ("crop_size", 256),
        ("crop_size", [5.5, 5]),
        ("crop_size", [10**9, 5]),
        ("fill", "white"),
        ("fill", [0, 0, 256]),
    ],
)
def test_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        AugmentationRecipe.from_dict({field: value})


# Draws


def test_sample_rng_is_a_function_of_its_arguments():
    keys = [(seed, epoch, index, purpose) for seed in (0, 1, 2**32) for epoch in (0, 1) for index in (0, 1, 2**32)
            for purpose in ("augment", "colour")]  # fmt: skip
    first = {key: sample_rng(*key).random() for key in keys}
    assert len(set(first.values())) == len(keys)
    assert first == {key: sample_rng(*key).random() for key in keys}
    # Written down once: must not move between versions, machines or hash seeds.
    assert sample_rng(0, 0, 0).integers(0, 2**32, 2).tolist() == [3815907877, 3089625268]
    with pytest.raises(ValueError, match="seed is -1"):
        sample_rng(-1, 0, 0)


def test_operations_happen_as_often_as_told_and_draw_independently():
    half = AugmentationRecipe(**dict.fromkeys(OPERATIONS, 0.5))
    drawn = [draw_operations(half, sample_rng(0, 0, index)) for index in range(600)]
    for name in OPERATIONS:
        assert 0.43 < np.mean([name in operations for operations in drawn]) < 0.57
    without_noise = AugmentationRecipe(**{**dict.fromkeys(OPERATIONS, 0.5), "noise": 0.0, "flip": 1.0})
    for index, operations in enumerate(drawn[:50]):
        again = draw_operations(without_noise, sample_rng(0, 0, index))
        for name in set(OPERATIONS) - {"noise", "flip"}:
            assert again.get(name) == operations.get(name)


def test_strengths_stay_in_their_ranges():
    recipe = AugmentationRecipe(
        rotate=1.0, rotate_degrees=(0, 270), rotate_step=90, scale=1.0, scale_factor=(0.5, 2.0)
    )
    drawn = [draw_operations(recipe, sample_rng(3, 0, index)) for index in range(400)]
    assert {operations["rotate"] for operations in drawn} == {0.0, 90.0, 180.0, 270.0}
    factors = np.array([operations["scale"] for operations in drawn])
    assert factors.min() >= 0.5
    assert factors.max() <= 2.0
    assert 0.42 < np.mean(factors < 1) < 0.58  # logarithmic: halving is as likely as doubling


def test_global_generators_are_neither_read_nor_moved():
    image, drawing = random_image(40, 50), random_drawing(40, 50)
    results = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global state is what must not matter
        torch.manual_seed(seed)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
        results.append(Augmentation(EVERYTHING)(image, drawing, rng=sample_rng(5, 0, 0)))
        after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
    assert np.array_equal(results[0].image, results[1].image)
    assert np.array_equal(results[0].annotations, results[1].annotations)


# Geometry


@pytest.mark.parametrize(
    ("operations", "reference"),
    [
        ({"flip": True}, lambda array: array[:, ::-1]),
        ({"flip_vertical": True}, lambda array: array[::-1]),
        ({"rotate": 90.0}, lambda array: np.rot90(array, 1)),
        ({"rotate": 180.0}, lambda array: np.rot90(array, 2)),
        ({"rotate": -90.0}, lambda array: np.rot90(array, 3)),
        ({"rotate": 450.0}, lambda array: np.rot90(array, 1)),
        ({"flip": True, "rotate": 90.0}, lambda array: np.rot90(array[:, ::-1], 1)),
        ({"flip": True, "flip_vertical": True, "rotate": 270.0}, lambda array: np.rot90(array, 5)),
    ],
)
@pytest.mark.parametrize("size", [(5, 8), (8, 5), (1, 1), (33, 64)])
def test_mirrors_and_quarter_turns_are_exact(operations, reference, size):
    image, drawing = random_image(*size), random_drawing(*size)
    warp = plan_warp(size, operations, sample_rng(0, 0, 0))
    warped, valid = warp_image(image, warp)
    assert np.array_equal(warped, reference(np.array(image)))
    assert np.array_equal(warp_annotations(drawing, warp), [reference(one) for one in drawing])
    assert valid.all()


def test_translate_and_crop_move_whole_pixels():
    image, drawing = random_image(20, 30), random_drawing(20, 30)
    warp = plan_warp((20, 30), {"translate": [0.1, -0.2]}, sample_rng(0, 0, 0))  # 2 down, 6 to the left
    warped, valid = warp_image(image, warp, fill=(9, 8, 7))
    assert np.array_equal(np.array(warped)[2:, :24], np.array(image)[:18, 6:])
    assert (np.array(warped)[:2] == (9, 8, 7)).all()
    assert not valid[:2].any()
    assert not valid[:, 24:].any()
    assert valid[2:, :24].all()
    assert np.array_equal(warp_annotations(drawing, warp)[:, 2:, :24], drawing[:, :18, 6:])
    crop = plan_warp((20, 30), {"crop": [0.5, 0.5, 0.0, 0.999]}, sample_rng(0, 0, 0))
    warped, valid = warp_image(image, crop)
    assert np.array_equal(warped, np.array(image)[:10, 15:])
    assert valid.all()


def test_crop_size_is_a_window_of_the_image_and_all_places_occur():
    image = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    seen = set()
    for index in range(200):
        sample = Augmentation(AugmentationRecipe(crop_size=(4, 5)))(
            Image.fromarray(image), rng=sample_rng(0, 0, index)
        )
        assert sample.valid is None
        top, left = divmod(int(np.array(sample.image)[0, 0, 0]) // 3, 7)
        assert np.array_equal(sample.image, image[top : top + 4, left : left + 5])
        seen.add((top, left))
    assert seen == {(top, left) for top in range(3) for left in range(3)}


def test_image_smaller_than_crop_size_is_padded_and_marked():
    image, drawing = random_image(6, 9), np.ones((1, 6, 9), dtype=bool)
    sample = Augmentation(AugmentationRecipe(crop_size=(10, 12)))(image, drawing, rng=sample_rng(1, 0, 0))
    rows, columns = np.flatnonzero(sample.valid.any(axis=1)), np.flatnonzero(sample.valid.any(axis=0))
    assert (len(rows), len(columns), sample.valid.sum()) == (6, 9, 54)
    before = (rows[0], 4 - rows[0]), (columns[0], 3 - columns[0]), (0, 0)
    assert np.array_equal(sample.image, np.pad(np.array(image), before, mode="edge"))
    assert np.array_equal(sample.annotations[0], sample.valid)


def disc_outline(size, centre, radius):
    drawing = np.zeros((1, *size), dtype=bool)
    drawing[0][circle_perimeter(*centre, radius)] = True
    angle = np.linspace(0, 2 * np.pi, 4000)
    return drawing, np.stack([centre[1] + 0.5 + radius * np.cos(angle), centre[0] + 0.5 + radius * np.sin(angle)])


def polygon_outline(size):
    corners = np.array([[20, 30], [100, 55], [140, 120], [60, 150], [35, 90]])  # (row, column)
    drawing = np.zeros((1, *size), dtype=bool)
    drawing[0][polygon_perimeter(corners[:, 0], corners[:, 1])] = True
    ends = np.roll(corners, -1, axis=0)
    points = np.concatenate([np.linspace(a, b, 1000) for a, b in zip(corners, ends, strict=True)]) + 0.5
    return drawing, points[:, ::-1].T


def reference_points(points, size, scale, degrees, shear):
    """Where points go, worked out apart from the code: scale, shear and turn about the centre of the image."""
    height, width = size
    new_width, new_height = round(width * scale), round(height * scale)
    x = (points[0] - width / 2) * new_width / width
    y = (points[1] - height / 2) * new_height / height
    along_y, along_x = np.tan(np.radians(shear))
    turned = ((x + along_x * y) - 1j * (y + along_y * x)) * np.exp(1j * np.radians(degrees))  # y upwards
    return turned.real, -turned.imag


@pytest.mark.parametrize("scale", [0.35, 1.0, 1.5, 2.6])
@pytest.mark.parametrize("degrees", [0.0, 17.0, -120.0])
@pytest.mark.parametrize("shear", [(0.0, 0.0), (8.0, -20.0)])
@pytest.mark.parametrize("shape", ["disc", "polygon"])
def test_warped_outline_is_the_outline_of_the_warped_shape(scale, degrees, shear, shape):
    size = (170, 181)
    drawing, points = disc_outline(size, (80, 90), 60) if shape == "disc" else polygon_outline(size)
    warp = plan_warp(size, {"scale": scale, "rotate": degrees, "affine": shear}, sample_rng(0, 0, 0))
    warped = warp_annotations(drawing, warp)[0]
    x, y = reference_points(points, size, scale, degrees, shear)
    curve = np.stack([x + warp.output_size[1] / 2, y + warp.output_size[0] / 2], axis=1)
    drawn = np.argwhere(warped)[:, ::-1] + 0.5
    between = np.linalg.norm(drawn[:, None] - curve[None, ::4], axis=-1)
    stretch = np.linalg.norm(warp.source_matrix[:2, :2], ord=2)
    source = np.argwhere(drawing[0])[:, ::-1] + 0.5
    drawn_off = np.linalg.norm(source[:, None] - points.T[None, ::4], axis=-1).min(axis=1)
    # What the source is off itself, enlarged, and a pixel; on average far less.
    allowed = drawn_off.max() * stretch + 1.0
    assert drawn_off.max() < 0.75
    assert between.min(axis=1).max() < allowed
    assert between.min(axis=0).max() < allowed + 0.25
    assert between.min(axis=1).mean() < drawn_off.mean() * stretch + 0.3
    components = ndimage.label(warped, structure=EIGHT_NEIGHBOURS)[1]
    assert components == 1
    length = np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()
    assert length / np.sqrt(2) * 0.9 < warped.sum() < 1.15 * length  # one pixel wide
    # The outline is closed: the background, 4-connected, falls apart in two (and specks where lines meet).
    areas = np.bincount(ndimage.label(~warped)[0][~warped])
    assert (areas > 5).sum() == 2


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_wide_lines_are_enlarged_without_holes(degrees):
    drawing = np.zeros((1, 40, 40), dtype=bool)
    drawing[0, 10:14, 5:35] = True
    warp = plan_warp((40, 40), {"scale": 3.0, "rotate": degrees}, sample_rng(0, 0, 0))
    warped = warp_annotations(drawing, warp)[0]
    assert np.array_equal(ndimage.binary_fill_holes(warped), warped)
    assert 0.9 * 29 * 3 * 3 * 3 < warped.sum() < 30 * 3 * 4 * 3


def test_image_and_contour_stay_together():
    size = (120, 150)
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = (rows - 55) ** 2 + (columns - 80) ** 2 <= 35**2
    image = Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).convert("RGB")
    outline = (disc & ~ndimage.binary_erosion(disc))[None]
    geometry = {name: getattr(EVERYTHING, name) for name in ("flip", "flip_vertical", "scale", "affine", "translate")}
    recipe = AugmentationRecipe(**geometry, rotate=1.0, rotate_degrees=(-180, 180), crop_size=(140, 140))
    for index in range(20):
        sample = Augmentation(recipe)(image, outline, rng=sample_rng(7, 0, index))
        shown = np.array(sample.image)[..., 0] > 127
        border = shown & ~ndimage.binary_erosion(shown, border_value=1)
        to_border = ndimage.distance_transform_edt(~border)
        to_contour = ndimage.distance_transform_edt(~sample.annotations[0])
        # Not at the window's own edge, where a border may lie just outside.
        border, drawn = border[2:-2, 2:-2], sample.annotations[0, 2:-2, 2:-2]
        assert to_border[2:-2, 2:-2][drawn].max() < 2.3
        assert to_border[2:-2, 2:-2][drawn].mean() < 0.7
        assert to_contour[2:-2, 2:-2][border].max() < 2.3


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("degrees", "shear"), [(0.0, (0.0, 0.0)), (25.0, (0.0, 0.0)), (-100.0, (8.0, -20.0))])
def test_every_pixel_shows_its_place_in_the_source(scale, degrees, shear):
    size = (64, 80)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    ramp = np.stack([2 * columns, 2 * rows, 0 * rows], axis=-1).round().astype(np.uint8)
    warp = plan_warp(size, {"scale": scale, "rotate": degrees, "affine": shear}, sample_rng(0, 0, 0))
    shown, valid = warp_image(Image.fromarray(ramp), warp)
    # Where the source's pixel centres go, against the ramp's values there.
    x, y = reference_points(np.stack([columns.ravel(), rows.ravel()]), size, scale, degrees, shear)
    x, y = x + warp.output_size[1] / 2, y + warp.output_size[0] / 2
    found = np.stack([
        ndimage.map_coordinates(np.array(shown)[..., channel].astype(float), [y - 0.5, x - 0.5], order=1)
        for channel in range(2)
    ])  # fmt: skip
    inner = (abs(columns - size[1] / 2) < size[1] / 2 - 6) & (abs(rows - size[0] / 2) < size[0] / 2 - 6)
    wanted = np.stack([2 * columns.ravel(), 2 * rows.ravel()])
    assert np.abs(found - wanted)[:, inner.ravel()].max() < 1.6  # rounded twice: 0.8 of a pixel's step
    assert np.abs((found - wanted)[:, inner.ravel()].mean(axis=1)).max() < 0.25
    assert valid.sum() == pytest.approx(64 * 80 * np.linalg.det(warp.source_matrix[:2, :2]), rel=0.02)


def test_steps_of_a_line_stay_thin_when_enlarged():
    drawing = np.zeros((1, 3, 3), dtype=bool)
    drawing[0, 0, :2] = drawing[0, 1, 1] = True
    warped = warp_annotations(drawing, plan_warp((3, 3), {"scale": 3.0}, sample_rng(0, 0, 0)))[0]
    # Centres (1, 1), (1, 4), (4, 4), joined by straight lines; the corner itself only thickens.
    assert np.argwhere(warped).tolist() == [[1, 1], [1, 2], [1, 3], [2, 4], [3, 4], [4, 4]]


@pytest.mark.parametrize("degrees", [0.0, 33.0])
def test_window_shows_the_same_contours_as_the_whole(degrees):
    size = (60, 70)
    drawing = random_drawing(*size, share=0.05)
    whole = plan_warp(size, {"scale": 2.6, "rotate": degrees}, sample_rng(0, 0, 0))
    expected = warp_annotations(drawing, whole)
    for index in range(5):
        window = plan_warp(size, {"scale": 2.6, "rotate": degrees}, sample_rng(0, 0, index), crop_size=(50, 40))
        left, top = (whole.matrix[:2, 2] - window.matrix[:2, 2]).round().astype(int)
        part = expected[:, top : top + 50, left : left + 40]
        # Its own border aside, where a step of a line may end.
        assert np.array_equal(warp_annotations(drawing, window)[:, 3:-3, 3:-3], part[:, 3:-3, 3:-3])


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((66, 66, 3), dtype=np.uint8)
    stripes[:, ::3] = 255
    for degrees in (0.0, 10.0):
        warp = plan_warp((66, 66), {"scale": 0.25, "rotate": degrees}, sample_rng(0, 0, 0))
        warped, valid = warp_image(Image.fromarray(stripes), warp)
        inner = np.array(warped)[4:-4, 4:-4][valid[4:-4, 4:-4]]
        assert np.abs(inner.astype(int) - 85).max() < 12


def test_valid_is_the_image_warped():
    recipe = AugmentationRecipe(rotate=1.0, rotate_degrees=(30, 30), fill=(0, 0, 0))
    white = Image.new("RGB", (60, 40), (255, 255, 255))
    sample = Augmentation(recipe)(white, rng=sample_rng(0, 0, 0))
    assert np.array_equal(np.array(sample.image)[..., 0] == 255, sample.valid)
    assert sample.valid.sum() == pytest.approx(60 * 40, rel=0.01)
    again = Augmentation(recipe)(white, rng=sample_rng(0, 0, 0), valid=np.zeros((40, 60), dtype=bool))
    assert not again.valid.any()


def test_contours_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"5x5.*4x6"):
        Augmentation(AugmentationRecipe())(random_image(4, 6), random_drawing(5, 5), rng=sample_rng(0, 0, 0))


# Values


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - GEOMETRIC))
def test_operations_on_values_leave_geometry_alone(name):
    image, drawing = random_image(30, 40), random_drawing(30, 40)
    settings_ = {name: 1.0}
    if name != "noise":
        settings_[f"{name}_factor"] = (0.5, 0.5)
    sample = Augmentation(AugmentationRecipe(**settings_))(image, drawing, rng=sample_rng(0, 0, 0))
    assert list(sample.operations) == [name]
    assert sample.image.size == image.size
    assert not np.array_equal(sample.image, image)
    assert np.array_equal(sample.annotations, drawing)
    assert sample.valid is None


def test_values_change_as_worked_out_by_hand():
    image = Image.fromarray(np.array([[[10, 20, 30], [100, 120, 250]]], dtype=np.uint8))

    def after(**values):
        return np.array(Augmentation(AugmentationRecipe(**values))(image, rng=sample_rng(0, 0, 0)).image).tolist()

    assert after(brightness=1, brightness_factor=(1.5, 1.5)) == [[[15, 30, 45], [150, 180, 255]]]
    # Grey values 18 and 129 (ITU-R 601), mean 73.5 rounded to 74; half-way there.
    assert after(contrast=1, contrast_factor=(0.5, 0.5)) == [[[42, 47, 52], [87, 97, 162]]]


def test_noise_has_the_drawn_strength():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    sample = Augmentation(AugmentationRecipe(noise=1, noise_std=(0.04, 0.04)))(grey, rng=sample_rng(0, 0, 0))
    added = np.array(sample.image).astype(float) - 128
    assert added.std() == pytest.approx(0.04 * 255, rel=0.02)
    assert abs(added.mean()) < 0.1
    assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.02


def test_resolution_and_sharpening_move_detail_in_opposite_ways():
    image = random_image(64, 64)
    detail = {}
    for name, factor in (("resolution", 0.25), ("sharpen", 2.0), ("none", 1.0)):
        values = {} if name == "none" else {name: 1.0, f"{name}_factor": (factor, factor)}
        changed = Augmentation(AugmentationRecipe(**values))(image, rng=sample_rng(0, 0, 0)).image
        detail[name] = np.abs(np.diff(np.array(changed).astype(int), axis=1)).mean()
    assert detail["resolution"] < 0.2 * detail["none"]
    assert detail["sharpen"] > 1.05 * detail["none"]


# Any size


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**64 - 1),
    crop_size=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_any_size_through_everything(height, width, seed, crop_size):
    recipe = AugmentationRecipe(**dict.fromkeys(OPERATIONS, 0.7), crop_size=crop_size)
    image, drawing = random_image(height, width), random_drawing(height, width, share=0.5)
    sample = Augmentation(recipe)(image, drawing, rng=sample_rng(seed, 0, 0))
    size = sample.image.height, sample.image.width
    assert crop_size is None or size == crop_size
    assert sample.annotations.shape == (2, *size)
    assert sample.annotations.dtype == bool
    assert sample.valid is None or sample.valid.shape == size


def test_a_frame_shifts_the_outermost_pixels_alone_and_moves_no_other_draw():
    image = Image.fromarray(np.full((20, 14, 3), 100, dtype=np.uint8))
    recipe = {"brightness": 0.5, "flip": 0.5}
    for index in range(20):
        plain = Augmentation(AugmentationRecipe(**recipe))(image, rng=sample_rng(0, 0, index))
        framed = Augmentation(AugmentationRecipe(**recipe, frame=1.0, frame_shift=(0.1, 0.1)))(
            image, rng=sample_rng(0, 0, index)
        )
        width, shift = framed.operations.pop("frame")
        assert framed.operations == plain.operations
        before, after = np.asarray(plain.image).astype(int), np.asarray(framed.image).astype(int)
        assert np.array_equal(before[width:-width, width:-width], after[width:-width, width:-width])
        assert set(np.unique((after - before)[:width])) == {round(255 * shift)}
