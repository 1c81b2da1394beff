"""`hf-contour` itself: help of every command, what is loaded for it, and mistakes in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from hf_contour.cli.main import COMMANDS, main
from hf_contour.version import __version__

# What pip makes of the entry point, and then what was loaded, as a last line.
ENTRY_POINT = """
import sys
from hf_contour.cli.main import main
code = 0
try:
    code = main()
except SystemExit as left:
    code = left.code
print(sorted({"torch", "transformers", "datasets", "timm"} & set(sys.modules)))
sys.exit(code)
"""


@pytest.fixture(scope="session")
def entry_point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bin") / "hf-contour"
    path.write_text(ENTRY_POINT)
    return path


@pytest.mark.parametrize("words", [["--help"], ["nonsense"], *([name, "--help"] for name in COMMANDS)], ids=str)
def test_help_and_refusals_load_no_large_library(entry_point: Path, words: list[str]) -> None:
    done = subprocess.run([sys.executable, entry_point, *words], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.returncode == (2 if words == ["nonsense"] else 0)
    if words[-1] == "--help":
        assert done.stdout.startswith("usage: hf-contour")


def test_the_module_loads_no_large_library_either() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hf_contour", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hf_contour.cli.main" in loaded
    assert not {"torch", "transformers", "datasets", "timm"} & loaded
    assert done.returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_an_example_and_its_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"    hf-contour {name}" in shown
    assert "Exit codes: 0" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute"], "nearest: evaluate."),
        (["evaluate", "--modle", "x"], "'--modle' is no setting; nearest: model."),
        (["evaluate"], "--model"),
        (["evaluate", "--model", "x", "--batch-size", "many"], "'many' came; expected a whole number"),
        (["evaluate", "--model", "no/such/folder"], "no/such/folder has no config.json"),
        (["train", "--recipe", "nothing"], "none of the package; those are contour_base,"),
        (["compare", "one.npz"], "expected two files of predictions"),
        (["compare", "--plan", "nothing", "--data", "x"], "none of the package; those are ablation_contour,"),
        (["convert-weights", "resnet1"], "expected one of ["),
        (["publish", "no/such/folder", "--to", "a/b"], "no/such/folder is no folder"),
        (["verify"], "folder"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown
    assert shown.count("\n") == 1


def test_no_command_shows_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf_contour {__version__}\n"
