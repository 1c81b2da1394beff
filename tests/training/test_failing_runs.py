"""What a run does when it cannot go on: an exit code and a sentence, the last good checkpoint left as it was."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_injection import fails, fills_up, refuses, watched
from safetensors.torch import load_file
from tiny_training import EXTRACTOR, write_source

from hf_contour.cli.main import main
from hf_contour.data.samples import ContourSamples
from hf_contour.training.checkpoints import load_newest
from hf_contour.training.folder_lock import locked_folder
from hf_contour.training.loop import TrainingLoop

ROOM = r"\d+ bytes and \d+ files are free at "


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("tiny") / "source", validation=2)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "garments" / "contour"


@pytest.fixture
def train(tmp_path, source, capfd):
    """Runs the command; its exit code and its error stream."""
    recipe = tmp_path / "recipe.yaml"
    settings = {
        "stage": "contour", "model": EXTRACTOR, "cpu": True, "max_steps": 4, "save_every": 1, "num_workers": 0,
        "torch_threads": 1, "log_every": 1, "keep_checkpoints": 1, "progress": False, "num_images": 0,
        "batch_size": 4, "data": str(source), "output_dir": str(tmp_path / "runs"), "ema_decay": 0.9,
    }  # fmt: skip

    def command(*flags):
        recipe.write_text(json.dumps(settings))
        code = main(["train", "--recipe", str(recipe), *flags])
        return code, capfd.readouterr().err

    return command


def interrupt_at(patch, step, act):
    """Calls `act` while the training makes the step of that number."""
    train_step, made = TrainingLoop._train_step, []

    def watched_step(self, batches):
        made.append(None)
        if len(made) == step:
            act()
        return train_step(self, batches)

    patch.setattr(TrainingLoop, "_train_step", watched_step)


@pytest.fixture
def interrupted(train, folder, monkeypatch):
    """A run with the checkpoint of step 2."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train()[0] == 143
    assert load_newest(folder / "checkpoints").step == 2
    return train


def status_of(folder):
    return json.loads((folder / "status.json").read_text())


def test_a_disk_that_fills_up_while_saving(interrupted, folder):
    with watched(folder / "checkpoints", fills_up(5000)):
        code, said = interrupted()
    assert code == 4
    sentence = (
        rf"error: The checkpoint {folder}/checkpoints/step-00000003 could not be written \(.*No space left on device.*"
    )
    assert re.search(rf"{sentence}\); it needs \d+ bytes, {ROOM}{folder}", said)
    assert (status_of(folder)["status"], status_of(folder)["exit_code"]) == ("failed", 4)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    assert interrupted()[0] == 0


@pytest.mark.parametrize(
    ("meet", "advice"),
    [
        (fills_up(0), ROOM),
        (refuses({"open", "mkdir"}, errno.EROFS), "Get the right to write there"),
        (refuses({"open", "mkdir"}, errno.EACCES), "Get the right to write there"),
    ],
)
def test_a_folder_that_takes_nothing_at_all(interrupted, folder, meet, advice):
    before = (folder / "log.jsonl").read_text()
    with watched(folder, meet):
        code, said = interrupted()
    assert code == 4
    assert re.search(rf"error: {folder}.* could not be written .*{advice}", said)
    assert said.count("\n") == 1
    assert (folder / "log.jsonl").read_text() == before
    assert load_newest(folder / "checkpoints").step == 2


@pytest.mark.faults
@pytest.mark.parametrize("share", range(10))
def test_a_disk_that_fills_up_at_any_point_of_a_run(interrupted, folder, share, record_property):
    record_property("injected", 1)
    with watched(folder, fills_up(share * 12_000)):
        code, _ = interrupted()
    assert code == 4
    found = load_newest(folder / "checkpoints")
    record_property("lost", found is None)
    assert found.step >= 2
    assert interrupted()[0] == 0


def test_a_folder_that_vanishes_is_not_made_again(train, folder, monkeypatch):
    interrupt_at(monkeypatch, 3, lambda: shutil.rmtree(folder.parent))
    code, said = train()
    assert code == 4
    assert re.search(
        rf"error: {folder}/log.jsonl could not be written \(.*No such file .*{ROOM}{folder.parents[1]}", said
    )
    assert not folder.parent.exists()


