"""Every code block of the guides runs, in the order of its page, in a folder that has what the page speaks of."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import yaml
from safetensors.torch import save_file

from hf_contour import (
    ContourExtractorConfig,
    ContourExtractorForPreTraining,
    ContourGenderConfig,
    ContourGenderForImageClassification,
)
from hf_contour.cli.main import COMMANDS, main
from hf_contour.data.garments.drawing import draw_garment, embedded_dataset
from hf_contour.image_processing_contour import ContourImageProcessor

ROOT = Path(__file__).resolve().parents[2]
# Pages whose blocks run on any machine; those on scale are tested where what they speak of is.
GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("own_data", "suppliers", "new_shop", "contours", "explain", "publish", "trainer")
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SHORT = {"max_steps": 2, "batch_size": 4, "warmup_steps": 0, "num_workers": 0, "progress": False}
NEEDS_NETWORK = "convert-weights"
OTHER_NAMES = {"men": "herr", "women": "dame"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each code block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def write_images(folder: Path, *, seed: int, names: dict[str, str] | None = None) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        for index in range(10 if split == "train" else 6):
            sample = draw_garment(100 * number + index, seed=seed, size=(96, 72))
            label = ("men", "women")[sample.label]
            path = folder / split / (names or {}).get(label, label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            sample.image.save(path)


def write_contours(folder: Path, maps: Path) -> None:
    """Parquet files of three splits, and for the images of `test` their own contours as maps."""
    folder.mkdir(parents=True)
    maps.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        drawn = embedded_dataset(split, num_samples=4, size=(64, 64))
        drawn.add_column("image_id", [f"{split}{index}" for index in range(4)]).to_parquet(folder / f"{split}.parquet")
    for index, row in enumerate(embedded_dataset("test", num_samples=4, size=(64, 64))):
        (maps / f"test{index}.png").write_bytes(row["contours"][0]["bytes"])


def write_models(folder: Path) -> None:
    extractor = ContourExtractorConfig(hidden_sizes=[4, 6], depths=[1, 1], strides=[2, 2], level_channels=4)
    classifier = ContourGenderConfig(
        extractor_config=extractor, backbone="test_efficientnet", id2label={0: "men", 1: "women"}, fusion_channels=8
    )
    made = {
        "extractor": ContourExtractorForPreTraining(extractor),
        "classifier": ContourGenderForImageClassification(classifier),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        ContourImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a reader works in."""
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    write_images(tmp_path / "path/to/images", seed=1)
    write_images(tmp_path / "path/to/other", seed=2, names=OTHER_NAMES)
    for split in ("train", "validation", "test"):  # a class that the page leaves out
        (tmp_path / "path/to/other" / split / "kind").mkdir()
        draw_garment(50, seed=4, size=(96, 72)).image.save(tmp_path / "path/to/other" / split / "kind" / "0.png")
    write_images(tmp_path / "path/to/third", seed=3)
    draw_garment(5, size=(120, 90)).image.save(tmp_path / "path/to/shirt.jpg")
    write_contours(tmp_path / "path/to/contours", tmp_path / "path/to/maps")
    write_models(tmp_path / "path/to")
    weights = tmp_path / "runs/weights/tf_efficientnet_lite0.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return tmp_path


def run_yaml(text: str) -> None:
    """Writes the recipe under the name in its first line, made short."""
    name = re.match(r"# (\S+\.yaml)\n", text)
    assert name, text
    recipe = {key: value for key, value in yaml.safe_load(text).items() if key != "epochs"}
    Path(name[1]).write_text(yaml.safe_dump(recipe | SHORT | {"image_size": [48, 48]}), encoding="utf-8")


def run_bash(text: str) -> None:
    """Runs each line, which has to be a command of ours that ends well."""
    for line in filter(None, text.splitlines()):
        program, command, *words = shlex.split(line, comments=True)
        assert program == "hf-contour"
        assert command in COMMANDS
        if command == NEEDS_NETWORK:
            continue
        if command == "train" and not any(word.endswith(".yaml") for word in words):
            words += ["--max_steps", "2", "--batch_size", "2", "--num_workers", "0", "--no_progress"]
        # Models of two steps guess, and for guesses calibrate refuses to find a temperature.
        assert main([command, *words]) in ((0, 2) if command == "calibrate" else (0,)), line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_of_a_guide_runs(page: Path, place: Path) -> None:
    if page.stem == "trainer":
        pytest.importorskip("peft")
    names: dict = {"__name__": page.stem}
    for language, text in blocks(page):
        match language:
            case "yaml":
                run_yaml(text)
            case "bash":
                run_bash(text)
            case "python" if "import gradio" in text:
                continue  # test_demo runs it and asks the page
            case "python":
                exec(compile(text, page.name, "exec"), names)
            case _:
                raise AssertionError(f"{page.name} has a block of {language}, which nothing runs")


def test_every_page_is_in_the_list_of_guides() -> None:
    listed = set(re.findall(r"\]\(([\w.]+)\)", (ROOT / "docs/README.md").read_text(encoding="utf-8")))
    there = {path.name for suffix in ("md", "ipynb") for path in (ROOT / "docs").glob(f"*.{suffix}")} - {"README.md"}
    assert there - listed == set()
