"""The main job on systems that lack what Linux has: those names are taken away, and a training still runs."""

import importlib
import json
import os
import shutil
import signal
import sys

import pytest
from fault_injection import in_child
from tiny_training import EXTRACTOR, write_source

# Windows has none of them, macOS not the first.
OF_OS = ("sched_getaffinity", "register_at_fork", "O_DIRECTORY", "getuid", "fchmod")
OF_SIGNAL = ("SIGUSR1", "SIGHUP", "SIGKILL")


def take_away():
    """Removes the names, and our modules, so that they are imported anew without them."""
    for name in OF_OS:
        if hasattr(os, name):
            delattr(os, name)
    for name in OF_SIGNAL:
        delattr(signal, name)
    sys.modules["fcntl"] = None
    shutil._use_fd_functions = False
    opened = os.open

    def open_no_folder(path, *args, **kwargs):
        if os.path.isdir(path):  # noqa: PTH112  # what is taken away is below pathlib
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *args, **kwargs)

    os.open = open_no_folder
    os.O_BINARY = 0
    for name in [
        name
        for name in sys.modules
        if name.startswith(("hf_contour.training", "hf_contour.cli")) or name == "hf_contour.io"
    ]:
        del sys.modules[name]


def test_a_training_runs_and_goes_on_without_the_names_of_linux(tmp_path):
    source = write_source(tmp_path / "source", validation=2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {
                "stage": "contour", "model": EXTRACTOR, "cpu": True, "max_steps": 3, "save_every": 1, "num_workers": 0,
                "batch_size": 4, "data": str(source), "output_dir": str(tmp_path), "progress": False, "num_images": 0,
                "torch_threads": 1,  # more would wait for threads that a fork does not take along
            }
        )
    )  # fmt: skip

    def train():
        take_away()
        train_command = importlib.import_module("hf_contour.cli.train")
        lock = importlib.import_module("hf_contour.training.folder_lock")
        assert lock.fcntl is None
        folder = tmp_path / "garments" / "contour"
        with lock.locked_folder(folder), pytest.raises(lock.FolderInUseError), lock.locked_folder(folder):
            pass
        assert train_command.main(["--recipe", str(recipe)]) == 0
        (folder / "results.json").unlink()
        (folder / "model" / "config.json").unlink()
        assert train_command.main(["--recipe", str(recipe)]) == 0  # from the last checkpoint

    assert in_child(train) == 0
    status = json.loads((tmp_path / "garments" / "contour" / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("finished", 0)
