"""The README's code runs, and the commands it gives exist."""

import re
import shlex
from pathlib import Path

import pytest

from hf_contour.training.arguments import parse_arguments
from hf_contour.training.run import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TWO_COMMANDS = ["pip install -e . && accelerate launch scripts/train.py", 'pip install -e ".[test]" && pytest']


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def trained_run(tmp_path, monkeypatch, capsys):
    """The folder that the first command leaves, from a training of two steps."""
    monkeypatch.chdir(tmp_path)
    flags = ["--embedded_train_samples", "8", "--embedded_eval_samples", "4", "--embedded_size", "48", "48"]
    flags += ["--batch_size", "4", "--max_steps", "2", "--num_workers", "0", "--no_progress", "--num_images", "2"]
    flags += ["--gender_image_size", "48", "48"]
    assert main(flags, default_recipe=ROOT / "hf_contour" / "training" / "recipes" / "garments.yaml") == 0
    assert re.search(r"first image of validation: (men|women) 0\.\d{3}, (men|women) 0\.\d{3}", capsys.readouterr().out)
    return tmp_path


def test_the_python_code_runs_after_the_first_command(trained_run, capsys):
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "'label': 'men'" in printed
    assert "'label': 'women'" in printed


def test_ci_runs_the_two_commands_word_for_word():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in TWO_COMMANDS:
        assert command in commands()
        assert command in ci


def test_the_scripts_and_recipes_named_exist():
    named = set(re.findall(r"(?:scripts|model_cards|\.ci)/[\w./-]*\w", README))
    assert "scripts/train.py" in named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_training_commands_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    trainings = [shlex.split(line) for line in commands() if "scripts/train.py --" in line]
    assert len(trainings) >= 2
    for words in trainings:
        (arguments,) = parse_arguments(words[words.index("scripts/train.py") + 1 :])
        assert words[words.index("--stage") + 1] == arguments.stage
