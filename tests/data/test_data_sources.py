"""Every kind of source gives the same columns, and what cannot be read is refused with its row."""

import csv
import gc
import io
import logging
import os
import pickle
import socket
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from odd_images import encode
from PIL import Image as PILImage

from hf_contour.data.sources import ColumnNames, detect_kind, label_names, load_source, source_splits

IMAGE = Image(decode=False)

# `datasets` leaves the csv files open that it reads the first rows of.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a local source reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True, scope="module")
def _close_left_files():
    yield
    gc.collect()


def photo(colour, *, mode="RGB", size=(5, 4)) -> PILImage.Image:
    return PILImage.new(mode, size, colour)


def png(image: PILImage.Image) -> bytes:
    return encode(image, "PNG")


def save(path: Path, colour, *, mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(colour, mode=mode).save(path)
    return path


def write_csv(path: Path, header: list[str], *rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def colour_of(cell: dict):
    """Top left pixel of a cell of the result, read the way that samples read it."""
    assert set(cell) == {"bytes", "path"}
    source = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    with PILImage.open(source) as image:
        return image.getpixel((0, 0))


def load_both_ways(source, **options) -> Dataset:
    """Load, and check that a stream, as a worker process receives it, gives the same rows and columns."""
    dataset = load_source(source, **options)
    stream = pickle.loads(pickle.dumps(load_source(source, streaming=True, **options)))
    assert stream.features == dataset.features
    plain, streamed = dataset.to_list(), list(stream)
    assert len(plain) == len(streamed)
    for row, same in zip(plain, streamed, strict=True):
        assert {name: row[name] for name in row if name not in ("image", "contours")} == {
            name: same[name] for name in same if name not in ("image", "contours")
        }
        assert colour_of(row["image"]) == colour_of(same["image"])
        assert [colour_of(cell) for cell in row.get("contours", [])] == [
            colour_of(cell) for cell in same.get("contours", [])
        ]
    return dataset


def write_parquet(path: Path, columns: dict, features: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Dataset.to_parquet would read files that cells name.
    pq.write_table(Dataset.from_dict(columns, features=Features(features)).data.table, path)
    return path


def parquet_rows(path: Path, labels, feature, *, name="label") -> Path:
    cells = [{"bytes": png(photo((index, 0, 0))), "path": None} for index in range(len(labels))]
    return write_parquet(path, {"image": cells, name: labels}, {"image": Image(), name: feature})


# Parquet


def test_parquet_folder_with_files_of_splits(tmp_path):
    feature = ClassLabel(names=["men", "women"])
    parquet_rows(tmp_path / "train-00000-of-00002.parquet", [0, 1], feature)
    parquet_rows(tmp_path / "train-00001-of-00002.parquet", [1], feature)
    parquet_rows(tmp_path / "val.parquet", [1, 0], feature)
    assert detect_kind(tmp_path) == "parquet"
    assert source_splits(tmp_path) == ["train", "validation"]
    train = load_both_ways(tmp_path, split="train")
    assert train.features == Features({"image": IMAGE, "label": feature})
    assert train["label"] == [0, 1, 1]
    assert label_names(train) == ["men", "women"]
    for name in ("validation", "val"):
        assert load_both_ways(tmp_path, split=name)["label"] == [1, 0]
    assert load_both_ways(tmp_path, split="train+validation")["label"] == [0, 1, 1, 1, 0]


def test_parquet_folders_of_splits_and_the_layout_of_the_hub(tmp_path):
    for folder in ("plain/train", "hub/data"):
        parquet_rows(tmp_path / folder / "train-0.parquet", ["b", "a"], Value("string"))
    for folder in ("plain", "hub"):
        assert load_both_ways(tmp_path / folder)["label"] == [1, 0]


def test_parquet_glob_chooses_by_file_name(tmp_path):
    parquet_rows(tmp_path / "train.parquet", [0, 1], Value("int64"))
    parquet_rows(tmp_path / "test.parquet", [1], Value("int64"))
    assert load_source(f"{tmp_path}/*.parquet", split="test")["label"] == [1]
    with pytest.raises(ValueError, match=r"has no split 'train'; its splits are \['test'\]"):
        load_source(tmp_path / "test.parquet", split="train")


def test_a_file_without_a_split_in_its_name_is_train(tmp_path):
    path = parquet_rows(tmp_path / "garments.parquet", ["b", "a", "b"], Value("string"))
    assert load_both_ways(path)["label"] == [1, 0, 1]
    with pytest.raises(ValueError, match="its splits are"):
        load_source(path, split="test")


def test_contours_are_always_a_list_and_other_columns_are_kept(tmp_path):
    cells = [{"bytes": png(photo((9, 0, 0))), "path": "a.png"}] * 2
    maps = [{"bytes": png(photo(255, mode="L")), "path": None}, {"bytes": png(photo(0, mode="L")), "path": None}]
    one = write_parquet(
        tmp_path / "one.parquet",
        {"photo": cells, "drawing": [maps[0], None], "code": [7, 8]},
        {"photo": Image(), "drawing": Image(), "code": Value("int32")},
    )
    dataset = load_both_ways(one, columns=ColumnNames(image="photo", contours="drawing"))
    assert dataset.features == Features({"image": IMAGE, "contours": List(IMAGE), "code": Value("int32")})
    assert [[colour_of(cell) for cell in row] for row in dataset["contours"]] == [[255], []]
    assert dataset["code"] == [7, 8]
    several = write_parquet(
        tmp_path / "several.parquet",
        {"image": cells, "contours": [maps, maps[:1]]},
        {"image": Image(), "contours": List(Image())},
    )
    dataset = load_both_ways(several)
    assert dataset.features == Features({"image": IMAGE, "contours": List(IMAGE)})
    assert [[colour_of(cell) for cell in row] for row in dataset["contours"]] == [[255, 0], [255]]


def test_images_as_plain_bytes_and_as_paths(tmp_path):
    content = png(photo((3, 0, 0)))
    path = write_parquet(tmp_path / "a.parquet", {"image": [content]}, {"image": Value("binary")})
    assert colour_of(load_both_ways(path)[0]["image"]) == (3, 0, 0)
    # Written without `datasets`: a struct that nobody calls an image.
    cell = {"bytes": content, "path": "a.png"}
    pq.write_table(pa.table({"image": [cell], "contours": [[cell, cell]]}), path)
    dataset = load_both_ways(path)
    assert dataset.features == Features({"image": IMAGE, "contours": List(IMAGE)})
    assert [colour_of(one) for one in dataset[0]["contours"]] == [(3, 0, 0), (3, 0, 0)]
    save(tmp_path / "x" / "1.png", (4, 0, 0))
    path = write_parquet(tmp_path / "b.parquet", {"image": ["x/1.png"]}, {"image": Value("string")})
    assert colour_of(load_both_ways(path)[0]["image"]) == (4, 0, 0)


def test_an_empty_image_or_a_path_to_nowhere_in_parquet(tmp_path):
    good, gone = {"bytes": png(photo(0)), "path": None}, {"bytes": None, "path": "gone.png"}
    for cell, message in ((None, "row 1 .*there is no image"), (gone, r"row 1 .*gone\.png is not there")):
        path = write_parquet(tmp_path / "a.parquet", {"image": [good, cell, good]}, {"image": Image()})
        for streaming in (False, True):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                list(load_source(path, streaming=streaming))
    columns = {"image": [good] * 3, "contours": [[good], [], [good, gone]]}
    path = write_parquet(tmp_path / "b.parquet", columns, {"image": Image(), "contours": List(Image())})
    with pytest.raises(FileNotFoundError, match=r"row 2 .*column contours.*gone\.png"):
        load_source(path)


def test_nothing_is_decoded_while_loading(tmp_path):
    columns = {"image": [{"bytes": b"no image", "path": None}], "contours": [[{"bytes": b"nor this", "path": None}]]}
    path = write_parquet(tmp_path / "a.parquet", columns, {"image": Image(), "contours": List(Image())})
    assert load_source(path)[0]["image"]["bytes"] == b"no image"
    assert next(iter(load_source(path, streaming=True)))["contours"][0]["bytes"] == b"nor this"


def test_a_chosen_column_wins_over_the_one_in_its_place(tmp_path):
    path = write_parquet(
        tmp_path / "a.parquet",
        {"image": [png(photo(0))] * 2, "label": [1, 0], "material": ["wool", "silk"]},
        {"image": Value("binary"), "label": ClassLabel(names=["men", "women"]), "material": Value("string")},
    )
    dataset = load_both_ways(path, columns=ColumnNames(label="material"))
    assert label_names(dataset) == ["silk", "wool"]
    assert dataset["label"] == [1, 0]
    assert dataset["original_label"] == [1, 0]
    untouched = load_both_ways(path, columns=ColumnNames(label=None))
    assert untouched.features["material"] == Value("string")


def test_a_folder_whose_readme_lists_configurations(tmp_path):
    parquet_rows(tmp_path / "small" / "train.parquet", [0, 1], ClassLabel(names=["men", "women"]))
    parquet_rows(tmp_path / "large" / "train.parquet", [0, 1, 1], ClassLabel(names=["men", "women"]))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - {{split: train, path: {name}/train.parquet}}\n"
        for name in ("small", "large")
    )
    (tmp_path / "README.md").write_text(f"---\nlicense: other\nconfigs:\n{configs}---\n# Garments\n")
    assert detect_kind(tmp_path) == "configured_folder"
    assert load_both_ways(tmp_path, config_name="small")["label"] == [0, 1]
    assert load_both_ways(str(tmp_path), config_name="large")["label"] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"huge.*Available"):
        load_source(tmp_path, config_name="huge")


# folders of images


def test_class_folders(tmp_path):
    for split, name in (("train", "men"), ("train", "women"), ("val", "women")):
        save(tmp_path / split / name / "1.png", {"men": (1, 0, 0), "women": (2, 0, 0)}[name])
    assert detect_kind(tmp_path) == "imagefolder"
    assert source_splits(tmp_path) == ["train", "validation"]
    train = load_both_ways(tmp_path, split="train")
    assert label_names(train) == ["men", "women"]
    assert [(colour_of(row["image"])[0], row["label"]) for row in train] == [(1, 0), (2, 1)]
    # A class that is absent from the split keeps the numbers of the others.
    validation = load_both_ways(tmp_path, split="validation", label_names=["men", "women"])
    assert validation["label"] == [1]


def test_class_folders_without_splits_are_train_even_with_one_class(tmp_path):
    save(tmp_path / "men" / "1.png", (1, 0, 0))
    dataset = load_both_ways(tmp_path)
    assert label_names(dataset) == ["men"]
    assert dataset["label"] == [0]


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "1.png", (1, 0, 0))
    dataset = load_both_ways(tmp_path)
    assert dataset.column_names == ["image"]
    with pytest.raises(ValueError, match=r"the data has no labels \(no column 'label'\)\. Put the images"):
        label_names(dataset)


