"""Several sources in one training: balanced draws, figures for each, streams by weight, exact resume."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from tiny_training import CLASSIFIER, LABEL_NAMES, drawn_row, settings, write_source

from hf_contour.cli.main import main
from hf_contour.data.subsets import evenly_drawn
from hf_contour.training.interrupts import TrainingInterrupted
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.order import SampleOrder
from hf_contour.training.run import run_stage


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contours")
    write_source(folder / "source")
    arguments = settings(folder, "contour", max_steps=2)
    run_stage(arguments)
    return str(arguments.folder / "model")


@pytest.fixture
def shops(tmp_path):
    """A large shop and a small one, whose images are the darker."""
    large = write_source(tmp_path / "large", train=24)
    small = write_source(tmp_path / "small", train=8, validation=4)
    return [{"path": str(large), "name": "large"}, {"path": str(small), "name": "small", "weight": 1.0}]


@pytest.fixture
def arguments(tmp_path, shops, extractor):
    def make(**changes):
        options = {"data": shops, "extractor": extractor, "max_steps": 6, "model": {**CLASSIFIER, "head_dropout": 0.0}}
        return settings(tmp_path, "gender", **{**options, **changes})

    return make


def drawn_indices(monkeypatch, made):
    """The row numbers that a training was given."""
    seen = []
    iterate = SampleOrder.__iter__

    def watched(self):
        for batch in iterate(self):
            seen.extend(index for _, index in batch)
            yield batch

    monkeypatch.setattr(SampleOrder, "__iter__", watched)
    results = run_stage(made)
    return np.array(seen), results


def test_sources_and_classes_are_drawn_alike_and_scored_each(arguments, monkeypatch):
    seen, results = drawn_indices(monkeypatch, arguments(max_steps=16, balance="source_class"))
    assert np.mean(seen >= 24) == pytest.approx(0.5, abs=0.1)  # the small shop has 8 of 32 rows
    figures = results["evaluation"]["validation"]
    assert figures["num_samples"] == 11
    assert {name: its["num_samples"] for name, its in figures["sources"].items()} == {"large": 7, "small": 4}
    right = sum(its["accuracy"] * its["num_samples"] for its in figures["sources"].values())
    assert right == pytest.approx(figures["accuracy"] * 11)


def test_without_balance_every_row_comes_once(arguments, monkeypatch):
    seen, _ = drawn_indices(monkeypatch, arguments(max_steps=8, balance="none"))
    assert sorted(seen) == list(range(32))


def test_weights_belong_to_what_a_run_is(arguments, shops):
    run_stage(arguments(max_steps=1))
    changed = [shops[0], {**shops[1], "weight": 2.0}]
    with pytest.raises(ValueError, match=r"sources: .*'small', 1\.0.* there, .*'small', 2\.0.* here"):
        run_stage(arguments(max_steps=1, data=changed))


@pytest.mark.parametrize("streaming", [False, True])
def test_an_interrupted_training_ends_as_an_unbroken_one(arguments, monkeypatch, streaming):
    options = {"streaming": streaming, "balance": "none" if streaming else "source_class", "shuffle_buffer": 5}
    unbroken = run_stage(arguments(run_name="unbroken", **options))
    step = TrainingLoop._train_step

    def stopping(self, batches):
        if self.progress.step == 4:
            raise TrainingInterrupted(15)
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_train_step", stopping)
        with pytest.raises(TrainingInterrupted):
            run_stage(arguments(**options))
    resumed = run_stage(arguments(**options))
    assert resumed["evaluation"] == unbroken["evaluation"]


def test_the_table_names_the_sources(tmp_path, shops, extractor, capsys):
    recipe = tmp_path / "recipe.yaml"
    words = {"stage": "gender", "data": shops, "extractor": extractor, "backbone": "test_resnet", "max_steps": 1,
             "image_size": [32, 32], "batch_size": 4, "cpu": True, "progress": False, "num_workers": 0,
             "output_dir": str(tmp_path)}  # fmt: skip
    recipe.write_text(json.dumps(words))
    assert main(["train", "--recipe", str(recipe)]) == 0
    shown = capsys.readouterr().out
    assert "gender  validation         11" in shown
    assert "gender  validation, small  4" in shown


def test_a_stream_cannot_be_balanced_by_class(arguments):
    with pytest.raises(ValueError, match="balance 'class' counts rows"):
        arguments(streaming=True, balance="class")


def rows_of(labels):
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=LABEL_NAMES)})
    image = drawn_row(0)["image"]
    return Dataset.from_list([{"image": image, "label": label} for label in labels], features=features)


def test_few_samples_are_drawn_evenly_over_sorted_classes():
    rows = rows_of([0] * 50 + [1] * 10)
    chosen = evenly_drawn(rows, 8, seed=1)
    assert chosen == sorted(chosen)
    assert np.bincount(rows.select(chosen)["label"]).tolist() == [4, 4]
    assert evenly_drawn(rows, 8, seed=1) == chosen != evenly_drawn(rows, 8, seed=2)
    assert np.bincount(rows.select(evenly_drawn(rows, 30, seed=1))["label"]).tolist() == [20, 10]


def test_a_class_without_rows_cannot_be_drawn():
    with pytest.raises(ValueError, match="The class 'disc' has no row"):
        evenly_drawn(rows_of([0] * 9), 4, seed=0)
    with pytest.raises(ValueError, match="1 samples cannot hold the 2 classes"):
        evenly_drawn(rows_of([0, 1, 0]), 1, seed=0)


def test_max_samples_of_a_sorted_set_hold_both_classes(tmp_path, extractor):
    def sort(number, row):
        return drawn_row(2 * number if number < 12 or 100 <= number < 104 else 2 * number + 1)

    write_source(tmp_path / "source", change=sort)
    results = run_stage(
        settings(tmp_path, "gender", extractor=extractor, max_steps=1, max_train_samples=8, max_eval_samples=4)
    )
    assert results["data"]["num_train_samples"] == 8
    matrix = np.array(results["evaluation"]["validation"]["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == [2, 2]


def test_cached_features_are_of_a_source_so_that_another_mixture_finds_them(tmp_path, arguments, shops):
    shared = {"augmentation": None, "colour": None, "feature_cache": str(tmp_path / "cache"), "train_parts": "head"}
    computed = run_stage(arguments(**{**shared, "feature_cache": None}, run_name="computed"))
    cached = run_stage(arguments(**shared, run_name="cached"))
    figures = [one["evaluation"]["validation"]["loss"] for one in (computed, cached)]
    assert figures[0] == pytest.approx(figures[1], rel=5e-2)  # they are kept as float16
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert written
    run_stage(arguments(**shared, data=shops[:1], run_name="one_left_out"))
    # Nothing is computed a second time.
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == written
