"""The offline writer makes a larger set that loads back, says where each row comes from, and equals online samples."""

import io
import json

import datasets
import numpy as np
import pytest
import yaml
from odd_images import encode
from PIL import Image

from hf_contour.cli.main import main
from hf_contour.data.annotations import read_annotations
from hf_contour.data.augmentation.colour import ColourTransform
from hf_contour.data.augmentation.recipe import OPERATIONS, Augmentation, AugmentationRecipe
from hf_contour.data.offline import ORIGINAL_COPY, PROVENANCE, write_augmented
from hf_contour.data.rows import RowDrawer
from hf_contour.data.sources import load_source
from hf_contour.image_processing_contour import ImageReadError

SIZES = [(20, 30), (24, 16), (18, 18), (33, 21), (16, 40)]
RECIPE = AugmentationRecipe(**dict.fromkeys(OPERATIONS, 0.6), crop_size=(24, 24))
COLOUR = ColourTransform(
    exchange_channels=True, shift_channel=True, max_changed=2, max_shifted=0.4, max_difference=200
)


def encoded(array, kind="PNG"):
    return encode(Image.fromarray(array), kind)


def make_row(index):
    rng = np.random.default_rng(index)
    drawings = rng.random((1 + index % 3, *SIZES[index])) < 0.2
    pixels = rng.integers(0, 256, (*SIZES[index], 3), dtype=np.uint8)
    return {
        "image": {"bytes": encoded(pixels, "JPEG"), "path": f"{index}.jpg"},
        "contours": [{"bytes": encoded(drawing), "path": None} for drawing in drawings],
        "label": index % 2,
        "shop": f"shop {index}",
    }


def make_source(rows=None):
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "contours": datasets.List(datasets.Image(decode=False)),
            "label": datasets.ClassLabel(names=["women", "men"]),
            "shop": datasets.Value("string"),
        }
    )
    return datasets.Dataset.from_list(rows or [make_row(index) for index in range(len(SIZES))], features=features)


def pixels_of(row):
    return np.array(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))


def write(folder, source=None, **options):
    settings = {"copies": 3, "augmentation": Augmentation(RECIPE), "colour": COLOUR, "seed": 7, **options}
    return write_augmented(make_source() if source is None else source, folder, **settings)


@pytest.mark.parametrize("with_contours", [True, False])
def test_copies_are_the_online_samples_of_their_epoch(tmp_path, with_contours):
    source = make_source() if with_contours else make_source().remove_columns("contours")
    written = write(tmp_path / "set", source, rows_per_file=7)
    assert (written.num_originals, written.num_copies) == (5, 15)
    assert sorted(path.name for path in written.folder.glob("*.parquet")) == [
        f"train-{number:05d}-of-00003.parquet" for number in range(3)
    ]
    loaded = load_source(written.folder, cache_dir=tmp_path / "cache")
    assert len(loaded) == 20
    online = RowDrawer(num_samples=5, augmentation=Augmentation(RECIPE), colour=COLOUR, seed=7)
    padded = 0
    for row in loaded:
        if row["copy"] == ORIGINAL_COPY:
            continue
        index = row["source_row"]
        drawn = online.draw(online.decode(source[index], index), index, epoch=row["copy"])
        assert np.array_equal(pixels_of(row), drawn.image)
        assert json.loads(row["operations"]) == drawn.operations
        assert json.loads(row["colour_change"]).get("shift", 0) == drawn.colour.shift
        if not with_contours:
            continue
        assert np.array_equal(read_annotations(row["contours"], name="", max_edge_share=1), drawn.annotations)
        back = RowDrawer(num_samples=20).decode(row, 0)
        again = RowDrawer(num_samples=20).draw(back, 0, epoch=0)
        assert (again.valid is None) == (drawn.valid is None)
        assert drawn.valid is None or np.array_equal(again.valid, drawn.valid)
        padded += drawn.valid is not None
    assert padded > 0 or not with_contours


def test_originals_keep_their_bytes_and_rows_say_where_they_come_from(tmp_path):
    written = write(tmp_path / "set")
    loaded = load_source(written.folder, cache_dir=tmp_path / "cache")
    places = [(row["source_row"], row["copy"]) for row in loaded]
    assert places == [(index, copy) for index in range(5) for copy in range(-1, 3)]
    for row in loaded:
        original = make_row(row["source_row"])
        assert row["source_file"] == original["image"]["path"]
        assert row["seed"] == 7
        assert (row["label"], row["shop"]) == (original["label"], original["shop"])
        if row["copy"] == ORIGINAL_COPY:
            assert row["image"]["bytes"] == original["image"]["bytes"]
            assert [cell["bytes"] for cell in row["contours"]] == [cell["bytes"] for cell in original["contours"]]
            assert row["operations"] == row["colour_change"] == "{}"
    assert loaded.features["label"].names == ["women", "men"]
    assert set(PROVENANCE) <= set(loaded.features)


