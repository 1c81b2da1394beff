"""A classifier meets a new shop: its head fitted anew, what it remembers, and what labelled images are worth."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from tiny_models import tiny_classifier
from tiny_training import LABEL_NAMES, as_png

from hf_contour import ContourGenderForImageClassification, ContourImageProcessor
from hf_contour.cli.main import main
from hf_contour.evaluation import adaptation
from hf_contour.evaluation.heads import Head, HeadInputs, fit_heads, head_logits, refit_heads
from hf_contour.io import replace_tensors, state_dict_sha256


def write_shop(folder, splits):
    """Red is the one class and blue the other, but for one product in ten; two views of each, as Parquet files."""
    features = Features({"image": Image(), "label": ClassLabel(names=LABEL_NAMES), "product": Value("int64")})
    for split, count in splits.items():
        rows = []
        for product in range(count // 2):
            colour = (220, 20 + 3 * product, 30) if product % 2 else (30, 20 + 3 * product, 220)
            image, label = as_png(PILImage.new("RGB", (32, 32), colour)), (product + (product % 10 == 4)) % 2
            rows += [{"image": image, "label": label, "product": product}] * 2
        folder.mkdir(exist_ok=True)
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("shops") / "shop", {"train": 40, "validation": 12, "test": 20})


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_classifier(id2label=dict(enumerate(LABEL_NAMES)), num_labels=2).save_pretrained(folder)
    ContourImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "tiny")


@pytest.fixture
def fitted_folder(model_folder, shop):
    """A classifier that is mostly right, whatever weights this release of the libraries begins with."""
    words = ["calibrate", "--model", model_folder, "--data", shop, "--split", "train", "--refit_head", "--cpu"]
    assert main([str(word) for word in words]) == 0
    return model_folder


def inputs(number, *, seed=0, num_features=3):
    """Two classes that the first feature tells apart, mostly; each image its own group."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 2
    features = torch.randn(number, num_features, generator=generator, dtype=torch.float64)
    features[:, 0] += 2.0 * labels - 1
    return HeadInputs([features], labels, np.arange(number))


