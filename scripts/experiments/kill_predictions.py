r"""Kill predictions at random moments, and see that nothing is lost or doubled; time several processes.

    python scripts/experiments/kill_predictions.py --model exported --images FOLDER --num_files 100000 \
        --num_kills 20 --output model_cards/results/prediction_100000.json

The files are hard links to the images of FOLDER, over and over. One run is left alone: its rate, and its memory along
the way. Then, for one process, for two and for Ray (`--ways`), the command is started again and again, killed with
SIGKILL after a random time, and let run to its end at last; ids are compared with the files, and the tables with those
of the run that nothing disturbed. With `--turns`, one, two and four processes of one thread each are left alone, so
many times turn by turn: how much faster are two, and are all tables equal? Hours for 100,000 files and a large model
on two cores; minutes for 5,000.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hf_contour.inference.arguments import PredictionArguments
from hf_contour.inference.predict import predict
from hf_contour.io import library_versions, source_commit, write_json

SAMPLING = 0.5  # seconds between looks at memory
MAX_SAMPLES = 60
RAY_START = 25.0  # seconds, until its actors have opened the model
WAYS = ["one", "two", "ray"]
NUMBERS = {"one": 1, "two": 2, "four": 4}


def main() -> int:
    """Runs all trials and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num_files", type=int, default=100_000)
    parser.add_argument("--num_kills", type=int, default=20)
    parser.add_argument("--rows_per_part", type=int, default=1024)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--turns", type=int, default=0, help="times that one, two and four processes are left alone")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.images.is_dir():
        parser.error(f"{arguments.images} is no folder of images.")
    with tempfile.TemporaryDirectory(dir=arguments.images.parent) as name:
        work = Path(name)
        files = link_files(arguments.images, work / "files", arguments.num_files)
        settings = PredictionArguments(
            arguments.model,
            str(work / "undisturbed"),
            [str(work / "files")],
            rows_per_part=arguments.rows_per_part,
            cpu=True,
        )
        undisturbed = undisturbed_run(settings)
        print(undisturbed, flush=True)
        expected = tables(work / "undisturbed")
        rows: list[dict[str, Any]] = []
        content = {
            "model": Path(arguments.model).resolve().name,
            "num_files": arguments.num_files,
            "rows_per_part": arguments.rows_per_part,
            "undisturbed": undisturbed,
            "left_alone": left_alone(settings, work, arguments.turns, expected) if arguments.turns else {},
            "rows": rows,
            "versions": library_versions(),
            "commit": source_commit(),
        }
        write_json(arguments.output, content)
        for kind in arguments.ways:
            trial = killed_runs(replace(settings, output=str(work / kind)), kind, arguments.num_kills, undisturbed)
            rows.append({"processes": kind, **trial, **compare(work / kind, files, expected)})
            print(rows[-1], flush=True)
            write_json(arguments.output, content)
    return 0 if all(row["lost"] == row["doubled"] == 0 and row["tables_equal"] for row in rows) else 1


def link_files(images: Path, folder: Path, num_files: int) -> list[str]:
    """Hard links to the images, a thousand in a folder; their paths."""
    sources = sorted(path for path in images.iterdir() if path.is_file())
    paths = [folder / f"{number // 1000:03d}" / f"{number:06d}.jpg" for number in range(num_files)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % len(sources)], path)
    return [str(path) for path in paths]


def undisturbed_run(arguments: PredictionArguments) -> dict[str, Any]:
    """One process, to its end: seconds, images per second, and megabytes along the way."""
    output, started = Path(arguments.output), time.perf_counter()
    pid, first_part = start(arguments), None
    curve: list[tuple[float, float]] = []
    while lives(pid, SAMPLING):
        passed = time.perf_counter() - started
        if first_part is None and count_tables(output):
            first_part = passed
        curve.append((round(passed, 1), round(resident_megabytes(pid), 1)))
    seconds = time.perf_counter() - started
    _, status, used = os.wait4(pid, 0)
    step = -(-len(curve) // MAX_SAMPLES)
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "first_part_seconds": first_part or seconds,
        "peak_megabytes": max(megabytes for _, megabytes in curve),
        "seconds_and_megabytes": curve[::step],
        "exit_code": os.waitstatus_to_exitcode(status),
    }


