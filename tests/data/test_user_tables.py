"""Tables as users have them: read as they are meant, or refused with the line or row and what to do."""

import base64
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from odd_images import encode
from PIL import Image as PILImage

from hf_contour.data.checks import load_and_check
from hf_contour.data.sources import ColumnNames, detect_kind, label_names, load_source, source_splits


def png(shade: int = 0) -> bytes:
    pixels = np.random.default_rng(shade).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return encode(PILImage.fromarray(pixels), "PNG")


def images(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def parquet(path: Path, labels, feature, **columns) -> Path:
    cells = [{"bytes": png(number), "path": None} for number in range(len(labels))]
    values = {"image": cells, "label": labels, **columns}
    features = Features({"image": Image(), "label": feature, **{name: Value("string") for name in columns}})
    pq.write_table(Dataset.from_dict(values, features=features).data.table, path)
    return path


def labels_of(source, **options) -> list:
    """Labels, which are the same in a stream."""
    dataset = load_source(source, **options)
    assert [row["label"] for row in load_source(source, streaming=True, **options)] == list(dataset["label"])
    return list(dataset["label"])


def refused(source, message: str, **options) -> None:
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            list(load_source(source, streaming=streaming, **options))


# labels


@pytest.mark.parametrize("kind", ["int64", "float32", "bool"])
def test_one_hot_labels_are_classes_by_place(tmp_path, kind):
    hot = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]
    path = parquet(tmp_path / "train.parquet", hot, List(Value(kind)))
    assert labels_of(path) == [0, 1, 2, 1]
    assert load_source(path).features["label"] == ClassLabel(names=["0", "1", "2"])
    assert labels_of(path, label_names=["a", "b", "c"]) == [0, 1, 2, 1]
    assert load_and_check(path, show_progress=False).splits["train"]["classes"] == {"0": 1, "1": 2, "2": 1}


def test_lists_with_several_ones_need_a_word(tmp_path):
    path = parquet(tmp_path / "train.parquet", [[1, 0, 0], [1, 0, 1], [0, 0, 0]], List(Value("int64")))
    refused(path, r"row 1 .*\[1, 0, 1\] of 0 and 1 has 2 ones.*set multi_label")
    assert labels_of(path, multi_label=True) == [[0], [0, 2], []]


def test_a_class_twice_in_a_row_is_refused(tmp_path):
    path = parquet(tmp_path / "train.parquet", [[1, 0, 0], [0, 1, 0]], List(ClassLabel(names=["a", "b"])))
    refused(path, r"row 0 .*name the class 'a' twice.*One-hot lists")
    path = parquet(tmp_path / "test.parquet", [[2, 0], [1, 1]], List(Value("int64")))
    refused(path, "row 1 .*name the class '1' twice", split="test")


def test_a_separator_that_is_another_one_is_refused(tmp_path):
    images(tmp_path)
    path = tmp_path / "a.csv"
    path.write_text("image,label\n0.png,red|blue\n1.png,red\n")
    refused(
        path,
        "no label holds the separator ';', but some hold '|', as 'red|blue'".replace("|", r"\|"),
        multi_label=True,
    )
    assert labels_of(path, multi_label=True, label_separator="|") == [[1, 0], [1]]
    assert "label_separator" in load_and_check(path, multi_label=True, show_progress=False).counts


def test_numbers_with_gaps_are_said_in_a_short_line(tmp_path, caplog):
    path = parquet(tmp_path / "train.parquet", [5, 1000], Value("int64"))
    with caplog.at_level(logging.WARNING):
        assert load_source(path)["label"] == [5, 1000]
    (message,) = [record.message for record in caplog.records if "no row" in record.message]
    assert "no row of class ['0', '1', '2' and 996 more] (999 of 1,001 classes)" in message
    assert len(load_and_check(path, show_progress=False).table()) < 1500


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Röcke") for form in ("NFC", "NFD"))
    path = parquet(tmp_path / "train.parquet", [composed, decomposed, "Hemd"], Value("string"))
    assert labels_of(path) == [1, 1, 0]
    assert label_names(load_source(path)) == ["Hemd", composed]
    assert labels_of(path, label_names=[decomposed, "Hemd"]) == [0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "feature", "expected"),
    [
        (["b", None, "a", " "], Value("string"), [1, 0]),
        ([1, -1, 0, None], Value("int64"), [1, 0]),
        ([1, -1, 0, -1], ClassLabel(names=["a", "b"]), [1, 0]),
        ([["b"], None, []], List(Value("string")), [[0], []]),
    ],
)
def test_rows_without_a_label_are_left_out_by_option_and_counted(tmp_path, labels, feature, expected, caplog):
    path = parquet(tmp_path / "train.parquet", labels, feature)
    refused(path, "row [13] ")
    with caplog.at_level(logging.WARNING):
        assert labels_of(path, unlabelled="skip") == expected
    assert f"{len(labels) - len(expected)} of {len(labels)} rows have no label and are left out" in caplog.text
    assert load_and_check(path, unlabelled="skip", show_progress=False).exit_code == 0
    # Prediction looks at no label.
    for streaming in (False, True):
        rows = load_source(path, columns=ColumnNames(contours=None, label=None), streaming=streaming)
        assert len(list(rows)) == len(labels)


