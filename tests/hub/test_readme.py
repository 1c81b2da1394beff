"""README and guides: the code runs, the commands are understood, and the first page is short."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from hf_contour.cli.main import COMMANDS
from hf_contour.training.command_line import parse_arguments, recipe_path
from hf_contour.version import __version__

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TWO_COMMANDS = ["pip install -e . && accelerate launch scripts/train.py", 'pip install -e ".[test]" && pytest']


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_first_page_is_short():
    assert len(README.encode()) <= 8 * 1024


def test_the_python_code_runs_with_the_shipped_models(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for block in blocks(README, "python"):
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
    shown = capsys.readouterr()
    assert {"'label': 'men'", "'label': 'women'"} <= set(re.findall(r"'label': '\w+'", shown.out))
    assert "custom code" not in shown.out + shown.err  # no question whether to run any
    assert names["contours"].any()
    assert names["contours"].shape == (320, 240)


def test_ci_runs_the_two_commands_word_for_word():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in TWO_COMMANDS:
        assert command in commands(README)
        assert command in ci


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_and_commands_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])(?:scripts|\.ci)/[\w./-]*\w", text)
    named += [str((page.parent / link).relative_to(ROOT)) for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert set(re.findall(r"hf-contour ([a-z][a-z-]+)", text)) <= {*COMMANDS, "is"}


def test_the_training_commands_are_understood():
    trainings = [shlex.split(line) for line in commands(README) if line.startswith("hf-contour train --")]
    assert len(trainings) >= 2
    for words in trainings:
        assert recipe_path(words[words.index("--recipe") + 1]).is_file()
        (arguments,) = parse_arguments(words[2:])
        assert words[words.index("--stage") + 1] == arguments.stage


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
