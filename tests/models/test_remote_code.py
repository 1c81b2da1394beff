"""Saved folders alone, in a process that cannot import this package, load and run; without trust nothing executes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from odd_images import ODD_IMAGES
from PIL import Image
from tiny_models import TIMM_CASCADE, tiny_classifier, tiny_extractor
from transformers import pipeline

import hf_contour
from hf_contour import ContourImageProcessor

BLOCKER = """
import importlib.abc, json, sys
from pathlib import Path

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_contour":
            raise ImportError("hf_contour is not installed in this test")

sys.meta_path.insert(0, Blocker())
root = Path(sys.argv[1])
"""

TRUSTING = (
    BLOCKER
    + """
import torch
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, pipeline,
)

answers = {}
for kind, folder in (("first", root), ("again", root / "again")):
    for name, auto in (
        ("extractor", AutoModel),
        ("extractor", AutoModelForPreTraining),
        ("timm_extractor", AutoModelForPreTraining),
        ("classifier", AutoModel),
        ("classifier", AutoModelForImageClassification),
    ):
        source = folder / name
        config = AutoConfig.from_pretrained(source, trust_remote_code=True)
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
        model = auto.from_pretrained(source, trust_remote_code=True)
        assert type(config).__module__.startswith("transformers_modules."), type(config)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        assert type(processor).__module__.startswith("transformers_modules."), type(processor)
        assert not model.training
        pixels = processor(str(root / "image.png"), return_tensors="pt")
        with torch.no_grad():
            outputs = model(**pixels)
        if auto is AutoModelForPreTraining:
            processor.post_process_contours(outputs, [(41, 33)])
        answers[f"{kind} {name} {auto.__name__}"] = {
            "class": type(model).__name__,
            "pixel_values": pixels["pixel_values"],
            "output": outputs["logits"] if "logits" in outputs else outputs["last_hidden_state"],
        }
        if kind == "first" and auto is not AutoModel:
            model.save_pretrained(root / "again" / name)
            processor.save_pretrained(root / "again" / name)
model = AutoModelForImageClassification.from_pretrained(root / "classifier", trust_remote_code=True)
assert not any(parameter.requires_grad for parameter in model.extractor.parameters())
model.train()(pixels["pixel_values"].expand(2, -1, -1, -1), labels=torch.tensor([0, 1])).loss.backward()
from pathlib import Path
classify = pipeline("image-classification", str(root / "classifier"), trust_remote_code=True)
embed = pipeline("image-feature-extraction", str(root / "classifier"), trust_remote_code=True, pool=True)
images = sorted(str(path) for path in root.glob("*.png"))
answers["pipeline"] = {Path(path).name: [classify(path, top_k=3), embed(path)] for path in images}
torch.save(answers, root / "answers.pt")
assert not [name for name in sys.modules if name.split(".")[0] == "hf_contour"]
"""
)

INSTALLED = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
import importlib.util
import torch
from transformers import pipeline

assert importlib.util.find_spec("hf_contour") is not None
root = Path(sys.argv[1])
answers = {}
classify = pipeline("image-classification", str(root / "classifier"), trust_remote_code=True)
embed = pipeline("image-feature-extraction", str(root / "classifier"), trust_remote_code=True, pool=True)
for path in sorted(root.glob("*.png")):
    answers[path.name] = [classify(str(path), top_k=3), embed(str(path))]
torch.save(answers, root / "installed.pt")
assert "hf_contour" not in sys.modules
"""

DISTRUSTING = (
    BLOCKER
    + """
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, pipeline,
)

for name, auto in (
    ("extractor", AutoConfig),
    ("extractor", AutoModel),
    ("extractor", AutoModelForPreTraining),
    ("extractor", AutoImageProcessor),
    ("classifier", AutoConfig),
    ("classifier", AutoModelForImageClassification),
    ("classifier", AutoImageProcessor),
):
    for trust in ({}, {"trust_remote_code": False}):
        try:
            auto.from_pretrained(root / name, **trust)
        except (OSError, ValueError) as error:
            assert "trust_remote_code" in str(error), error
        else:
            raise AssertionError(f"{auto.__name__} loaded {name} without being asked to trust it")
try:
    pipeline("image-classification", str(root / "classifier"))
except (OSError, ValueError) as error:
    assert "trust_remote_code" in str(error), error
else:
    raise AssertionError("the pipeline loaded the folder without being asked to trust it")
assert not (root / "executed").exists()
"""
)


