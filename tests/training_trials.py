"""Trainings in processes of their own that start fast, for tests that kill them.

A server imports everything once and forks a process for each training (`multiprocessing`'s forkserver). Each of them
leads a process group, so that what it leaves behind can be counted.
"""

import multiprocessing
import os
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from fault_injection import Fault, watched

# Places of what a training tells while it runs.
STEP, SAVING, SAVED = range(3)
FINISHED, FAILED = 0, 1

_PRELOADED = ["pytest", "hf_contour.training.run", "tensorboard", "timm"]


@dataclass(frozen=True)
class Plan:
    """When a training is killed.

    Attributes:
        saves: after this many saves, in the one that follows; at any moment if `None`.
        call: by itself, at the call of this number within that save; else from outside, after `seconds`.
        half: of a write, after half of its bytes.
        seconds: from the beginning of that save, or from the first step.
    """

    saves: int | None
    call: int | None
    half: bool
    seconds: float


def random_plan(rng):
    """Two in five kills at a call of a save, two in five at a moment of a save, the others at any moment."""
    kind = rng.random()
    saves = None if kind > 0.8 else rng.choice((0, 0, 1, 2))
    call = rng.randrange(45) if kind < 0.4 else None
    seconds = rng.uniform(0, 0.3 if saves is None else 0.03)
    return Plan(saves, call, rng.random() < 0.5, seconds)


def context():
    """Starts the server, once for all trials of a session."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(_PRELOADED)
    return chosen


def run_to_the_end(arguments, folder):
    """Trains without being killed; the last lines of its errors if it fails."""
    return _follow(arguments, folder, None)[0]


def run_and_kill(arguments, folder, plan):
    """Trains and kills it as planned.

    Returns:
        The errors if it failed by itself, else an empty string; whether it was killed; whether that was in a save;
        the last step whose save was finished; whether a process of its group lived on.
    """
    return _follow(arguments, folder, plan)


def _follow(arguments, folder, plan):
    told = context().RawArray("q", 3)
    errors = Path(folder, "errors.txt")
    errors.unlink(missing_ok=True)
    process = context().Process(target=_train, args=(arguments, str(errors), told, plan))
    process.start()
    if plan is not None and plan.call is None:
        _kill_when_due(process, told, plan)
    process.join()
    is_killed = process.exitcode == -signal.SIGKILL
    failure = errors.read_text() if process.exitcode not in (FINISHED, -signal.SIGKILL) else ""
    return failure, is_killed, is_killed and bool(told[SAVING]), told[SAVED], _lives_on(process.pid)


def _kill_when_due(process, told, plan):
    """Waits for the first step, or for the save in question, and then as long as the plan says."""
    first, seen, was_saving = None, 0, 0
    while process.is_alive():
        saving = told[SAVING]
        seen += saving and not was_saving
        was_saving = saving
        is_due = told[STEP] > 0 if plan.saves is None else seen > plan.saves
        if is_due and first is None:
            first = time.perf_counter()
        if first is not None and time.perf_counter() - first >= plan.seconds:
            process.kill()
            return
        time.sleep(0.0005)


def _lives_on(group, patience=10.0):
    """Whether a process of the group is still there after a while."""
    deadline = time.monotonic() + patience
    while members_of(group):
        if time.monotonic() > deadline:
            os.killpg(group, signal.SIGKILL)
            return True
        time.sleep(0.01)
    return False


def members_of(group):
    """Processes of a group that run; the dead whom nobody has asked after do not count."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                members.append(int(stat.parent.name))
    return members


def _train(arguments, errors, told, plan):
    """What the process does."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the loading processes, as it is in a plain program
    from hf_contour.training.run import run_stage

    _tell(told, plan)
    try:
        run_stage(arguments)
    except BaseException:
        Path(errors).write_text(traceback.format_exc())
        os._exit(FAILED)
    os._exit(FINISHED)


def _tell(told, plan):
    """Notes in `told` where the training stands, and lets a planned call of a save be its last."""
    from hf_contour.training import loop

    save, step = loop.save_checkpoint, loop.TrainingLoop._train_step
    saves = [0]

    def told_save(folder, checkpoint, *, keep):
        told[SAVING] = 1
        is_last = plan is not None and plan.call is not None and saves[0] == plan.saves

        def meet(call):
            if is_last and call.number == plan.call:
                return Fault(None, call.size // 2 if plan.half else 0)
            return None

        with watched(folder, meet):
            path = save(folder, checkpoint, keep=keep)
        told[SAVED], told[SAVING] = checkpoint.step, 0
        saves[0] += 1
        return path

    def told_step(self, batches):
        told[STEP] = self.progress.step + 1
        return step(self, batches)

    loop.save_checkpoint = told_save
    loop.TrainingLoop._train_step = told_step
