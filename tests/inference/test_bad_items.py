"""A bad image costs that image only: in `pipeline`, in bulk prediction and, by option, in training."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from odd_images import ODD_IMAGES, colours, encode
from PIL import Image
from tiny_models import tiny_classifier
from tiny_training import settings, write_source
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_contour.data.samples import ContourSamples, SampleBuilder, collate
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError
from hf_contour.pipeline_contour import ContourImageClassificationPipeline
from hf_contour.training.order import PlacedSamples, SampleOrder
from hf_contour.training.run import run_stage
from hf_contour.training.streams import StreamedRow, StreamedSamples

TASK = "image-classification"
SIZE = 32
CUT = ODD_IMAGES["rgb_jpeg"].content[:300]
BAD: list[Any] = [CUT, b"", b"<html></html>", "absent.png", None, 7, np.full((4, 4), np.nan), "data:image/png,??"]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_classifier(id2label={0: "men", 1: "women", 2: "children"})


@pytest.fixture
def classify(model: torch.nn.Module) -> ContourImageClassificationPipeline:
    return pipeline(TASK, model=model, image_processor=ContourImageProcessor(size=SIZE), device="cpu")


def good_images(count: int) -> list[bytes]:
    return [encode(Image.fromarray(colours(seed=seed)), "png") for seed in range(count)]


def mixed(good: list[bytes]) -> tuple[list[Any], list[int]]:
    """Good images with a bad one before, between and behind them, and the places of the good ones."""
    items: list[Any] = []
    for image, bad in zip(good, BAD, strict=True):
        items += [bad, image]
    return [*items, CUT, CUT, CUT], list(range(1, 2 * len(good), 2))


def check_results(results: list[Any], places: list[int], expected: list[Any], *, tolerance: float = 0.0) -> None:
    for place, result in enumerate(results):
        if place not in places:
            assert [set(entry) for entry in result] == [{"label", "score", "error"}]
            assert (result[0]["label"], result[0]["score"]) == (None, None)
            assert "expected" in result[0]["error"]
            continue
        wanted = expected[places.index(place)]
        assert [entry["label"] for entry in result] == [entry["label"] for entry in wanted]
        scores = [entry["score"] for entry in result]
        assert scores == pytest.approx([entry["score"] for entry in wanted], rel=0, abs=tolerance)
        assert all(set(entry) == {"label", "score"} for entry in result)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 64])
def test_good_images_keep_their_places(classify: ContourImageClassificationPipeline, batch_size: int) -> None:
    good = good_images(len(BAD))
    alone = [classify(image) for image in good]
    items, places = mixed(good)
    tolerance = 0.0 if batch_size == 1 else 1e-5
    check_results(classify(items, batch_size=batch_size), places, alone, tolerance=tolerance)
    streamed = list(classify((item for item in items), batch_size=batch_size))
    check_results(streamed, places, alone, tolerance=tolerance)


def test_a_list_of_bad_images_alone(classify: ContourImageClassificationPipeline) -> None:
    for batch_size in (1, 2, 5):
        check_results(classify([CUT, CUT, b""], batch_size=batch_size), [], [])


def test_the_reason_names_file_and_fault(classify: ContourImageClassificationPipeline, tmp_path: Path) -> None:
    (tmp_path / "shirt.jpg").write_text("<html></html>")
    (result,) = classify([str(tmp_path / "shirt.jpg")])
    assert result[0]["error"].startswith(f"{tmp_path / 'shirt.jpg'}: an HTML page; expected an image in one of JPEG")
    (result,) = classify([None])
    assert result[0]["error"].startswith("an image came as NoneType; expected a path")


def test_raise_or_report_can_be_chosen(model: torch.nn.Module, classify: ContourImageClassificationPipeline) -> None:
    with pytest.raises(ImageReadError, match="an empty file"):
        classify(b"")
    with pytest.raises(ImageReadError, match="an empty file"):
        classify([good_images(1)[0], b""], on_error="raise")
    assert "an empty file" in classify(b"", on_error="report")[0]["error"]
    assert "error" not in classify(good_images(1)[0], on_error="report")[0]
    with pytest.raises(ValueError, match=r"on_error is 'ignore'; expected one of raise, report"):
        classify(b"", on_error="ignore")
    processor = ContourImageProcessor(size=SIZE)
    strict = pipeline(TASK, model=model, image_processor=processor, device="cpu", on_error="raise")
    with pytest.raises(ImageReadError, match="an empty file"):
        strict([b""])


def test_data_sets_with_decoded_and_with_undecoded_images(classify: ContourImageClassificationPipeline) -> None:
    good = good_images(2)
    rows = [{"bytes": content, "path": None} for content in (good[0], CUT, good[1], b"text")]
    undecoded = datasets.Dataset.from_dict(
        {"image": rows}, features=datasets.Features({"image": datasets.Image(decode=False)})
    )
    decoded = undecoded.cast_column("image", datasets.Image())
    alone = [classify(image) for image in good]
    for data in (undecoded, decoded):
        for batch_size in (1, 3):
            results = list(classify(KeyDataset(data, "image"), batch_size=batch_size))
            check_results(results, [0, 2], alone, tolerance=1e-5)


def test_images_of_several_sizes_without_resizing(model: torch.nn.Module) -> None:
    """No stand-in of some size is needed: what cannot be read takes no part in the batch."""
    processor = ContourImageProcessor(do_resize=False, do_pad=False)
    classify = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    items = [encode(Image.new("RGB", size, "red"), "png") for size in ((40, 48), (64, 32))]
    alone = [classify(item) for item in items]
    check_results(classify([b"", items[0], b"", items[1]]), [1, 3], alone)
    same = [items[0], b"", items[0]]
    check_results(classify(same, batch_size=3), [0, 2], [alone[0], alone[0]], tolerance=1e-5)


def test_half_precision_and_several_labels(model: torch.nn.Module) -> None:
    several = tiny_classifier(problem_type="multi_label_classification").to(torch.bfloat16)
    classify = pipeline(TASK, model=several, image_processor=ContourImageProcessor(size=SIZE), device="cpu")
    good = good_images(2)
    alone = [classify(image) for image in good]
    check_results(classify([good[0], CUT, good[1]], batch_size=2), [0, 2], alone, tolerance=0.02)


def test_other_processors_know_no_reports(model: torch.nn.Module) -> None:
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    classify = pipeline(TASK, model=model, image_processor=processor, device="cpu")
    with pytest.raises(ValueError, match=r"on_error came with a ViTImageProcessor"):
        classify([colours()], on_error="report")


def training_rows(bad: set[int], count: int = 12) -> datasets.Dataset:
    """Rows whose label tells their number, some of them unreadable."""
    images = [
        {"bytes": CUT if number in bad else content, "path": f"{number}.png"}
        for number, content in enumerate(good_images(count))
    ]
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(num_classes=count)}
    )
    return datasets.Dataset.from_dict({"image": images, "label": list(range(count))}, features=features)


def training_samples(bad: set[int], **options: Any) -> ContourSamples:
    options = {"skip_bad_images": True, **options}
    return ContourSamples(training_rows(bad), ContourImageProcessor(size=SIZE), stage="gender", **options)


def test_training_refuses_bad_images_by_default() -> None:
    with pytest.raises(ImageReadError, match=r"row 3 \(3\.png\)"):
        training_samples({3}, skip_bad_images=False)[3]
    with pytest.raises(ImageReadError, match=r"row 3 \(3\.png\)"):
        training_samples({3}, skip_bad_images=False, cache=True)


@pytest.mark.parametrize("cache", [False, True])
def test_the_next_good_row_takes_the_place(cache: bool, caplog: pytest.LogCaptureFixture) -> None:
    samples, whole = training_samples({3, 4, 11}, cache=cache), training_samples(set())
    seen = [samples[index] for index in (*range(12), 3)]
    assert [sample["labels"] for sample in seen] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0, 5]
    assert torch.equal(seen[3]["pixel_values"], whole[5]["pixel_values"])
    skipped = samples.bad_images()
    assert list(skipped) == ["row 3 (3.png)", "row 4 (4.png)", "row 11 (11.png)"]
    assert all("damaged image" in reason for reason in skipped.values())
    messages = [record.getMessage() for record in caplog.records]
    assert len([message for message in messages if "is left out of training" in message]) == 3


def test_skipping_depends_on_no_order_workers_or_restart() -> None:
    """A sample stays a function of seed, epoch and row; rows found by a worker are known to the main process."""
    bad = {0, 5, 6}
    expected: list[torch.Tensor] = []
    for num_workers, start_step in ((0, 0), (2, 0), (1, 2)):
        samples = training_samples(bad)
        order = SampleOrder(len(samples), 3, 8, seed=7, start_step=start_step)
        loader = DataLoader(PlacedSamples(samples), batch_sampler=order, num_workers=num_workers, collate_fn=collate)
        batches = [batch["pixel_values"] for batch in loader]
        expected = expected or batches
        assert len(batches) == 8 - start_step
        assert all(torch.equal(*pair) for pair in zip(batches, expected[start_step:], strict=True))
        assert len(samples.bad_images()) == 3


def test_a_stream_leaves_bad_rows_out() -> None:
    """The next good row of the batch takes the place, or the first where none follows."""
    rows = training_rows({0, 4, 5}, 6)
    builder = SampleBuilder(ContourImageProcessor(size=SIZE), "gender", rows.features, num_samples=None)
    places = [StreamedRow(0, index, row) for index, row in enumerate(rows)]
    samples = StreamedSamples(builder, skip_bad_images=True)
    assert [sample["labels"] for sample in samples.__getitems__(places)] == [1, 1, 2, 3, 1, 1]
    assert list(samples.bad_images()) == ["row 0 (0.png)", "row 4 (4.png)", "row 5 (5.png)"]
    with pytest.raises(ImageReadError, match="none of the 2 rows of a batch has an image that can be read"):
        samples.__getitems__(places[4:])
    with pytest.raises(ImageReadError, match=r"row 0 \(0.png\)"):
        StreamedSamples(builder)[places[0]]


def test_nothing_but_bad_images_is_an_error() -> None:
    with pytest.raises(ImageReadError, match=r"none of the 12 rows has an image that can be read.*row 0"):
        training_samples(set(range(12)))[5]


def test_a_training_goes_on_without_its_bad_images_by_option(tmp_path: Path) -> None:
    def broken(number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "image": {"bytes": CUT, "path": f"{number}.png"}} if number in (3, 8) else row

    data = str(write_source(tmp_path / "source", change=broken))
    with pytest.raises(ImageReadError, match=r"row 3 \(3\.png\)"):
        run_stage(settings(tmp_path, "contour", data=data, run_name="stops", cache=True))
    results = run_stage(settings(tmp_path, "contour", data=data, run_name="skips", on_bad_image="skip"))
    assert list(results["data"]["bad_images"]) == ["row 3 (3.png)", "row 8 (8.png)"]
    assert results["training"]["steps"] == 12