def run_without_package(script: str, root: Path, *arguments: str) -> None:
    """Runs a script in an isolated Python, away from the Hub and with a module cache of its own."""
    environment = {**os.environ, "HF_HOME": str(root / "huggingface"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-I", "-c", script, str(root), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the models with a processor, beside an image, and the models themselves."""
    root = tmp_path_factory.mktemp("folders")
    models = {
        "extractor": tiny_extractor(side_loss_weight=0.5),
        "timm_extractor": tiny_extractor(backbone="test_resnet"),
        "classifier": tiny_classifier(extractor=TIMM_CASCADE, backbone=["test_efficientnet", "shufflenet_v2_x0_5"]),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        ContourImageProcessor(size={"height": 48, "width": 40}).save_pretrained(root / name)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (41, 33, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(root / "image.png")
    for name in ("rgba_png", "deep_grey_png"):  # which the stock pipeline opens in another way
        (root / f"{name}.png").write_bytes(ODD_IMAGES[name].content)
    return root, models


@pytest.fixture(scope="module")
def answers(folders):
    """What a process that cannot import the package made of the folders and of those that it saved from them."""
    root, _ = folders
    run_without_package(TRUSTING, root)
    return torch.load(root / "answers.pt")


def test_folders_load_and_run_without_the_package(folders, answers):
    root, models = folders
    pixels = ContourImageProcessor(size={"height": 48, "width": 40})(root / "image.png", return_tensors="pt")
    expected = {name: model(**pixels) for name, model in models.items()}
    expected["classifier"]["last_hidden_state"] = models["classifier"](
        **pixels, output_hidden_states=True
    ).hidden_states[-1]
    keys = [key for key in answers if key != "pipeline"]
    assert len(keys) == 10
    for key in keys:
        _, name, auto = key.split()
        field = "last_hidden_state" if auto == "AutoModel" else "logits"
        assert torch.equal(answers[key]["pixel_values"], pixels["pixel_values"]), key
        assert torch.equal(answers[key]["output"], expected[name][field]), key
    assert answers["first extractor AutoModel"]["class"] == "ContourExtractorModel"
    assert answers["first classifier AutoModel"]["class"] == "ContourGenderModel"


@pytest.mark.parametrize("imported", [True, False], ids=["imported", "installed and not imported"])
def test_one_file_gets_one_answer_by_each_route(folders, answers, imported):
    """The reference is the remote code of the folder alone; odd files are what the stock pipeline would differ on."""
    root, _ = folders
    if imported:
        routes = {"without trust": {}, "with trust": {"trust_remote_code": True}}
        found = {route: pipeline_answers(root, **trust) for route, trust in routes.items()}
    else:
        source = Path(hf_contour.__file__).parents[1]
        run_without_package(INSTALLED, root, str(source))
        found = {"installed": torch.load(root / "installed.pt")}
    assert len(answers["pipeline"]) == 3
    for route, by_image in found.items():
        for name, (scores, embedding) in answers["pipeline"].items():
            theirs, vector = by_image[name]
            assert [entry["label"] for entry in theirs] == [entry["label"] for entry in scores], (route, name)
            assert [e["score"] for e in theirs] == pytest.approx([e["score"] for e in scores], abs=1e-6), (route, name)
            assert vector[0] == pytest.approx(embedding[0], abs=1e-6), (route, name)


def pipeline_answers(root, **trust):
    """Scores and embeddings of the images beside the folders, by the pipelines."""
    classify = pipeline("image-classification", str(root / "classifier"), **trust)
    embed = pipeline("image-feature-extraction", str(root / "classifier"), pool=True, **trust)
    return {path.name: [classify(str(path), top_k=3), embed(str(path))] for path in sorted(root.glob("*.png"))}


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize("name", ["extractor", "timm_extractor", "classifier"])
def test_saving_from_a_folder_writes_the_same_files(folders, name):
    root, _ = folders
    first, again = root / name, root / "again" / name
    assert sorted(path.name for path in first.iterdir()) == sorted(path.name for path in again.iterdir())
    for path in first.glob("*.py"):
        assert path.read_text() == (again / path.name).read_text(), path.name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, again)]
    for config in configs:
        config.get("extractor_config", {}).pop("dtype", None)  # loading fills it in
    assert configs[0] == configs[1]


def test_without_trust_nothing_executes(folders):
    root, _ = folders
    for path in [*root.glob("*/*.py")]:
        source = path.read_text()
        sentinel = f"__import__('pathlib').Path({str(root / 'executed')!r}).touch()\n"
        path.write_text(source + sentinel)
    run_without_package(DISTRUSTING, root)
    assert not (root / "executed").exists()
