"""Samples are a function of (seed, epoch, row): not of workers, caches, pickling or streaming."""

import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import as_png
from torch.utils.data import DataLoader

from hf_contour.data.augmentation.colour import ColourAudit, ColourTransform
from hf_contour.data.augmentation.recipe import OPERATIONS, Augmentation, AugmentationRecipe
from hf_contour.data.samples import ContourSamples, SampleBuilder, collate
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError
from hf_contour.loss_contour import IGNORE_LABEL

SIZES = [(20, 30), (24, 16), (18, 18), (33, 21), (16, 40), (25, 25), (19, 31)]
CLASSES = ["women", "men", "unisex"]
RECIPE = AugmentationRecipe(**dict.fromkeys(OPERATIONS, 0.6), crop_size=(24, 24))
COLOUR = ColourTransform(exchange_channels=True, shift_channel=True, max_changed=3, max_shifted=3, max_difference=200)


def encode(array):
    return as_png(Image.fromarray(array))


def make_pixels(index):
    return np.random.default_rng(index).integers(0, 256, (*SIZES[index], 3), dtype=np.uint8)


def make_drawing(index):
    return np.random.default_rng(100 + index).random((1 + index % 3, *SIZES[index])) < 0.2


def make_row(index, *, multi_label=False):
    return {
        "image": {**encode(make_pixels(index)), "path": f"image{index}.png"},
        "contours": [encode(drawing) for drawing in make_drawing(index)],
        "label": [index % 3, 2] if multi_label else index % 3,
    }


def make_features(*, multi_label=False):
    label = datasets.ClassLabel(names=CLASSES)
    return datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "contours": datasets.List(datasets.Image(decode=False)),
            "label": datasets.List(label) if multi_label else label,
        }
    )


def make_source(rows=None, *, multi_label=False):
    rows = [make_row(index, multi_label=multi_label) for index in range(len(SIZES))] if rows is None else rows
    return datasets.Dataset.from_list(rows, features=make_features(multi_label=multi_label))


def make_samples(source=None, *, stage="contour", augmentation=RECIPE, colour=COLOUR, **options):
    processor = ContourImageProcessor(size={"height": 16, "width": 16})
    augmentation = None if augmentation is None else Augmentation(augmentation)
    source = make_source() if source is None else source
    return ContourSamples(source, processor, stage=stage, augmentation=augmentation, colour=colour, **options)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(torch.as_tensor(left[name]), torch.as_tensor(right[name])), name


def test_contour_sample_is_the_processed_image_and_the_consensus():
    samples = make_samples(augmentation=None, colour=None)
    assert len(samples) == len(SIZES)
    for index in range(len(SIZES)):
        sample = samples[index]
        expected = make_pixels(index).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        assert sample["pixel_values"].dtype == torch.float32
        assert np.allclose(sample["pixel_values"], expected, atol=1e-6)
        assert sample["labels"].dtype == torch.float32
        assert np.allclose(sample["labels"], make_drawing(index).mean(axis=0))
        assert sample["index"] == index


