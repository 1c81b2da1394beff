"""Operations that take away wearer, ground, colour and texture, and leave outline and the draws of the others."""

import numpy as np
import pytest
from PIL import Image

from hf_contour.data.augmentation.recipe import OPERATIONS, Augmentation, AugmentationRecipe, sample_rng
from hf_contour.data.augmentation.wearer import WEARER_OPERATIONS, find_ground, is_skin

GROUND, CLOTH, SKIN = (240, 240, 236), (20, 60, 140), (224, 172, 140)


def scene(height: int = 60, width: int = 48) -> np.ndarray:
    """A plain ground, a garment with a hole of the ground's colour, and a face above it."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = GROUND
    pixels += np.random.default_rng(0).integers(0, 5, pixels.shape, dtype=np.uint8)
    pixels[20:50, 10:38] = CLOTH
    pixels[30:34, 20:24] = GROUND
    pixels[6:18, 18:30] = SKIN
    return pixels


def augmented(recipe: dict, pixels: np.ndarray, annotations: np.ndarray | None = None, index: int = 0):
    return Augmentation(AugmentationRecipe(**recipe))(
        Image.fromarray(pixels), annotations, rng=sample_rng(1, 0, index)
    )


def test_the_ground_is_what_is_joined_to_the_border():
    ground, colour = find_ground(scene())
    np.testing.assert_allclose(colour, GROUND, atol=5)
    expected = np.ones((60, 48), dtype=bool)
    expected[20:50, 10:38] = False
    expected[6:18, 18:30] = False
    assert (ground == expected).all()  # not the hole in the garment
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert find_ground(noise) is None


def test_a_winding_ground_is_found_to_its_end():
    pixels = np.zeros((41, 41, 3), dtype=np.uint8)
    pixels[:2] = pixels[-2:] = pixels[:, :2] = pixels[:, -2:] = 255
    pixels[2:38:4, 2:-2] = 255
    for turn, row in enumerate(range(2, 34, 4)):
        pixels[row : row + 4, 37 if turn % 2 else 3] = 255
    ground, _ = find_ground(pixels)
    assert (ground == (pixels[..., 0] == 255)).all()


def test_the_ground_is_exchanged_and_the_rest_stays():
    pixels = scene()
    sample = augmented({"exchange_ground": 1.0}, pixels)
    out = np.asarray(sample.image).astype(int)
    colour = np.array(sample.operations["exchange_ground"])
    np.testing.assert_allclose(out[2, 2], colour, atol=5)
    inner = np.s_[22:48, 12:36]
    assert (out[inner] == pixels[inner]).all()
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert (np.asarray(augmented({"exchange_ground": 1.0}, noise).image) == noise).all()


def test_skin_is_filled_with_the_ground_and_not_counted():
    pixels = scene()
    assert is_skin(pixels).sum() == 12 * 12
    drawn = np.zeros((1, 60, 48), dtype=bool)
    drawn[0, 6, 18:30] = True
    sample = augmented({"erase_skin": 1.0}, pixels, drawn)
    out = np.asarray(sample.image)
    np.testing.assert_allclose(out[6:18, 18:30].reshape(-1, 3).mean(axis=0), GROUND, atol=6)
    assert (out[20:50] == pixels[20:50]).all()
    assert (~sample.valid == is_skin(pixels)).all()
    garment = np.full((20, 20, 3), SKIN, dtype=np.uint8)
    assert (np.asarray(augmented({"erase_skin": 1.0}, garment).image) == garment).all()


def test_top_and_bottom_are_cut_from_image_and_contours_alike():
    pixels = scene()
    drawn = np.random.default_rng(2).random((2, 60, 48)) < 0.2
    recipe = {"cut_top": 1.0, "cut_bottom": 1.0, "cut_top_fraction": (0.3, 0.3), "cut_bottom_fraction": (0.1, 0.1)}
    sample = augmented(recipe, pixels, drawn)
    assert (np.asarray(sample.image) == pixels[18:54]).all()
    assert (sample.annotations == drawn[:, 18:54]).all()
    assert sample.valid is None
    most = augmented({**recipe, "cut_top_fraction": (0.9, 0.9), "cut_bottom_fraction": (0.9, 0.9)}, pixels)
    assert most.image.size == (48, 1)


def test_boxes_lie_inside_and_at_the_top():
    pixels = np.random.default_rng(3).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    for index in range(20):
        sample = augmented({"erase": 1.0, "erase_fraction": (0.2, 0.2)}, pixels, np.zeros((1, 50, 40), bool), index)
        rows, columns = np.nonzero(~sample.valid)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (10, 8)
        sample = augmented({"erase_top": 1.0}, pixels, np.zeros((1, 50, 40), bool), index)
        rows, columns = np.nonzero(~sample.valid)
        assert rows.min() == 0
        assert rows.max() < 0.3 * 50 + 1
        assert 4 <= columns.min() <= columns.max() <= 35


def test_grey_and_smooth_keep_the_outline():
    pixels = scene()
    grey = np.asarray(augmented({"grey": 1.0}, pixels).image)
    assert (grey == grey[..., :1]).all()
    assert abs(int(grey[40, 30, 0]) - int(grey[2, 2, 0])) > 100
    noisy = pixels + np.random.default_rng(4).integers(0, 12, (60, 48, 1), dtype=np.uint8)
    smooth = np.asarray(augmented({"smooth": 1.0, "smooth_size": (5, 5)}, noisy).image).astype(int)
    assert smooth[36:48, 14:34].std(axis=(0, 1)).max() < 0.5 * noisy[36:48, 14:34].std(axis=(0, 1)).min()
    assert (np.abs(smooth[40, 9] - smooth[40, 10]) > 60).any()


@pytest.mark.parametrize("name", WEARER_OPERATIONS)
def test_a_sample_is_a_function_of_seed_epoch_and_index_and_others_draw_as_before(name):
    pixels = scene()
    others = dict.fromkeys(OPERATIONS, 0.5)
    recipe = AugmentationRecipe(**others, **{name: 0.5})
    both = [Augmentation(recipe)(Image.fromarray(pixels), rng=sample_rng(3, 1, index)) for index in range(12)]
    again = [Augmentation(recipe)(Image.fromarray(pixels), rng=sample_rng(3, 1, index)) for index in range(12)]
    assert [sample.image.tobytes() for sample in both] == [sample.image.tobytes() for sample in again]
    before = [
        Augmentation(AugmentationRecipe(**others))(Image.fromarray(pixels), rng=sample_rng(3, 1, index))
        for index in range(12)
    ]
    assert 0 < sum(name in sample.operations for sample in both) < 12
    for sample, earlier in zip(both, before, strict=True):
        assert {key: value for key, value in sample.operations.items() if key != name} == earlier.operations
        if name not in sample.operations:
            assert sample.image.tobytes() == earlier.image.tobytes()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="cut_top is 2; it must be a number from 0 to 1"):
        AugmentationRecipe(cut_top=2)
    with pytest.raises(ValueError, match="smooth_size is"):
        AugmentationRecipe(smooth_size=(5, 3))
    assert AugmentationRecipe.from_dict({"erase": 0.5}).to_dict()["erase"] == 0.5
