"""`hf-contour train PATH`: from a folder, a csv or a Parquet file to a measured classifier; what cannot be is said."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import timm
import yaml
from commands import run
from huggingface_hub import constants
from own_images import write_class_folders
from PIL import Image
from safetensors.torch import save_file

from hf_contour.cli.own_data import find_data
from hf_contour.cli.own_recipe import write_recipe
from hf_contour.data.garments.drawing import draw_garment
from hf_contour.data.sources import load_source
from hf_contour.hub import starting_parts
from hf_contour.training.choosing import choose_recipe, fitting_image_size

MODEL = json.dumps({"contour_levels": None, "head_grid": [2, 2]})
TINY = ["--backbone", "test_resnet", "--model", MODEL, "--image_size", "32", "32", "--epochs", "2", "--no_progress"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and the weights of a network, which every test gets a copy of."""
    folder = tmp_path_factory.mktemp("drawn")
    write_class_folders(folder / "images", per_class=10, copies=1)
    weights = folder / "runs/weights/test_resnet.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    return folder


@pytest.fixture
def place(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and weights, in which the command runs; the Hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.mark.filterwarnings("ignore")
def test_a_class_folder_is_all_it_needs(place, extractor_folder, capsys):
    command = ["train", "images", *TINY, "--extractor", extractor_folder, "--cpu", "--torch_threads", "1"]
    assert run(*command) == 0
    shown = capsys.readouterr().out
    stage = place / "runs/images/gender"
    for line in (
        "0 errors",
        "4 of 22 images are held out",
        "recipe: own_frozen, since there are 18 images to train on, device cpu",
        "ImageNet weights of test_resnet: runs/weights/test_resnet.safetensors",
        "calibration: ",
        "figures of the split validation, 4 images:",
        "worst mistakes: runs/images/gender/mistakes.png",
        "first image of validation: ",
        "classify an image: hf-contour explain IMAGE --model runs/images/gender/model",
    ):
        assert line in shown, line
    results = json.loads((stage / "evaluations/images-validation.json").read_text())
    assert results["data"]["num_samples"] == 4
    assert len(results["scores"]["accuracy_interval"]) == 2
    assert results["command"].startswith("hf-contour train images --backbone test_resnet")
    assert (stage / "evaluations/images-validation.html").is_file()
    card = (stage / "model/README.md").read_text()
    assert "images" in card
    assert "widget" not in card  # there is no image beside it
    with Image.open(stage / "mistakes.png") as image:
        assert image.width == 10 + 6 * 160
    settings = json.loads((stage / "results.json").read_text())["arguments"]
    assert (settings["epochs"], settings["image_size"], settings["train_parts"]) == (2, [32, 32], "head")
    assert run("explain", place / "images/men/0.png", "--model", stage / "model") == 0
    capsys.readouterr()
    assert run(*command) == 0  # goes on with what is there
    assert "finished before" in capsys.readouterr().err


def as_csv(folder: Path) -> Path:
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["image", "kind"])
        rows.writerows([f"images/{one.parent.name}/{one.name}", one.parent.name] for one in folder.glob("images/*/*"))
    return path


def as_parquet(folder: Path) -> Path:
    rows = load_source(folder / "images").rename_column("label", "kind")
    cells = [{"bytes": Path(cell["path"]).read_bytes(), "path": None} for cell in rows["image"]]
    rows = rows.remove_columns("image").add_column("image", cells)
    rows.to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


@pytest.mark.parametrize("write", [as_csv, as_parquet])
def test_tables_are_read_with_the_columns_that_flags_name(place, write, said):
    table = write(place)
    data = find_data(str(table), {"label_column": "kind"}, place / "run", say=said.append)
    assert (data.num_train, data.scored_split) == (18, "validation")
    held = load_source(data.settings["data"], split="validation")
    assert held.features["label"].names == ["men", "women"]
    assert data.settings["label_column"] == "label"  # as the rows that were written down have it
    assert "4 of 22 images are held out" in said[1]


def test_splits_of_the_data_are_kept(place, said):
    for split in ("train", "val", "test"):
        write_class_folders(place / "split" / split, seed=len(split))
    data = find_data("split", {}, place / "run", say=said.append)
    assert (data.settings["data"], data.settings["validation_split"], data.scored_split) == (
        "split",
        "validation",
        "test",
    )
    assert not (place / "run").exists()
    shutil.rmtree(place / "split/val")
    data = find_data("split", {}, place / "run", say=said.append)
    assert data.scored_split == "test"
    assert len(load_source(data.settings["data"], split="test")) == 12  # as it was


