"""Trainings on small file systems of their own that are full, without inodes, or read-only.

Run as a program in a mount namespace (`unshare --map-root-user --mount`), it prints what happened as JSON lines.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from tiny_training import EXTRACTOR, write_source

from hf_contour.cli.main import main
from hf_contour.training import contour_stage
from hf_contour.training.checkpoints import list_checkpoints, load_newest

NUM_STEPS = 4


def mount(folder, *options):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True)


def train(recipe):
    """The exit code, and what was said on the error stream."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(["train", "--recipe", str(recipe)])
    return code, errors.getvalue()


def interrupt_second_step(recipe):
    """Leaves the checkpoint of step 2."""
    train_loss, made = contour_stage.ContourTask.train_loss, []

    def interrupted(self, model, batch):
        made.append(1)
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_loss(self, model, batch)

    contour_stage.ContourTask.train_loss = interrupted
    code, _ = train(recipe)
    contour_stage.ContourTask.train_loss = train_loss
    assert code == 143


def unfinished(folder):
    """What must not be left: half checkpoints and half files."""
    return [str(path) for path in folder.rglob(".*") if path.name != ".lock"]


def try_disk(folder, recipe, expected, *, spoil, mend, options):
    """Goes on with an interrupted run on a disk that is spoilt, then on the same disk mended."""
    mount(folder, *options)
    interrupt_second_step(recipe)
    spoil(folder)
    code, said = train(recipe)
    stage = folder / "runs" / "garments" / "contour"
    newest = load_newest(stage / "checkpoints")
    told = {
        "code": code, "said": said, "step": newest.step, "left": unfinished(stage),
        "checkpoints": [path.name for path in list_checkpoints(stage / "checkpoints")],
        "has_model": (stage / "model").exists(),
    }  # fmt: skip
    mend(folder)
    code, said = train(recipe)
    equal = code == 0 and all(
        value.equal(expected[key]) for key, value in load_file(stage / "model" / "model.safetensors").items()
    )
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    return {**told, "code_after": code, "said_after": said, "is_equal_after": equal}


def fill_bytes(folder, left):
    """Fills the disk up to so many bytes."""
    size = shutil.disk_usage(folder).free - left
    with (folder / "ballast").open("wb") as file:
        file.write(b"\0" * size)


def fill_inodes(folder, left):
    (folder / "ballasts").mkdir()
    for number in range(os.statvfs(folder).f_favail - left):
        (folder / "ballasts" / str(number)).touch()


def remount(folder, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def run(root):
    write_source(root / "source")
    disk = root / "disk"
    recipe = root / "recipe.yaml"
    settings = {
        "stage": "contour", "model": EXTRACTOR, "cpu": True, "max_steps": NUM_STEPS, "save_every": 1, "num_workers": 0,
        "keep_checkpoints": 1, "log_every": 1, "torch_threads": 1, "progress": False, "num_images": 1,
        "batch_size": 4, "data": str(root / "source"), "output_dir": str(disk / "runs"), "ema_decay": 0.9,
    }  # fmt: skip
    recipe.write_text(json.dumps(settings))
    assert train(recipe)[0] == 0
    stage = disk / "runs" / "garments" / "contour"
    expected = load_file(stage / "model" / "model.safetensors")
    needed = sum(file.stat().st_size for path in list_checkpoints(stage / "checkpoints") for file in path.iterdir())
    shutil.rmtree(disk)

    roomy = ("size=64m",)
    for level in range(10):
        told = try_disk(
            disk, recipe, expected, options=roomy,
            spoil=lambda folder, level=level: fill_bytes(folder, needed * level // 10),
            mend=lambda folder: (folder / "ballast").unlink(),
        )  # fmt: skip
        print(json.dumps({"kind": "bytes", "level": level, **told}), flush=True)
    for left in (0, 1, 3):
        told = try_disk(
            disk, recipe, expected, options=(*roomy, "nr_inodes=400"),
            spoil=lambda folder, left=left: fill_inodes(folder, left),
            mend=lambda folder: shutil.rmtree(folder / "ballasts"),
        )  # fmt: skip
        print(json.dumps({"kind": "inodes", "level": left, **told}), flush=True)
    told = try_disk(
        disk, recipe, expected, options=roomy,
        spoil=lambda folder: remount(folder, "ro"), mend=lambda folder: remount(folder, "rw"),
    )  # fmt: skip
    print(json.dumps({"kind": "read-only", "level": 0, **told}), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
