"""Signals that ask a training to save and leave."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what schedulers send before they kill; what clusters send ahead of the end of a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """The first signal that asked this process to stop, `number` 0 while there is none."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Notes the signal; the same signal again acts as it would without us, for those who cannot wait."""
        if not self.number:
            self.number = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Listens for `SIGNALS` while the block runs. Only the main thread of a process can."""
    request = StopRequest()
    previous = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_code(number: int) -> int:
    """The exit code of a process that a signal ended, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def ignore_stop_requests(worker: int) -> None:
    """For processes that load samples: a signal to the whole group must leave them to serve the last step.

    They end with the process that they serve.

    Args:
        worker: its number, as `DataLoader` passes it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