def left_alone(
    arguments: PredictionArguments, work: Path, num_turns: int, expected: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """By number of processes, of one thread each: median seconds, how often that goes into one's, and equal tables."""
    seconds: dict[str, list[float]] = {name: [] for name in NUMBERS}
    equal = dict.fromkeys(NUMBERS, True)
    for _ in range(num_turns):
        for name, world_size in NUMBERS.items():
            output, started = work / name, time.perf_counter()
            trial = replace(arguments, output=str(output), num_workers=1)
            pids = [start(trial, rank, world_size) for rank in range(world_size)]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            seconds[name].append(time.perf_counter() - started)
            equal[name] &= set(codes) == {0} and tables(output) == expected
            shutil.rmtree(output)
    return {
        name: {
            "seconds": statistics.median(own),
            "times_one": statistics.median(one / mine for one, mine in zip(seconds["one"], own, strict=True)),
            "tables_equal": equal[name],
        }
        for name, own in seconds.items()
    }


def count_tables(output: Path) -> int:
    """How many tables are there."""
    return len(list(output.glob("part-*")))


def start(arguments: PredictionArguments, rank: int = 0, world_size: int = 1) -> int:
    """Runs a prediction in a process group of its own, so that a kill takes its children too; gives its number.

    A fork, which has the libraries loaded already: that takes longer than all the rest.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    code = 1
    try:
        code = predict(arguments).exit_code
    finally:
        os._exit(code)


def lives(pid: int, seconds: float) -> bool:
    """Whether a child still runs after a while; it is not waited for to its end."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.02)
    return True


def resident_megabytes(pid: int) -> float:
    """Of a process that may be gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def killed_runs(
    arguments: PredictionArguments, kind: str, num_kills: int, undisturbed: dict[str, Any]
) -> dict[str, Any]:
    """Starts and kills until there were so many kills, then lets the command end.

    Times to live are uniform from 0 to the time of the first table and a share of the whole for each kill; with Ray
    its start comes on top.
    """
    rng, started = random.Random(0), time.perf_counter()
    longest = undisturbed["first_part_seconds"] + undisturbed["seconds"] / num_kills
    longest += RAY_START if kind == "ray" else 0
    tables_at_kills: list[int] = []
    arguments = replace(arguments, engine="ray" if kind == "ray" else "local", num_workers=0 if kind == "ray" else 1)
    world_size = 2 if kind == "two" else 1
    while True:
        pids = [start(arguments, rank, world_size) for rank in range(world_size)]
        rng.shuffle(pids)
        for victim in pids if len(tables_at_kills) < num_kills else ():
            if lives(victim, rng.uniform(0, longest)):
                os.killpg(victim, signal.SIGKILL)
                tables_at_kills.append(count_tables(Path(arguments.output)))
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        if any(code > 0 for code in codes):
            raise ValueError(f"a prediction that nobody killed ended with exit codes {codes}; run it by itself.")
        if all(code == 0 for code in codes):
            kills = {"kills": len(tables_at_kills), "tables_at_kills": tables_at_kills}
            return {**kills, "seconds": time.perf_counter() - started}


def compare(output: Path, files: list[str], expected: dict[str, str]) -> dict[str, Any]:
    """Which files have no row or several, and whether the tables are those of the run without kills."""
    counts = Counter(
        name
        for path in sorted(output.glob("part-*.parquet"))
        for name in pq.read_table(path, columns=["id"]).column("id").to_pylist()
    )
    found = tables(output)
    result = {
        "rows": counts.total(),
        "lost": sum(file not in counts for file in files),
        "doubled": sum(count > 1 for count in counts.values()),
        "tables_equal": found == expected,
    }
    shutil.rmtree(output)
    return result


def tables(output: Path) -> dict[str, str]:
    """SHA-256 of each table."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.glob("part-*"))}


if __name__ == "__main__":
    sys.exit(main())
