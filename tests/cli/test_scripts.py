"""The scripts on tiny models: evaluate.py, predict.py and publish.py do what their flags say."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from sklearn.metrics import accuracy_score

from hf_contour import (
    ContourExtractorConfig,
    ContourExtractorForPreTraining,
    ContourGenderForImageClassification,
)
from hf_contour.evaluation.results import read_results
from hf_contour.hub.card import CardFacts, render_card
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.inputs import find_images
from hf_contour.inference.predict import level_maps
from hf_contour.loss_contour import edge_loss

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZE = {"height": 32, "width": 32}


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *flags: object, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(str(flag) for flag in flags)])
    return load_script(name).main()


@pytest.fixture(scope="module")
def extractor_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-contours"
    torch.manual_seed(0)
    config = ContourExtractorConfig(hidden_sizes=[4, 8], depths=[1, 1], strides=[2, 2], level_channels=4)
    ContourExtractorForPreTraining(config).save_pretrained(folder)
    ContourImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier_folder(extractor_folder: Path) -> Path:
    folder = extractor_folder.parent / "tiny-garments"
    torch.manual_seed(1)
    model = ContourGenderForImageClassification.from_extractor_and_backbone(
        extractor_folder,
        "test_resnet",
        id2label={0: "men", 1: "women"},
        fusion_channels=8,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    # Scores far from one half, so that mistakes show.
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(20)
    model.save_pretrained(folder)
    ContourImageProcessor(size=SIZE).save_pretrained(folder)
    return folder


def photo(seed: int, size: tuple[int, int] = (30, 40)) -> Image.Image:
    """A few grey boxes; `size` is (height, width)."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(256, size=(5, 5, 3)), np.ones((8, 8, 1)))[: size[0], : size[1]]
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "inside").mkdir(parents=True)
    for number in range(3):
        photo(number).save(folder / f"{number}.png")
    photo(3).save(folder / "inside" / "0.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image and no name of one")
    return folder


