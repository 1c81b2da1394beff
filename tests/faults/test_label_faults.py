"""Wrong, odd and noisy labels: refused with the row named, or mapped as stated; never a silent shift."""

import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from tiny_training import LABEL_NAMES, drawn_row, settings, write_source

from hf_contour.data.checks import check_source, load_and_check
from hf_contour.data.labels import LabelMapping, collect_label_names
from hf_contour.data.samples import ContourSamples, SampleBuilder
from hf_contour.data.sources import label_names, load_source
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.training.run import run_stage

NAMES = ("men", "women", "children")
WHERE = "split train, row 7 (counted from 0)"


def write_rows(path: Path, labels: list[Any], feature: Any) -> Path:
    rows = [{"image": drawn_row(number)["image"], "label": label} for number, label in enumerate(labels)]
    Dataset.from_list(rows, features=Features({"image": Image(), "label": feature})).to_parquet(path)
    return path


BAD_VALUES = [None, "", -1, 3, 10**30, 0.0, 1.5, math.nan, math.inf, "Men", "men ", "kids", "0", True, b"men", {}]


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_every_bad_value_is_refused_with_its_row(bad: Any) -> None:
    mapping = LabelMapping(NAMES)
    with pytest.raises(ValueError, match=r"^split train, row 7 .*: the label .*Expected one of \['men', 'women'"):
        mapping(bad, WHERE)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_numbers_follow_the_names_in_any_order_of_the_classes(order: tuple[int, ...]) -> None:
    """A split that stores its classes in another order keeps what its numbers mean."""
    theirs = tuple(NAMES[place] for place in order)
    mapping = LabelMapping(NAMES, source_names=theirs)
    assert [NAMES[mapping(number, WHERE)] for number in range(3)] == list(theirs)


def test_classes_called_by_numbers_are_meant_by_their_names() -> None:
    """Words sort as "1", "10", "2"; a number 2 of another split must not become the class in the third place."""
    names = collect_label_names((text, WHERE) for text in ("10", "2", "1"))
    assert names == ["1", "10", "2"]
    for text_numbers in (False, True):
        mapping = LabelMapping(tuple(names), text_numbers=text_numbers)
        assert [names[mapping(value, WHERE)] for value in (1, 2, 10, "1", "2", "10")] == ["1", "2", "10"] * 2
        for value in (0, 3, "0"):
            with pytest.raises(ValueError, match=r"row 7 .*unknown"):
                mapping(value, WHERE)
    plain = LabelMapping(("0", "1", "2"))
    assert [plain(value, WHERE) for value in (0, 1, 2)] == [0, 1, 2]


def test_numbers_of_one_split_and_words_of_another_agree(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", ["1", "10", "2"], Value("string"))
    write_rows(tmp_path / "validation.parquet", [1, 2, 10], Value("int64"))
    names = label_names(load_source(tmp_path))
    for streaming in (False, True):
        rows = load_source(tmp_path, split="validation", label_names=names, streaming=streaming)
        assert [names[row["label"]] for row in rows] == ["1", "2", "10"]


@pytest.mark.parametrize("twin", ["Men", "men ", " men", "MEN", "\uff4den"])
def test_words_that_look_alike_are_no_two_classes(tmp_path: Path, twin: str) -> None:
    path = write_rows(tmp_path / "train.parquet", ["men", "women", twin], Value("string"))
    with pytest.raises(ValueError, match=r"row 2 .* differs from 'men' \(.*row 0 .*\) in case or blanks alone"):
        load_source(path)
    assert load_source(path, label_names=["men", "women", twin])["label"] == [0, 1, 2]


@pytest.mark.parametrize("stored", [[1, 0], [0, 1, 2], [2, 1, 0]])
def test_class_sets_that_differ_between_splits(tmp_path: Path, stored: list[int]) -> None:
    """Another order is mapped by name; a class that training does not know is refused with its row."""
    theirs = [NAMES[number] for number in stored]
    write_rows(tmp_path / "train.parquet", [0, 1, 0], ClassLabel(names=NAMES[:2]))
    write_rows(tmp_path / "test.parquet", list(range(len(stored))), ClassLabel(names=theirs))
    names = label_names(load_source(tmp_path))
    if len(stored) == 2:
        assert [names[number] for number in load_source(tmp_path, split="test", label_names=names)["label"]] == theirs
    else:
        row = stored.index(2)
        with pytest.raises(ValueError, match=rf"split test, row {row} .*'children' is unknown"):
            load_source(tmp_path, split="test", label_names=names)
    found = check_source({"train": load_source(tmp_path), "test": load_source(tmp_path, split="test")})
    assert "class_names_differ" in found.counts
    listed = load_and_check(tmp_path, show_progress=False)
    assert listed.counts.get("label_wrong", 0) == (0 if len(stored) == 2 else 1)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (-1, r"row 1 has the label -1; labels must lie in 0 to 1"),
        (2, r"row 1 has the label 2; labels must lie in 0 to 1"),
        (None, r"row 1 has no label"),
    ],
)
def test_labels_that_were_not_read_by_this_package(label: int | None, message: str) -> None:
    """A data set put together by hand, whose numbers nobody has checked, also as a stream."""
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=LABEL_NAMES)})
    rows = [{"image": drawn_row(0)["image"], "label": 0}, {"image": drawn_row(1)["image"], "label": 0}]
    dataset = Dataset.from_list(rows, features=Features({**features, "label": Value("int64")}))
    dataset = dataset.map(lambda row, index: {"label": label if index else 0}, with_indices=True)
    dataset.info.features = features
    processor = ContourImageProcessor(size=32)
    samples = ContourSamples(dataset, processor, stage="gender")
    assert samples[0]["labels"] == 0
    with pytest.raises(ValueError, match=message):
        samples[1]
    builder = SampleBuilder(processor, "gender", dataset.features, num_samples=None)  # as for a stream
    with pytest.raises(ValueError, match=message):
        builder.build(builder.decode(dataset[1], 1), 1, epoch=0)


