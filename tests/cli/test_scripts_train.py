"""scripts/train.py as its users call it: the plain command, a signal, a mistake."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import EXTRACTOR, settings, write_source
from transformers import pipeline

from hf_contour.cli.main import main
from hf_contour.training.run import run_stage

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
FEW = [
    "--embedded_train_samples",
    "32",
    "--embedded_eval_samples",
    "8",
    "--max_steps",
    "2",
    "--no_progress",
    "--torch_threads",
    "1",
]


def test_importing_the_script_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specification = importlib.util.spec_from_file_location("train_script", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert list(tmp_path.iterdir()) == []
    assert len(SCRIPT.read_text().splitlines()) < 80


def test_both_stages_on_drawn_garments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *FEW, "--cpu", "--num_workers", "0", "--embedded_size", "64", "64"]) == 0
    shown = capsys.readouterr().out
    assert "contour  validation  8" in shown
    assert "gender   validation  8" in shown
    assert (tmp_path / "runs/garments/contour/images/contours.png").exists()
    classify = pipeline("image-classification", "runs/garments/gender/model", trust_remote_code=True, device="cpu")
    (found,) = classify([str(write_garment(tmp_path))])
    assert {one["label"] for one in found} == {"men", "women"}
    assert sum(one["score"] for one in found) == pytest.approx(1)


def write_garment(folder):
    from hf_contour.data.garments.drawing import draw_garment

    path = folder / "garment.png"
    draw_garment(3, seed=9).image.save(path)
    return path


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [(["--learning_rte", "1"], 2, "nearest: learning_rate"), (["--recipe", "absent.yaml"], 2, "cannot be read")],
)
def test_mistakes_are_one_sentence_and_an_exit_code(capsys, flags, code, message):
    assert main(["train", *flags]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert shown.count("\n") == 1


def test_other_settings_end_with_their_exit_code(tmp_path, capsys):
    write_source(tmp_path / "source")
    run_stage(settings(tmp_path, "contour", max_steps=1))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"stage": "contour", "run_name": "run", "model": EXTRACTOR, "cpu": True}))
    flags = ["--recipe", str(recipe), "--data", str(tmp_path / "source"), "--output_dir", str(tmp_path / "runs")]
    assert main(["train", *flags]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_curves_go_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_source(tmp_path / "source")
    arguments = settings(tmp_path, "contour", max_steps=3, tracker="tensorboard")
    run_stage(arguments)
    events = EventAccumulator(str(arguments.folder / "tensorboard")).Reload()
    losses = [json.loads(line) for line in (arguments.folder / "log.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in losses if "loss" in line]
    )


def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path):
    absent = next(name for name in ("aim", "clearml", "swanlab") if importlib.util.find_spec(name) is None)
    with pytest.raises(ValueError, match=f"--tracker {absent} needs its package: pip install {absent}"):
        run_stage(settings(tmp_path, "contour", tracker=absent))


@pytest.mark.slow
def test_compiled_gives_the_losses_of_uncompiled(tmp_path):
    write_source(tmp_path / "source")
    results = [
        run_stage(settings(tmp_path, "contour", max_steps=3, run_name=name, compile=name == "compiled"))
        for name in ("plain", "compiled")
    ]
    losses = [one["training"]["last_loss"] for one in results]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_saves_and_has_its_exit_code(tmp_path, signal_number):
    """With a loading process, which gets the signal too, as from Ctrl-C in a terminal."""
    write_source(tmp_path / "source")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps({"stage": "contour", "model": EXTRACTOR, "cpu": True, "max_steps": 100000, "log_every": 1})
    )
    flags = ["--recipe", str(recipe), "--data", str(tmp_path / "source"), "--output_dir", str(tmp_path / "runs")]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *flags, "--num_workers", "1"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "runs" / "garments" / "contour"
    deadline = time.monotonic() + 300
    while not (folder / "log.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal_number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal_number, errors
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["signal"]) == ("interrupted", signal_number)
    assert list((folder / "checkpoints").glob("step-*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
