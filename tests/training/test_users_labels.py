"""Training and evaluation read labels by the same options as the check before them."""

import pytest
from PIL import Image
from tiny_training import settings

from hf_contour.evaluation.arguments import EvaluationArguments
from hf_contour.evaluation.run import load_split
from hf_contour.training.rows import load_rows


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = ["image,label"]
    for index, label in enumerate(["red|blue"] * 6 + [""] + ["blue"] * 2):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{label}")
    (tmp_path / "a.csv").write_text("\n".join(rows))
    return str(tmp_path / "a.csv")


def test_training_and_evaluation_take_the_separator_and_leave_unlabelled_rows_out(table, tmp_path):
    options = {"multi_label": True, "label_separator": "|"}
    rows = load_rows(settings(tmp_path, "gender", data=table, **options), "train")
    assert rows["label"] == [[1, 0]] * 6 + [[]] + [[0]] * 2
    evaluated = EvaluationArguments(model="m", data=table, split="train", **options)
    assert load_split(evaluated, label_names=["blue", "red"])["label"] == rows["label"]
    single = load_rows(settings(tmp_path, "gender", data=table, unlabelled="skip"), "train")
    assert single["label"] == [1] * 6 + [0] * 2
    with pytest.raises(ValueError, match="row 6 "):
        load_rows(settings(tmp_path, "gender", data=table), "train")


def test_few_samples_hold_every_class_in_evaluation_too(table):
    arguments = EvaluationArguments(model="m", data=table, split="train", unlabelled="skip", max_samples=4)
    assert sorted(load_split(arguments, label_names=["blue", "red|blue"])["label"]) == [0, 0, 1, 1]


def test_a_stream_is_not_cut_to_rows_that_may_be_of_one_class(table, tmp_path):
    arguments = settings(tmp_path, "gender", data=table, max_train_samples=2, unlabelled="skip")
    with pytest.raises(ValueError, match="may be of one class"):
        load_rows(arguments, "train", streaming=True)