def test_colour_cap_holds_over_each_round_of_copies(tmp_path):
    written = write(tmp_path / "set", augmentation=None)
    changes = [
        (row["copy"], json.loads(row["colour_change"]))
        for row in load_source(written.folder, cache_dir=tmp_path / "cache")
        if row["copy"] != ORIGINAL_COPY
    ]
    for copy in range(3):
        of_copy = [change for one, change in changes if one == copy]
        assert sum(change.get("exchanged", False) + change.get("refused", False) for change in of_copy) == 2
        assert sum(change.get("shifted", False) for change in of_copy) == 2
    audit = written.colour_audit
    assert audit.images == 15
    assert audit.exchanged + audit.refused == 6
    assert audit.shifted == 6


def test_set_is_described_and_read_by_datasets_alone(tmp_path):
    written = write(tmp_path / "set", keep_originals=False, split="validation")
    described = yaml.safe_load((written.folder / "provenance.yaml").read_text())
    assert (described["seed"], described["copies"], described["num_originals"], described["num_copies"]) == (
        7,
        3,
        0,
        15,
    )
    assert AugmentationRecipe.from_dict(described["augmentation"]) == RECIPE
    assert ColourTransform.from_dict(described["colour"]) == COLOUR
    assert described["colour_audit"] == written.colour_audit.to_dict()
    loaded = datasets.load_dataset(str(written.folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["validation"]
    assert loaded["validation"][0]["image"].size == (24, 24)
    assert loaded["validation"][0]["contours"][0].mode == "1"


def test_stream_is_augmented_like_the_set(tmp_path):
    colour = ColourTransform(exchange_channels=True, max_changed=1, max_difference=255)
    write(tmp_path / "set", colour=None)
    write(tmp_path / "stream", make_source().to_iterable_dataset(), colour=None)
    sets = [load_source(tmp_path / name, cache_dir=tmp_path / "cache") for name in ("set", "stream")]
    assert sets[0].to_list() == sets[1].to_list()
    assert write(tmp_path / "capped", make_source().to_iterable_dataset(), colour=colour).colour_audit.exchanged <= 3


def test_nothing_is_overwritten_and_nothing_half_done_is_left(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError, match="taken exists"):
        write(tmp_path / "taken")
    rows = [make_row(0), make_row(1), {**make_row(2), "image": {"bytes": b"no image", "path": "broken.jpg"}}]
    with pytest.raises(ImageReadError, match=r"row 2 \(broken\.jpg\)"):
        write(tmp_path / "set", make_source(rows))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_impossible_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="copies is 0"):
        write(tmp_path / "set", copies=0)
    with pytest.raises(ValueError, match="nothing to write"):
        write(tmp_path / "set", augmentation=None, colour=None)
    written = write(tmp_path / "set")
    with pytest.raises(ValueError, match="Augment the first source"):
        write(tmp_path / "again", load_source(written.folder, cache_dir=tmp_path / "cache"))
    assert not (tmp_path / "again").exists()


def test_the_command_reads_a_training_recipe(tmp_path, capsys):
    make_source().to_parquet(tmp_path / "train.parquet")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({
        "learning_rate": 0.1,
        "augmentation": {"noise": 1.0},
        "gender": {"augmentation": {"flip": 1.0}, "colour": {"exchange_channels": True, "max_changed": 1}},
    }))  # fmt: skip
    flags = [
        "augment",
        "--data",
        str(tmp_path / "train.parquet"),
        "--recipe",
        str(recipe),
        "--copies",
        "2",
        "--seed",
        "3",
    ]
    assert main([*flags, "--stage", "gender", "--output", str(tmp_path / "set")]) == 0
    assert "10 copies" in capsys.readouterr().out
    rows = load_source(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert {row["operations"] for row in rows} == {"{}", '{"flip": true}'}
    assert {row["seed"] for row in rows} == {3}
    assert main([*flags, "--output", str(tmp_path / "set")]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*flags, "--output", str(tmp_path / "noisy")]) == 0
    rows = load_source(tmp_path / "noisy", cache_dir=tmp_path / "cache")
    assert {name for row in rows for name in json.loads(row["operations"])} == {"noise"}