def test_metadata_with_one_contour_file(tmp_path):
    save(tmp_path / "a.png", (1, 0, 0))
    save(tmp_path / "contours" / "a.png", 255, mode="L")
    write_csv(
        tmp_path / "metadata.csv",
        ["file_name", "contour_file_name", "label", "season"],
        ["a.png", "contours/a.png", "men", "summer"],
    )
    dataset = load_both_ways(tmp_path)
    assert dataset.features["contours"] == List(IMAGE)
    assert colour_of(dataset[0]["image"]) == (1, 0, 0)
    assert colour_of(dataset[0]["contours"][0]) == 255
    assert label_names(dataset) == ["men"]
    assert dataset["season"] == ["summer"]


def test_metadata_with_several_contour_files_and_splits(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "a.png", (1, 0, 0))
        save(tmp_path / split / "c1.png", 255, mode="L")
        save(tmp_path / split / "c2.png", 0, mode="L")
        (tmp_path / split / "metadata.jsonl").write_text(
            '{"file_name": "a.png", "contours_file_names": ["c1.png", "c2.png"]}\n'
        )
    dataset = load_both_ways(tmp_path, split="test")
    assert [colour_of(cell) for cell in dataset[0]["contours"]] == [255, 0]


def test_metadata_with_a_column_for_the_split(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path / f"{number}.png", (number, 0, 0))
    rows = [["1.png", "a", "train"], ["2.png", "b", "val"], ["3.png", "b", "train"]]
    write_csv(tmp_path / "metadata.csv", ["file_name", "label", "split"], *rows)
    assert source_splits(tmp_path) == ["train", "val"]
    train = load_both_ways(tmp_path)
    assert [colour_of(row["image"])[0] for row in train] == [1, 3]
    assert train["label"] == [0, 1]
    assert load_both_ways(tmp_path, split="validation", label_names=label_names(train))["label"] == [1]


