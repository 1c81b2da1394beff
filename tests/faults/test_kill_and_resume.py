"""Trainings killed by SIGKILL, mostly while they save, and started again: nothing is lost, not a bit is different."""

import functools
import json
import random

import pytest
import torch
from tiny_training import settings, write_source
from training_trials import random_plan, run_and_kill, run_to_the_end

from hf_contour.training.checkpoints import load_newest

# Augmentation, colours, dropout (of the classifier's head) and the moving average; a save after each of nine steps.
OPTIONS = {
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "epochs": 3,
    "colour": {"exchange_channels": True},
    "save_every": 1,
}
NEVER_EQUAL = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Makes the settings of a stage below a folder, all on one data set and one extractor."""
    shared = tmp_path_factory.mktemp("shared")
    source = write_source(shared / "source")
    extractor = settings(shared, "contour", data=str(source), max_steps=1)
    assert run_to_the_end(extractor, shared) == ""

    def make(folder, stage, **changes):
        frozen = {"extractor": str(extractor.folder / "model")} if stage == "gender" else {}
        return settings(folder, stage, **{**OPTIONS, "data": str(source), **frozen, **changes})

    return make


@pytest.fixture(scope="module")
def unbroken(arguments, tmp_path_factory):
    """What each stage ends as when nothing happens to it."""

    def end(stage):
        folder = tmp_path_factory.mktemp(stage)
        assert run_to_the_end(arguments(folder, stage), folder) == ""
        return end_of(arguments(folder, stage))

    return functools.cache(end)


def end_of(made):
    """All that a finished training leaves behind, but for the time it took."""
    results = json.loads((made.folder / "results.json").read_text())
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    checkpoint = load_newest(made.folder / "checkpoints")
    return {
        "weights": checkpoint.weights,
        "tensors": checkpoint.tensors,
        "progress": without_time(checkpoint.state["progress"]),
        "convergence": checkpoint.state["convergence"],
        "log": [without_time(line) for line in lines],
        "evaluation": results["evaluation"],
        "training": without_time(results["training"]),
        "model": (made.folder / "model" / "model.safetensors").read_bytes(),
    }


def without_time(figures):
    return {key: value for key, value in figures.items() if key not in NEVER_EQUAL}


def differences(first, second, where=""):
    """Where two nested values differ, tensors compared bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if isinstance(second, torch.Tensor) and first.equal(second) else [where]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [place for key in first for place in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [place for number, (one, other) in pairs for place in differences(one, other, f"{where}/{number}")]
    return [] if first == second else [where]


def kill_until_finished(made, folder, rng, counts):
    """Starts a training again and again, killing it each time, until it finishes before it is killed."""
    saved = 0
    while True:
        failure, is_killed, is_in_save, now_saved, lives_on = run_and_kill(made, folder, random_plan(rng))
        counts["failed"] += bool(failure)
        counts["orphans"] += lives_on
        assert not failure, failure
        if not is_killed:
            return
        counts["kills"] += 1
        counts["in_save"] += is_in_save
        saved = max(saved, now_saved)
        found = load_newest(made.folder / "checkpoints")
        counts["lost"] += (0 if found is None else found.step) < saved


def kill_and_compare(arguments, unbroken, tmp_path, trainings, *, kills):
    """Trainings in turn, each until it is finished, until there were so many kills; what was counted."""
    counts = dict.fromkeys(("kills", "in_save", "failed", "lost", "orphans", "trainings", "unequal"), 0)
    rng = random.Random(1)
    while counts["kills"] < kills:
        stage, num_workers = trainings[counts["trainings"] % len(trainings)]
        folder = tmp_path / f"training{counts['trainings']}"
        folder.mkdir()
        keep = 1 + counts["trainings"] % 3
        made = arguments(folder, stage, num_workers=num_workers, keep_checkpoints=keep)
        kill_until_finished(made, folder, rng, counts)
        unequal = differences(end_of(made), unbroken(stage))
        assert not unequal, unequal
        counts["trainings"] += 1
    return counts


@pytest.mark.faults
def test_two_hundred_kills_lose_nothing(arguments, unbroken, tmp_path, record_property):
    trainings = [(stage, num_workers) for num_workers in (0, 1, 2) for stage in ("gender", "contour")]
    counts = kill_and_compare(arguments, unbroken, tmp_path, trainings, kills=200)
    record_property("injected", counts["kills"])
    record_property("tried", counts["trainings"])
    record_property("lost", counts["lost"] + counts["failed"] + counts["unequal"])
    for name in ("in_save", "orphans"):
        record_property(name, counts[name])
    assert counts["in_save"] > counts["kills"] / 2
    assert counts["lost"] == counts["failed"] == counts["orphans"] == counts["unequal"] == 0


@pytest.mark.slow
def test_a_few_kills_lose_nothing(arguments, unbroken, tmp_path):
    counts = kill_and_compare(arguments, unbroken, tmp_path, [("gender", 1)], kills=3)
    assert counts["kills"] >= 3
    assert counts["lost"] == counts["failed"] == counts["orphans"] == 0
