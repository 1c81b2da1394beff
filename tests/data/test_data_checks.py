"""The check before training finds what was put in, and nothing in a clean set."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from image_corpus import bomb
from odd_images import encode
from PIL import Image as PILImage

from hf_contour.cli.main import main
from hf_contour.data.checks import check_source, load_and_check
from hf_contour.data.findings import KINDS, SEVERITIES
from hf_contour.data.image_checks import ImageLimits
from hf_contour.data.sources import ColumnNames

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
NAMES = ["men", "women"]


def content(image: PILImage.Image, file_format: str = "PNG", **options) -> bytes:
    return encode(image, file_format, **options)


def plain(seed: int, *, height=20, width=24) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


def split_of(photos: list[bytes], labels: list | None = None, contours: list | None = None) -> Dataset:
    columns: dict = {"image": [{"bytes": photo, "path": f"{row}.png"} for row, photo in enumerate(photos)]}
    features: dict = {"image": Image(decode=False)}
    if labels is not None:
        columns["label"], features["label"] = labels, ClassLabel(names=NAMES)
    if contours is not None:
        columns["contours"] = [[{"bytes": one, "path": None} for one in maps] for maps in contours]
        features["contours"] = List(Image(decode=False))
    return Dataset.from_dict(columns, features=Features(features))


def check(**splits: Dataset):
    return check_source(splits, num_workers=2, show_progress=False)


def found(report) -> list[tuple]:
    return [(finding.split, finding.row, finding.kind) for finding in report.rows]


def test_a_clean_set_has_no_findings():
    report = check(
        train=split_of([content(plain(seed)) for seed in range(3)], [0, 1, 1]),
        test=split_of([content(plain(seed)) for seed in (7, 8)], [1, 0]),
    )
    assert found(report) == []
    assert report.exit_code == 0
    assert report.splits["train"] == {"rows": 3, "classes": {"men": 1, "women": 2}, "contour_maps": 0}


def test_unreadable_images_are_listed_and_the_others_still_read():
    good = content(plain(1))
    jpeg = content(plain(2, height=60, width=60), "JPEG")
    report = check(
        train=split_of([good, jpeg[: len(jpeg) // 2], b"", b"<html></html>", bomb("png", 30_000), content(plain(3))])
    )
    assert found(report) == [
        ("train", 1, "image_unreadable"),
        ("train", 2, "image_unreadable"),
        ("train", 3, "image_unreadable"),
        ("train", 4, "image_bomb"),
    ]
    assert report.exit_code == 1
    assert "1.png" in report.rows[0].message


def modes() -> dict[str, list[bytes]]:
    base = plain(5)
    half_clear = base.convert("RGBA")
    half_clear.putalpha(PILImage.linear_gradient("L").resize(base.size))
    turned = PILImage.Exif()
    turned[0x0112] = 6
    upright = PILImage.Exif()
    upright[0x0112] = 1
    grey = np.asarray(base.convert("L"))
    frames = [plain(seed).convert("P") for seed in (1, 2)]
    return {
        "": [content(base), content(base, "JPEG", exif=upright), content(base.convert("RGBA"))],
        "mode_grey": [content(base.convert("L")), content(base.convert("1"))],
        "mode_high_bit_depth": [content(PILImage.fromarray(grey.astype(np.uint16) * 257))],
        "mode_float": [content(PILImage.fromarray(grey.astype(np.float32) / 255), "TIFF")],
        "mode_cmyk": [content(base.convert("CMYK"), "JPEG")],
        "mode_palette": [content(base.convert("P"))],
        "mode_other": [content(base.convert("LAB"), "TIFF")],
        "mode_alpha": [content(half_clear)],
        "exif_rotated": [content(base, "JPEG", exif=turned)],
        "mode_palette several_frames": [content(frames[0], "GIF", save_all=True, append_images=frames[1:])],
        "size_tiny": [content(plain(6, height=15, width=20))],
        "size_extreme_aspect": [content(plain(7, height=16, width=129))],
    }


@pytest.mark.parametrize("kinds", list(modes()))
def test_odd_modes_and_sizes_are_warnings(kinds):
    for photo in modes()[kinds]:
        report = check(train=split_of([photo]))
        assert [finding.kind for finding in report.rows] == kinds.split()
        assert report.exit_code == 0


def test_limits_can_be_set():
    dataset = split_of([content(plain(6, height=10, width=50))])
    assert found(check_source({"train": dataset}, limits=ImageLimits(10, 5), show_progress=False)) == []
    report = check_source({"train": dataset}, limits=ImageLimits(11, 4.9), show_progress=False)
    assert sorted(report.counts) == ["size_extreme_aspect", "size_tiny"]
    assert report.settings["min_side"] == 11


def test_duplicates_are_found_by_their_pixels():
    first, second = plain(1), plain(2)
    same = content(first, compress_level=1)
    assert same != content(first)
    report = check(
        train=split_of([content(first), content(second), same], [0, 1, 0]),
        test=split_of([content(second), content(plain(3)), same], [1, 1, 1]),
    )
    assert found(report) == [
        ("test", None, "class_absent"),
        ("train", 2, "duplicate_in_split"),
        ("test", 0, "duplicate_across_splits"),
        ("test", 2, "duplicate_across_splits"),
        ("test", 2, "duplicate_other_label"),
    ]
    assert report.exit_code == 1
    (other,) = [finding for finding in report.rows if finding.kind == "duplicate_other_label"]
    assert other.message == "has the pixels of train row 0 (0.png) but the label 1, not 0."


def test_a_duplicate_within_a_split_alone_is_a_warning():
    report = check(train=split_of([content(plain(1)), content(plain(1))], [0, 0]), test=split_of([content(plain(2))]))
    assert report.counts == {"class_absent": 1, "duplicate_in_split": 1}
    report = check(train=split_of([content(plain(1)), content(plain(1))]))
    assert report.exit_code == 0
    report = check(train=split_of([content(plain(1)), content(plain(1))], [0, None]))
    assert "duplicate_other_label" not in report.counts  # no label is no other label


def test_contour_maps():
    cross = np.zeros((20, 24), dtype=bool)
    cross[10] = True
    good = content(PILImage.fromarray(cross))
    photos = [content(plain(seed)) for seed in range(7)]
    maps = [
        [good],
        [],
        [good, b"no map"],
        [content(PILImage.fromarray(cross.T))],
        [content(PILImage.fromarray(~cross)), good],
        [content(PILImage.fromarray(np.zeros_like(cross)))],
        [good, good],
    ]
    report = check(train=split_of(photos, contours=maps))
    assert found(report) == [
        ("train", 1, "contours_missing"),
        ("train", 2, "contour_unreadable"),
        ("train", 3, "contour_other_size"),
        ("train", 4, "contour_inverted"),
        ("train", 5, "contour_blank"),
    ]
    assert report.rows[2].message == "contour map 0 is 24x20 (height x width), the image 20x24."
    assert report.splits["train"]["contour_maps"] == 9


def test_an_empty_split_and_absent_classes():
    report = check(train=split_of([content(plain(1))], [1]), test=split_of([], []))
    assert found(report) == [("train", None, "class_absent"), ("test", None, "split_empty")]


def write_garments(folder: Path) -> Path:
    """A csv with every fault of labels and files; returns its path."""
    for number in range(6):
        plain(number).save(folder / f"{number}.png")
    rows = [
        ["0.png", "men", "train"],
        ["1.png", "women", "train"],
        ["gone.png", "men", "train"],
        ["2.png", "", "train"],
        ["3.png", "kids", "test"],
        ["4.png", "women", "test"],
        ["", "men", "test"],
    ]
    with (folder / "garments.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "label", "split"], *rows])
    return folder / "garments.csv"


def test_a_source_that_training_would_refuse_is_listed_whole(tmp_path):
    path = write_garments(tmp_path)
    report = load_and_check(path, splits=["train", "test"], show_progress=False)
    assert found(report) == [
        ("train", 2, "image_unreadable"),
        ("train", 3, "label_wrong"),
        ("test", 0, "label_wrong"),
        ("test", 2, "image_unreadable"),
    ]
    messages = {(finding.split, finding.row): finding.message for finding in report.rows}
    assert "the label is missing" in messages["train", 3]
    assert "'kids' is unknown" in messages["test", 0]
    assert "gone.png" in messages["train", 2]
    assert report.splits["train"]["classes"] == {"men": 2, "women": 1}
    assert report.splits["test"]["classes"] == {"men": 1, "women": 1}


@pytest.mark.parametrize(
    ("labels", "feature", "bad"),
    [
        (["men", None, "women"], Value("string"), [1]),
        ([0, -1, 1], Value("int64"), [1]),
        ([0, None, 1], Value("int64"), [1]),
        ([0, -1, 1], ClassLabel(names=NAMES), [1]),
        ([["men"], None, ["women", "men"]], List(Value("string")), [1]),
    ],
)
def test_bad_labels_are_listed(tmp_path, labels, feature, bad):
    photos = [{"bytes": content(plain(seed)), "path": None} for seed in range(3)]
    features = Features({"image": Image(), "label": feature})
    Dataset.from_dict({"image": photos, "label": labels}, features=features).to_parquet(tmp_path / "train.parquet")
    report = load_and_check(tmp_path, show_progress=False)
    assert [finding.row for finding in report.rows if finding.kind == "label_wrong"] == bad
    assert sum(report.splits["train"]["classes"].values()) == (3 if feature == List(Value("string")) else 2)


def test_a_split_that_cannot_be_read_is_an_error_of_the_report(tmp_path):
    features = Features({"image": Image(), "label": Value("float32")})
    photos = [{"bytes": content(plain(seed)), "path": None} for seed in range(2)]
    Dataset.from_dict({"image": photos, "label": [0.5, 1]}, features=features).to_parquet(tmp_path / "train.parquet")
    report = load_and_check(tmp_path, show_progress=False)
    assert found(report) == [("train", None, "split_unreadable")]
    report = load_and_check(tmp_path, columns=ColumnNames(label=None), show_progress=False)
    assert found(report) == []


def test_the_report_is_written(tmp_path):
    report = check(train=split_of([content(plain(1)), b"", content(plain(1))], [0, 1, 1]))
    report.write(tmp_path / "checks")
    summary = json.loads((tmp_path / "checks" / "checks.json").read_text())
    assert (summary["num_errors"], summary["num_warnings"]) == (2, 1)
    assert summary["counts"] == {
        kind: {
            "severity": SEVERITIES[kind],
            "count": 1,
            "first": [f"train row {row} ({row}.png)"],
            "do": KINDS[kind][1],
        }
        for kind, row in (("image_unreadable", 1), ("duplicate_other_label", 2), ("duplicate_in_split", 2))
    }
    assert summary["splits"]["train"]["classes"] == {"men": 1, "women": 2}
    with (tmp_path / "checks" / "checks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["split", "row", "file", "kind", "severity", "message"]
    assert [(row["row"], row["file"], row["kind"]) for row in rows] == [
        ("1", "1.png", "image_unreadable"),
        ("2", "2.png", "duplicate_in_split"),
        ("2", "2.png", "duplicate_other_label"),
    ]


def test_worker_counts_give_the_same_report():
    splits = {"train": split_of([content(plain(seed % 5)) for seed in range(30)], [seed % 2 for seed in range(30)])}
    one = check_source(splits, num_workers=1, show_progress=False)
    assert one == check_source(splits, num_workers=4, show_progress=False)
    assert one.counts["duplicate_in_split"] == 25


def test_the_command(tmp_path, capsys):
    path = write_garments(tmp_path)
    output = tmp_path / "out"
    assert main(["check-data", str(path), "--output_dir", str(output)]) == 1
    assert "image_unreadable" in capsys.readouterr().out
    assert (output / "checks.csv").is_file()
    assert main(["check-data", str(path), "--splits", "nothing"]) == 2
    assert main(["check-data", str(tmp_path / "gone.csv")]) == 2
    assert "is not there" in capsys.readouterr().err
    clean = tmp_path / "clean"
    clean.mkdir()
    plain(9).save(clean / "1.png")
    assert main(["check-data", str(clean)]) == 0


SHARED_DATA = Path(os.environ.get("HF_CONTOUR_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.shared_data
def test_bsds500_is_clean():
    report = load_and_check(SHARED_DATA / "bsds500", show_progress=False)
    assert report.rows == []
    assert {split: facts["contour_maps"] for split, facts in report.splits.items()} == {
        "train": 1087,
        "validation": 546,
        "test": 1063,
    }


@pytest.mark.shared_data
def test_myntra_small_is_clean():
    report = load_and_check(SHARED_DATA / "myntra_gender", config_name="small", show_progress=False)
    assert report.num_errors == 0
    assert report.splits["test"]["classes"] == {"men": 1084, "women": 842}
