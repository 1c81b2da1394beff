"""What one process alone meets is decided by all: nobody waits for ever."""

import json
import os
import subprocess
import sys

import pytest
from tiny_training import EXTRACTOR, write_source

pytestmark = pytest.mark.slow

# In the second process alone, at the third step, a running statistic becomes infinite while the loss stays finite.
PROGRAM = """
import sys, torch
from hf_contour.training import contour_stage
from hf_contour.cli.main import main

train_loss, made = contour_stage.ContourTask.train_loss, []

def spoilt(task, model, batch):
    loss = train_loss(task, model, batch)
    made.append(1)
    if len(made) == 3 and torch.distributed.get_rank() == 1:
        next(one for name, one in task.model.named_buffers() if name.endswith("running_var")).data.fill_(float("inf"))
    return loss

contour_stage.ContourTask.train_loss = spoilt
sys.exit(main(["train", *sys.argv[1:]]))
"""


def train(tmp_path, *, policy, **changes):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    recipe = tmp_path / "recipe.yaml"
    settings = {
        "stage": "contour", "model": EXTRACTOR, "cpu": True, "max_steps": 5, "num_workers": 0, "torch_threads": 1,
        "log_every": 1, "progress": False, "num_images": 0, "batch_size": 4, "data": str(tmp_path / "source"),
        "output_dir": str(tmp_path / "runs"), "on_non_finite": policy, **changes,
    }  # fmt: skip
    recipe.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", program]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), "--recipe", str(recipe)],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    return done, tmp_path / "runs" / "garments" / "contour"


def test_a_statistic_that_is_infinite_in_one_process_stops_both(tmp_path):
    write_source(tmp_path / "source", validation=2)
    done, folder = train(tmp_path, policy="stop")
    assert done.returncode != 0
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 3)
    assert "At step 3 the loss was" in status["reason"]
    assert "running_var" in status["reason"]


def test_or_is_skipped_in_both(tmp_path):
    write_source(tmp_path / "source", validation=2)
    done, folder = train(tmp_path, policy="skip")
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((folder / "results.json").read_text())
    assert (results["training"]["steps"], results["training"]["skipped_steps"]) == (5, 1)


def test_two_processes_train_on_a_stream_each_on_its_share(tmp_path):
    write_source(tmp_path / "source", validation=2)
    done, folder = train(tmp_path, policy="skip", streaming=True, shuffle_buffer=4)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((folder / "results.json").read_text())
    assert (results["training"]["num_processes"], results["training"]["num_samples_seen"]) == (2, 40)
