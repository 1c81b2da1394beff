"""Ray deals the same parts out: equal tables, also when an actor is killed in the middle."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from test_predict import settings, tables

from hf_contour.inference.predict import predict

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # Ray's own, of its coming defaults
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def actor_pids() -> list[int]:
    """Processes of Ray that write parts."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::") and b"PartActor" in command:
                found.append(int(entry.name))
    return found


def kill_an_actor(output: Path, killed: list[int]) -> None:
    """Kills one as soon as the first table is there."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list(output.glob("part-*")):
        time.sleep(0.05)
    for pid in actor_pids()[:1]:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


def test_an_actor_killed_in_the_middle_loses_nothing(
    model_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(settings(model_folder, tmp_path / "local", images, rows_per_part=1))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a busy machine
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    killed: list[int] = []
    killer = threading.Thread(target=kill_an_actor, args=(tmp_path / "ray", killed))
    killer.start()
    try:
        report = predict(settings(model_folder, tmp_path / "ray", images, rows_per_part=1, engine="ray"))
    finally:
        killer.join()
        ray.shutdown()
    assert len(killed) == 1
    assert report.num_finished == report.num_parts == 23
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")
