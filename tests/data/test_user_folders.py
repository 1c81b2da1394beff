"""Folders of images as users have them: read as they are meant, or refused with the file and what to do."""

import logging
import os
import unicodedata
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from hf_contour.data.checks import load_and_check
from hf_contour.data.image_checks import ImageLimits
from hf_contour.data.samples import ContourSamples
from hf_contour.data.sources import ColumnNames, detect_kind, label_names, load_source, source_splits
from hf_contour.image_processing_contour import ContourImageProcessor


def save(folder: Path, *names: str) -> None:
    """Small images, each of its own shade."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = sum(os.fsencode(name)) % 200
        PILImage.new("RGB", (20, 20), (shade, len(name), 0)).save(path, format="PNG")


def classes_of(source, **options) -> dict[str, list[str]]:
    """Names of the files of each class, the same in a stream."""
    dataset = load_source(source, **options)
    names = label_names(dataset)
    found: dict[str, list[str]] = {name: [] for name in names}
    for row in dataset:
        found[names[row["label"]]].append(Path(row["image"]["path"]).name)
    streamed = [(row["label"], row["image"]["path"]) for row in load_source(source, streaming=True, **options)]
    assert streamed == [(row["label"], row["image"]["path"]) for row in dataset]
    return found


def refused(folder: Path, message: str, kind: str, **options) -> None:
    """Loading says what is wrong, and the check before training finds it."""
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            load_source(folder, streaming=streaming, **options)
    report = load_and_check(folder, show_progress=False, limits=ImageLimits(min_side=1))
    assert kind in report.counts
    assert report.exit_code == 1
    assert "do: " in report.table()


def test_a_stray_image_beside_class_folders_is_no_class(tmp_path):
    save(tmp_path, "men/1.png", "women/1.png", "logo.png")
    refused(tmp_path, r"1 image beside the class folders \(logo\.png\), which would have no class", "stray_image")
    assert len(load_source(tmp_path, columns=ColumnNames(label=None))) == 3


def test_a_stray_image_beside_the_folders_of_splits(tmp_path):
    save(tmp_path, "train/men/1.png", "train/women/1.png", "test/men/1.png", "cover.png")
    refused(tmp_path, r"beside the folders of the splits \(cover\.png\)", "stray_image")


def test_a_split_without_class_folders_can_be_predicted_and_no_more(tmp_path, caplog):
    save(tmp_path, "train/a/1.png", "train/b/2.png", "test/1.png", "test/2.png")
    assert list(classes_of(tmp_path)) == ["a", "b"]
    with caplog.at_level(logging.WARNING):
        rows = load_source(tmp_path, split="test", label_names=["a", "b"])
    assert rows.column_names == ["image"]
    assert "2 images and no class folders: the split can be predicted, not trained on or scored" in caplog.text
    with pytest.raises(ValueError, match="needs 'label'"):
        ContourSamples(rows, ContourImageProcessor(), stage="gender")
    assert "split_unlabelled" in load_and_check(tmp_path, show_progress=False).counts


def test_the_first_level_is_the_class(tmp_path):
    save(tmp_path, "men/tops/1.png", "men/trousers/2.png", "women/tops/3.png")
    assert classes_of(tmp_path) == {"men": ["1.png", "2.png"], "women": ["3.png"]}


@pytest.mark.parametrize(
    "names",
    [
        ("men/1.png", "women/tops/2.png"),
        ("garments/men/1.png", "garments/women/2.png"),
        ("men/1.png", "men/old/2.png", "women/3.png"),
    ],
)
def test_two_readings_of_the_classes_are_refused_with_both(tmp_path, names):
    save(tmp_path, *names)
    first, deeper = Path(names[0]).parts[0], Path(names[1]).parts[-2]
    refused(tmp_path, rf"the classes are either .*{first}.* \(the first level\) or .*{deeper}", "class_doubtful")


def test_linked_folders_and_images_are_followed_and_loops_are_not(tmp_path):
    store, folder = tmp_path / "store", tmp_path / "set"
    save(store, "m/1.png", "m/deep/2.png", "w.png")
    save(folder, "kids/3.png")
    (folder / "men").symlink_to(store / "m" / "deep")
    (folder / "women").mkdir()
    (folder / "women" / "4.png").symlink_to(store / "w.png")
    (folder / "women" / "again").symlink_to(folder)
    (folder / "kids" / "self").symlink_to(folder / "kids")
    assert classes_of(folder) == {"kids": ["3.png"], "men": ["2.png"], "women": ["4.png"]}


def test_class_names_that_begin_with_underlines_are_classes_and_hidden_folders_are_named(tmp_path):
    save(tmp_path, "__background__/1.png", "men/1.png")
    assert list(classes_of(tmp_path)) == ["__background__", "men"]
    save(tmp_path, ".other/1.png")
    refused(tmp_path, r"hidden folders with images \(\.other\)", "hidden_folder")


def test_litter_of_systems_and_tools_is_no_class_and_no_image(tmp_path):
    save(tmp_path, "men/1.png", "women/2.png", "dir.jpg/3.png")
    for litter in (
        ".ipynb_checkpoints/1-checkpoint.png",
        "@eaDir/1.png",
        "__MACOSX/men/1.png",
        "men/.ipynb_checkpoints/1.png",
    ):
        save(tmp_path, litter)
    for litter in ("men/._1.png", "Thumbs.db", "men/Thumbs.db", ".DS_Store"):
        (tmp_path / litter).write_bytes(b"litter")
    assert classes_of(tmp_path) == {"dir.jpg": ["3.png"], "men": ["1.png"], "women": ["2.png"]}


@pytest.mark.parametrize(
    ("names", "message", "kind"),
    [
        (
            ("train/a/1.png", "val/a/1.png", "validation/a/1.png"),
            "val and validation, which both mean",
            "split_named_twice",
        ),
        (("train/a/1.png", "training/a/1.png"), "train and training, which both mean", "split_named_twice"),
        (
            ("train_images/a/1.png", "test_images/a/1.png"),
            "read like splits.* Rename them to test, train",
            "split_doubtful",
        ),
        (("train/a/1.png", "test/a/1.png", "extra/1.png"), "test, train beside extra", "split_doubtful"),
    ],
)
def test_folders_whose_split_is_in_doubt_are_refused_by_name(tmp_path, names, message, kind):
    save(tmp_path, *names)
    refused(tmp_path, message, kind)


def test_a_table_lying_in_a_set_of_class_folders_does_not_make_it_a_table(tmp_path, caplog):
    save(tmp_path, "train/men/1.png", "train/women/1.png", "validation/men/1.png")
    for name in ("validation_scores.csv", "train.csv", "train_scores.parquet"):
        (tmp_path / name).write_text("file,men,women\n1.png,0.5,0.5\n")
    assert detect_kind(tmp_path) == "imagefolder"
    assert source_splits(tmp_path) == ["train", "validation"]
    (tmp_path / "train" / "results.csv").write_text("file,men\n")
    with caplog.at_level(logging.WARNING):
        assert list(classes_of(tmp_path)) == ["men", "women"]
    assert "tables that are not heeded: results.csv" in caplog.text
    assert load_and_check(tmp_path, show_progress=False).counts["stray_table"] == 4


def test_a_csv_of_images_wins_over_the_folders_that_it_names(tmp_path):
    save(tmp_path, "men/1.png", "women/1.png")
    (tmp_path / "train.csv").write_text("image,label\nmen/1.png,a\nwomen/1.png,b\n")
    assert detect_kind(tmp_path) == "csv"
    assert label_names(load_source(tmp_path)) == ["a", "b"]


def test_composed_and_decomposed_names_are_one_class_in_every_split(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Möbel") for form in ("NFC", "NFD"))
    save(
        tmp_path,
        f"train/{composed}/1.png",
        "train/Rest/1.png",
        f"validation/{decomposed}/2.png",
        "validation/Rest/1.png",
    )
    assert list(classes_of(tmp_path)) == [composed, "Rest"]
    assert classes_of(tmp_path, split="validation", label_names=[decomposed, "Rest"])[decomposed] == ["2.png"]
    save(tmp_path, f"train/{decomposed}/3.png")
    assert sorted(classes_of(tmp_path)[composed]) == ["1.png", "3.png"]
    assert (
        load_and_check(tmp_path, show_progress=False, limits=ImageLimits(1)).counts.get("class_names_differ") is None
    )


def test_class_folders_that_differ_in_case_are_refused(tmp_path):
    save(tmp_path, "Men/1.png", "men/2.png", "women/3.png")
    refused(tmp_path, "the class folders Men and men, which differ in case or blanks alone", "class_twins")


def test_images_of_kinds_that_are_not_read_are_named_and_counted(tmp_path, monkeypatch, caplog):
    save(tmp_path, "men/1.png", "women/1.png")
    for name in ("men/2.HEIC", "men/3.heic"):
        (tmp_path / name).write_bytes(b"heic")
    monkeypatch.setattr("hf_contour.data.file_names.importlib.util.find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert classes_of(tmp_path)["men"] == ["1.png"]
    assert "2 images of kinds that are not read: men/2.HEIC, men/3.heic. Install" in caplog.text
    assert load_and_check(tmp_path, show_progress=False).counts["image_not_read"] == 2


def test_heic_is_read_where_its_library_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    (tmp_path / "men").mkdir()
    heif.from_pillow(PILImage.new("RGB", (64, 64), (200, 10, 10))).save(tmp_path / "men" / "1.HEIC")
    row = load_source(tmp_path)[0]
    samples = ContourSamples(load_source(tmp_path), ContourImageProcessor(), stage="gender")
    assert row["label"] == 0
    red, green, _ = samples.decoded(0).pixels[32, 32]
    assert red > 150 > 60 > green


def test_an_empty_class_folder_keeps_its_number_and_a_folder_of_notes_is_no_class(tmp_path, caplog):
    save(tmp_path, "men/1.png", "women/1.png")
    (tmp_path / "kids").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        assert list(classes_of(tmp_path)) == ["kids", "men", "women"]
    assert "no row of class ['kids']" in caplog.text


@pytest.mark.parametrize("name", ["a[1]", "a{b,c}", "a*b", "what?", "a::b", "x'y \"z", "ünï"])
def test_folder_names_with_signs_of_patterns(tmp_path, name):
    folder = tmp_path / name
    save(folder, "men [1]/1.png", "women*/2.png")
    assert classes_of(folder) == {"men [1]": ["1.png"], "women*": ["2.png"]}
    features = Features({"image": Image(), "label": ClassLabel(names=["men", "women"])})
    table = Dataset.from_dict({"image": [str(folder / "men [1]" / "1.png")], "label": [1]}, features=features)
    (tmp_path / name / "tables").mkdir()
    table.to_parquet(tmp_path / "train.parquet")
    (tmp_path / "train.parquet").rename(folder / "tables" / "train.parquet")
    if "::" in name:
        with pytest.raises(ValueError, match=r"a path with '::' cannot be read\. Rename the folder"):
            load_source(folder / "tables")
    else:
        assert load_source(folder / "tables")["label"] == [1]
    (folder / "tables" / "a.csv").write_text("image,label\n../men [1]/1.png,x\n")
    assert load_source(folder / "tables" / "a.csv")["label"] == [0]


def test_names_that_are_not_utf8_are_read_or_refused_and_lose_no_row_after_them(tmp_path):
    save(tmp_path, "men/1.png", "men/9.png", "women/1.png")
    odd = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "men" / "1.png").rename(tmp_path / "men" / odd)
    dataset = load_source(tmp_path)
    assert dataset["label"] == [0, 0, 1]
    cells = dataset["image"]
    assert [Path(cell["path"]).name for cell in cells] == ["9.png", "caf\\xe9.png", "1.png"]
    assert cells[1]["bytes"] == (tmp_path / "men" / odd).read_bytes()
    (tmp_path / "women").rename(tmp_path / os.fsdecode(b"f\xe9mmes"))
    refused(tmp_path, r"f\\xe9mmes: the name of this class folder is not UTF-8", "name_not_utf8")


def test_every_suffix_of_training_is_an_image(tmp_path):
    save(tmp_path, "men/1.png")
    names = [
        f"1{suffix}" for suffix in (".jfif", ".jpe", ".mpo", ".jp2", ".j2k", ".pnm", ".JPG", ".tif", ".bmp", ".webp")
    ]
    for name in names:
        (tmp_path / "men" / name).write_bytes((tmp_path / "men" / "1.png").read_bytes())
    assert sorted(classes_of(tmp_path)["men"]) == sorted([*names, "1.png"])


def test_folders_that_save_to_disk_wrote(tmp_path):
    features = Features({"image": Image(), "label": Value("string")})
    save(tmp_path, "1.png")
    parts = {
        split: Dataset.from_dict({"image": [str(tmp_path / "1.png")] * 2, "label": labels}, features=features)
        for split, labels in (("train", ["b", "a"]), ("test", ["a", "a"]))
    }
    DatasetDict(parts).save_to_disk(tmp_path / "both")
    parts["train"].save_to_disk(tmp_path / "one")
    for folder in (tmp_path / "both", tmp_path / "one"):
        assert detect_kind(folder) == "saved"
        assert load_source(folder)["label"] == [1, 0]
        assert [row["label"] for row in load_source(folder, streaming=True)] == [1, 0]
    assert source_splits(tmp_path / "both") == ["train", "test"]
    assert load_source(tmp_path / "both", split="test", label_names=["a", "b"])["label"] == [0, 0]


# metadata


def test_metadata_keeps_text_as_it_stands(tmp_path):
    save(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,None\n2.png,NA\n3.png,01\n")
    dataset = load_source(tmp_path)
    assert label_names(dataset) == ["01", "NA", "None"]
    assert dataset["label"] == [2, 1, 0]


def test_a_blank_label_of_metadata_is_blamed_on_its_row(tmp_path):
    save(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n3.png,a\n1.png,\n2.png,b\n")
    refused(tmp_path, r"row 1 \(counted from 0, .*1\.png\)|row 1 \(counted from 0\)", "label_wrong")
    assert [
        finding.row for finding in load_and_check(tmp_path, show_progress=False).rows if finding.kind == "label_wrong"
    ] == [1]
    kept = load_source(tmp_path, unlabelled="skip")
    assert [Path(cell["path"]).name for cell in kept["image"]] == ["3.png", "2.png"]
    assert len(load_source(tmp_path, columns=ColumnNames(contours=None, label=None))) == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_column_split_of_metadata_is_heeded_whatever_its_case(tmp_path, suffix):
    save(tmp_path, "1.png", "2.png", "3.png")
    rows = [("1.png", "a", "Train"), ("2.png", "b", "train"), ("3.png", "a", "Val")]
    if suffix == "csv":
        text = "file_name,label,Split\n" + "".join(f"{','.join(row)}\n" for row in rows)
    else:
        text = "".join(
            f'{{"file_name": "{name}", "label": "{label}", "split": "{split}"}}\n' for name, label, split in rows
        )
    (tmp_path / f"metadata.{suffix}").write_text(text)
    assert source_splits(tmp_path) == ["train", "val"]
    assert load_source(tmp_path)["label"] == [0, 1]
    assert load_source(tmp_path, split="validation", label_names=["a", "b"])["label"] == [0]


def test_a_split_with_two_names_and_a_row_without_one_are_refused(tmp_path):
    save(tmp_path, "1.png")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,split\n1.png,val\n1.png,validation\n")
    with pytest.raises(ValueError, match="has val and validation, which both mean"):
        load_source(tmp_path)
    assert "split_named_twice" in load_and_check(tmp_path, show_progress=False).counts
    table.write_text("file_name,split\n1.png,val\n1.png,\n")
    with pytest.raises(ValueError, match=r"row 1 \(counted from 0\): split is blank"):
        load_source(tmp_path)


def test_metadata_over_folders_of_splits(tmp_path, caplog):
    save(tmp_path, "train/1.png", "test/2.png", "test/3.png")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label\ntrain/1.png,a\ntest/2.png,a\n")
    assert source_splits(tmp_path) == ["train", "test"]
    with caplog.at_level(logging.WARNING):
        assert len(load_source(tmp_path, split="test")) == 1
    assert "1 images are not in the table and are left out" in caplog.text
    save(tmp_path, "4.png")
    table.write_text("file_name,label\ntrain/1.png,a\n4.png,a\n")
    with pytest.raises(ValueError, match=r"row 1 .*4\.png lies in the folder of no split"):
        load_source(tmp_path)