def test_metadata_that_names_a_missing_file(tmp_path):
    save(tmp_path / "a.png", (1, 0, 0))
    write_csv(tmp_path / "metadata.csv", ["file_name"], ["a.png"], ["b.png"])
    with pytest.raises(FileNotFoundError, match=r"row 1 .*b\.png"):
        load_source(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"row 1 .*b\.png"):
        list(load_source(tmp_path, streaming=True))


@pytest.mark.parametrize("wrapper", ["", "garments/"])
def test_a_zip_file_of_class_folders_is_read_like_the_folder(tmp_path, wrapper):
    with zipfile.ZipFile(tmp_path / "garments.zip", "w") as archive:
        for number, name in enumerate(("men", "women")):
            archive.writestr(f"{wrapper}{name}/1.png", png(photo((number, 0, 0))))
        archive.writestr(f"__MACOSX/{wrapper}men/._1.png", b"not an image")
    for source in (tmp_path / "garments.zip", tmp_path):
        dataset = load_both_ways(source)
        assert label_names(dataset) == ["men", "women"]
        assert [(colour_of(row["image"])[0], row["label"]) for row in dataset] == [(0, 0), (1, 1)]


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"a\.zip cannot be unpacked.*expected a zip file"):
        load_source(tmp_path / "a.zip")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image"):
        load_source(tmp_path)


