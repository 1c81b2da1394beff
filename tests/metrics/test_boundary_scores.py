"""The boundary benchmark in use: as a folder of `evaluate`, on ready-made maps, in an evaluation, and as an image."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import draw_boundary_curves as draw_boundary_curves_script
import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from draw_boundary_curves import benchmark_curve, draw_boundary_curves
from markdown_tables import read_table
from odd_images import encode
from PIL import Image as PILImage
from tiny_models import tiny_extractor

import hf_contour.metrics.boundary_scores as evaluate_folder
from hf_contour.data.sources import load_source
from hf_contour.evaluation.arguments import EvaluationArguments
from hf_contour.evaluation.results import read_results, write_results
from hf_contour.evaluation.run import evaluate as evaluate_model
from hf_contour.hub.card_tables import results_table
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.metrics.boundary.edge_maps import count_edge_maps, maps_in_folder, maps_in_parquet, read_edge_map
from hf_contour.metrics.boundary.scores import count_matches, edge_scores, protocol

FOLDER = str(Path(evaluate_folder.__file__).parent)


def images(number: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps of different sizes, in steps of 1 / 255, with two annotators who agree in part."""
    rng = np.random.default_rng(4)
    found = []
    for index in range(number):
        size = (24 + 2 * index, 36 - 3 * index)
        drawn = np.zeros((2, *size), bool)
        drawn[:, 8 + index], drawn[1, :, 12] = True, True
        probs = np.clip(0.7 * drawn.mean(axis=0) + 0.4 * rng.random(size), 0, 1)
        found.append((np.round(255 * probs) / 255, drawn))
    return found


def encoded(array: np.ndarray) -> bytes:
    return encode(PILImage.fromarray(array), "png")


def source_of(found: list[tuple[np.ndarray, np.ndarray]], *, ids: bool = True) -> Dataset:
    rows = [
        {
            **({"image_id": str(index)} if ids else {}),
            "image": {"bytes": encoded(np.zeros((*drawn.shape[1:], 3), np.uint8)), "path": f"{index}.png"},
            "contours": [{"bytes": encoded(one), "path": None} for one in drawn],
        }
        for index, (_, drawn) in enumerate(found)
    ]
    features = {"image": Image(decode=False), "contours": List(Image(decode=False))}
    return Dataset.from_list(rows, features=Features({"image_id": Value("string")} | features if ids else features))


def test_evaluate_loads_the_folder(tmp_path: Path) -> None:
    metric = evaluate.load(FOLDER, cache_dir=str(tmp_path))
    found = images()
    metric.add_batch(predictions=[probs for probs, _ in found[:2]], references=[drawn for _, drawn in found[:2]])
    metric.add(prediction=found[2][0], reference=found[2][1])
    scores = metric.compute()
    expected = edge_scores([count_matches(*one) for one in found]).to_dict()
    assert scores == expected | {"protocol": protocol(), "num_annotations": 6}
    assert scores["ods"] > 0.5
    json.dumps(scores, allow_nan=False)