def test_image_in_training_is_the_image_in_use():
    samples = make_samples(stage="gender", augmentation=None, colour=None)
    for index in range(len(SIZES)):
        alone = samples.builder.processor(Image.fromarray(make_pixels(index)), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(samples[index]["pixel_values"], alone)
        assert alone.shape == (3, 16, 16)


def test_transparent_images_lie_on_the_background_of_the_processor():
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    source = make_source([{**make_row(0), "image": encode(clear)}])
    processor = ContourImageProcessor(size={"height": 8, "width": 8}, background_color=(255, 0, 51))
    pixel_values = ContourSamples(source, processor, stage="gender")[0]["pixel_values"]
    assert torch.allclose(pixel_values[:, 0, 0], torch.tensor([1.0, -1.0, -0.6]), atol=1e-6)


def test_pixels_from_outside_the_image_are_not_counted():
    samples = make_samples(augmentation=AugmentationRecipe(crop_size=(40, 50)), colour=None)
    for index, (height, width) in enumerate(SIZES):
        labels = samples[index]["labels"]
        assert labels.shape == (40, 50)
        inside = labels != IGNORE_LABEL
        rows, columns = torch.nonzero(inside.any(dim=1)), torch.nonzero(inside.any(dim=0))
        assert (len(rows), len(columns), int(inside.sum())) == (height, width, height * width)
        assert np.allclose(labels[inside].reshape(height, width), make_drawing(index).mean(axis=0))


def test_pixels_near_a_contour_that_may_be_off_are_not_counted():
    row = make_row(0)
    features = datasets.Features({**make_features(), "label_tolerance": datasets.Value("int32")})
    source = datasets.Dataset.from_list([{**row, "label_tolerance": 2}], features=features)
    labels = make_samples(source, augmentation=None, colour=None)[0]["labels"].numpy()
    drawn = make_drawing(0).mean(axis=0)
    padded = np.pad(drawn > 0, 2)
    height, width = drawn.shape
    near = np.any([padded[y : y + height, x : x + width] for y in range(5) for x in range(5)], axis=0)
    assert np.allclose(labels, np.where(near & (drawn == 0), IGNORE_LABEL, drawn))
    assert (labels == IGNORE_LABEL).any()
    assert (labels == 0).any()


def test_epoch_and_seed_change_a_sample_and_nothing_else_does():
    samples = make_samples()
    first = [samples[index] for index in range(len(SIZES))]
    for index in reversed(range(len(SIZES))):
        assert_same(samples[index], first[index])
    samples.set_epoch(1)
    assert samples.epoch == 1
    differing = [not torch.equal(samples[i]["pixel_values"], first[i]["pixel_values"]) for i in range(len(SIZES))]
    assert all(differing)
    samples.set_epoch(0)
    assert_same(samples[3], first[3])
    other = make_samples(seed=1)
    assert not torch.equal(other[3]["pixel_values"], first[3]["pixel_values"])


@pytest.mark.parametrize("stage", ["contour", "gender"])
def test_workers_cache_and_pickling_do_not_change_a_bit(stage):
    plain = make_samples(stage=stage)
    expected = {}
    for epoch in range(2):
        plain.set_epoch(epoch)
        expected[epoch] = [plain[index] for index in range(len(SIZES))]
    plain.set_epoch(0)
    variants = {"cached": make_samples(stage=stage, cache=True), "pickled": pickle.loads(pickle.dumps(plain))}
    for name, samples in {"plain": plain, **variants}.items():
        for num_workers in (0, 1, 2) if name == "plain" else (0, 2):
            loader = DataLoader(samples, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)
            for epoch in range(2):  # kept workers must see the new epoch
                samples.set_epoch(epoch)
                for got, wanted in zip(loader, expected[epoch], strict=True):
                    assert_same(got, wanted)


def test_gender_labels_are_numbers_or_several_at_once():
    samples = make_samples(stage="gender", augmentation=None, colour=None)
    assert [samples[index]["labels"] for index in range(4)] == [0, 1, 2, 0]
    batch = collate([samples[index] for index in range(4)])
    assert batch["labels"].dtype == torch.int64
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    several = make_samples(make_source(multi_label=True), stage="gender", augmentation=None, colour=None)
    batch = collate([several[index] for index in range(3)])
    assert batch["labels"].tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    assert batch["labels"].dtype == torch.float32
    assert batch["index"].tolist() == [0, 1, 2]


def test_colours_stay_under_their_cap_over_an_epoch():
    samples = make_samples(stage="gender", augmentation=None)
    loader = DataLoader(samples, batch_size=2, num_workers=2, collate_fn=collate)
    audit = sum((ColourAudit.from_codes(batch["colour"].tolist()) for batch in loader), ColourAudit())
    assert audit.images == 7
    assert audit.exchanged + audit.refused == 3
    assert audit.shifted == 3
    changed = sum(not np.array_equal(samples.drawn(index).image, make_pixels(index)) for index in range(len(SIZES)))
    assert changed == 7 - audit.unchanged


def test_different_sizes_in_a_batch_are_refused():
    samples = make_samples(augmentation=None, colour=None)
    with pytest.raises(ValueError, match=r"18x18, 20x30.*crop_size.*batch size 1"):
        collate([samples[0], samples[2]])
    assert collate([samples[0]])["labels"].shape == (1, 20, 30)


def test_unreadable_image_names_row_and_file():
    broken = {"bytes": make_row(1)["image"]["bytes"][:60], "path": "broken.png"}
    source = make_source([make_row(0), {**make_row(1), "image": broken}])
    with pytest.raises(ImageReadError, match=r"row 1 .*broken\.png"):
        make_samples(source)[1]
    with pytest.raises(ImageReadError, match=r"row 1 .*broken\.png"):
        make_samples(source, cache=True)


def test_what_a_stage_needs_is_asked_for_by_name():
    source = make_source()
    with pytest.raises(ValueError, match="the stage 'contour' needs 'contours'"):
        make_samples(source.remove_columns("contours"))
    with pytest.raises(ValueError, match="the stage 'gender' needs 'label'"):
        make_samples(source.remove_columns("label"), stage="gender")
    with pytest.raises(ValueError, match="stage is 'colour'"):
        make_samples(stage="colour")
    with pytest.raises(ValueError, match=r"row 0 \(image0\.png\) has no contours"):
        make_samples(make_source([{**make_row(0), "contours": []}]))[0]
    with pytest.raises(ValueError, match=r"row 0 .*24x16.*20x30"):
        make_samples(make_source([{**make_row(0), "contours": make_row(1)["contours"]}]))[0]
    with pytest.raises(ValueError, match="row 0 has no label"):
        make_samples(make_source([{**make_row(0), "label": None}]), stage="gender")[0]
    with pytest.raises(ValueError, match="row 0 has the label -1"):
        make_samples(make_source([{**make_row(0), "label": -1}]), stage="gender")[0]


# Streams


def write_parts(folder):
    for part, start in enumerate((0, 3)):
        make_source([make_row(index) for index in range(start, min(start + 3, 7) if part == 0 else 7)]).to_parquet(
            folder / f"part{part}.parquet"
        )
    files = [str(folder / f"part{part}.parquet") for part in range(2)]
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True).cast(make_features())


