"""`ContourImageProcessor`: one tensor per image whatever the door, sizing by stated rules, checked fields."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import ODD_IMAGES, colours, encode
from PIL import Image
from transformers import AutoImageProcessor

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.data.samples import ContourSamples
from hf_contour.image_processing_contour import (
    ContourImageProcessor,
    ImageReadError,
    Placement,
    open_image,
    place_image,
)


def pixel_values(processor: ContourImageProcessor, images: object, **options: object) -> torch.Tensor:
    return processor(images, return_tensors="pt", **options)["pixel_values"]


def resized_by_pillow(image: Image.Image, height: int, width: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).astype(float)


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_same_image_gives_the_same_tensor_through_every_door(kind: str, tmp_path: Path) -> None:
    processor = ContourImageProcessor(size=32)
    content = ODD_IMAGES[kind].content
    path = tmp_path / "image"
    path.write_bytes(content)
    opened = open_image(path)
    array = np.asarray(opened)
    doors = [
        path,
        str(path),
        content,
        Image.open(io.BytesIO(content)),
        opened,
        array,
        torch.tensor(array).movedim(2, 0),
    ]
    alone = [pixel_values(processor, door) for door in doors]
    together = pixel_values(processor, [*doors, Image.new("RGB", (50, 20))])
    for position, tensor in enumerate(alone):
        assert tensor.shape == (1, 3, 32, 32)
        assert torch.equal(tensor, alone[0])
        assert torch.equal(tensor[0], together[position])


def test_values_by_hand() -> None:
    processor = ContourImageProcessor(size={"height": 2, "width": 4}, background_color=[255, 0, 51])
    photo = np.array([[[0, 255, 51], [255, 102, 204]]], dtype=np.uint8).repeat(
        2, axis=0
    )  # 2 x 2, as tall as the canvas
    tensor = pixel_values(processor, photo)[0]
    # (value / 255 - 0.5) / 0.5: 0 -> -1, 51 -> -0.6, 102 -> -0.2, 204 -> 0.6, 255 -> 1
    expected = torch.tensor([[1, -1, 1, 1], [-1, 1, -0.2, -1], [-0.6, -0.6, 0.6, -0.6]])
    assert torch.allclose(tensor[:, 0], expected, atol=1e-6)
    assert torch.equal(tensor[:, 0], tensor[:, 1])


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (300, 200)])
@pytest.mark.parametrize("shape", [(80, 120), (37, 11), (1, 5000), (1, 1)])
def test_fits_inside_and_is_centred(size: tuple[int, int], shape: tuple[int, int]) -> None:
    processor = ContourImageProcessor(
        size={"height": size[0], "width": size[1]}, do_normalize=False, do_rescale=False, background_color=[9, 200, 77]
    )
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    tensor = pixel_values(processor, image)[0].numpy().astype(float).transpose(1, 2, 0)
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (max(1, int(side * scale + 0.5)) for side in shape)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    expected = np.empty((*size, 3))
    expected[:] = [9, 200, 77]
    expected[top : top + height, left : left + width] = resized_by_pillow(image, height, width)
    assert np.abs(tensor - expected).max() <= 1


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_size_fits(height: int, width: int, canvas_height: int, canvas_width: int) -> None:
    placement = place_image(height, width, (canvas_height, canvas_width), do_resize=True, do_pad=True)
    assert 1 <= placement.height <= canvas_height
    assert 1 <= placement.width <= canvas_width
    assert placement.height == canvas_height or placement.width == canvas_width
    assert 0 <= canvas_height - placement.height - 2 * placement.top <= 1
    assert 0 <= canvas_width - placement.width - 2 * placement.left <= 1
    scale = min(canvas_height / height, canvas_width / width)
    assert abs(placement.height - max(1, height * scale)) <= 0.5 + 1e-9
    assert abs(placement.width - max(1, width * scale)) <= 0.5 + 1e-9


def test_resizing_without_padding_stretches() -> None:
    image = Image.fromarray(colours())
    tensor = pixel_values(ContourImageProcessor(do_pad=False, size=20, do_rescale=False, do_normalize=False), image)[0]
    assert np.abs(tensor.numpy().transpose(1, 2, 0) - resized_by_pillow(image, 20, 20)).max() <= 1


def test_without_sizing_images_stay_as_they_are() -> None:
    processor = ContourImageProcessor(do_resize=False, do_pad=False, do_rescale=False, do_normalize=False)
    first, second = colours(seed=0), colours(seed=1)
    assert np.array_equal(pixel_values(processor, [first, second]).numpy().transpose(0, 2, 3, 1), [first, second])
    with pytest.raises(ValueError, match=r"\(3, 7, 8\) and \(3, 7, 9\), cannot form one batch. Set do_resize=True"):
        processor([first, second[:, 1:]], return_tensors="pt")
    ragged = processor([first, second[:, 1:]])["pixel_values"]
    assert [tuple(photo.shape) for photo in ragged] == [(3, 7, 9), (3, 7, 8)]


def test_padding_alone_refuses_what_is_larger() -> None:
    processor = ContourImageProcessor(
        do_resize=False, size={"height": 8, "width": 12}, do_rescale=False, do_normalize=False
    )
    tensor = pixel_values(processor, colours())[0].numpy().transpose(1, 2, 0)
    assert np.array_equal(tensor[0:7, 1:10], colours())
    assert (tensor[7] == 255).all()
    assert (tensor[:, 0] == 255).all()
    with pytest.raises(ValueError, match=r"13x12 pixels does not fit the size 8x12.* Set do_resize=True"):
        processor(Image.new("RGB", (12, 13)))


def test_batches_come_as_lists_nested_lists_and_arrays() -> None:
    processor = ContourImageProcessor(size=16)
    photos = [colours(seed=seed) for seed in range(3)]
    expected = pixel_values(processor, photos)
    stacked = np.stack(photos)
    for images in ([photos[:2], photos[2:]], stacked, torch.from_numpy(stacked).permute(0, 3, 1, 2), tuple(photos)):
        assert torch.equal(pixel_values(processor, images), expected)
    assert torch.equal(pixel_values(processor, photos, disable_grouping=False), expected)
    assert isinstance(processor(photos, return_tensors="np")["pixel_values"], np.ndarray)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 2), (31, 17), (100, 224)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 9), (40, 3), (61, 129), (300, 200)])
def test_memory_layout_changes_nothing(shape: tuple[int, int], size: tuple[int, int]) -> None:
    processor = ContourImageProcessor(size={"height": size[0], "width": size[1]}, do_pad=False)
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    planes = torch.from_numpy(array).permute(2, 0, 1).contiguous()
    mirrored = array[:, ::-1].copy()[:, ::-1]  # negative strides
    expected = pixel_values(processor, array)
    assert expected.is_contiguous()
    for source in (planes, mirrored, Image.fromarray(array), torch.stack([planes, planes])[1]):
        assert torch.equal(pixel_values(processor, source), expected)
    for grouped in (True, False):
        both = pixel_values(processor, [planes, array], disable_grouping=not grouped)
        assert torch.equal(both, expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize("size", [(5, 1), (1, 5), (31, 17)])
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (2, 2)])
def test_a_single_row_or_column_is_resized_as_pillow_does(shape: tuple[int, int], size: tuple[int, int]) -> None:
    settings = {"do_pad": False, "do_rescale": False, "do_normalize": False}
    processor = ContourImageProcessor(size={"height": size[0], "width": size[1]}, **settings)
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    for source in (array, torch.from_numpy(array).permute(2, 0, 1).contiguous()):
        found = pixel_values(processor, source)[0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).max() <= 4  # 8-bit kernels round after each direction


def test_inputs_are_left_alone() -> None:
    processor = ContourImageProcessor(size=7, do_pad=False, do_rescale=False)
    array = colours()[:, :7].copy()
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
    before = array.copy()
    for source in (array, tensor):
        pixel_values(processor, source)
    assert np.array_equal(array, before)
    assert np.array_equal(tensor.numpy().transpose(1, 2, 0), before)
    array.flags.writeable = False
    pixel_values(processor, array)


def test_a_call_may_override_fields() -> None:
    processor = ContourImageProcessor(size=16)
    rgba = colours(4)
    white = pixel_values(processor, rgba)
    assert not torch.equal(pixel_values(processor, rgba, background_color=[0, 0, 0]), white)
    assert torch.equal(pixel_values(processor, rgba), white)
    with pytest.raises(ImageReadError, match="expected at most 10"):
        processor(rgba, max_pixels=10)
    with pytest.raises(ValueError, match="max_pixels is 0"):
        processor(rgba, max_pixels=0)


def test_channels_may_be_left_as_they_are() -> None:
    processor = ContourImageProcessor(size=16, do_convert_rgb=False, do_normalize=False, do_rescale=False)
    rgba = colours(4)
    tensor = pixel_values(processor, rgba, input_data_format="channels_last")[0]
    assert tensor.shape == (4, 16, 16)
    assert (tensor[:, 0] == 0).all()
    assert torch.equal(pixel_values(processor, colours()), pixel_values(processor, colours(), do_convert_rgb=True))
    assert pixel_values(processor, ODD_IMAGES["rgba_png"].content).shape == (1, 3, 16, 16)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "shirt.png").write_text("no image")
    with pytest.raises(ImageReadError, match=r"shirt\.png: a text file"):
        ContourImageProcessor()([colours(), tmp_path / "shirt.png"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("size", -3),
        ("size", 16385),
        ("size", {"height": 8}),
        ("size", {"height": 8, "width": 10**12}),
        ("size", {"height": 8, "width": 0}),
        ("size", {"height": 8.5, "width": 8}),
        ("size", {"height": float("nan"), "width": 8}),
        ("size", {"shortest_edge": 8}),
        ("size", "224"),
        ("size", True),
        ("background_color", [0, 0]),
        ("background_color", [0, 0, 256]),
        ("background_color", "white"),
        ("max_pixels", 0),
        ("max_pixels", "many"),
        ("resample", 1),
        ("resample", 77),
        ("rescale_factor", 0),
        ("rescale_factor", float("nan")),
        ("image_std", [0.5, 0.0, 0.5]),
        ("image_mean", [0.5, float("inf"), 0.5]),
        ("do_center_crop", True),
        ("crop_size", {"height": 8, "width": 8}),
        ("pad_size", {"height": 8, "width": 8}),
    ],
)
def test_impossible_fields_are_refused(field: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=field):
        ContourImageProcessor(**{field: value})
    saved = ContourImageProcessor().to_dict()
    with pytest.raises(ValueError, match=field):
        ContourImageProcessor.from_dict({**saved, field: value})


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    processor = ContourImageProcessor(
        size={"height": 20, "width": 30},
        do_pad=False,
        background_color=(1, 2, 3),
        image_mean=[0.1, 0.2, 0.3],
        max_pixels=99,
    )
    processor.save_pretrained(tmp_path)
    again = ContourImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    assert again.background_color == [1, 2, 3]
    assert torch.equal(pixel_values(again, colours()), pixel_values(processor, colours()))
    assert {path.name for path in tmp_path.iterdir()} == {
        "preprocessor_config.json",
        "image_processing_contour.py",
        "image_arrays_contour.py",
        "image_opening_contour.py",
        "edge_thinning_contour.py",
        "placement_contour.py",
    }
    assert ContourImageProcessor.from_pretrained(tmp_path, size=8).size == {"height": 8, "width": 8}


def test_the_saved_copy_opens_images_alike(tmp_path: Path) -> None:
    """From the folder's own code, as it comes from the Hub."""
    processor = ContourImageProcessor(size=24)
    processor.save_pretrained(tmp_path)
    copy = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    for kind in ("deep_grey_png", "rgba_png", "exif_6_jpeg", "float_within_1_tiff"):
        content = ODD_IMAGES[kind].content
        assert torch.equal(pixel_values(copy, content), pixel_values(processor, content))


