"""An interrupted training ends as the unbroken one, bit for bit; another training is not gone on with."""

import json
import os
import signal

import pytest
from safetensors.torch import load_file
from tiny_training import settings, write_source

from hf_contour.training import gender_stage
from hf_contour.training.checkpoints import list_checkpoints
from hf_contour.training.folder_lock import FolderInUseError, locked_folder
from hf_contour.training.loop import ResumeError, TrainingInterrupted
from hf_contour.training.run import run_stage

# Augmentation, dropout and the moving average are on; two micro-batches a step; three steps an epoch.
OPTIONS = {"batch_size": 4, "gradient_accumulation_steps": 2, "epochs": 3, "colour": {"exchange_channels": True}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("tiny") / "source")


@pytest.fixture(scope="module")
def extractor(source, tmp_path_factory):
    arguments = settings(tmp_path_factory.mktemp("contour"), "contour", data=str(source), max_steps=1)
    run_stage(arguments)
    return arguments.folder / "model"


@pytest.fixture
def gender(tmp_path, source, extractor):
    def arguments(**changes):
        options = {"data": str(source), "extractor": str(extractor), **OPTIONS, **changes}
        return settings(tmp_path, "gender", **options)

    return arguments


@pytest.fixture(scope="module")
def unbroken(source, extractor, tmp_path_factory):
    arguments = settings(
        tmp_path_factory.mktemp("whole"), "gender", data=str(source), extractor=str(extractor), **OPTIONS
    )
    return run_stage(arguments)


def interrupt_at(monkeypatch, step, signal_number, *, micro_steps=2):
    """Sends this process a signal while it makes the step of that number."""
    calls = []
    train_loss = gender_stage.GenderTask.train_loss

    def watched(self, model, batch):
        calls.append(None)
        if len(calls) == micro_steps * (step - 1) + 1:
            os.kill(os.getpid(), signal_number)
        return train_loss(self, model, batch)

    monkeypatch.setattr(gender_stage.GenderTask, "train_loss", watched)


def assert_same_end(results, expected):
    weights, expected_weights = (
        load_file(f"{one['model']['folder']}/model.safetensors") for one in (results, expected)
    )
    assert weights.keys() == expected_weights.keys()
    for name, value in weights.items():
        assert value.equal(expected_weights[name]), name
    assert results["evaluation"] == expected["evaluation"]
    assert results["training"]["last_loss"] == expected["training"]["last_loss"]
    assert results["training"]["converged_step"] == expected["training"]["converged_step"]


def losses(arguments):
    lines = [json.loads(line) for line in (arguments.folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_interrupted_and_resumed_is_bit_equal_to_the_unbroken_run(gender, unbroken, monkeypatch):
    arguments = gender()
    # In the middle of the first epoch, and on the last step of the second.
    for step, signal_number, made in ((2, signal.SIGINT, 2), (4, signal.SIGTERM, 6)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, signal_number)
            with pytest.raises(TrainingInterrupted):
                run_stage(arguments)
        assert list_checkpoints(arguments.folder / "checkpoints")[-1].name == f"step-{made:08d}"
        status = json.loads((arguments.folder / "status.json").read_text())
        assert (status["status"], status["exit_code"]) == ("interrupted", 128 + signal_number)
        assert not (arguments.folder / "model").exists()
    assert_same_end(run_stage(arguments), unbroken)
    assert [step for step, _ in losses(arguments)] == list(range(1, 10))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_result(gender, unbroken, num_workers, monkeypatch):
    arguments = gender(num_workers=num_workers)
    interrupt_at(monkeypatch, 5, signal.SIGUSR1)
    with pytest.raises(TrainingInterrupted):
        run_stage(arguments)
    monkeypatch.undo()
    assert_same_end(run_stage(arguments), unbroken)


def test_resume_from_the_one_before_when_the_newest_is_damaged(gender, unbroken, monkeypatch, caplog):
    arguments = gender(save_every=1, keep_checkpoints=3)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, signal.SIGTERM)
        with pytest.raises(TrainingInterrupted):
            run_stage(arguments)
    newest = list_checkpoints(arguments.folder / "checkpoints")[-1]
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(100)
    assert_same_end(run_stage(arguments), unbroken)
    assert f"{newest}: optimizer.pt has 100 bytes" in caplog.text
    # Lines of the steps that were made again stand in the log once.
    assert [step for step, _ in losses(arguments)] == list(range(1, 10))


def test_a_signal_in_an_evaluation_saves_and_the_evaluation_is_made_again(gender, unbroken, monkeypatch):
    arguments = gender()
    evaluate = gender_stage.GenderTask.evaluate

    def interrupted(self, model, accelerator, *, split, heed):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, model, accelerator, split=split, heed=heed)

    with monkeypatch.context() as patch:
        patch.setattr(gender_stage.GenderTask, "evaluate", interrupted)
        with pytest.raises(TrainingInterrupted):
            run_stage(arguments)
    assert list_checkpoints(arguments.folder / "checkpoints")[-1].name == "step-00000003"
    assert_same_end(run_stage(arguments), unbroken)


def test_other_settings_are_refused_by_name(gender, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(TrainingInterrupted):
        run_stage(gender())
    monkeypatch.undo()
    with pytest.raises(ResumeError, match=r"seed: 0 there, 5 here\).*--overwrite"):
        run_stage(gender(seed=5))
    with pytest.raises(ResumeError, match=r"batch_size: 4 there, 2 here"):
        run_stage(gender(batch_size=2))
    with pytest.raises(ResumeError, match="resume is off"):
        run_stage(gender(resume=False))


def test_other_data_and_another_extractor_are_refused(gender, source, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(TrainingInterrupted):
        run_stage(gender())
    monkeypatch.undo()
    other = write_source(tmp_path / "other", train=25)
    with pytest.raises(ResumeError, match="data_sha256"):
        run_stage(gender(data=str(other)))
    arguments = settings(tmp_path, "contour", data=str(source), max_steps=2, seed=3)
    run_stage(arguments)
    with pytest.raises(ResumeError, match="extractor_sha256"):
        run_stage(gender(extractor=str(arguments.folder / "model")))


def test_overwrite_starts_anew(gender, unbroken, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(TrainingInterrupted):
        run_stage(gender(seed=5))
    monkeypatch.undo()
    assert_same_end(run_stage(gender(overwrite=True)), unbroken)


def test_a_finished_training_is_not_made_again(gender, monkeypatch, capsys):
    arguments = gender(max_steps=1)
    first = run_stage(arguments)
    written = (arguments.folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert run_stage(arguments) == json.loads(json.dumps(first))
    assert (arguments.folder / "model" / "model.safetensors").stat().st_mtime_ns == written
    assert "finished before" in capsys.readouterr().err
    with pytest.raises(ResumeError, match="max_steps: 1 there, 2 here"):
        run_stage(gender(max_steps=2))
    path = arguments.folder / "results.json"
    elsewhere = json.loads(path.read_text())
    elsewhere["identity"]["device"] = "cuda"
    path.write_text(json.dumps(elsewhere))
    assert run_stage(arguments) == elsewhere  # finished on a GPU is finished


def test_a_folder_in_use_is_refused(gender):
    arguments = gender()
    with locked_folder(arguments.folder), pytest.raises(FolderInUseError):
        run_stage(arguments)