@pytest.mark.parametrize("label", [0.0, 1.5, "men", True, [0, 1], -1])
def test_labels_of_unknown_columns(label: Any) -> None:
    builder = SampleBuilder(ContourImageProcessor(size=32), "gender", None, num_samples=None)
    row = {"image": drawn_row(0)["image"], "label": label}
    with pytest.raises(ValueError, match=r"^row 0 has the labels? "):
        builder.build(builder.decode(row, 0), 0, epoch=0)


def relabelled(rows: Callable[[int], Any]) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    return lambda number, row: {**row, "label": rows(number)}


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an extractor that has seen one epoch."""
    folder = tmp_path_factory.mktemp("extractor")
    arguments = settings(folder, "contour", data=str(write_source(folder / "source", train=8, validation=2)), epochs=1)
    run_stage(arguments)
    return arguments.folder / "model"


@pytest.mark.parametrize(
    ("feature", "change", "message"),
    [
        (Value("int64"), lambda number: -2 if number == 5 else number % 2, r"train, row 5 .*-2"),
        (Value("float32"), lambda number: float(number % 2), r"train, row 0 .*0\.0"),
        (Value("string"), lambda number: None if number == 3 else "box", r"train, row 3 .*None"),
        (
            Value("string"),
            lambda number: "ring" if number == 101 else LABEL_NAMES[number % 2],
            r"validation, row 1 .*'ring' is unknown",
        ),
        (List(Value("string")), lambda number: None if number == 2 else ["box"], r"train, row 2 .*None"),
    ],
)
def test_training_refuses_bad_labels_of_any_split(
    tmp_path: Path, extractor: Path, feature: Any, change: Callable[[int], Any], message: str
) -> None:
    write_source(tmp_path / "source", train=8, validation=2, change=relabelled(change), label=feature)
    with pytest.raises(ValueError, match=message):
        run_stage(settings(tmp_path, "gender", extractor=str(extractor), epochs=1))


def noisy(share: float, count: int) -> Callable[[int], int]:
    """Labels of which exactly that share of the training rows is the wrong one."""
    wrong = set(random.Random(0).sample(range(count), round(share * count)))
    return lambda number: (number + (number in wrong)) % 2


@pytest.mark.faults
def test_noisy_labels_slow_training_and_do_not_break_it(
    tmp_path: Path, extractor: Path, record_property: Callable[[str, object], None]
) -> None:
    """The curve over 0, 10, 20 and 40 % wrong labels; validation labels stay right.

    Without augmentation and dropout, so that the labels are all that keeps the loss from falling: the clean labels are
    learnt by heart whatever is drawn, and the wrong ones take longer.
    """
    count, batch_size, epochs, scores = 60, 12, 8, {}
    recipe = {"augmentation": None, "model": {"fusion_channels": 8}, "learning_rate": 0.003}
    recipe |= {"batch_size": batch_size, "epochs": epochs, "convergence_window": 100}
    for share in (0.0, 0.1, 0.2, 0.4):
        folder = tmp_path / f"{share}"
        write_source(folder / "source", train=count, validation=20, change=relabelled(noisy(share, count)))
        arguments = settings(folder, "gender", extractor=str(extractor), **recipe)
        results = run_stage(arguments)
        lines = [json.loads(line) for line in (arguments.folder / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        scores[share] = {
            "accuracy": results["evaluation"]["validation"]["accuracy"],
            "first_loss": sum(losses[:10]) / 10,
            "last_loss": sum(losses[-10:]) / 10,
        }
        assert len(losses) == results["training"]["steps"] == epochs * count // batch_size
    record_property("injected", round(sum(share * count for share in scores)))
    record_property("tried", len(scores))
    record_property("lost", 0)
    record_property("curve", json.dumps(scores))
    assert all(score["last_loss"] < score["first_loss"] for score in scores.values())
    assert scores[0.0]["last_loss"] < 0.5 * scores[0.0]["first_loss"]
    assert scores[0.4]["last_loss"] > 1.5 * scores[0.0]["last_loss"]
