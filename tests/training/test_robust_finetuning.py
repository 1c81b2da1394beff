"""What keeps a pretrained backbone good for images of other sources: head first, statistics, initial weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import settings, write_source

from hf_contour.training.arguments import GenderArguments
from hf_contour.training.interrupts import TrainingInterrupted
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.run import run_stage


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contours")
    source = write_source(folder / "source")
    arguments = settings(folder, "contour", max_steps=2)
    run_stage(arguments)
    return {"data": str(source), "extractor": str(arguments.folder / "model"), "ema_decay": 0.0}


def weights_of(arguments):
    return load_file(arguments.folder / "model" / "model.safetensors")


def backbone_of(weights):
    return {key: value for key, value in weights.items() if key.startswith("image_backbones.")}


def changed(before, after):
    return {key for key in before if not torch.equal(before[key], after[key])}


def stop_at(patch, number):
    step = TrainingLoop._train_step

    def stopping(self, batches):
        if self.progress.step == number:
            raise TrainingInterrupted(15)
        return step(self, batches)

    patch.setattr(TrainingLoop, "_train_step", stopping)


def checkpoint_of(arguments, step):
    return load_file(arguments.folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.fixture
def gender(tmp_path, shared):
    return lambda **changes: settings(tmp_path, "gender", **{**shared, **changes})


def test_the_backbone_stands_still_in_the_first_passes_and_learns_after_them(gender):
    arguments = gender(
        head_epochs=1, epochs=1, head_learning_rate=0.02, save_every=1, keep_checkpoints=20, warmup_steps=0
    )
    results = run_stage(arguments)
    assert results["training"]["steps"] == 12  # of 6 each
    first, head, last = (checkpoint_of(arguments, step) for step in (1, 6, 11))
    assert changed(backbone_of(first), backbone_of(head)) == set()  # weights and statistics
    assert changed(first, head)
    kernels = {key for key in backbone_of(head) if key.endswith("weight")}
    assert kernels <= changed(backbone_of(head), backbone_of(last))
    lines = [json.loads(line) for line in (arguments.folder / "log.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates[:5] == pytest.approx([0.02] * 5)
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert max(rates[6:]) < 0.01


@pytest.mark.parametrize("stopped", [4, 8])
def test_head_first_goes_on_exactly(gender, monkeypatch, stopped):
    options = {"head_epochs": 1, "epochs": 1}
    unbroken = gender(run_name="unbroken", **options)
    run_stage(unbroken)
    with monkeypatch.context() as patch:
        stop_at(patch, stopped)
        with pytest.raises(TrainingInterrupted):
            run_stage(gender(**options))
    run_stage(gender(**options))
    assert changed(weights_of(unbroken), weights_of(gender())) == set()


def test_statistics_of_the_backbone_may_be_kept(gender):
    learnt, kept = gender(run_name="learnt", epochs=1), gender(run_name="kept", epochs=1, freeze_norm=True)
    for arguments in (learnt, kept):
        run_stage(arguments)
    weights = backbone_of(weights_of(kept))
    statistics = {key: value for key, value in weights.items() if key.endswith("running_mean")}
    assert statistics
    assert all(not value.any() for value in statistics.values())  # as a network begins that saw nothing
    assert any(value.any() for key, value in backbone_of(weights_of(learnt)).items() if key in statistics)


def test_a_share_of_the_initial_weights_is_published_and_others_are_tried(gender):
    trained, begun, mixed = (
        gender(run_name=f"share{share}", epochs=1, initial_weights_share=share) for share in (0.0, 1.0, 0.25)
    )
    results = [run_stage(arguments) for arguments in (trained, begun, mixed)]
    ends = [backbone_of(weights_of(arguments)) for arguments in (trained, begun, mixed)]
    kernels = [key for key in ends[0] if ends[0][key].is_floating_point()]
    assert all(not torch.equal(ends[0][key], ends[1][key]) for key in kernels if key.endswith("conv1.0.weight"))
    for key in kernels:
        torch.testing.assert_close(ends[2][key], 0.75 * ends[0][key] + 0.25 * ends[1][key])
    heads = [
        {key: value for key, value in weights_of(arguments).items() if key.startswith("classifier.")}
        for arguments in (trained, mixed)
    ]
    assert changed(*heads) == set()
    assert "initial_weights_share" not in results[0]
    tried = results[2]["initial_weights_share"]
    assert tried["published"] == 0.25
    assert list(tried["validation"]) == ["0.0", "0.25", "0.5", "0.75"]
    assert tried["validation"]["0.25"] == results[2]["evaluation"]["validation"]
    assert tried["validation"]["0.0"] == results[0]["evaluation"]["validation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_epochs": 1, "train_parts": "head"}, "cannot be had with train_parts head"),
        ({"head_epochs": 1, "schedule": "plateau"}, "cannot be had with the plateau schedule"),
        ({"head_learning_rate": 0.1}, "give head_epochs too"),
        ({"initial_weights_share": 1.5}, "initial_weights_share is 1.5; expected a number from 0 to 1"),
    ],
)
def test_contradictions_are_said(changes, message):
    with pytest.raises(ValueError, match=message):
        GenderArguments(**changes)
