"""Several sources in one data set: one numbering of classes, every column, and the weights that rows are drawn by."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from tiny_training import as_png

from hf_contour.data.mixture import Source, load_sources, parse_sources, sampling_weights


def image_cell(value: int) -> dict:
    return as_png(PILImage.new("L", (3, 2), value))


def write(folder: Path, split: str, label: list, feature, **others) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"image": [image_cell(index) for index in range(len(label))], "label": label}
    features = {"image": Image(), "label": feature}
    for name, (values, kind) in others.items():
        columns[name], features[name] = values, kind
    Dataset.from_dict(columns, features=Features(features)).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def shops(tmp_path) -> list:
    """Two shops whose classes have other numbers, and whose clusters have the same."""
    write(
        tmp_path / "a",
        "train",
        [0, 1, 1],
        ClassLabel(names=["men", "women"]),
        worn=([True, None, False], Value("bool")),
        near_dup_cluster=([5, 5, None], Value("int32")),
        id=([1, 2, 3], Value("int64")),
    )
    write(
        tmp_path / "b",
        "train",
        ["women", "men"],
        Value("string"),
        near_dup_cluster=([5, 6], Value("int32")),
        id=(["x", "y"], Value("string")),
        source=(["224", "300"], Value("string")),
    )
    return [{"path": str(tmp_path / "a")}, {"path": str(tmp_path / "b"), "weight": 3}]


def test_sources_become_one_data_set(shops):
    mixed = load_sources(shops)
    assert mixed.features["source"] == ClassLabel(names=["a", "b"])
    assert mixed["source"] == [0, 0, 0, 1, 1]
    assert mixed.features["label"].names == ["men", "women"]
    assert mixed["label"] == [0, 1, 1, 1, 0]
    assert mixed["worn"] == [True, None, False, None, None]
    assert mixed["id"] == ["1", "2", "3", "x", "y"]
    assert mixed["original_source"] == [None, None, None, "224", "300"]
    clusters = mixed["near_dup_cluster"]
    assert clusters[0] == clusters[1]
    assert clusters[2] is None
    assert len({clusters[0], clusters[3], clusters[4]}) == 3
    assert [PILImage.open(io.BytesIO(cell["bytes"])).getpixel((0, 0)) for cell in mixed["image"]] == [0, 1, 2, 0, 1]


def test_a_stream_holds_the_same_rows_in_an_order_of_its_own_that_is_repeated(shops):
    plain = load_sources(shops)
    stream = pickle.loads(pickle.dumps(load_sources(shops, streaming=True, seed=3)))
    assert stream.features == plain.features
    rows = list(stream)
    assert rows == list(stream)
    assert {(row["source"], row["id"], row["label"], row["worn"]) for row in rows} == {
        (row["source"], row["id"], row["label"], row["worn"]) for row in plain
    }


def test_a_stream_draws_from_its_sources_by_their_weights(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, "train", [0, 1] * 200, ClassLabel(names=["men", "women"]))
    stream = load_sources([str(tmp_path / "a"), f"{tmp_path / 'b'},weight=4"], streaming=True)
    first = [row["source"] for row, _ in zip(stream, range(300), strict=False)]
    assert np.mean(first) == pytest.approx(0.8, abs=0.07)


def test_class_names_that_differ_are_refused_unless_they_are_mapped(tmp_path, shops):
    write(tmp_path / "c", "train", ["Herren", "Damen", "unisex"], Value("string"))
    with pytest.raises(ValueError, match=r"source c has the classes \['Damen', 'Herren', 'unisex'\], source a has"):
        load_sources([*shops, str(tmp_path / "c")])
    mapped = {"path": str(tmp_path / "c"), "label_map": {"Herren": "men", "Damen": "women", "unisex": None}}
    for streaming in (False, True):
        mixed = load_sources([shops[0], mapped], streaming=streaming)
        assert {(row["source"], row["label"]) for row in mixed} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len(load_sources([*shops, mapped])) == 7
    with pytest.raises(ValueError, match=r"source c: the key 'label_map' names \['Heren'\]"):
        load_sources([*shops, {**mapped, "label_map": {"Heren": "men"}}])


def test_numbers_without_names_are_mapped_by_name(tmp_path, shops):
    write(tmp_path / "c", "train", [1, 0], Value("int64"))
    mapped = {"path": str(tmp_path / "c"), "label_map": {"0": "women", "1": "men"}}
    assert load_sources([shops[0], mapped])["label"] == [0, 1, 1, 0, 1]


def test_the_classes_of_the_training_split_hold_for_the_others(tmp_path, shops):
    write(tmp_path / "a", "validation", [1], ClassLabel(names=["men", "women"]))
    write(tmp_path / "b", "validation", ["women"], Value("string"))
    names = ["women", "men"]
    assert load_sources(shops, split="validation", label_names=names)["label"] == [0, 0]
    assert load_sources(shops, label_names=names)["label"] == [1, 0, 0, 0, 1]


def test_a_source_takes_part_in_the_splits_that_it_names(tmp_path, shops):
    write(tmp_path / "b", "test", ["men"], Value("string"))
    left_out = {**shops[1], "split": {"test": "test"}}
    assert load_sources([shops[0], left_out])["source"] == [0, 0, 0]
    assert load_sources([{**shops[0], "split": "train"}, left_out], split="test", label_names=["men", "women"])[
        "source"
    ] == [1]
    with pytest.raises(ValueError, match="none of the sources"):
        load_sources([left_out])


def test_several_labels_a_row_are_mapped_one_by_one(tmp_path):
    feature = List(ClassLabel(names=["red", "blue", "none"]))
    write(tmp_path / "a", "train", [[0], [1, 0]], List(ClassLabel(names=["blue", "red"])))
    write(tmp_path / "b", "train", [[0, 1], [2]], feature)
    mixed = load_sources([str(tmp_path / "a"), {"path": str(tmp_path / "b"), "label_map": {"none": None}}])
    assert mixed["label"] == [[0], [1, 0], [1, 0], []]


def test_contours_of_sources_and_of_drawn_garments(tmp_path):
    cells = {"garment_contours": ([[image_cell(1)]], List(Image())), "contours": ([[image_cell(0)]], List(Image()))}
    write(tmp_path / "a", "train", [0], Value("int64"), **cells)
    sources = [
        {"path": str(tmp_path / "a"), "contours_column": "garment_contours", "label_tolerance": 3},
        "embedded,weight=2",
    ]
    mixed = load_sources(
        sources, with_labels=False, with_contours=True, embedded_samples=2, embedded_size=(20, 16), seed=1
    )
    assert set(mixed.column_names) == {"image", "contours", "source", "label_tolerance", "article"}
    assert mixed["source"] == [0, 1, 1]
    assert mixed["label_tolerance"] == [3, 0, 0]
    assert PILImage.open(io.BytesIO(mixed[0]["contours"][0]["bytes"])).getpixel((0, 0)) == 1
    write(tmp_path / "c", "train", [0], Value("int64"))
    with pytest.raises(ValueError, match=r"source c has no column 'contours'.*'contours_column'"):
        load_sources(str(tmp_path / "c"), with_labels=False, with_contours=True)


def test_one_source_is_that_source_alone(shops):
    mixed = load_sources(shops[0])
    assert mixed["label"] == [0, 1, 1]
    assert mixed.features["source"].names == ["a"]


# settings


def test_a_source_is_a_path_a_text_with_keys_or_a_mapping(tmp_path):
    named = {"path": "shops", "config": "hm", "weight": 2.0}
    assert parse_sources(["shops,config=hm,weight=2", "a,b=c,name=x"]) == [
        Source("shops", config="hm", weight=2.0),
        Source("a,b=c", name="x"),
    ]
    assert parse_sources(named) == [Source(**named)]
    assert [source.name for source in parse_sources(["data/shops", named, "embedded", "o/r"])] == [
        "shops",
        "hm",
        "embedded",
        "r",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"path": "a", "wieght": 2}, r"source 2: the key 'wieght' is unknown; did you mean 'weight'\?"),
        ({"config": "hm"}, "source 2: the key 'path' is missing"),
        ({"path": "a", "weight": 0}, "source 2: the key 'weight' is 0; expected a number above 0"),
        ("a,weight=heavy", "source 2: the key 'weight' is 'heavy'"),
        ({"path": "a", "label_map": ["men"]}, "the key 'label_map' is"),
        ({"path": "a", "split": {"train": 1}}, "the key 'split' is"),
        ({"path": "a", "label_column": None}, "the key 'label_column' is None"),
        ({"path": "a", "label_tolerance": 1.5}, "the key 'label_tolerance' is 1.5"),
        ({"path": 3}, "the key 'path' is 3"),
        (7, "7 came for a source"),
        ("x/first", "source 2: the name 'first' is taken"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_key(value, message):
    with pytest.raises(ValueError, match=message):
        parse_sources(["first", value])


# weights


def table(source, label, worn=None) -> Dataset:
    columns = {"source": source, "label": label}
    features = {"source": ClassLabel(names=["a", "b"]), "label": ClassLabel(names=["men", "women"])}
    if worn is not None:
        columns["worn"], features["worn"] = worn, Value("bool")
    return Dataset.from_dict(columns, features=Features(features))


def test_weights_of_every_balance():
    rows = table([0, 0, 0, 1], [0, 0, 1, 1])
    sources = [Source("a", weight=1), Source("b", weight=2)]
    expected = {
        "none": [1 / 5, 1 / 5, 1 / 5, 2 / 5],
        "class": [1 / 4, 1 / 4, 1 / 6, 1 / 3],
        "source": [1 / 9, 1 / 9, 1 / 9, 2 / 3],
        "source_class": [1 / 12, 1 / 12, 1 / 6, 2 / 3],
    }
    for balance, weights in expected.items():
        np.testing.assert_allclose(sampling_weights(rows, balance, sources=sources), weights, err_msg=balance)
    np.testing.assert_allclose(sampling_weights(rows, "source"), [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_worn_is_balanced_within_a_class_of_a_source_where_it_is_known():
    rows = table([0] * 8, [0, 0, 0, 0, 1, 1, 1, 1], [True, True, True, False, None, None, True, True])
    weights = sampling_weights(rows, "source_class_worn")
    np.testing.assert_allclose(weights, [1 / 12] * 3 + [1 / 4] + [1 / 8] * 4)
    with_unknown = sampling_weights(table([0] * 5, [0] * 5, [True, True, True, False, None]), "source_class_worn")
    np.testing.assert_allclose(with_unknown, [4 / 30] * 3 + [4 / 10, 1 / 5])


def test_two_rows_among_hundreds_do_not_become_half_of_what_is_seen():
    weights = sampling_weights(table([0] * 334, [0] * 334, [True] * 332 + [False] * 2), "source_class_worn")
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights[-2:], 10 / 334)
    np.testing.assert_allclose(weights[:-2], (1 - 20 / 334) / 332)
    rare = sampling_weights(table([0] * 101, [0] * 100 + [1]), "source_class")
    np.testing.assert_allclose(rare[-1], 10 / 101)


def test_balances_that_cannot_be_are_refused():
    rows = table([0, 1], [0, 1])
    with pytest.raises(ValueError, match="balance is 'shop'; expected one of none, class"):
        sampling_weights(rows, "shop")
    with pytest.raises(ValueError, match="no column worn"):
        sampling_weights(rows, "source_class_worn")
    with pytest.raises(ValueError, match="one class for each row"):
        sampling_weights(rows.remove_columns("label"), "class")
