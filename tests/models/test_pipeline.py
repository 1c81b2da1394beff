"""`pipeline("image-classification")`: images opened as in training, and other models left to their own ways."""

import base64
import http.server
import io
import logging
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features
from odd_images import ODD_IMAGES, colours, encode
from PIL import Image
from tiny_models import tiny_classifier
from transformers import (
    AutoModelForImageClassification,
    ImageClassificationPipeline,
    PretrainedConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hf_contour import ContourGenderModel
from hf_contour.data.samples import ContourSamples
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError
from hf_contour.inference.parts import Item
from hf_contour.inference.preparing import Preparation
from hf_contour.pipeline_contour import ContourImageClassificationPipeline, register_pipelines

TASK = "image-classification"
SIZE = 32
LABELS = {0: "men", 1: "women", 2: "children"}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_classifier(id2label=LABELS)


@pytest.fixture
def classify(model: torch.nn.Module) -> ContourImageClassificationPipeline:
    return pipeline(TASK, model=model, image_processor=ContourImageProcessor(size=SIZE), device="cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for kind, photo in ODD_IMAGES.items():
        (folder / kind).write_bytes(photo.content)
    return [str(folder / kind) for kind in ODD_IMAGES]


def direct_scores(model: torch.nn.Module, source: object) -> dict[str, float]:
    pixel_values = ContourImageProcessor(size=SIZE)(source, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = model(pixel_values).logits.softmax(-1)[0].tolist()
    return dict(zip(LABELS.values(), scores, strict=True))


def as_dict(results: list[dict[str, object]]) -> dict[str, object]:
    return {result["label"]: result["score"] for result in results}


def test_odd_files_give_the_training_tensor(classify: ContourImageClassificationPipeline, paths: list[str]) -> None:
    processor = ContourImageProcessor(size=SIZE)
    for path in paths:
        expected = processor(path, return_tensors="pt")["pixel_values"]
        assert torch.equal(classify.preprocess(path)["pixel_values"], expected), path
        assert torch.equal(classify.preprocess(Path(path).read_bytes())["pixel_values"], expected), path


def test_reduced_decoding_gives_one_tensor_in_training_in_use_and_in_bulk(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    processor = ContourImageProcessor(size={"height": 32, "width": 24}, reduced_decoding=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: 160 high and 120 wide once upright
    path = tmp_path / "turned.jpg"
    down, across = np.mgrid[0:120, 0:160]
    Image.fromarray(np.stack([down, across, down + across], -1).astype(np.uint8)).save(path, exif=exif)
    expected = processor(path, return_tensors="pt")["pixel_values"]
    classify = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    assert torch.equal(classify.preprocess(str(path))["pixel_values"], expected)
    preparation = Preparation(processor)
    assert torch.equal(preparation.batch([preparation.image(Item(path.name, str(path)))]), expected)
    row = {"image": {"bytes": None, "path": str(path)}, "label": 0}
    features = Features({"image": datasets.Image(decode=False), "label": ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_list([row], features=features)
    assert torch.equal(ContourSamples(rows, processor, stage="gender")[0]["pixel_values"], expected[0])


def test_scores_are_those_of_a_direct_call(
    classify: ContourImageClassificationPipeline, model: torch.nn.Module, paths: list[str]
) -> None:
    for path in paths[:4]:
        expected = direct_scores(model, path)
        results = classify(path)
        assert as_dict(results) == pytest.approx(expected, abs=1e-6)
        scores = [result["score"] for result in results]
        assert scores == sorted(scores, reverse=True)
        with Image.open(path) as image:
            assert as_dict(classify(image)) == as_dict(results)


def test_lists_generators_and_batches_agree(classify: ContourImageClassificationPipeline, paths: list[str]) -> None:
    some = paths[::5]
    alone = [as_dict(classify(path)) for path in some]
    assert [as_dict(result) for result in classify(some)] == alone
    assert [as_dict(result) for result in classify(path for path in some)] == alone
    for batched in (classify(some, batch_size=4), classify((path for path in some), batch_size=3)):
        for result, expected in zip(batched, alone, strict=True):
            assert as_dict(result) == pytest.approx(expected, abs=1e-5)


def test_top_k(classify: ContourImageClassificationPipeline, paths: list[str]) -> None:
    full = classify(paths[0])
    assert len(full) == 3
    assert classify(paths[0], top_k=1) == full[:1]
    assert classify(paths[0], top_k=50) == full


def test_unsure_images_are_left_undecided_on_request(model: torch.nn.Module, paths: list[str]) -> None:
    some = paths[::4]
    classify = pipeline(TASK, model=model, image_processor=ContourImageProcessor(size=SIZE), device="cpu")
    decided = [classify(path) for path in some]
    best = np.array(sorted(result[0]["score"] for result in decided))
    gap = int(np.diff(best).argmax())  # the widest: scores of an untrained model lie close together
    threshold = float(best[gap : gap + 2].mean())
    with pytest.raises(ValueError, match="abstain came with a model whose config has no abstain_threshold"):
        classify(some[0], abstain=True)
    model.config.abstain_threshold = threshold
    try:
        expected = [
            result if result[0]["score"] >= threshold else [{"label": None, "score": result[0]["score"]}]
            for result in decided
        ]
        assert [result[0]["label"] is None for result in expected].count(True) == gap + 1
        assert [classify(path, abstain=True) for path in some] == expected
        assert classify(some, abstain=True) == expected
        assert classify(some) == classify(some, abstain=False) == decided
        # A logit above the threshold is no confidence, and a bad image stays an error.
        sure = [result[0]["label"] is not None for result in expected]
        logits = classify([*some, b"<html></html>"], abstain=True, function_to_apply="none", top_k=1)
        assert [result[0]["label"] is not None for result in logits] == [*sure, False]
        assert ["error" in result[0] for result in logits] == [False] * len(some) + [True]
        always = pipeline(
            TASK, model=model, image_processor=ContourImageProcessor(size=SIZE), device="cpu", abstain=True
        )
        assert always(some) == expected
    finally:
        model.config.abstain_threshold = 0.0


def test_arrays_tensors_and_data_addresses(classify: ContourImageClassificationPipeline) -> None:
    array = colours()
    content = encode(Image.fromarray(array), "png")
    address = "data:image/png;base64," + base64.b64encode(content).decode()
    expected = as_dict(classify(content))
    for source in (array, torch.from_numpy(array).permute(2, 0, 1), Image.fromarray(array), address):
        assert as_dict(classify(source)) == expected
    with pytest.raises(ImageReadError, match=r"data:image/png;base64: its content is no base64"):
        classify("data:image/png;base64,????")


def test_images_in_other_wrappings(classify: ContourImageClassificationPipeline, tmp_path: Path) -> None:
    """As the stock pipeline takes them, with line breaks in base64, and some that it does not take."""
    content = encode(Image.fromarray(colours()), "png")
    expected = as_dict(classify(content))
    text = base64.encodebytes(content).decode()  # in lines of 76 letters
    (tmp_path / "shirt.png").write_bytes(content)
    with (tmp_path / "shirt.png").open("rb") as file:
        sources = [text, text.replace("\n", ""), f"data:image/png;base64,\n{text}", io.BytesIO(content), file]
        sources += [{"image": content}, {"image": {"bytes": content, "path": None}}, {"image": text}]
        assert [as_dict(classify(source)) for source in sources] == [expected] * len(sources)
    with pytest.raises(ImageReadError, match="data:text/html;base64: 13 bytes: an HTML page"):
        classify("data:text/html;base64," + base64.b64encode(b"<html></html>").decode())
    with pytest.raises(ImageReadError, match="an image came as StringIO"):
        classify(io.StringIO("text"))
    with pytest.raises(ImageReadError, match="a mapping within a mapping"):
        classify({"image": {"image": content}})


def test_unreadable_images_are_named(classify: ContourImageClassificationPipeline, tmp_path: Path) -> None:
    (tmp_path / "shirt.jpg").write_text("<html></html>")
    for source, message in ((tmp_path / "shirt.jpg", "an HTML page"), (tmp_path / "absent.jpg", "no such file")):
        with pytest.raises(ImageReadError, match=rf"{source.name}: {message}"):
            classify(str(source))


def test_addresses_are_downloaded(
    classify: ContourImageClassificationPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server of our own on this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "deep.png").write_bytes(ODD_IMAGES["deep_grey_png"].content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            assert classify(f"{address}/deep.png") == classify(str(tmp_path / "deep.png"))
            with pytest.raises(ImageReadError, match=r"absent\.png: cannot be downloaded .*404"):
                classify(f"{address}/absent.png")
        finally:
            server.shutdown()
            thread.join()


def test_a_folder_is_enough(model: torch.nn.Module, paths: list[str], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    ContourImageProcessor(size=SIZE).save_pretrained(tmp_path)
    classify = pipeline(TASK, str(tmp_path), device="cpu")
    assert type(classify) is ContourImageClassificationPipeline
    for path in paths[::9]:
        assert as_dict(classify(path)) == pytest.approx(direct_scores(model, path), abs=1e-6)


def test_registering_is_quiet_and_keeps_the_task(caplog: pytest.LogCaptureFixture) -> None:
    before = dict(PIPELINE_REGISTRY.supported_tasks[TASK])
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.DEBUG):
        register_pipelines()
        register_pipelines()
    assert caplog.records == []
    assert PIPELINE_REGISTRY.supported_tasks[TASK] == before
    assert before["pt"] == (AutoModelForImageClassification,)


def test_no_complaint_about_an_unknown_model(model: torch.nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline(TASK, model=model, image_processor=ContourImageProcessor(size=SIZE), device="cpu")
    assert "not supported" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("from_folder", [False, True])
def test_other_models_keep_exactly_the_class_of_the_task(tmp_path: Path, from_folder: bool) -> None:
    """A plain ResNet, as a model and as a folder, and what it saves."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    model, processor = ResNetForImageClassification(config).eval(), ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path / "resnet")
    processor.save_pretrained(tmp_path / "resnet")
    parts = {"model": str(tmp_path / "resnet")} if from_folder else {"model": model, "image_processor": processor}
    classify = pipeline(TASK, **parts, device="cpu")
    assert type(classify) is ImageClassificationPipeline
    path = tmp_path / "image.png"
    path.write_bytes(ODD_IMAGES["rgba_png"].content)
    theirs = ImageClassificationPipeline(model=model, image_processor=processor, task=TASK, device="cpu")
    assert classify(str(path)) == theirs(str(path))
    classify.save_pretrained(tmp_path / "saved")
    assert "custom_pipelines" not in PretrainedConfig.get_config_dict(tmp_path / "saved")[0]
    assert not list((tmp_path / "saved").glob("*.py"))


def test_embeddings_are_those_of_a_direct_call(model: torch.nn.Module, paths: list[str], tmp_path: Path) -> None:
    """By the stock task, from the classifier's folder, whatever the kind of file."""
    model.save_pretrained(tmp_path)
    processor = ContourImageProcessor(size=SIZE)
    processor.save_pretrained(tmp_path)
    embed = pipeline("image-feature-extraction", str(tmp_path), device="cpu", pool=True)
    assert type(embed.model) is ContourGenderModel
    for path in paths[::5]:
        with torch.no_grad():
            fused = model(**processor(path, return_tensors="pt"), output_hidden_states=True).hidden_states[-1]
        assert embed(path)[0] == pytest.approx(fused.mean(dim=(2, 3))[0].tolist(), abs=1e-5)


def test_deep_images_are_not_white(classify: ContourImageClassificationPipeline, paths: list[str]) -> None:
    """What the standard pipeline makes of 16 bits: nearly all white."""
    path = next(path for path in paths if path.endswith("deep_grey_png"))
    assert np.abs(classify.preprocess(path)["pixel_values"].mean().item()) < 0.5
