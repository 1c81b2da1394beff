"""Damaged, odd and hostile files: read, converted or refused, quickly and in bounded memory; never anything else."""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_corpus import (
    MAX_SECONDS,
    MUTATIONS,
    bad_files,
    bomb,
    forget_peak,
    mutated_files,
    outcome,
    peak_memory,
    plain_files,
    try_files,
)
from odd_images import ODD_IMAGES
from PIL import Image

from hf_contour.image_opening_contour import DEFAULT_MAX_PIXELS, ImageReadError, open_image

BAD_FILES = bad_files()
MEGABYTE = 2**20
NUM_MUTATED = 6000
MAX_GROWTH = 200 * MEGABYTE  # of the process that opens all mutated files, up to 2**22 pixels allowed
SERVICE_PIXELS = 2**22
BYTES_PER_PIXEL = 16  # the most that opening takes, source and result included

needs_peaks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs a Linux that tells the peak of memory"
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Pillow warns of some damage; outside of tests a warning is not an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(BAD_FILES) >= 40
    assert len(plain_files()) + len(ODD_IMAGES) >= 40
    assert len({name.split(": ")[1] for name, _ in mutated_files(1100, 0)}) >= 40
    names = [name for name, _ in mutated_files(200, 0)]
    assert names == [name for name, _ in mutated_files(200, 0)]
    assert [content for _, content in mutated_files(200, 0)] == [content for _, content in mutated_files(200, 0)]


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_read_or_refused_as_stated(kind: str) -> None:
    content, stated = BAD_FILES[kind]
    start = time.process_time()
    came = outcome(content)
    assert time.process_time() - start < MAX_SECONDS
    if stated != "either":
        assert (came == "refused") == (stated == "refused"), came


@needs_peaks
def test_some_mutated_files() -> None:
    """At least two of each mutation, at most half of the seconds and the memory of the long test."""
    count = 330
    step = NUM_MUTATED // count
    chosen = (file for number, file in enumerate(mutated_files(NUM_MUTATED, 1)) if number % step == 0)
    result = try_files(chosen, max_pixels=SERVICE_PIXELS)
    assert result["failures"] == []
    assert result["slow"] == []
    assert result["growth"] < MAX_GROWTH / 2
    assert sum(result["counts"].values()) >= count
    assert all(result["counts"].get(came, 0) > 20 for came in ("read", "converted", "refused"))


def open_elsewhere(count: int, seed: int, max_pixels: int) -> dict[str, Any]:
    """Mutated files in a process of its own, with a hard bound on its memory and its time."""
    folder = Path(__file__).parents[1]
    bound = 8 * 2**30  # of addresses, of which the libraries reserve several GB
    code = (
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, ({bound}, {bound})); "
        f"sys.argv = ['corpus', '{count}', '{seed}', '{max_pixels}']; sys.path.insert(0, {str(folder)!r}); "
        f"runpy.run_path({str(folder / 'image_corpus.py')!r}, run_name='__main__')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=1200, env=environment
    )
    assert done.returncode == 0, f"ended with {done.returncode} at {done.stderr[-2000:]}"
    return json.loads(done.stdout)


@pytest.mark.faults
@needs_peaks
@pytest.mark.parametrize("max_pixels", [SERVICE_PIXELS, DEFAULT_MAX_PIXELS])
def test_six_thousand_mutated_files(max_pixels: int, record_property: Callable[[str, object], None]) -> None:
    result = open_elsewhere(NUM_MUTATED, 2, max_pixels)
    tried = sum(result["counts"].values()) + len(result["failures"])
    record_property("injected", NUM_MUTATED)
    record_property("tried", tried)
    record_property("lost", len(result["failures"]) + len(result["slow"]))
    record_property("growth_bytes", result["growth"])
    record_property("slowest_seconds", result["slowest"])
    for came, count in result["counts"].items():
        record_property(came, count)
    assert tried == NUM_MUTATED
    assert result["failures"] == []
    assert result["slow"] == []
    assert result["growth"] < max(MAX_GROWTH, BYTES_PER_PIXEL * max_pixels)


@pytest.mark.faults
@needs_peaks
def test_every_kind_and_every_mutation(record_property: Callable[[str, object], None]) -> None:
    """All bad files and all odd ones as they are, so that the report has their number too."""
    files = {kind: content for kind, (content, _) in BAD_FILES.items()}
    files |= {kind: photo.content for kind, photo in ODD_IMAGES.items()} | plain_files()
    result = try_files(iter(files.items()))
    record_property("injected", len(files))
    record_property("tried", sum(result["counts"].values()))
    record_property("lost", len(result["failures"]) + len(result["slow"]))
    assert (result["failures"], result["slow"], len(MUTATIONS)) == ([], [], 9)
    assert result["growth"] < MAX_GROWTH


BOMB_FORMATS = ("png", "gif", "tiff", "webp", "bmp", "ppm", "jpeg", "jpeg2000", "avif")


@needs_peaks
@pytest.mark.parametrize("file_format", BOMB_FORMATS)
@pytest.mark.parametrize("side", [10_000, 14_000, 65_535])
def test_bombs_cost_neither_time_nor_memory(file_format: str, side: int) -> None:
    """100 million, 196 million and 4 thousand million pixels in a few bytes; the best of three times counts."""
    content = bomb(file_format, side)
    seconds = []
    forget_peak()
    before = peak_memory()
    for _ in range(3):
        start = time.process_time()
        with pytest.raises(ImageReadError, match=r"^bomb: .*expected "):
            open_image(content, name="bomb")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5
    assert peak_memory() - before < 20 * MEGABYTE
    assert len(content) < 10_000


@pytest.mark.parametrize("limit", [None, 1000])
def test_bombs_are_refused_whatever_pillow_allows(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for file_format in BOMB_FORMATS:
        with pytest.raises(ImageReadError, match=r"^bomb: .*expected "):
            open_image(bomb(file_format, 10_000), name="bomb")
    assert open_image(plain_files()["png"]).size == (48, 40)


@needs_peaks
@pytest.mark.faults
@pytest.mark.parametrize("kind", ["rgba", "grey_alpha", "16 bits", "float", "palette"])
def test_the_largest_allowed_image_stays_within_its_bound(kind: str, tmp_path: Path) -> None:
    """Memory of opening a quarter of the default bound, in bytes a pixel."""
    side = 4096
    shape = {"rgba": (side, side, 4), "grey_alpha": (side, side, 2)}.get(kind, (side, side))
    dtype = {"16 bits": np.uint16, "float": np.float32}.get(kind, np.uint8)
    image = Image.fromarray(np.ones(shape, dtype=dtype), mode="LA" if kind == "grey_alpha" else None)
    image = image.convert("P") if kind == "palette" else image
    path = tmp_path / ("large.tif" if kind == "float" else "large.png")
    image.save(path)
    del image
    forget_peak()
    before = peak_memory()
    assert open_image(path).size == (side, side)
    assert (peak_memory() - before) / side**2 < BYTES_PER_PIXEL