def test_placement_crops_what_it_placed() -> None:
    placement = Placement(height=2, width=3, top=1, left=2, canvas_height=5, canvas_width=8)
    assert placement.crop(torch.arange(40).view(1, 5, 8)).tolist() == [[[10, 11, 12], [18, 19, 20]]]


def test_reduced_decoding_is_the_same_by_every_door(tmp_path):
    pixels = np.linspace(0, 255, 256 * 192 * 3).reshape(256, 192, 3).astype(np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    plain = ContourImageProcessor(size={"height": 64, "width": 48})
    reduced = ContourImageProcessor(size={"height": 64, "width": 48}, reduced_decoding=True)
    reduced.save_pretrained(tmp_path)
    reduced = ContourImageProcessor.from_pretrained(tmp_path)
    assert reduced.opening["least_size"] == (64, 48)
    assert "least_size" not in plain.opening
    tensor = reduced(path, return_tensors="pt")["pixel_values"][0]
    quarter = np.asarray(open_image(path, least_size=(64, 48)))
    assert quarter.shape == (64, 48, 3)
    by_hand = torch.from_numpy(quarter.copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(tensor, by_hand)
    assert torch.equal(reduced(path.read_bytes(), return_tensors="pt")["pixel_values"][0], tensor)
    row = {"image": {"bytes": path.read_bytes(), "path": None}, "label": 0}
    features = Features({"image": datasets.Image(decode=False), "label": ClassLabel(names=["a", "b"])})
    samples = ContourSamples(datasets.Dataset.from_list([row], features=features), reduced, stage="gender")
    assert torch.equal(samples[0]["pixel_values"], tensor)
    difference = plain(path, return_tensors="pt")["pixel_values"][0] - tensor
    assert 0 < difference.abs().mean() < 0.02


def test_reduced_decoding_needs_a_size_to_come_to(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (64, 64)).save(path)
    processor = ContourImageProcessor(do_resize=False, do_pad=False, reduced_decoding=True)
    assert processor(path, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="reduced_decoding"):
        ContourImageProcessor(reduced_decoding="often")(path)


@pytest.mark.parametrize("kind", [kind for kind in ODD_IMAGES if "jpeg" in kind])
def test_jpegs_of_any_kind_look_alike_when_reduced(kind):
    content = ODD_IMAGES[kind].content
    opened = open_image(content)
    size = {"height": max(opened.height // 3, 1), "width": max(opened.width // 3, 1)}
    processors = [
        ContourImageProcessor(size=size, reduced_decoding=reduced, do_pad=False) for reduced in (False, True)
    ]
    whole, reduced = (pixel_values(processor, content) for processor in processors)
    assert reduced.shape == whole.shape
    assert (whole - reduced).abs().mean() < 0.05


@pytest.mark.parametrize("size", [(1200, 900), (1100, 800), (1001, 801), (600, 1000)])
def test_a_reduced_image_lies_where_the_whole_one_would(size):
    """With stripes, a shift by a pixel of the canvas would tell."""
    photo = encode(draw_garment(0, size=size).image, "JPEG", quality=90)
    whole, reduced = (
        ContourImageProcessor(size={"height": 128, "width": 96}, reduced_decoding=reduced, do_normalize=False)(
            photo, return_tensors="pt"
        )["pixel_values"]
        for reduced in (False, True)
    )
    assert (whole - reduced).abs().mean() < 2 / 255
    assert torch.equal(whole, reduced) == (size == (1001, 801))


def test_whole_images_are_decoded_unless_told_otherwise():
    content = ODD_IMAGES["exif_6_jpeg"].content
    assert ContourImageProcessor().to_dict()["reduced_decoding"] is False
    processor = ContourImageProcessor(size=8)
    assert torch.equal(pixel_values(processor, content), pixel_values(processor, np.asarray(open_image(content))))


def test_contours_are_learnt_from_images_of_their_own_size(tmp_path):
    paths = {"image": tmp_path / "large.jpg", "contours": tmp_path / "contours.png"}
    Image.new("RGB", (192, 256)).save(paths["image"])
    Image.new("L", (192, 256)).save(paths["contours"])
    cells = {name: {"bytes": None, "path": str(path)} for name, path in paths.items()}
    row = {"image": cells["image"], "contours": [cells["contours"]]}
    processor = ContourImageProcessor(size=32, reduced_decoding=True)
    features = Features(
        {"image": datasets.Image(decode=False), "contours": datasets.Sequence(datasets.Image(decode=False))}
    )
    rows = datasets.Dataset.from_list([row], features=features)
    sample = ContourSamples(rows, processor, stage="contour")[0]
    assert sample["pixel_values"].shape == (3, 256, 192)
    assert sample["labels"].shape == (256, 192)


def test_floats_in_the_unit_range_stay_where_nothing_is_rescaled():
    """They are rescaled already; normalised they end in -1..1, the padding with them."""
    processor = ContourImageProcessor(size={"height": 12, "width": 8}, do_rescale=False)
    values = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    for image in (values, values.permute(1, 2, 0).numpy(), values.double()):
        tensor = pixel_values(processor, image, input_data_format=None)[0]
        assert torch.allclose(tensor[:, 3:9], values * 2 - 1, atol=1e-6)
        assert torch.equal(tensor[:, :3], torch.ones(3, 3, 8))  # white
    translucent = np.full((6, 8, 4), 0.5, dtype=np.float32)
    assert np.allclose(pixel_values(processor, translucent)[0, :, 3:9], 0.5)  # half of 0.5, half of white: 0.75


def test_an_image_keeps_its_size_where_a_call_does_not_resize():
    """Padding goes with resizing, whether the image is larger or smaller than the size of the processor."""
    processor = ContourImageProcessor(size=16)
    for height, width in ((40, 30), (5, 7)):
        image = np.zeros((height, width, 3), dtype=np.uint8)
        assert pixel_values(processor, image, do_resize=False).shape == (1, 3, height, width)
    assert pixel_values(processor, image, do_resize=False, do_pad=True).shape == (1, 3, 16, 16)
