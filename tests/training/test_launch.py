"""What the launcher says holds, unless a flag says otherwise; what cannot work is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import EXTRACTOR, settings, write_source

from hf_contour.cli.main import main
from hf_contour.training.command_line import parse_arguments
from hf_contour.training.launch import build_accelerator
from hf_contour.training.run import run_stage

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"


def recipe_of(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return ["--recipe", str(path), "--stage", "contour"]


def test_the_precision_of_the_launcher_holds_unless_a_flag_says_otherwise(tmp_path, monkeypatch):
    words = recipe_of(tmp_path, "mixed_precision: fp16\n")
    assert parse_arguments(words)[0].mixed_precision == "fp16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert parse_arguments(words)[0].mixed_precision == "bf16"
    assert parse_arguments([])[0].mixed_precision == "bf16"
    assert parse_arguments([*words, "--mixed_precision", "no"])[0].mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # which a launcher says also when it was not asked
    assert parse_arguments(words)[0].mixed_precision == "fp16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="mixed_precision 'fp8'; expected no, bf16 or fp16"):
        parse_arguments(words)


def test_the_accumulation_of_the_launcher_holds_unless_a_flag_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    write_source(tmp_path / "source")
    results = run_stage(settings(tmp_path, "contour", max_steps=2))
    assert results["training"]["num_samples_seen"] == 2 * 4 * 3
    (arguments,) = parse_arguments(["--stage", "contour", "--gradient_accumulation_steps", "2", "--cpu"])
    assert build_accelerator(arguments).gradient_accumulation_steps == 2


def test_it_trains_in_the_precision_of_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    write_source(tmp_path / "source")
    results = run_stage(settings(tmp_path, "contour", max_steps=2))
    assert results["arguments"]["mixed_precision"] == results["identity"]["mixed_precision"] == "bf16"


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_sharded_weights_are_refused_in_a_sentence(tmp_path, monkeypatch, capsys, variable, name):
    monkeypatch.setenv(variable, "true")
    assert main(["train", "--stage", "contour", "--output_dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: The launcher asks for {name}, which shards weights")
    assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", ["flag", "file"])
def test_accelerate_launch_is_heard(tmp_path, way):
    write_source(tmp_path / "source")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps({"stage": "contour", "model": EXTRACTOR, "max_steps": 2, "batch_size": 4, "num_workers": 0})
    )
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nuse_cpu: true\n"
        "num_processes: 1\nnum_machines: 1\nmachine_rank: 0\n"
    )
    options = {
        "flag": ["--cpu", "--num_processes", "1", "--mixed_precision", "bf16"],
        "file": ["--config_file", str(config)],
    }[way]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, str(SCRIPT)]
    flags = ["--recipe", recipe, "--data", tmp_path / "source", "--output_dir", tmp_path, "--no_progress"]
    subprocess.run([*launcher, *map(str, flags)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    results = json.loads((tmp_path / "garments" / "contour" / "results.json").read_text())
    assert results["arguments"]["mixed_precision"] == "bf16"
