"""Signals and launchers that end: the training saves, ends with a code of its own, and leaves no process behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from fault_injection import in_child
from tiny_training import EXTRACTOR, write_source

from hf_contour.training import interrupts
from hf_contour.training.checkpoints import load_newest
from hf_contour.training.interrupts import (
    SIGNALS,
    StopRequest,
    TrainingInterrupted,
    exit_code,
    ignore_stop_requests,
    stop_requests,
)

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "train.py")
LAUNCHERS = {
    "python": [sys.executable, SCRIPT],
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", SCRIPT],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", SCRIPT],
}
WORDLESS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture(autouse=True)
def hangups_count():
    """Under `nohup` they are ignored, and every process that a test starts would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_while_it_is_heeded(number):
    before = signal.getsignal(number)
    with stop_requests() as request:
        request.is_heeded = True
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number
        os.kill(os.getpid(), number)  # the launcher passes on what the whole group was sent
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == number
    assert signal.getsignal(number) == before
    assert exit_code(number) == 128 + number


def test_a_second_ctrl_c_stops_at_once_if_it_is_not_the_first_passed_on(monkeypatch):
    monkeypatch.setattr(interrupts, "_SECONDS_OF_ONE_PRESS", -1.0)
    with stop_requests() as request:
        request.is_heeded = True
        os.kill(os.getpid(), signal.SIGINT)
        for number in WORDLESS:
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_before_there_is_something_to_save_a_signal_stops_at_once():
    with stop_requests() as request, pytest.raises(TrainingInterrupted, match=r"signal 15 \(SIGTERM\)") as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert (stopped.value.signal_number, request.number) == (15, 15)
    assert not isinstance(stopped.value, Exception)  # no library takes it for an error of its own


def test_a_run_that_was_told_to_survive_its_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            request.is_heeded = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launcher_that_ended_counts_as_sigterm():
    assert StopRequest(parent=os.getppid()).number == 0
    assert StopRequest(parent=os.getppid() + 1).number == signal.SIGTERM
    assert StopRequest().number == 0


@pytest.mark.parametrize("is_launched", [True, False])
def test_only_a_launched_training_is_stopped_by_the_end_of_its_parent(monkeypatch, is_launched):
    for name in interrupts._LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if is_launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    read, write = os.pipe()

    def training():
        with stop_requests() as request:
            request.is_heeded = True
            os.write(write, b"r")
            deadline = time.monotonic() + (30 if is_launched else 0.3)
            while not request.number and time.monotonic() < deadline:
                time.sleep(0.01)
            os.write(write, bytes([request.number]))

    def launcher():
        if os.fork() == 0:
            training()
        else:
            assert os.read(read, 1) == b"r"

    assert in_child(launcher) == 0
    assert os.read(read, 1)[0] == (signal.SIGTERM if is_launched else 0)
    os.close(read)
    os.close(write)


def test_loading_processes_ignore_signals_and_end_with_the_training():
    read, write = os.pipe()

    def training():
        worker = os.fork()
        if worker == 0:
            ignore_stop_requests(0)
            os.write(write, b"r")
            while True:
                time.sleep(1)
        assert os.read(read, 1) == b"r"
        for number in SIGNALS:
            os.kill(worker, number)
        time.sleep(0.05)
        os.kill(worker, 0)
        os.write(write, worker.to_bytes(4, "big"))

    assert in_child(training) == 0
    worker = int.from_bytes(os.read(read, 4), "big")
    os.close(read)
    os.close(write)
    assert wait_until(lambda: not is_running(worker), 10)


@pytest.mark.parametrize("is_orphan", [True, False])
def test_a_loading_process_that_begins_after_its_training_was_killed_ends(monkeypatch, is_orphan):
    """Between the fork and the first line of the loading process nobody watches."""
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")
    read, write = os.pipe()

    def load():
        deadline = time.monotonic() + 30
        while is_orphan and os.getppid() == multiprocessing.parent_process().pid and time.monotonic() < deadline:
            time.sleep(0.001)
        ignore_stop_requests(0)
        os.write(write, b"r")

    def training():
        worker = multiprocessing.get_context("fork").Process(target=load)
        worker.start()
        if not is_orphan:
            worker.join()

    assert in_child(training) == 0
    os.close(write)
    assert os.read(read, 1) == (b"" if is_orphan else b"r")  # nothing, once all who could write have ended
    os.close(read)