# csv


def test_csv_with_relative_paths_and_several_contours(tmp_path):
    save(tmp_path / "p" / "1.png", (1, 0, 0))
    save(tmp_path / "p" / "2.png", (2, 0, 0))
    save(tmp_path / "c" / "1.png", 255, mode="L")
    save(tmp_path / "c" / "2.png", 0, mode="L")
    path = write_csv(
        tmp_path / "garments.csv",
        ["image", "contours", "label", "price"],
        ["p/1.png", "c/1.png;c/2.png", "NA", 3],
        [str(tmp_path / "p" / "2.png"), "", "men", 4],
    )
    dataset = load_both_ways(path)
    assert label_names(dataset) == ["NA", "men"]
    assert dataset["price"] == [3, 4]
    assert [colour_of(row["image"])[0] for row in dataset] == [1, 2]
    assert [[colour_of(cell) for cell in row] for row in dataset["contours"]] == [[255, 0], []]


def test_csv_with_a_column_for_the_split_and_csv_files_of_splits(tmp_path):
    for number in (1, 2):
        save(tmp_path / f"{number}.png", (number, 0, 0))
    one = write_csv(tmp_path / "all.csv", ["image", "label", "split"], ["1.png", "0", "train"], ["2.png", "1", "val"])
    names = ["men", "women"]
    assert load_both_ways(one, split="validation", label_names=names)["label"] == [1]
    write_csv(tmp_path / "train.csv", ["image", "label"], ["1.png", "women"])
    write_csv(tmp_path / "test.csv", ["image", "label"], ["2.png", "men"])
    assert detect_kind(tmp_path) == "csv"
    assert source_splits(tmp_path) == ["train", "test"]
    assert load_both_ways(tmp_path, split="test", label_names=names)["label"] == [0]


