"""`hf-contour predict` and `hf-contour export` on tiny models: tables, drawings, exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import direct_probabilities, photo, read_png, read_table, run
from PIL import Image

from hf_contour import ContourExtractorForPreTraining
from hf_contour.inference.contours import level_maps, map_stem


def test_predict_classifies_and_names_the_bad_image(
    classifier_folder: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores"
    flags = ["--model", classifier_folder, "--inputs", image_folder, "--output", output, "--format", "csv"]
    assert run("predict", *flags) == 3
    rows = read_table(output / "part-000000.csv")
    names = ["0.png", "1.png", "2.png", "broken.jpg", "inside/0.png"]
    assert [row["id"] for row in rows] == [str(image_folder / name) for name in names]
    good = [row for row in rows if not row["error"]]
    probs = direct_probabilities(classifier_folder, [row["id"] for row in good])
    assert [row["label"] for row in good] == [["men", "women"][k] for k in probs.argmax(axis=1)]
    assert [float(row["score"]) for row in good] == pytest.approx(probs.max(axis=1), abs=1e-4)
    captured = capsys.readouterr()
    assert "5 rows written" in captured.out
    assert "1 of them with an error" in captured.out
    assert "broken.jpg" in captured.err
    assert run("predict", *flags) == 0
    assert "was finished already; --overwrite starts anew" in capsys.readouterr().out


def test_predict_reads_a_data_set_without_its_labels(classifier_folder: Path, parquet: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    flags = ["--model", classifier_folder, "--data", parquet, "--format", "jsonl", "--probabilities"]
    assert run("predict", *flags, "--id_column", "cluster", "--output", output) == 0
    rows = [json.loads(line) for line in (output / "part-000000.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "0", "0", "1", "1", "1", "2"]
    assert all(row["probability_men"] + row["probability_women"] == pytest.approx(1, abs=1e-5) for row in rows)


def test_predict_draws_contours_at_the_size_of_the_image(
    extractor_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "drawn"
    flags = ["--model", extractor_folder, "--contours", "--inputs", image_folder, "--output", output]
    assert run("predict", *flags, "--format", "csv") == 3
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.png"))
    stems = ["000000_0", "000001_1", "000002_2", "000004_0"]
    assert written == sorted(f"maps/000000/{stem}_{kind}.png" for stem in stems for kind in ("contours", "thin"))
    rows = read_table(output / "part-000000.csv")
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, False]
    model = ContourExtractorForPreTraining.from_pretrained(extractor_folder).eval()
    pixels = torch.from_numpy(np.asarray(photo(0)).copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = model((pixels - 0.5) / 0.5).logits[0, 0].sigmoid().numpy()
    soft = read_png(output / rows[0]["contours"])
    thin = read_png(output / rows[0]["thin"])
    assert soft == pytest.approx(expected * 255, abs=1)
    assert set(np.unique(thin)) <= {0, 255}
    assert (thin > 0).sum() <= (expected >= 0.5).sum()


def test_predict_draws_levels_and_the_image_only_when_asked(
    extractor_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "drawn"
    flags = ["--model", extractor_folder, "--contours", "--inputs", image_folder / "1.png", "--output", output]
    assert run("predict", *flags, "--levels", "--with_image") == 0
    folder = output / "maps" / "000000"
    kinds = ["contours", "image", "level0", "level1", "thin"]
    assert sorted(path.name for path in folder.iterdir()) == [f"000000_1_{kind}.png" for kind in kinds]
    whole = read_png(folder / "000000_1_image.png")
    assert whole.shape == (30, 3 * 40, 3)
    assert np.array_equal(whole[:, :40], np.asarray(photo(1)))
    assert read_png(folder / "000000_1_level1.png").shape == (30, 40)


def test_predict_makes_large_images_small(extractor_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (200, 90), "white").save(tmp_path / "large.png")
    flags = ["--model", extractor_folder, "--contours", "--inputs", tmp_path / "large.png", "--max_side", 64]
    assert run("predict", *flags, "--levels", "--output", tmp_path / "drawn") == 0
    assert {read_png(path).shape for path in (tmp_path / "drawn").rglob("*.png")} == {(90, 200)}


def test_predict_takes_heic(classifier_folder: Path, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(photo(1)).save(tmp_path / "shirt.HEIC")
    flags = ["--model", classifier_folder, "--output", tmp_path / "scores", "--format", "csv"]
    assert run("predict", "--inputs", tmp_path / "shirt.HEIC", *flags) == 0
    (row,) = read_table(tmp_path / "scores" / "part-000000.csv")
    assert (row["error"], row["label"] in ("men", "women")) == ("", True)


def test_contours_of_images_with_the_longest_names(extractor_folder: Path, tmp_path: Path) -> None:
    names = ["x" * 241 + ".png", "é" * 120 + "a.png", "漢" * 80 + "a.png"]
    (tmp_path / "long").mkdir()
    for name in names:
        assert len(name.encode()) == 245
        photo(2).save(tmp_path / "long" / name)
    flags = ["--model", extractor_folder, "--contours", "--inputs", tmp_path / "long", "--output", tmp_path / "drawn"]
    assert run("predict", *flags, "--format", "csv") == 0
    rows = read_table(tmp_path / "drawn" / "part-000000.csv")
    assert [row["id"] for row in rows] == [str(tmp_path / "long" / name) for name in names]
    assert all((tmp_path / "drawn" / row[kind]).is_file() for row in rows for kind in ("contours", "thin"))


def test_names_of_maps_fit_any_disk_and_are_distinct() -> None:
    assert map_stem(0, 7, "a/b c.d.png") == "maps/000000/000007_b_c.d"
    assert map_stem(0, 8, "shards/x.tar::y/shirt.png") == "maps/000000/000008_shirt"
    assert len(map_stem(1, 2, "é" * 245 + ".png").encode()) < 140


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
        (["--inputs", "BROKEN"], 1, "1 rows written"),
        (["--inputs", "BROKEN", "--contours"], 2, "expected contour_extractor"),
        (["--inputs", "BROKEN", "--levels"], 2, "add --contours"),
        (["--inputs", "BROKEN", "--format", "xlsx"], 2, "expected one of parquet, csv, jsonl"),
    ],
)
def test_exit_codes_of_predict(
    classifier_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    message: str,
) -> None:
    given = [str(image_folder / "broken.jpg") if flag == "BROKEN" else flag for flag in flags]
    shared = ["--model", classifier_folder, "--output", tmp_path / "x"]
    assert run("predict", *shared, *given) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_export_writes_a_folder_once(
    classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", classifier_folder, "--output", tmp_path / "exported", "--format", "torchscript"]
    assert run("export", *flags) == 0
    assert "logits differ from PyTorch's by at most" in capsys.readouterr().out
    assert run("export", *flags) == 2
    assert "is there already" in capsys.readouterr().err