def test_evaluate_takes_thin_maps_and_another_distance(tmp_path: Path) -> None:
    metric = evaluate.load(FOLDER, "thin", max_dist=0.02, cache_dir=str(tmp_path))
    found = images()
    scores = metric.compute(predictions=[probs for probs, _ in found], references=[drawn for _, drawn in found])
    expected = edge_scores([count_matches(*one, max_dist=0.02, nms=False) for one in found])
    assert scores["ods"] == expected.ods
    assert scores["protocol"]["max_dist"] == 0.02
    with pytest.raises(ValueError, match="configuration is 'sharp'"):
        evaluate.load(FOLDER, "sharp", cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        metric.add_batch(predictions=[found[0][0]], references=[drawn for _, drawn in found[:2]])


@pytest.mark.parametrize("kind", ["png", "npy", "parquet"])
def test_ready_made_maps_are_scored(tmp_path: Path, kind: str) -> None:
    found = images()
    rows = []
    for index, (probs, _) in enumerate(found):
        buffer = io.BytesIO()
        np.save(buffer, probs)
        rows.append({"image_id": str(index), "boundary_map_npy": buffer.getvalue()})
        image = encoded(np.round(255 * probs).astype(np.uint8))
        if kind != "parquet":
            (tmp_path / f"{index}.{kind}").write_bytes(image if kind == "png" else buffer.getvalue())
    Dataset.from_list(rows[::-1]).to_parquet(tmp_path / "maps.parquet")
    maps = maps_in_parquet(tmp_path / "maps.parquet") if kind == "parquet" else maps_in_folder(tmp_path)
    counts = count_edge_maps(maps, source_of(found, ids=kind != "png"), progress=False)
    for own, one in zip(counts, found, strict=True):
        np.testing.assert_array_equal(own.to_array(), count_matches(*one).to_array())


def test_maps_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    found = images(2)
    source = source_of(found)
    with pytest.raises(ValueError, match=r"1 of 2 images have no map, such as \['1'\]"):
        count_edge_maps({"0": found[0][0]}, source, progress=False)
    with pytest.raises(ValueError, match=r"the edge map of 0 is .* \(height x width\), its contours are .*24x36"):
        count_edge_maps({"0": found[1][0], "1": found[1][0]}, source, progress=False)
    with pytest.raises(ValueError, match="holds no map"):
        maps_in_folder(tmp_path)
    for name in ("a.png", "a.npy"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png and a\.npy are maps of one name"):
        maps_in_folder(tmp_path)
    with pytest.raises(ValueError, match="the map of a cannot be read"):
        read_edge_map(tmp_path / "a.png", name="a")
    with pytest.raises(ValueError, match="of mode RGB; expected grey"):
        read_edge_map(encoded(np.zeros((3, 4, 3), np.uint8)), name="a")
    Dataset.from_list([{"image_id": "0", "map": b""}] * 2).to_parquet(tmp_path / "maps.parquet")
    with pytest.raises(ValueError, match="no column 'boundary_map_npy'; its columns"):
        maps_in_parquet(tmp_path / "maps.parquet")
    Dataset.from_list([{"image_id": "0", "boundary_map_npy": b""}] * 2).to_parquet(tmp_path / "maps.parquet")
    with pytest.raises(ValueError, match="has 2 rows, but 1 different names"):
        maps_in_parquet(tmp_path / "maps.parquet")


def test_sixteen_and_one_bits_are_read_in_full() -> None:
    deep = np.array([[0, 655, 65535]], np.uint16)
    np.testing.assert_array_equal(read_edge_map(encoded(deep), name="deep"), deep / 65535)
    flat = np.array([[False, True]])
    np.testing.assert_array_equal(read_edge_map(encoded(flat), name="flat"), [[0, 1]])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of an extractor, and the results file of its evaluation on three images."""
    folder = tmp_path_factory.mktemp("evaluated")
    tiny_extractor().save_pretrained(folder / "tiny")
    ContourImageProcessor().save_pretrained(folder / "tiny")
    source_of(images()).to_parquet(folder / "test.parquet")
    arguments = EvaluationArguments(
        model=str(folder / "tiny"), data=str(folder / "test.parquet"), output=str(folder / "tiny.json"), cpu=True
    )
    evaluate_model(arguments, command="evaluate")
    return folder, folder / "tiny.json"


def test_an_evaluation_of_an_extractor_holds_the_benchmark(evaluated: tuple[Path, Path]) -> None:
    folder, path = evaluated
    results = read_results(path)
    model = tiny_extractor().from_pretrained(folder / "tiny").eval()
    processor = ContourImageProcessor.from_pretrained(folder / "tiny")
    counts = []
    for row, (_, drawn) in zip(load_source(folder / "test.parquet", split="test"), images(), strict=True):
        inputs = processor(row["image"]["bytes"], return_tensors="pt", do_resize=False, do_pad=False)
        with torch.no_grad():
            counts.append(count_matches(model(**inputs).logits[0, 0].sigmoid().numpy(), drawn))
    expected = edge_scores(counts)
    for name in ("ods", "ois", "ap"):
        assert results.scores[name] == pytest.approx(getattr(expected, name), abs=1e-6)
    assert results.scores["r50"] == pytest.approx(expected.r50, abs=1e-6)
    assert results.scores["benchmark_curve"]["recall"] == pytest.approx(expected.recall, abs=1e-6)
    assert results.protocol["boundary_benchmark"] == protocol()
    assert "pixel_f1" in results.scores


@pytest.mark.slow
def test_two_processes_give_the_benchmark_of_one(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    folder, path = evaluated
    flags = ["--model", folder / "tiny", "--data", folder / "test.parquet", "--output", tmp_path / "two.json", "--cpu"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*launcher, "-m", "hf_contour", "evaluate", *flags]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in words], check=True, timeout=500, env=environment)
    one, two = read_results(path), read_results(tmp_path / "two.json")
    assert two.protocol["num_processes"] == 2
    assert two.scores["num_samples"] == one.scores["num_samples"] == 3
    for name in ("ods", "ois", "ap", "benchmark_curve"):
        assert two.scores[name] == one.scores[name]


def test_an_evaluation_can_leave_the_benchmark_out(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    folder, path = evaluated
    settings = {"model": str(folder / "tiny"), "data": str(folder / "test.parquet"), "cpu": True}
    arguments = EvaluationArguments(**settings, output=str(tmp_path / "bare.json"), boundary_benchmark=False)
    scores = evaluate_model(arguments, command="evaluate")[0].scores
    assert "ods" not in scores
    assert {name: read_results(path).scores[name] for name in scores} == scores
    with pytest.raises(ValueError, match="benchmark_processes is 0"):
        EvaluationArguments(**settings, benchmark_processes=0)
    with pytest.raises(ValueError, match=r"max_dist is 4\.3"):
        EvaluationArguments(**settings, max_dist=4.3)


def test_the_table_shows_the_benchmark_where_it_was_made(evaluated: tuple[Path, Path]) -> None:
    results = read_results(evaluated[1])
    with_scores = replace(results, scores=results.scores | {"ods": 0.7264, "ois": 0.7597, "ap": 0.7267, "r50": None})
    bare = replace(results, scores={"loss": 0.25, "pixel_f1": 0.5, "pixel_threshold": 0.3})
    first, second = read_table(results_table([with_scores, bare]))
    assert first["protocol"] == "size as they are, max_dist 0.0075"
    assert [first[name] for name in ("ODS", "OIS", "AP", "R50")] == ["0.726", "0.760", "0.727", "-"]
    assert [second[name] for name in ("ODS", "R50", "loss", "at threshold")] == ["-", "-", "0.250", "0.300"]
    assert "ODS" not in results_table([bare])


def test_curves_are_drawn(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    results = read_results(evaluated[1])
    curve = benchmark_curve("tiny", results.scores)
    assert (curve.ods, len(curve.recall)) == (results.scores["ods"], 99)
    draw_boundary_curves([curve, curve._replace(name="better", ods=0.9)], tmp_path / "made" / "curves.svg")
    drawn = (tmp_path / "made" / "curves.svg").read_text(encoding="utf-8")
    places = [drawn.index(f"[F={text}") for text in ("0.803] human", "0.900] better", f"{curve.ods:.3f}] tiny")]
    assert places == sorted(places)  # the best first
    with pytest.raises(ValueError, match="no curve of the boundary benchmark"):
        benchmark_curve("bare", {"loss": 0.2})
    with pytest.raises(ValueError, match="no curve to draw"):
        draw_boundary_curves([], tmp_path / "none.png")


def test_the_script_draws_results_of_one_protocol(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    results, output = read_results(evaluated[1]), tmp_path / "curves.png"
    script = draw_boundary_curves_script
    script.main(script.CurveArguments(results=[str(evaluated[1])], output=str(output)))
    with PILImage.open(output) as image:
        assert np.asarray(image.convert("L")).std() > 5
    other = {"boundary_benchmark": protocol(max_dist=0.011)}
    write_results(replace(results, protocol=results.protocol | other), tmp_path / "other.json")
    both = [str(evaluated[1]), str(tmp_path / "other.json")]
    with pytest.raises(ValueError, match="differ in data or protocol"):
        script.main(script.CurveArguments(results=both, output=str(output)))


@pytest.mark.parametrize("number", [1, 3])
def test_maps_with_ink_and_ground_exchanged_give_a_hint(number: int, caplog: pytest.LogCaptureFixture) -> None:
    found = [(np.zeros_like(probs), drawn) for probs, drawn in images(number)]
    for probs, drawn in found:
        probs[drawn[0]] = 1
    for exchanged in (False, True):
        caplog.clear()
        maps = {str(index): 1 - probs if exchanged else probs for index, (probs, _) in enumerate(found)}
        count_edge_maps(maps, source_of(found), progress=False)
        assert ("If ink and ground are exchanged, invert them" in caplog.text) == exchanged