def test_csv_with_several_labels(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path / f"{number}.png", (number, 0, 0))
    rows = [["1.png", "wool|men"], ["2.png", ""], ["3.png", "silk"]]
    path = write_csv(tmp_path / "a.csv", ["image", "label"], *rows)
    dataset = load_both_ways(path, multi_label=True, separator="|")
    assert dataset.features["label"] == List(ClassLabel(names=["men", "silk", "wool"]))
    assert dataset["label"] == [[2, 0], [], [1]]
    assert label_names(dataset) == ["men", "silk", "wool"]


@pytest.mark.parametrize("cell", ["missing.png", "https://example.com/1.png"])
def test_csv_with_a_image_that_is_not_there(tmp_path, cell):
    save(tmp_path / "1.png", (1, 0, 0))
    path = write_csv(tmp_path / "a.csv", ["image"], ["1.png"], [cell])
    for streaming in (False, True):
        with pytest.raises((FileNotFoundError, ValueError), match=rf"row 1 .*{cell}"):
            list(load_source(path, streaming=streaming))


def test_csv_with_an_empty_image_or_a_missing_contour(tmp_path):
    save(tmp_path / "1.png", (1, 0, 0))
    path = write_csv(tmp_path / "a.csv", ["image", "contours"], ["1.png", "gone.png"])
    with pytest.raises(FileNotFoundError, match=r"row 0 .*column contours.*gone\.png"):
        load_source(path)
    path = write_csv(tmp_path / "b.csv", ["image", "label"], ["1.png", "a"], ["", "b"])
    with pytest.raises(ValueError, match=r"row 1 .*there is no image"):
        load_source(path)


# BSDS


def write_bsds(folder: Path) -> Path:
    for split, stem in (("train", "8049"), ("val", "3096")):
        path = folder / "images" / split / f"{stem}.jpg"
        save(path, (50, 50, 50))
        (folder / "images" / split / "Thumbs.db").write_bytes(b"")
        maps = np.zeros((2, 4, 5), dtype=np.uint8)
        maps[0, 1, :] = 1
        maps[1, :, 2] = 1
        cells = np.empty((1, 2), dtype=object)
        for index in range(2):
            cells[0, index] = {"Segmentation": np.ones((4, 5), dtype=np.uint16), "Boundaries": maps[index]}
        (folder / "groundTruth" / split).mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(folder / "groundTruth" / split / f"{stem}.mat", {"groundTruth": cells})
    return folder


def test_bsds_folder(tmp_path):
    write_bsds(tmp_path / "BSDS500" / "data")
    assert detect_kind(tmp_path) == "bsds"
    assert source_splits(tmp_path) == ["train", "validation"]
    dataset = load_both_ways(tmp_path, split="validation")
    assert load_source(tmp_path, split="val")["image_id"] == ["3096"]
    assert dataset["image_id"] == ["3096"]
    assert dataset.features["contours"] == List(IMAGE)
    first, second = (np.asarray(PILImage.open(io.BytesIO(cell["bytes"]))) for cell in dataset[0]["contours"])
    assert first.dtype == bool
    assert first.tolist() == [[False] * 5, [True] * 5, [False] * 5, [False] * 5]
    assert second.sum() == 4
    assert second[:, 2].all()


def test_bsds_folders_with_other_kinds_of_images_litter_and_capitals(tmp_path):
    root = write_bsds(tmp_path)
    (root / "images" / "train").rename(root / "images" / "Train")
    boundaries = root / "groundTruth" / "train" / "8049.mat"
    for stem, suffix in (("1", ".bmp"), ("2", ".tif"), ("3", ".webp"), ("4", ".PNG")):
        save(root / "images" / "Train" / f"{stem}{suffix}", (60, 0, 0))
        (boundaries.parent / f"{stem}.mat").write_bytes(boundaries.read_bytes())
    (root / "images" / "Train" / "._8049.jpg").write_bytes(b"litter")
    (root / "images" / "Train" / "folder.jpg").mkdir()
    assert source_splits(root) == ["train", "validation"]
    assert load_both_ways(root)["image_id"] == ["1", "2", "3", "4", "8049"]
    save(root / "images" / "training" / "1.png", (0, 0, 0))
    with pytest.raises(ValueError, match="Train and training, which both mean the split train"):
        load_source(root)