def test_a_row_of_a_stream_gives_the_sample_of_the_set(tmp_path):
    stream, samples = write_parts(tmp_path), make_samples(colour=None)
    builder = SampleBuilder(
        samples.builder.processor, "contour", stream.features, num_samples=None, augmentation=Augmentation(RECIPE)
    )
    for epoch in range(2):
        samples.set_epoch(epoch)
        for index, row in enumerate(stream):
            assert_same(builder.build(builder.decode(row, index), index, epoch=epoch), samples[index])


def test_colours_of_a_stream_are_capped_by_a_count(tmp_path):
    stream, processor = write_parts(tmp_path), ContourImageProcessor(size={"height": 16, "width": 16})
    colour = ColourTransform(exchange_channels=True, max_changed=0.5)
    with pytest.raises(ValueError, match="a fraction of the set"):
        SampleBuilder(processor, "contour", stream.features, num_samples=None, colour=colour)
    colour = ColourTransform(exchange_channels=True, max_changed=2, max_difference=255)
    builder = SampleBuilder(processor, "contour", stream.features, num_samples=None, colour=colour)
    for epoch in range(8):
        samples = [builder.build(builder.decode(row, index), index, epoch=epoch) for index, row in enumerate(stream)]
        assert ColourAudit.from_codes(sample["colour"] for sample in samples).exchanged <= 2