def test_a_folder_that_cannot_be_made(train, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, said = train()
    assert code == 4
    assert "error: " in said
    assert "could not be written" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "not/there.csv"], "there.csv is not there"),
        (["--train_split", "third"], "has no split 'third'"),
        (["--contours_column", "outlines"], "outlines"),
        (["--run_name", "../elsewhere"], "run_name is '../elsewhere'"),
        (["--run_name", "."], "run_name is '.'"),
        (["--model", '{"unify": "spline"}'], "unify"),
        (["--model", '{"backbone": "resnet_of_nobody"}'], "resnet_of_nobody"),
        (["--batch_size", "many"], "many"),
        (["--schedule", "linear"], "linear"),
        (["--tracker", "paper"], "tracker is 'paper'; expected none or one of aim"),
        (["--optimizer", "guessing"], "guessing"),
        (["--augmentation", '{"flap": 1}'], "flap"),
        (["--gradient_accumulation_steps", "25"], "has 24 samples, and one step takes 25 micro-batches"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(train, tmp_path, flags, message):
    code, said = train(*flags)
    assert code == 2
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "elsewhere").exists()


def test_outside_the_main_thread_a_training_runs_to_its_end(train, folder):
    with ThreadPoolExecutor(1) as pool:
        code, said = pool.submit(train).result()
    assert (code, said) == (0, "")
    assert (folder / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_weights_are_as_open_to_others_as_any_new_file(train, folder, mask):
    before = os.umask(mask)
    try:
        assert train()[0] == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder / "model").iterdir() if path.is_file()}
    assert modes["model.safetensors"] == 0o666 & ~mask
    assert set(modes.values()) == {0o666 & ~mask}


def test_a_set_smaller_than_a_batch_makes_smaller_batches(train, folder, caplog):
    assert train("--batch_size", "40")[0] == 0
    assert "batch_size is 24 instead of 40" in caplog.text
    results = json.loads((folder / "results.json").read_text())
    assert (results["training"]["num_samples_seen"], results["training"]["epochs"]) == (4 * 24, 4)


def test_a_folder_in_use_has_its_exit_code(train, folder):
    with locked_folder(folder):
        code, said = train()
    assert code == 5
    assert said.startswith(f"error: Another training (process {os.getpid()}) writes to {folder}; ")


def test_what_fails_between_two_steps_costs_none_of_them(train, folder, monkeypatch):
    """Such as an image that cannot be read, an epoch after the last checkpoint."""
    decoded, read = ContourSamples.decoded, []

    def broken(self, index):
        read.append(index)
        if len(read) > 3 * 4:
            raise ValueError("row 7: cannot be read")
        return decoded(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ContourSamples, "decoded", broken)
        code, said = train("--save_every", "100")
    assert (code, said) == (2, "error: row 7: cannot be read\n")
    assert load_newest(folder / "checkpoints").step == 3
    status = status_of(folder)
    assert (status["status"], status["exit_code"]) == ("failed", 2)
    assert "in broken" in "".join(status["traceback"])
    assert train()[0] == 0
    resumed = load_file(folder / "model" / "model.safetensors")
    assert train("--run_name", "unbroken")[0] == 0
    unbroken = load_file(folder.parents[1] / "unbroken" / "contour" / "model" / "model.safetensors")
    assert all(value.equal(unbroken[key]) for key, value in resumed.items())


def test_a_torn_log_and_a_deleted_model_are_mended(interrupted, folder):
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert interrupted()[0] == 0
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    before = (folder / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "model")
    assert interrupted()[0] == 0
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_killed_before_the_first_checkpoint_the_log_starts_anew(train, folder):
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert train()[0] == 0
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]


def test_a_model_that_cannot_be_put_in_place_is_made_again(interrupted, folder):
    def meet(call):
        return fails(call.number, errno.EIO)(call) if call.name == "rename" and "-model" in call.path else None

    with watched(folder, meet):
        code, said = interrupted()
    assert (code, (folder / "model").exists()) == (4, False)
    assert f"{folder}/model: [Errno 5]" in said
    assert not list(folder.glob(".unfinished*"))
    assert interrupted()[0] == 0
    assert (folder / "model" / "model.safetensors").exists()


def can_mount():
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.faults
@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_file_systems_that_are_full_out_of_inodes_or_read_only(tmp_path, record_property):
    program = Path(__file__).parents[1].joinpath("full_disk_trials.py")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, program, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    trials = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    record_property("injected", len(trials))
    record_property("lost", sum(trial["step"] < 2 or not trial["is_equal_after"] for trial in trials))
    assert [trial["kind"] for trial in trials] == ["bytes"] * 10 + ["inodes"] * 3 + ["read-only"]
    for trial in trials:
        assert trial["code"] == 4, trial
        assert trial["step"] >= 2, trial
        assert re.search(rf"error: {tmp_path}.* could not be written|The checkpoint {tmp_path}", trial["said"]), trial
        assert re.search("Get the right to write" if trial["kind"] == "read-only" else ROOM, trial["said"]), trial
        assert trial["left"] == [], trial
        assert not trial["has_model"], trial
        assert trial["code_after"] == 0, trial
        assert trial["is_equal_after"], trial