def test_bsds_errors_name_the_file(tmp_path):
    write_bsds(tmp_path)
    annotation = tmp_path / "groundTruth" / "train" / "8049.mat"
    scipy.io.savemat(annotation, {"other": 1})
    with pytest.raises(ValueError, match=r"8049\.mat is not a BSDS500 annotation"):
        load_source(tmp_path)
    annotation.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"8049\.mat is not a BSDS500 annotation"):
        load_source(tmp_path)
    annotation.unlink()
    with pytest.raises(FileNotFoundError, match=r"8049\.jpg has no drawn contours"):
        load_source(tmp_path)


# labels


def test_labels_of_every_split_use_the_names_of_train(tmp_path):
    parquet_rows(tmp_path / "train.parquet", ["skirt", "dress", "skirt"], Value("string"))
    parquet_rows(tmp_path / "validation.parquet", ["skirt"], Value("string"))
    parquet_rows(tmp_path / "test.parquet", [0, 1, 1], ClassLabel(names=["skirt", "dress"]))
    train = load_both_ways(tmp_path)
    names = label_names(train)
    assert names == ["dress", "skirt"]
    assert train["label"] == [1, 0, 1]
    assert load_both_ways(tmp_path, split="validation", label_names=names)["label"] == [1]
    # Another order of the classes in the file: the numbers follow the names.
    assert load_both_ways(tmp_path, split="test", label_names=names)["label"] == [1, 0, 0]


def test_integer_labels(tmp_path):
    path = parquet_rows(tmp_path / "a.parquet", [2, 0, 2], Value("int64"))
    dataset = load_both_ways(path)
    assert label_names(dataset) == ["0", "1", "2"]
    assert dataset["label"] == [2, 0, 2]
    assert load_both_ways(path, label_names=["a", "b", "c"])["label"] == [2, 0, 2]


def test_list_labels(tmp_path):
    path = parquet_rows(tmp_path / "a.parquet", [["wool", "men"], [], ["men"]], List(Value("string")))
    dataset = load_both_ways(path)
    assert dataset.features["label"] == List(ClassLabel(names=["men", "wool"]))
    assert dataset["label"] == [[1, 0], [], [0]]


def test_an_absent_class_is_logged(tmp_path, caplog):
    path = parquet_rows(tmp_path / "a.parquet", [0, 0], ClassLabel(names=["men", "women"]))
    with caplog.at_level(logging.WARNING):
        load_source(path)
    assert "no row of class ['women']" in caplog.text


@pytest.mark.parametrize(
    ("labels", "feature", "names", "message"),
    [
        ([0, None], Value("int64"), None, "row 1 .*None"),
        (["men", None], Value("string"), ["men"], "row 1 .*missing"),
        ([0.0, 1.0], Value("float32"), None, "row 0 .*0.0"),
        ([0.0, 1.0], Value("float32"), ["men", "women"], "row 0 .*float"),
        ([0, -3], Value("int64"), None, "row 1 .*-3 is negative"),
        ([0, -3], Value("int64"), ["men", "women"], "row 1 .*-3 is not a number from 0 to 1"),
        ([0, 2], Value("int64"), ["men", "women"], "row 1 .*2 is not a number from 0 to 1"),
        ([0, 59263], Value("int64"), None, "row 1 .*59263.*looks like an id"),
        ([0, -1], ClassLabel(names=["men", "women"]), None, "row 1 .*-1 is not a number from 0 to 1"),
        (["men", "kids"], Value("string"), ["men", "women"], "row 1 .*'kids' is unknown"),
        ([0, 1], ClassLabel(names=["men", "kids"]), ["men", "women"], "row 1 .*'kids' is unknown"),
        ([["men"], ["kids"]], List(Value("string")), ["men"], "row 1 .*'kids' is unknown"),
        ([["men"], None], List(Value("string")), ["men"], "row 1 .*expected a list"),
        ([0, 1], Value("int64"), ["men", "men"], "expected distinct names"),
    ],
)
def test_bad_labels_are_refused_with_their_row(tmp_path, labels, feature, names, message):
    path = parquet_rows(tmp_path / "train.parquet", labels, feature)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            list(load_source(path, label_names=names, streaming=streaming))


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["0", "1.5"], None, r"row 1 .*float 1\.5"),
        (["0", "-1"], None, "row 1 .*-1 is negative"),
        (["0", "2"], ["men", "women"], "row 1 .*2 is not a number from 0 to 1"),
        (["men", ""], None, "row 1 .*''"),
        (["men", "kids"], ["men"], "row 1 .*'kids' is unknown"),
    ],
)
def test_bad_labels_of_a_csv(tmp_path, labels, names, message):
    save(tmp_path / "1.png", (1, 0, 0))
    path = write_csv(tmp_path / "a.csv", ["image", "label"], *[["1.png", label] for label in labels])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            list(load_source(path, label_names=names, streaming=streaming))


