"""A validation split where there is none: a part of each class, near duplicates on one side, dealt once."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from own_images import write_class_folders
from PIL import Image as PILImage

from hf_contour.data.hold_out import GROUP_COLUMN, held_out_rows, hold_out
from hf_contour.data.near_duplicates import near_duplicate_groups
from hf_contour.data.sources import load_source


def labelled(labels, names="abc"):
    return Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(names=list(names))}))


def test_each_class_gives_its_share_and_no_group_is_torn():
    labels = [0] * 50 + [1] * 20 + [2] * 10
    groups = np.arange(80) // 2
    held = held_out_rows(labelled(labels), groups, share=0.2, seed=0)
    assert np.bincount(np.array(labels)[held], minlength=3).tolist() == [10, 4, 2]
    assert set(groups[held]) & set(groups[~held]) == set()
    assert (held_out_rows(labelled(labels), groups, share=0.2, seed=0) == held).all()
    assert (held_out_rows(labelled(labels), groups, share=0.2, seed=1) != held).any()


def test_a_class_of_two_large_groups_keeps_one_for_training():
    held = held_out_rows(
        labelled([0] * 8 + [1] * 9, "ab"), np.array([0] * 5 + [1] * 3 + list(range(2, 11))), share=0.2, seed=0
    )
    assert np.flatnonzero(held[:8]).tolist() == [5, 6, 7]


def test_a_class_that_cannot_be_dealt_is_named():
    with pytest.raises(ValueError, match=r"the class 'b' has 1 image; .*two that differ"):
        held_out_rows(labelled([0, 0, 1], "ab"), np.arange(3), share=0.2, seed=0)
    with pytest.raises(ValueError, match=r"the class 'b' has 2 images, all of them near duplicates"):
        held_out_rows(labelled([0, 0, 1, 1], "ab"), np.array([0, 1, 2, 2]), share=0.2, seed=0)


def test_rows_of_several_labels_count_for_the_rarest():
    features = Features({"label": List(ClassLabel(names=["a", "b"]))})
    rows = Dataset.from_dict({"label": [[0], [0, 1], [0], [0, 1], [0], [0]]}, features=features)
    held = held_out_rows(rows, np.arange(6), share=0.3, seed=0)
    assert held[[1, 3]].sum() == 1
    assert held[[0, 2, 4, 5]].sum() == 1


def test_copies_are_near_duplicates_and_other_garments_are_not(tmp_path):
    rows = load_source(write_class_folders(tmp_path / "images", copies=2))
    groups = near_duplicate_groups(rows, show_progress=False)
    names = ["/".join(path.split("/")[-2:]) for path in (cell["path"] for cell in rows["image"])]
    alike = {name for name, group in zip(names, groups, strict=True) if group == groups[names.index("men/0.png")]}
    assert alike == {"men/0.png", "men/copy0.jpg", "men/copy1.jpg"}
    assert len(set(groups)) == 12


def test_images_without_content_are_near_duplicates_of_each_other(tmp_path):
    for name, level in (("a", 0), ("b", 255)):
        (tmp_path / name).mkdir()
        PILImage.new("RGB", (20, 20), (level,) * 3).save(tmp_path / name / "0.png")
    assert near_duplicate_groups(load_source(tmp_path), show_progress=False).tolist() == [0, 0]


def test_what_is_held_out_is_read_like_any_data_set_and_dealt_once(tmp_path):
    rows = load_source(write_class_folders(tmp_path / "images", copies=2))
    dealt = hold_out(rows, tmp_path / "dealt", share=0.3, seed=0)
    train, validation = (load_source(str(dealt.folder), split=split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (dealt.num_train, dealt.num_validation)
    assert dealt.num_train + dealt.num_validation == len(rows) == 16
    assert dealt.num_near_duplicates == 6
    assert set(train[GROUP_COLUMN]) & set(validation[GROUP_COLUMN]) == set()
    assert set(validation["label"]) == {0, 1}
    assert validation.features["label"].names == ["men", "women"]
    assert validation[0]["image"]["bytes"] is None  # the file is named, and not copied
    before = (dealt.folder / "train.parquet").stat().st_mtime_ns
    assert hold_out(rows, tmp_path / "dealt", share=0.3, seed=0) == dealt
    assert (dealt.folder / "train.parquet").stat().st_mtime_ns == before


def test_a_column_of_near_duplicates_is_taken_at_its_word(tmp_path):
    features = Features(
        {"image": Image(decode=False), "label": ClassLabel(names=["a", "b"]), GROUP_COLUMN: Value("int64")}
    )
    cells = [{"bytes": b"", "path": f"{index}.png"} for index in range(8)]
    rows = Dataset.from_dict(
        {"image": cells, "label": [0, 1] * 4, GROUP_COLUMN: [7, 7, 9, None, None, 4, 4, 5]}, features
    )
    dealt = hold_out(rows, tmp_path / "dealt", share=0.25, seed=0)
    assert dealt.grouped_by == f"column {GROUP_COLUMN}"
    assert dealt.num_near_duplicates == 4
