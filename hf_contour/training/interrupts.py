"""Signals that ask a training to save and leave, and launchers that end without a word."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what schedulers send before they kill; what clusters send ahead of the end of a job; a closed terminal.
# Windows knows the first two only.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))

# A launcher passes on what the whole group was sent, so one Ctrl-C may come twice.
_SECONDS_OF_ONE_PRESS = 3.0
_PR_SET_PDEATHSIG = 1
# Set by torchrun and by `accelerate launch` for the processes that they start.
_LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_MODE")


class TrainingInterrupted(BaseException):
    """A signal asked the training to stop; if steps had been made, a checkpoint has been written.

    Not an `Exception`, like `KeyboardInterrupt`: it may be raised within any code, which must not take it for an
    error of its own.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number} ({signal.Signals(signal_number).name})")
        self.signal_number = signal_number


class StopRequest:
    """The first signal that asked this process to stop.

    Args:
        parent: process whose end counts as SIGTERM; 0 for none.

    Attributes:
        is_heeded: whether someone looks at `number` from time to time; if not, a signal raises `TrainingInterrupted`
            at once, since there is nothing to save.
    """

    def __init__(self, parent: int = 0) -> None:
        self.is_heeded = False
        self._parent = parent
        self._number = 0
        self._noted_at = 0.0

    @property
    def number(self) -> int:
        """Number of the signal, 0 while there is none."""
        if not self._number and self._parent and os.getppid() != self._parent:
            self._number = int(signal.SIGTERM)
        return self._number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal. A second Ctrl-C stops at once, for those who cannot wait; for the others there is -9."""
        if not self._number:
            self._number, self._noted_at = number, time.monotonic()
            if not self.is_heeded:
                raise TrainingInterrupted(number)
        elif number == signal.SIGINT and time.monotonic() - self._noted_at > _SECONDS_OF_ONE_PRESS:
            signal.default_int_handler(number, frame)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listens for `SIGNALS`, and for the end of a launcher, while the block runs.

    A launcher that is killed tells nobody, and without this its training would go on unseen. Only a main thread can
    listen for signals: in another one they do what they did before.
    """
    parent = 0
    if any(name in os.environ for name in _LAUNCHER_VARIABLES):
        parent = os.getppid()
    request = StopRequest(parent)
    previous = {}
    for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
        if number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup
        previous[number] = signal.signal(number, request)
    if parent:
        die_with_parent(signal.SIGTERM)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def die_with_parent(number: int) -> None:
    """Lets Linux send this process a signal when its parent ends; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def exit_code(number: int) -> int:
    """The exit code of a process that a signal ended, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def ignore_stop_requests(worker: int) -> None:
    """For processes that load samples: a signal to the whole group must leave them to serve the last step.

    They end with the process that they serve, even if that one is killed.
    """
    die_with_parent(getattr(signal, "SIGKILL", signal.SIGTERM))
    parent = multiprocessing.parent_process()
    if parent is not None and multiprocessing.get_start_method() == "fork" and os.getppid() != parent.pid:
        os._exit(1)  # it was killed before it could be watched, and torch would watch whoever took its place
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