def test_csv_numbers_are_ordered_as_numbers(tmp_path):
    save(tmp_path / "1.png", (1, 0, 0))
    path = write_csv(tmp_path / "a.csv", ["image", "label"], *[["1.png", str(n)] for n in (10, 2, 0)])
    dataset = load_both_ways(path)
    assert dataset["label"] == [10, 2, 0]
    assert label_names(dataset)[10] == "10"


# errors of the source itself


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path):
    path = parquet_rows(tmp_path / "a.parquet", [0], Value("int64"), name="sort")
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"no column 'photo' for image; its columns are \['image', 'sort'\]"):
            load_source(path, columns=ColumnNames(image="photo"), streaming=streaming)
        with pytest.raises(ValueError, match="no column 'gender' for label"):
            load_source(path, columns=ColumnNames(label="gender"), streaming=streaming)
        with pytest.raises(ValueError, match=r"column 'image' is .*expected images"):
            load_source(path, columns=ColumnNames(image="sort"), streaming=streaming)


def test_paths_that_are_not_there(tmp_path):
    for source in (tmp_path / "gone", "./gone", "gone/deeper/still", "gone.csv", "gone.parquet"):
        with pytest.raises(FileNotFoundError, match="is not there"):
            load_source(source)
    with pytest.raises(FileNotFoundError, match="matches no file"):
        load_source(f"{tmp_path}/*.parquet")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"is a \.txt; expected"):
        load_source(tmp_path / "a.txt")
    assert detect_kind("owner/name") == "hub"


def test_options_that_do_not_fit(tmp_path):
    path = parquet_rows(tmp_path / "a.parquet", [0], Value("int64"))
    with pytest.raises(ValueError, match="has no configurations"):
        load_source(path, config_name="small")
    with pytest.raises(ValueError, match="kind is 'pickle'"):
        load_source(path, kind="pickle")
    with pytest.raises(ValueError, match="expected a ClassLabel"):
        label_names(load_source(path, columns=ColumnNames(label=None)))


def test_the_kind_can_be_given(tmp_path):
    save(tmp_path / "images" / "1.png", (1, 0, 0))
    (tmp_path / "groundTruth").mkdir()
    save(tmp_path / "groundTruth" / "1.png", (2, 0, 0))
    assert detect_kind(tmp_path) == "bsds"
    assert label_names(load_source(tmp_path, kind="imagefolder")) == ["groundTruth", "images"]


# the real data sets

SHARED_DATA = Path(os.environ.get("HF_CONTOUR_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("split", "images", "maps"), [("train", 200, 1087), ("validation", 100, 546), ("test", 200, 1063)]
)
def test_bsds500(split, images, maps):
    dataset = load_source(SHARED_DATA / "bsds500", split=split)
    assert len(dataset) == images
    assert sum(len(row) for row in dataset["contours"]) == maps


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("split", "men", "women"), [("train", 8679, 6740), ("validation", 1086, 843), ("test", 1084, 842)]
)
def test_myntra_small(split, men, women):
    dataset = load_source(SHARED_DATA / "myntra_gender", split=split, config_name="small")
    assert label_names(dataset) == ["men", "women"]
    labels = np.asarray(dataset["label"])
    assert ((labels == 0).sum(), (labels == 1).sum()) == (men, women)
