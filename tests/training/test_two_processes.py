"""Two processes give the losses of one process with the same micro-batches, and count no sample twice.

`accelerate launch --cpu --num_processes 2` would start one process only; `torchrun` starts two.
"""

import json
import os
import subprocess
import sys

import pytest
from tiny_training import CLASSIFIER, EXTRACTOR, write_source

from hf_contour.io import state_dict_sha256
from hf_contour.modeling_contour_extractor import ContourExtractorModel

pytestmark = pytest.mark.slow

PROGRAM = "import sys; from hf_contour.cli.main import main; sys.exit(main(['train', *sys.argv[1:]]))"
# No dropout: its masks are drawn by each process for itself.
COMMON = {
    "augmentation": {"flip": 0.5, "noise": 0.5},
    "batch_size": 3,
    "epochs": 2,
    "learning_rate": 0.01,
    "log_every": 1,
    "num_workers": 0,
    "torch_threads": 1,
    "eval_batch_size": 2,
    "ema_decay": 0.9,
}


def train(folder, source, stage, *, num_processes, accumulation, **settings):
    """Runs a training as its users do; its log lines and results."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({**COMMON, "gradient_accumulation_steps": accumulation, **settings}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    flags = ["--recipe", recipe, "--stage", stage, "--data", source, "--output_dir", folder, "--cpu", "--no_progress"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, program, *map(str, flags)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage_folder = folder / "garments" / stage
    lines = [json.loads(line) for line in (stage_folder / "log.jsonl").read_text().splitlines()]
    return lines, json.loads((stage_folder / "results.json").read_text())


def compare(tmp_path, source, stage, **settings):
    (tmp_path / "one").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    one, one_results = train(tmp_path / "one", source, stage, num_processes=1, accumulation=2, **settings)
    two, two_results = train(tmp_path / "two", source, stage, num_processes=2, accumulation=1, **settings)
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (one, two)]
    norms = [[line["grad_norm"] for line in lines if "loss" in line] for lines in (one, two)]
    assert len(losses[0]) == len(losses[1]) == 8
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert two_results["training"]["num_processes"] == 2
    # Seven samples in batches of two on two processes: padded by one, counted as seven.
    for results in (one_results, two_results):
        assert results["evaluation"]["validation"]["num_samples"] == 7
        assert results["training"]["num_samples_seen"] == 48
    return tmp_path / "one" / "garments" / stage / "model", two_results


def test_both_stages(tmp_path):
    source = write_source(tmp_path / "source")
    extractor, _ = compare(tmp_path / "contour", source, "contour", model=EXTRACTOR)
    classifier = {**CLASSIFIER, "head_dropout": 0.0}
    options = {"backbone": "test_resnet", "image_size": [32, 32], "extractor": str(extractor)}
    _, results = compare(tmp_path / "gender", source, "gender", model=classifier, **options)
    expected = state_dict_sha256(ContourExtractorModel.from_pretrained(extractor).state_dict())
    assert results["extractor"] == {"sha256_before": expected, "sha256_after": expected}
    assert sum(map(sum, results["evaluation"]["validation"]["confusion_matrix"])) == 7
    unfrozen = {**classifier, "contour_features": "levels", "contour_levels": [0], "freeze_extractor": False}
    _, results = compare(tmp_path / "unfrozen", source, "gender", model=unfrozen, **options)
    assert results["extractor"]["sha256_after"] != expected
