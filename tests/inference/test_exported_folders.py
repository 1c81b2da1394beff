"""An exported folder gives PyTorch's answers, takes any batch, and refuses other sizes; prediction reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from prediction_images import image_bytes
from tiny_models import tiny_extractor

from hf_contour import ContourGenderForImageClassification
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.arguments import ExportArguments, PredictionArguments
from hf_contour.inference.classification import Classification
from hf_contour.inference.export import export
from hf_contour.inference.parts import Item
from hf_contour.inference.predict import predict
from hf_contour.inference.quantisation import refuse_other_labels
from hf_contour.inference.runtimes import TorchRuntime, load_runtime


@pytest.fixture(scope="module")
def onnx_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(ExportArguments(model=str(model_folder), output=str(folder)))
    return folder


def check_answers(model_folder: Path, exported: Path) -> None:
    ours, theirs = TorchRuntime(model_folder, torch.device("cpu")), load_runtime(exported, torch.device("cpu"))
    for batch_size in (1, 2, 5):
        pixels = torch.randn(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(batch_size))
        expected, answers = ours(pixels), theirs(pixels)
        assert list(answers) == ["logits", "embeddings"]
        for name, values in expected.items():
            assert answers[name] == pytest.approx(values, abs=1e-4 * max(1.0, float(np.abs(values).max())))
    with pytest.raises(ValueError, match=r"takes images of 32x32; 40x32 came"):
        theirs(torch.zeros(1, 3, 40, 32))


def test_onnx_answers_as_pytorch_and_says_what_it_is(model_folder: Path, onnx_folder: Path) -> None:
    check_answers(model_folder, onnx_folder)
    names = {"model.onnx", "export.json", "config.json", "preprocessor_config.json"}
    assert {path.name for path in onnx_folder.iterdir()} == names
    described = json.loads((onnx_folder / "export.json").read_text())
    assert (described["format"], described["size"], described["dtype"]) == ("onnx", [32, 32], "float32")
    config = json.loads((onnx_folder / "config.json").read_text())
    assert list(config["id2label"].values()) == ["men", "women", "children"]
    assert config["abstain_threshold"] == 0.9


@pytest.mark.parametrize("form", ["torchscript", pytest.param("openvino", marks=pytest.mark.slow)])
def test_other_formats_answer_as_pytorch(model_folder: Path, tmp_path: Path, form: str) -> None:
    if form == "openvino":
        pytest.importorskip("openvino")
    export(ExportArguments(model=str(model_folder), output=str(tmp_path / form), format=form))
    check_answers(model_folder, tmp_path / form)


def test_prediction_reads_an_export(model_folder: Path, onnx_folder: Path, images: Path, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    for model in (model_folder, onnx_folder):
        output = tmp_path / model.name
        arguments = PredictionArguments(model=str(model), output=str(output), inputs=[str(images)], cpu=True)
        assert predict(arguments).num_errors == 1
        found.append(pq.read_table(output / "part-000000.parquet").to_pydict())
    for name in ("id", "label", "abstained", "error"):
        assert found[0][name] == found[1][name]
    assert found[1]["score"][:-1] == pytest.approx(found[0]["score"][:-1], abs=1e-3)


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_familiarity_is_told_by_the_model_and_by_its_export(model_folder: Path, tmp_path: Path, form: str) -> None:
    model = ContourGenderForImageClassification.from_pretrained(model_folder)
    processor = ContourImageProcessor.from_pretrained(model_folder)
    items = [Item(str(seed), image_bytes(seed)) for seed in range(12)]
    pixels = processor([item.content for item in items], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.familiarity_features(pixels)
        model.fit_familiarity(features[:6], features[3:9], num_prototypes=6)
        expected = model.eval()(pixels, output_familiarity=True).familiarity.tolist()
    model.config.abstain_threshold = 0.0
    threshold = model.config.familiarity_threshold = sum(sorted(expected)[4:6]) / 2
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    described = export(ExportArguments(model=str(tmp_path / "model"), output=str(tmp_path / form), format=form))
    assert described["outputs"] == ["logits", "embeddings", "familiarity"]
    for folder in (tmp_path / "model", tmp_path / form):
        classify = Classification(folder)
        assert list(classify.columns) == ["id", "label", "score", "familiarity", "abstained", "error"]
        rows = classify([*items, Item("damaged", b"<html></html>")])
        assert [row["familiarity"] for row in rows[:-1]] == pytest.approx(expected, abs=1e-3)
        assert [row["abstained"] for row in rows[:-1]] == [row["familiarity"] < threshold for row in rows[:-1]]
        assert {row["abstained"] for row in rows[:-1]} == {True, False}
        assert (rows[-1]["familiarity"], rows[-1]["abstained"]) == (None, None)


def test_what_cannot_be_exported_is_refused(model_folder: Path, onnx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is there already"):
        export(ExportArguments(model=str(model_folder), output=str(onnx_folder)))
    with pytest.raises(ValueError, match="is an export itself"):
        export(ExportArguments(model=str(onnx_folder), output=str(tmp_path / "again")))
    with pytest.raises(ValueError, match=r"size is \[40, 40\], but the processor brings images to \[32, 32\]"):
        export(ExportArguments(model=str(model_folder), output=str(tmp_path / "other"), size=[40, 40]))
    tiny_extractor().save_pretrained(tmp_path / "extractor")
    ContourImageProcessor(do_resize=False, do_pad=False).save_pretrained(tmp_path / "extractor")
    with pytest.raises(ValueError, match="a program takes one; name it with --size"):
        export(ExportArguments(model=str(tmp_path / "extractor"), output=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".unfinished*"))


def test_eight_bits_that_change_labels_are_refused() -> None:
    floats = np.tile(np.array([[0.0, 1.0]]), (100, 1))
    integers = floats.copy()
    integers[:2] = integers[:2, ::-1]
    refuse_other_labels(floats, integers)  # 2 of 100 may
    integers[2] = integers[2, ::-1]
    with pytest.raises(ValueError, match="3 of 100 calibration images get another label"):
        refuse_other_labels(floats, integers)


def test_too_few_images_to_calibrate_on_are_refused(model_folder: Path, images: Path, tmp_path: Path) -> None:
    settings = ExportArguments(
        model=str(model_folder), output=str(tmp_path / "int8"), calibration=[str(images / "00.png")]
    )
    with pytest.raises(ValueError, match="1 images to calibrate on"):
        export(settings)
    with pytest.raises(ValueError, match="8-bit integers of onnx alone"):
        ExportArguments(model="m", output="o", calibration=["x"], format="openvino")


def test_the_example_of_the_documentation_needs_no_package_of_ours(onnx_folder: Path, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "bulk_prediction.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[-1].split("```")[0]
    assert len(code.strip().splitlines()) <= 25
    names: dict[str, Any] = {}
    exec(code.replace('"exported"', repr(str(onnx_folder))), names)
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "photo.png")
    label, score, abstains = names["classify"](str(tmp_path / "photo.png"))
    (row,) = Classification(onnx_folder)([Item("photo", str(tmp_path / "photo.png"))])
    assert (label, abstains) == (row["label"], row["abstained"])
    assert score == pytest.approx(row["score"], abs=1e-4)