def test_an_unlabelled_test_folder_is_said_and_left_alone(place, said):
    write_class_folders(place / "split/train")
    (place / "split/test").mkdir()
    draw_garment(0, seed=99, size=(96, 72)).image.save(place / "split/test/unknown.png")
    data = find_data("split", {}, place / "run", say=said.append)
    assert "split_unlabelled" in said[0]
    assert data.scored_split == "validation"


def empty(folder: Path) -> str:
    (folder / "nothing").mkdir()
    return "nothing"


def one_class(folder: Path) -> str:
    shutil.copytree(folder / "images/men", folder / "one/men")
    return "one"


def scarce_class(folder: Path) -> str:
    (folder / "images/other").mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "images/other/0.png")
    return "images"


def only_unlabelled(folder: Path) -> str:
    shutil.copytree(folder / "images/men", folder / "only/test")
    return "only"


def broken(folder: Path) -> str:
    (folder / "images/men/0.png").write_bytes(b"no image")
    return "images"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "nothing"),
        (one_class, "one has one class, 'men'; a classifier tells two or more apart"),
        (scarce_class, "the class 'other' has 1 image; to train and to measure it takes two that differ"),
        (only_unlabelled, "only has no labelled split 'train' to train on, only test"),
        (broken, "image_unreadable"),
        (lambda folder: "absent", "absent is not there; expected a folder with a folder of images for each class"),
        (lambda folder: "gender_myntra", "gender_myntra is not there"),
    ],
)
def test_data_that_cannot_be_is_said_before_anything_is_trained(place, make, message, capsys):
    path = make(place)
    assert run("train", path, "--no_progress") == 2
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
    assert not (place / "runs" / path / "gender").exists()
    assert len([line for line in shown.err.splitlines() if line.startswith("error: ")]) <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "other"], "PATH and --data both name the data"),
        (["--streaming"], "--streaming spares"),
        (["--stage", "contour"], "PATH alone trains a classifier, and --stage is contour"),
        (["--recipe", "recipes/absent.yaml"], "none of the package"),
        (["--recipe", "contour_tiny"], "trains contours, and PATH alone a classifier"),
        (["--epoch", "3"], "nearest: epochs"),
    ],
)
def test_contradictions_are_said(place, flags, message, capsys):
    assert run("train", "images", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (place / "runs/images/gender").exists()


def written(place: Path, extractor: Path, said: list[str], **given) -> dict:
    given = {"extractor": str(extractor), "backbone": ["test_resnet"], **given}
    data = find_data("images", given, place / "run", say=said.append)
    path = write_recipe(data, given, place / "run", device="cpu", say=said.append)
    return yaml.safe_load(path.read_text())


def test_a_flag_changes_only_what_it_names(place, extractor_folder, said):
    recipe = written(place, extractor_folder, said)
    assert recipe["feature_cache"] == str(place / "run/features")
    assert recipe["backbone_weights"] == ["runs/weights/test_resnet.safetensors"]
    assert recipe["model"]["fusion"] == "late"
    assert "feature_cache" not in written(place, extractor_folder, said, augmentation='{"flip": 0.5}')
    named = written(place, extractor_folder, said, recipe="gender_myntra")
    assert (named["data_config"], named["epochs"], named["model"]["fusion"]) == (None, 4, "concat_conv")
    assert named["data"] == str(place / "run/data")
    assert written(place, extractor_folder, said, validation_split=None)["data"] == "images"


def test_parts_that_are_nowhere_are_named(place, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"ImageNet weights of resnet18 were not found: no package brings them; "
    ):
        starting_parts.find_backbone_weights("resnet18")
    monkeypatch.setattr(starting_parts, "EXTRACTOR", "absent")
    with pytest.raises(FileNotFoundError, match=r"the Hub cannot be reached\. Give --extractor FOLDER"):
        starting_parts.find_extractor()


@pytest.mark.parametrize(
    ("number", "device", "recipe"),
    [
        (400, "cpu", "own_frozen"),
        (3000, "cpu", "own_trained"),
        (400, "cuda", "own_frozen"),
        (1000, "cuda", "own_trained"),
    ],
)
def test_the_recipe_suits_data_and_device(number, device, recipe):
    choice = choose_recipe(number, device=device)
    assert choice.recipe == recipe
    assert choice.reason.startswith(f"{number:,} images to train on, device {device}: ")


def test_images_keep_their_shape():
    assert fitting_image_size([224, 168], aspect=4 / 3) == [224, 168]
    assert fitting_image_size([224, 168], aspect=1) == [192, 192]
    assert fitting_image_size([224, 168], aspect=0.2) == [160, 240]
