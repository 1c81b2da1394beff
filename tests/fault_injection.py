"""Faults on purpose: system calls that fail, processes that end in the middle of one, files that are damaged."""

import errno
import os
import shutil
import signal
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from hf_contour.training.checkpoints import Checkpoint

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


REAL = {name: getattr(os, name) for name in CALLS}


@dataclass(frozen=True)
class Call:
    """A call of a function of `os`, by its number among those below the watched folder; `size` in bytes of a write."""

    number: int
    name: str
    path: str
    size: int


@dataclass(frozen=True)
class Fault:
    """What happens instead of a call: an error, or SIGKILL if there is none; of a write, after so many bytes."""

    error: OSError | None
    written: int = 0


class Watch:
    """Asks `meet` before each call of `CALLS` below a folder, and lets happen what it answers.

    Attributes:
        calls: all of them.
    """

    def __init__(self, folder, meet):
        self.folder, self.meet = os.fspath(folder), meet
        self.calls, self.paths = [], {}

    def place(self, target, folder_descriptor):
        if isinstance(target, int):
            return self.paths.get(target, "")
        if folder_descriptor is not None:
            return str(Path(self.paths.get(folder_descriptor, ""), target))
        return os.fspath(target)

    def wrapped(self, name):
        def call(target, *args, **kwargs):
            path = self.place(target, kwargs.get("dir_fd"))
            if path.startswith(self.folder):
                made = Call(len(self.calls), name, path, len(args[0]) if name == "write" else 0)
                self.calls.append(made)
                if fault := self.meet(made):
                    if fault.written:
                        REAL["write"](target, memoryview(args[0])[: fault.written])
                    if fault.error is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise fault.error
            result = REAL[name](target, *args, **kwargs)
            if name == "open":
                self.paths[result] = path
            return result

        return call


@contextmanager
def watched(folder, meet=lambda call: None):
    """Puts a `Watch` on a folder while the block runs."""
    watch = Watch(folder, meet)
    for name in CALLS:
        setattr(os, name, watch.wrapped(name))
    try:
        yield watch
    finally:
        for name, real in REAL.items():
            setattr(os, name, real)


def refusal(code, call):
    """The error of the system, for a call."""
    return OSError(code, os.strerror(code), call.path)


def fails(number, code, *, half=False, once=False):
    """The call of this number fails, a write after `half` of its bytes; all later ones too, unless it is `once`."""

    def meet(call):
        if call.number == number or (call.number > number and not once):
            return Fault(refusal(code, call), call.size // 2 if half else 0)
        return None

    return meet


def kills(number, *, half=False):
    """The process is killed at the call of this number."""
    return lambda call: Fault(None, call.size // 2 if half else 0) if call.number == number else None


def fills_up(room, code=errno.ENOSPC):
    """There is room for so many bytes."""
    left = room

    def meet(call):
        nonlocal left
        written = min(left, call.size)
        left -= written
        return Fault(refusal(code, call), written) if written < call.size else None

    return meet


def refuses(names, code):
    """Calls of these names fail."""
    return lambda call: Fault(refusal(code, call)) if call.name in names else None


def in_child(function):
    """Runs a function in a forked process; its wait status, as `os.waitstatus_to_exitcode` gives it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # nothing but the function runs in the child
        child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_checkpoint(step, *, size=3):
    """A small checkpoint whose every number depends on the step."""
    weight = torch.arange(2.0 * size).reshape(2, size) + step
    return Checkpoint(
        step=step,
        state={"progress": {"step": step}, "words": ["ä", None, 0.1]},
        weights={"model": {"weight": weight, "count": torch.tensor(step)}, "ema": {"weight": weight.t() / 3}},
        tensors={"optimizer": {"state": {0: {"exp_avg": weight * 2}}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
    )


def is_checkpoint(found, step):
    """Whether what was loaded is `make_checkpoint(step)`, bit for bit."""
    made = make_checkpoint(step)
    return (
        found is not None
        and (found.step, found.state) == (made.step, made.state)
        and all(
            value.equal(found.weights[part][key])
            for part, state_dict in made.weights.items()
            for key, value in state_dict.items()
        )
        and found.tensors["optimizer"]["state"][0]["exp_avg"].equal(made.tensors["optimizer"]["state"][0]["exp_avg"])
    )


def fresh_copy(template, folder):
    """The template's files under another name, whatever was there before."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    return folder