def is_running(pid):
    """Whether a process runs; the dead whom nobody has asked after do not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


class Launched:
    """A training without end, started in one of the ways of `LAUNCHERS`; all of its processes bear a mark."""

    def __init__(self, folder, launcher):
        write_source(folder / "source")
        recipe = {
            "stage": "contour", "model": EXTRACTOR, "max_steps": 10**6, "log_every": 1, "batch_size": 4, "cpu": True,
            "num_workers": 1, "torch_threads": 1, "augmentation": {"flip": 0.5},
            "data": str(folder / "source"), "output_dir": str(folder / "runs"),
        }  # fmt: skip
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        self.mark = f"HF_CONTOUR_TEST_MARK={uuid.uuid4()}"
        self.folder = folder / "runs" / "garments" / "contour"
        self.errors = folder / "errors.txt"
        environment = {**os.environ, **dict([self.mark.split("=")]), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*LAUNCHERS[launcher], "--recipe", str(folder / "recipe.yaml"), "--no_progress"],
                env=environment, stdout=errors, stderr=errors, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip

    def processes(self, *more):
        """Numbers of its processes that run, with these words too in their environment."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                words = environ.read_bytes().split(b"\0")
                if all(word.encode() in words for word in (self.mark, *more)) and is_running(environ.parent.name):
                    found.append(int(environ.parent.name))
        return found

    def steps(self):
        log = self.folder / "log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def training(self):
        """The process that trains, the first one of several."""
        return json.loads((self.folder / "status.json").read_text())["process"]

    def kill_all(self):
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(launcher):
        started.append(Launched(tmp_path, launcher))
        one = started[-1]
        assert wait_until(lambda: one.steps() >= 2 or one.process.poll() is not None, 300)
        assert one.process.poll() is None, one.errors.read_text()[-3000:]
        return one

    yield start
    for one in started:
        one.kill_all()


# Who gets the signal: the process that was started, its whole group (as from Ctrl-C), or a training process.
WAYS = [
    *(("python", "started", number) for number in SIGNALS),
    ("accelerate", "started", signal.SIGTERM),
    ("accelerate", "group", signal.SIGINT),
    ("accelerate", "started", signal.SIGUSR1),
    ("accelerate", "started", signal.SIGKILL),
    ("accelerate", "training", signal.SIGUSR1),
    ("torchrun", "started", signal.SIGTERM),
    ("torchrun", "started", signal.SIGINT),
    ("torchrun", "started", signal.SIGKILL),
    ("torchrun", "all", signal.SIGTERM),
    ("torchrun", "second training", signal.SIGUSR1),
]


def send(one, to, number):
    if to == "group":
        os.killpg(one.process.pid, number)
    elif to == "all":  # as some schedulers do
        for pid in one.processes():
            os.kill(pid, number)
    elif to == "second training":
        (second,) = [pid for pid in one.processes("RANK=1") if "train.py" in command_of(pid) and not is_worker(pid)]
        os.kill(second, number)
    else:
        os.kill(one.process.pid if to == "started" else one.training(), number)


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def is_worker(pid):
    return "pt_data_worker" in Path(f"/proc/{pid}/comm").read_text() or "pt_data" in command_of(pid)


@pytest.mark.faults
@pytest.mark.parametrize(("launcher", "to", "number"), WAYS)
def test_it_saves_and_leaves_nothing_behind(launch, record_property, launcher, to, number):
    record_property("injected", 1)
    record_property("lost", 1)
    one = launch(launcher)
    made, sent = one.steps(), time.time()
    send(one, to, number)
    assert wait_until(lambda: not one.processes(), 60), (one.processes(), one.errors.read_text()[-3000:])
    # A launcher that dies tells nobody: what the training then gets is SIGTERM.
    reason = signal.SIGTERM if (launcher == "accelerate" and to == "started") or number == signal.SIGKILL else number
    status = json.loads((one.folder / "status.json").read_text())
    assert (status["status"], status["signal"], status["exit_code"]) == ("interrupted", reason, 128 + reason)
    code = one.process.wait()
    assert code == 128 + number if launcher == "python" else code != 0
    newest = load_newest(one.folder / "checkpoints")
    assert newest.step >= made
    assert newest.step == one.steps()
    seconds = (one.folder / "checkpoints" / f"step-{newest.step:08d}" / "manifest.json").stat().st_mtime - sent
    record_property("seconds_to_save", round(seconds, 2))
    assert seconds < 60
    record_property("lost", 0)