def png_bytes(image: Image.Image, path: Path) -> dict[str, Any]:
    image.save(path)
    return {"bytes": path.read_bytes(), "path": None}


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Seven images of two classes in three groups, with a contour map each."""
    rows = []
    for number in range(7):
        contour = np.zeros((30, 40), dtype=bool)
        contour[number : number + 2] = True
        rows.append(
            {
                "image": png_bytes(photo(number), tmp_path / "image.png"),
                "contours": [png_bytes(Image.fromarray(contour), tmp_path / "contour.png")],
                "label": number % 2,
                "cluster": number // 3,
            }
        )
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "contours": datasets.List(datasets.Image(decode=False)),
            "label": datasets.ClassLabel(names=["men", "women"]),
            "cluster": datasets.Value("int32"),
        }
    )
    path = tmp_path / "data" / "test.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    return path.parent


def direct_probabilities(folder: Path, images: Sequence[Any]) -> np.ndarray:
    model = ContourGenderForImageClassification.from_pretrained(folder).eval()
    processor = ContourImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**processor([image], return_tensors="pt")).logits[0] for image in images]
    return torch.stack(logits).softmax(dim=1).numpy()


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["evaluate", "predict", "publish", "convert_backbone_weights"])
def test_help_is_printed_and_importing_does_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load_script(name)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_evaluate_classifier_writes_its_scores(
    classifier_folder: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results" / "tiny.json"
    flags = ["--model", classifier_folder, "--data", parquet, "--group_column", "cluster", "--batch_size", 3]
    run_script("evaluate", *flags, "--output", output, "--cpu", monkeypatch=monkeypatch)
    results = read_results(output)
    probs = direct_probabilities(classifier_folder, [photo(number) for number in range(7)])
    labels = [number % 2 for number in range(7)]
    assert results.scores["accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(axis=1)))
    assert results.scores["brier_score"] == pytest.approx(np.mean((probs[:, 1] - labels) ** 2), abs=1e-5)
    assert (results.scores["num_samples"], results.scores["num_groups"]) == (7, 3)
    assert results.scores["class_names"] == ["men", "women"]
    assert (results.task, results.name) == ("image-classification", "tiny-garments-data-test")
    assert results.data == {"source": "data", "config": None, "split": "test", "num_samples": 7}
    assert results.protocol["image_size"] == SIZE
    assert str(tmp_path) not in json.dumps([results.arguments, results.data, results.command])
    assert results.versions["torch"] == torch.__version__.split("+")[0]


def test_evaluate_extractor_writes_its_loss(
    extractor_folder: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tiny.json"
    run_script(
        "evaluate",
        "--model",
        extractor_folder,
        "--data",
        parquet,
        "--output",
        output,
        "--cpu",
        monkeypatch=monkeypatch,
    )
    results = read_results(output)
    model = ContourExtractorForPreTraining.from_pretrained(extractor_folder).eval()
    losses = []
    for number in range(7):
        pixels = torch.from_numpy(np.asarray(photo(number)).copy()).permute(2, 0, 1)[None] / 255
        labels = torch.zeros(1, 30, 40)
        labels[:, number : number + 2] = 1
        with torch.no_grad():
            losses.append(edge_loss(model((pixels - 0.5) / 0.5).logits[:, 0], labels).item())
    assert results.scores["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert results.task == "contour-detection"
    assert 0 <= results.scores["pixel_f1"] <= 1


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(
    classifier_folder: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", classifier_folder, "--data", parquet, "--group_column", "cluster", "--batch_size", 2, "--cpu"]
    run_script("evaluate", *flags, "--output", tmp_path / "one.json", monkeypatch=monkeypatch)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*launcher, SCRIPTS / "evaluate.py", *flags, "--output", tmp_path / "two.json"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in words], check=True, timeout=300, env=environment)
    one, two = (read_results(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert two.protocol["num_processes"] == 2
    for name in ("confusion_matrix", "num_groups", "accuracy_interval"):
        assert two.scores[name] == one.scores[name]
    assert two.scores["brier_score"] == pytest.approx(one.scores["brier_score"], abs=1e-6)
    assert two.scores["num_samples"] == 7


def test_evaluate_takes_the_drawn_garments(
    classifier_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tiny.json"
    flags = ["--model", classifier_folder, "--max_samples", 6, "--embedded_size", 40, 32, "--output", output, "--cpu"]
    run_script("evaluate", *flags, monkeypatch=monkeypatch)
    results = read_results(output)
    assert results.name == "tiny-garments-embedded-test"
    assert results.scores["num_samples"] == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group_column", "no_such"], "group_column is 'no_such'"),
        (["--split", "validation"], "has no split 'validation'"),
        (["--batch_size", "0"], "batch_size is 0"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(
    classifier_folder: Path, parquet: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    with pytest.raises((SystemExit, ValueError), match=message):
        run_script(
            "evaluate", "--model", classifier_folder, "--data", parquet, "--cpu", *flags, monkeypatch=monkeypatch
        )


def test_predict_classifies_and_skips_the_bad_image(
    classifier_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "scores.csv"
    flags = ["--model", classifier_folder, "--inputs", image_folder, "--output", output, "--batch_size", 2]
    assert run_script("predict", *flags, monkeypatch=monkeypatch) == 3
    rows = read_table(output)
    names = ["0.png", "1.png", "2.png", "inside/0.png"]
    assert [row["file"] for row in rows] == [str(image_folder / name) for name in names]
    probs = direct_probabilities(classifier_folder, [image_folder / name for name in names])
    assert [row["label"] for row in rows] == [["men", "women"][k] for k in probs.argmax(axis=1)]
    assert [float(row["score"]) for row in rows] == pytest.approx(probs.max(axis=1), abs=1e-4)
    captured = capsys.readouterr()
    assert "4 images done, 1 skipped" in captured.out
    assert "broken.jpg" in captured.err


def test_predict_writes_json_lines_of_rows(
    classifier_folder: Path, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.jsonl"
    flags = ["--model", classifier_folder, "--data", parquet, "--rows", 5, 2, "--top_k", 2, "--output", output]
    assert run_script("predict", *flags, monkeypatch=monkeypatch) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["file"].rsplit(" ", 1)[1] for row in rows] == ["5", "5", "2", "2"]
    assert rows[0]["score"] >= rows[1]["score"]
    assert rows[0]["score"] + rows[1]["score"] == pytest.approx(1, abs=1e-5)


def test_predict_draws_contours_at_the_size_of_the_image(
    extractor_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "drawn"
    flags = ["--model", extractor_folder, "--contours", "--inputs", image_folder, "--output", output]
    assert run_script("predict", *flags, monkeypatch=monkeypatch) == 3
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))
    stems = ["0", "1", "2", "inside/0"]
    assert written == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("contours", "thin"))
    model = ContourExtractorForPreTraining.from_pretrained(extractor_folder).eval()
    pixels = torch.from_numpy(np.asarray(photo(0)).copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = model((pixels - 0.5) / 0.5).logits[0, 0].sigmoid().numpy()
    soft = read_png(output / "0_contours.png")
    thin = read_png(output / "0_thin.png")
    assert soft == pytest.approx(expected * 255, abs=1)
    assert set(np.unique(thin)) <= {0, 255}
    assert (thin > 0).sum() <= (expected >= 0.5).sum()


def test_predict_draws_levels_and_the_image_only_when_asked(
    extractor_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "drawn"
    flags = ["--model", extractor_folder, "--contours", "--inputs", image_folder / "1.png", "--output", output]
    assert run_script("predict", *flags, "--levels", "--with_image", monkeypatch=monkeypatch) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "1_contours.png",
        "1_level0.png",
        "1_level1.png",
        "1_image.png",
        "1_thin.png",
    ]
    whole = read_png(output / "1_image.png")
    assert whole.shape == (30, 3 * 40, 3)
    assert np.array_equal(whole[:, :40], np.asarray(photo(1)))
    assert read_png(output / "1_level1.png").shape == (30, 40)


def test_predict_makes_large_images_small(
    extractor_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (200, 90), "white").save(tmp_path / "large.png")
    flags = ["--model", extractor_folder, "--contours", "--inputs", tmp_path / "large.png", "--max_side", 64]
    assert run_script("predict", *flags, "--levels", "--output", tmp_path / "drawn", monkeypatch=monkeypatch) == 0
    assert {read_png(path).shape for path in (tmp_path / "drawn").iterdir()} == {(90, 200)}


def test_level_maps_are_relative_mean_activation(extractor_folder: Path) -> None:
    model = ContourExtractorForPreTraining.from_pretrained(extractor_folder).eval()
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 31, 33))
    maps = level_maps(outputs, (31, 33), output_stride=2)
    assert [level.shape for level in maps] == [(31, 33)] * 2
    activation = outputs.level_features[1][0].abs().mean(dim=0)  # (16, 17)
    centre = maps[1][::2, ::2] * activation.max()
    assert torch.corrcoef(torch.stack([centre.flatten(), activation.flatten()]))[0, 1] > 0.8
    assert max(level.max().item() for level in maps) <= 1
    side = replace(outputs, side_logits=(torch.zeros(1, 1, 31, 33),))
    assert level_maps(side, (31, 33), output_stride=2)[0].unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--inputs", "no_such.png"], 2, "no_such.png is not there"),
        ([], 2, "--inputs"),
        (["--inputs", "BROKEN"], 1, "0 images done, 1 skipped"),
        (["--inputs", "BROKEN", "--contours"], 2, "expected contour_extractor"),
        (["--inputs", "BROKEN", "--levels"], 2, "add --contours"),
    ],
)
def test_exit_codes_of_predict(
    classifier_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    message: str,
) -> None:
    given = [str(image_folder / "broken.jpg") if flag == "BROKEN" else flag for flag in flags]
    shared = ["--model", classifier_folder, "--output", tmp_path / "x.csv"]
    assert run_script("predict", *shared, *given, monkeypatch=monkeypatch) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_images_of_one_name_do_not_overwrite_each_other(image_folder: Path) -> None:
    photo(0).save(image_folder / "0.bmp")
    sources = find_images([str(image_folder), str(image_folder / "inside" / "0.png")])
    stems = [source.stem for source in sources]
    assert stems == ["0", "0_2", "1", "2", "broken", "inside/0", "0_3"]
    left = find_images([str(image_folder)], outside=image_folder / "inside")
    assert all("inside" not in source.name for source in left)
    with pytest.raises(ValueError, match="holds no image"):
        find_images([str(image_folder / "inside")], outside=image_folder)


def test_publish_lists_and_checks_without_uploading(
    classifier_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--folder", classifier_folder, "--repo_id", "someone/tiny-garments"]
    (classifier_folder / "README.md").unlink(missing_ok=True)
    assert run_script("publish", *flags, monkeypatch=monkeypatch) == 1
    assert "README.md is missing" in capsys.readouterr().err
    card = render_card(classifier_folder, CardFacts(trained_on=["embedded"]), [])
    (classifier_folder / "README.md").write_text(str(card))
    assert run_script("publish", *flags, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    for name in ("model.safetensors", "modeling_contour_gender.py", "preprocessor_config.json", "--upload would send"):
        assert name in out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run_script("publish", *flags, "--upload", monkeypatch=monkeypatch) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_publish_refuses_pickles_and_missing_code(
    extractor_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in extractor_folder.iterdir():
        if path.is_file() and path.name != "modeling_contour_extractor.py":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n{{ title }}\n")
    assert run_script("publish", "--folder", folder, "--repo_id", "a/b", monkeypatch=monkeypatch) == 1
    err = capsys.readouterr().err
    for words in (
        "pytorch_model.bin is a pickle",
        "modeling_contour_extractor.py is missing",
        "says nothing about pipeline_tag",
        "a blank of the template",
    ):
        assert words in err