def zero_head(num_features=3):
    return Head(torch.zeros(2, num_features, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 1.0)


def test_a_head_from_zero_is_logistic_regression():
    """Two rows of weights, w and -w, cost |w|^2 together: half the penalty of one row of 2w."""
    given = inputs(60)
    (head,) = fit_heads([zero_head()], given, strength=0.1)
    reference = LogisticRegression(C=2 / (0.1 * 60), tol=1e-8).fit(given.features[0].numpy(), given.labels.numpy())
    assert (head.weight[1] - head.weight[0]).numpy() == pytest.approx(reference.coef_[0], abs=1e-3)
    assert float(head.bias[1] - head.bias[0]) == pytest.approx(float(reference.intercept_[0]), abs=1e-3)


def test_a_strong_penalty_leaves_the_weights_where_they_were():
    before = Head(torch.tensor([[1.0, -2, 0], [0, 1, 1]]).double(), torch.zeros(2).double(), 1.0)
    (head,) = fit_heads([before], inputs(40), strength=1e6)
    assert torch.allclose(head.weight, before.weight, atol=1e-4)


def test_branches_share_the_logits_by_their_weight():
    given = inputs(10)
    two = HeadInputs([given.features[0], given.features[0]], given.labels, given.group_ids)
    head = Head(torch.ones(2, 3).double(), torch.ones(2).double(), 1.0)
    branch = Head(head.weight, head.bias, 0.3)
    assert torch.allclose(head_logits([head, branch], two), 1.3 * head_logits([head], given))


def test_a_head_that_is_right_already_stays_and_a_wrong_one_moves():
    right = Head(torch.tensor([[-1.0, 0, 0], [1, 0, 0]]).double(), torch.zeros(2).double(), 1.0)
    wrong = Head(-right.weight, right.bias, 1.0)
    given, fresh = inputs(80), inputs(200, seed=1)
    kept = refit_heads({"output": right}, given)
    moved = refit_heads({"output": wrong}, given)
    for found in (kept, moved):
        accuracy = (head_logits(list(found.heads.values()), fresh).argmax(1) == fresh.labels).double().mean()
        assert accuracy > 0.75
    assert moved.strength is not None
    assert moved.logits.shape == (80, 2)
    with pytest.raises(ValueError, match="at least two classes"):
        refit_heads({"output": right}, given.select(given.labels.numpy() == 0))


def test_the_head_alone_changes_and_serves_the_new_shop(model_folder, shop, capsys):
    before = load_file(model_folder / "model.safetensors")
    flags = ["--model", model_folder, "--data", shop, "--split", "train", "--group_column", "product", "--cpu"]
    assert main(["calibrate", *map(str, flags), "--refit_head", "--wanted_accuracy", "0.6"]) == 0
    assert "the head was fitted anew" in capsys.readouterr().out
    after = load_file(model_folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert after.keys() == before.keys()
    assert changed == {"classifier.output.weight", "classifier.output.bias"}
    config = json.loads((model_folder / "config.json").read_text())
    assert config["temperature"] != 1
    model = ContourGenderForImageClassification.from_pretrained(model_folder)
    assert torch.equal(model.classifier.output.weight, after["classifier.output.weight"])


def test_a_curve_shows_what_labels_are_worth_and_changes_no_model(model_folder, shop, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    flags = ["--model", model_folder, "--data", shop, "--split", "train", "--cpu", "--output", tmp_path / "curve.json"]
    command = ["calibrate", *map(str, flags), "--learning_curve", "0", "10", "40", "--wanted_accuracy", "0.8"]
    assert main([*command, "--test_split", "test"]) == 0
    points = json.loads((tmp_path / "curve.json").read_text())["points"]
    assert [point["num_samples"] for point in points] == [0, 10, 40]
    assert points[0]["strength"] is None
    assert points[2]["balanced_accuracy"] > points[0]["balanced_accuracy"] + 0.2
    low, high = points[2]["balanced_accuracy_interval"]
    assert low <= points[2]["balanced_accuracy"] <= high
    assert "| 40 |" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    assert main([*command[:-4], "99", "--test_split", "test"]) == 2
    assert "has 40 images" in capsys.readouterr().err
    assert main(command) == 2
    assert "give --test_split" in capsys.readouterr().err


def test_what_is_remembered_comes_into_the_folder(fitted_folder, shop, capsys):
    before = load_file(fitted_folder / "model.safetensors")
    flags = ["--model", fitted_folder, "--data", shop, "--familiarity", shop, "--wanted_accuracy", "0.6", "--cpu"]
    flags += ["--output", fitted_folder.parent / "figures.json"]
    assert main(["calibrate", *map(str, flags)]) == 0
    assert "40 images are remembered" in capsys.readouterr().out
    after = load_file(fitted_folder / "model.safetensors")
    assert after.keys() - before.keys() == {"familiarity.prototypes"}
    told = json.loads((fitted_folder.parent / "figures.json").read_text())["model"]["sha256"]
    saved = ContourGenderForImageClassification.from_pretrained(fitted_folder)
    assert told == state_dict_sha256(saved.state_dict()), "the file tells about the weights as they are now"
    assert all(torch.equal(after[name], before[name]) for name in before)
    model = ContourGenderForImageClassification.from_pretrained(fitted_folder)
    assert 0 < model.config.familiarity_threshold < 0.5
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3
    with torch.inference_mode():
        strange = model(noise, output_familiarity=True).familiarity
    assert strange.max() < 0.5


def test_of_many_images_some_are_looked_at(fitted_folder, shop, capsys, monkeypatch):
    monkeypatch.setattr(adaptation, "MOST_REMEMBERED_FROM", 10)
    flags = ["--model", fitted_folder, "--data", shop, "--familiarity", shop, "--wanted_accuracy", "0.6", "--cpu"]
    assert main(["calibrate", *map(str, flags)]) == 0
    assert "10 images are remembered" in capsys.readouterr().out


def test_other_tensors_of_a_file_keep_every_bit(tmp_path, saved_model):
    path = shutil.copy(saved_model / "model.safetensors", tmp_path / "model.safetensors")
    before = load_file(path)
    replace_tensors(tmp_path / "model.safetensors", {"new": torch.ones(2, dtype=torch.float64)})
    after = load_file(path)
    assert after.pop("new").dtype == torch.float32
    assert all(torch.equal(after[name], before[name]) for name in before)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.safetensors cannot be read"):
        replace_tensors(tmp_path / "bad.safetensors", {})


def test_a_model_of_several_shops_is_calibrated_on_all_of_them(fitted_folder, shop, tmp_path):
    second = write_shop(tmp_path / "second", {"validation": 8})
    joined = Dataset.from_parquet([str(folder / "validation.parquet") for folder in (shop, second)])
    joined.to_parquet(tmp_path / "joined" / "validation.parquet")
    found = []
    for data in ([str(shop), str(second)], [str(tmp_path / "joined")]):
        figures = tmp_path / "figures.json"
        words = ["calibrate", "--model", str(fitted_folder), "--dry_run", "--cpu", "--output", str(figures)]
        assert main([*words, "--data", *data]) == 0
        found.append(json.loads(figures.read_text()))
    assert found[0]["data"]["num_samples"] == 20
    assert found[0]["data"]["source"] == ["shop", "second"]
    assert found[0]["calibration"] == found[1]["calibration"]