def test_no_row_with_a_label_and_an_unknown_option_are_refused(tmp_path):
    path = parquet(tmp_path / "train.parquet", [None, None], Value("string"))
    with pytest.raises(ValueError, match="no row has a label"):
        load_source(path, unlabelled="skip")
    with pytest.raises(ValueError, match="unlabelled is 'drop'; expected one of error, skip"):
        load_source(path, unlabelled="drop")


# csv


@pytest.mark.parametrize("delimiter", [";", "\t", ",", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_encodings_are_found_out(tmp_path, delimiter, encoding):
    images(tmp_path)
    path = tmp_path / "a.csv"
    rows = [[" image ", "label", "price "], ["0.png", "Rök, blå; x", "3"], ["1.png", "a", ""]]
    quoted = [delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in row) for row in rows]
    path.write_text("\n".join(quoted) + "\n\n", encoding=encoding)
    dataset = load_source(path)
    assert label_names(dataset) == ["Rök, blå; x", "a"]
    assert dataset["price"] == [3, None]
    assert detect_kind(path.rename(tmp_path / "a.tsv")) == "csv"


def test_a_csv_in_latin_1_is_refused_with_its_line(tmp_path):
    images(tmp_path)
    path = tmp_path / "a.csv"
    path.write_bytes("image,label\n0.png,a\n1.png,café\n".encode("latin-1"))
    refused(path, r"a\.csv, line 3: the byte 0xE9 is not UTF-8.* Save it as UTF-8")
    assert load_and_check(path, show_progress=False).counts == {"table_not_utf8": 1}


@pytest.mark.parametrize(("text", "message"), [("", r"a\.csv is empty"), ("image,label\n", "there are no rows")])
def test_a_csv_without_rows_is_refused(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    refused(path, message)
    assert load_and_check(path, show_progress=False).exit_code == 1


def test_a_line_with_another_number_of_cells_is_refused(tmp_path):
    path = images(tmp_path) / "a.csv"
    path.write_text("image,label\n0.png,a\n1.png,b,c\n")
    refused(path, r"a\.csv, line 3 \(row 1, counted from 0\): 3 cells, but the header has 2 columns")


def test_a_column_split_is_heeded_whatever_its_case(tmp_path):
    path = images(tmp_path) / "a.csv"
    path.write_text("image,label,Split\n0.png,a,Train\n1.png,b,train\n2.png,b,Val\n")
    assert source_splits(path) == ["train", "val"]
    assert labels_of(path) == [0, 1]
    assert labels_of(path, split="validation", label_names=["a", "b"]) == [1]


def test_parts_of_a_csv_are_joined_and_other_doubles_refused(tmp_path):
    images(tmp_path)
    for number, label in enumerate("ba"):
        (tmp_path / f"train_part{number}.csv").write_text(f"image,label\n{number}.png,{label}\n")
    assert labels_of(tmp_path) == [1, 0]
    (tmp_path / "train.csv").write_text("image,label\n0.png,a\n")
    refused(tmp_path, "the whole split train and parts of it")
    (tmp_path / "train.csv").rename(tmp_path / "training.csv")
    refused(tmp_path, "train and training, which both mean the split train")
    (tmp_path / "training.csv").unlink()
    (tmp_path / "train_part1.csv").write_text("image,class\n1.png,a\n")
    refused(tmp_path, r"train_part1\.csv has the columns \['image', 'class'\], train_part0\.csv has")


def test_two_parquet_files_for_one_split_under_two_names_are_refused(tmp_path):
    for name in ("train", "val-0", "validation-0"):
        parquet(tmp_path / f"{name}.parquet", ["a"], Value("string"))
    refused(tmp_path, "val and validation, which both mean the split validation")


# Parquet


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    path = parquet(tmp_path / "train.parquet", [], Value("string"))
    with pytest.raises(ValueError, match="there are no rows"):
        load_source(path)
    assert load_and_check(path, show_progress=False).counts == {"split_empty": 1}


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(lambda content: [{"bytes": content}], id="bytes only"),
        pytest.param(lambda content: {"bytes": content, "path": "a.png", "width": 4}, id="an extra field"),
        pytest.param(lambda content: {"bytes": content}, id="struct of bytes only"),
        pytest.param(lambda content: base64.b64encode(content).decode(), id="base64"),
        pytest.param(lambda content: base64.encodebytes(content).decode(), id="base64 with line breaks"),
        pytest.param(lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}", id="data address"),
        pytest.param(lambda content: [content], id="list of one"),
    ],
)
def test_images_in_any_shape_of_a_cell(tmp_path, column):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": [column(png(1)), column(png(2))]}), path)
    for streaming in (False, True):
        rows = list(load_source(path, streaming=streaming))
        assert [row["image"]["bytes"] for row in rows] == [png(1), png(2)]


def test_a_list_of_two_images_is_refused(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": [[png(1)], [png(1), png(2)]]}), path)
    refused(path, "row 1 .*a list of 2 images; expected one")


def test_a_missing_column_names_the_flag(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"photo": [png(1)]}), path)
    refused(path, r"no column 'image' for image; its columns are \['photo'\].*--image_column")
