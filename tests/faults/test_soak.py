"""Long runs and several at a time: memory and file handles stay, and answers are those of a single caller."""

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from odd_images import colours, encode
from PIL import Image
from tiny_models import tiny_classifier
from tiny_training import settings, write_source
from transformers import pipeline

from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.pipeline_contour import ContourImageClassificationPipeline
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.run import run_stage

TASK = "image-classification"
SIZE = 32
MEGABYTE = 2**20
MAX_GROWTH = 5 * MEGABYTE
Record = Callable[[str, object], None]

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs a Linux that tells memory")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, with images beside it."""
    folder = tmp_path_factory.mktemp("soak")
    tiny_classifier(id2label={0: "men", 1: "women", 2: "children"}).save_pretrained(folder / "model")
    ContourImageProcessor(size=SIZE).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    for number in range(12):
        name = folder / "images" / f"{number:02}.{('png', 'jpeg', 'webp')[number % 3]}"
        name.write_bytes(encode(Image.fromarray(colours(seed=number)).resize((SIZE, SIZE)), name.suffix[1:]))
    return folder


@pytest.fixture
def classify(folder: Path) -> ContourImageClassificationPipeline:
    return pipeline(TASK, str(folder / "model"), device="cpu")


def images(folder: Path) -> list[str]:
    return sorted(str(path) for path in (folder / "images").iterdir())


def resident() -> int:
    """Bytes of memory that this process holds now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def call_often(
    classify: ContourImageClassificationPipeline, paths: list[str], *, count: int, warm_up: int
) -> tuple[int, int, int]:
    """Calls with a path, bytes, a Pillow image or a bad file in turn.

    Returns:
        Growth in bytes after the warm-up, file handles more than then, and answers that differ from the first ones.
    """
    expected: dict[str, Any] = {}
    wrong = 0
    before, handles = 0, 0
    for number in range(warm_up + count):
        if number == warm_up:
            before, handles = resident(), open_files()
        path = paths[number % len(paths)]
        kind = number % 4
        if kind == 3:
            wrong += "error" not in classify([b"\xff\xd8\xff broken"])[0][0]
            continue
        result = classify(path if kind == 0 else Path(path).read_bytes() if kind == 1 else Image.open(path))
        wrong += result != expected.setdefault(path, result)
    return resident() - before, open_files() - handles, wrong


@needs_proc
def test_two_hundred_calls_hold_no_files(classify: ContourImageClassificationPipeline, folder: Path) -> None:
    growth, handles, wrong = call_often(classify, images(folder), count=160, warm_up=40)
    assert (handles, wrong) == (0, 0)
    assert growth < MAX_GROWTH


@pytest.mark.faults
@needs_proc
def test_ten_thousand_calls(
    classify: ContourImageClassificationPipeline, folder: Path, record_property: Record
) -> None:
    growth, handles, wrong = call_often(classify, images(folder), count=10_000, warm_up=1000)
    record_property("tried", 10_000)
    record_property("injected", 2500)
    record_property("lost", wrong)
    record_property("growth_bytes", growth)
    record_property("handles", handles)
    assert (handles, wrong) == (0, 0)
    assert growth < MAX_GROWTH


@pytest.mark.faults
@needs_proc
def test_fifty_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record) -> None:
    """Memory at each evaluation: what the second half of the training adds."""
    write_source(tmp_path / "source", train=8, validation=4)
    sizes: list[int] = []
    evaluate = TrainingLoop.evaluate

    def measured(self: TrainingLoop, split: str) -> dict[str, Any]:
        sizes.append(resident())
        return evaluate(self, split)

    monkeypatch.setattr(TrainingLoop, "evaluate", measured)
    handles = open_files()
    run_stage(settings(tmp_path, "contour", epochs=50, convergence_window=100))
    record_property("tried", 50)
    record_property("growth_bytes", sizes[-1] - sizes[len(sizes) // 2])
    record_property("lost", 0)
    assert len(sizes) >= 50
    assert sizes[-1] - sizes[len(sizes) // 2] < MAX_GROWTH
    assert open_files() - handles <= 2


def in_threads(
    classify: ContourImageClassificationPipeline, paths: list[str], *, threads: int, rounds: int
) -> tuple[int, int]:
    """Several threads on one pipeline, each in an order of its own.

    Returns:
        Calls made, and those whose answer was not that of a single caller.
    """
    expected = {path: classify(path) for path in paths}
    differing: list[str] = []
    done: list[int] = []
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        for step in range(rounds * len(paths)):
            path = paths[(step * (number + 1) + number) % len(paths)]
            if step % 5 == 4:
                good, bad = classify([path, b"broken"], batch_size=2)
                same = "error" in bad[0] and [one["label"] for one in good] == [one["label"] for one in expected[path]]
            else:
                same = classify(path) == expected[path]
            done.append(number)
            if not same:
                differing.append(path)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(done), len(differing)


def test_threads_get_the_answers_of_one(classify: ContourImageClassificationPipeline, folder: Path) -> None:
    assert in_threads(classify, images(folder)[:6], threads=8, rounds=1) == (48, 0)


@pytest.mark.faults
def test_eight_threads_for_long(
    classify: ContourImageClassificationPipeline, folder: Path, record_property: Record
) -> None:
    made, differing = in_threads(classify, images(folder), threads=8, rounds=20)
    record_property("tried", made)
    record_property("lost", differing)
    assert (made, differing) == (8 * 20 * 12, 0)


READER = """
import json, sys
import torch
from transformers import pipeline
import hf_contour
torch.set_num_threads(1)
classify = pipeline("image-classification", sys.argv[1], device="cpu")
print(json.dumps([classify(path) for path in sys.argv[2:]]))
"""


@pytest.mark.faults
def test_four_processes_read_one_folder(
    classify: ContourImageClassificationPipeline, folder: Path, record_property: Record
) -> None:
    paths = images(folder)
    command = [sys.executable, "-c", READER, str(folder / "model"), *paths]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    readers = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    answers = [json.loads(reader.communicate(timeout=600)[0]) for reader in readers]
    expected = [classify(path) for path in paths]
    record_property("tried", 4 * len(paths))
    record_property("lost", sum(answer != expected for answer in answers))
    assert [reader.returncode for reader in readers] == [0] * 4
    assert answers == [expected] * 4
