"""`hf-contour predict` on tiny models: tables, drawings, exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import direct_probabilities, photo, read_png, read_table, run
from PIL import Image

from hf_contour import ContourExtractorForPreTraining
from hf_contour.inference.inputs import find_images
from hf_contour.inference.predict import level_maps


def test_predict_classifies_and_skips_the_bad_image(
    classifier_folder: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "scores.csv"
    flags = ["--model", classifier_folder, "--inputs", image_folder, "--output", output, "--batch_size", 2]
    assert run("predict", *flags) == 3
    rows = read_table(output)
    names = ["0.png", "1.png", "2.png", "inside/0.png"]
    assert [row["file"] for row in rows] == [str(image_folder / name) for name in names]
    probs = direct_probabilities(classifier_folder, [image_folder / name for name in names])
    assert [row["label"] for row in rows] == [["men", "women"][k] for k in probs.argmax(axis=1)]
    assert [float(row["score"]) for row in rows] == pytest.approx(probs.max(axis=1), abs=1e-4)
    captured = capsys.readouterr()
    assert "4 images done, 1 skipped" in captured.out
    assert "broken.jpg" in captured.err


def test_predict_writes_json_lines_of_rows(classifier_folder: Path, parquet: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    flags = ["--model", classifier_folder, "--data", parquet, "--rows", 5, 2, "--top_k", 2, "--output", output]
    assert run("predict", *flags) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["file"].rsplit(" ", 1)[1] for row in rows] == ["5", "5", "2", "2"]
    assert rows[0]["score"] >= rows[1]["score"]
    assert rows[0]["score"] + rows[1]["score"] == pytest.approx(1, abs=1e-5)


def test_predict_draws_contours_at_the_size_of_the_image(
    extractor_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "drawn"
    flags = ["--model", extractor_folder, "--contours", "--inputs", image_folder, "--output", output]
    assert run("predict", *flags) == 3
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
    extractor_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "drawn"
    flags = ["--model", extractor_folder, "--contours", "--inputs", image_folder / "1.png", "--output", output]
    assert run("predict", *flags, "--levels", "--with_image") == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "1_contours.png",
        "1_image.png",
        "1_level0.png",
        "1_level1.png",
        "1_thin.png",
    ]
    whole = read_png(output / "1_image.png")
    assert whole.shape == (30, 3 * 40, 3)
    assert np.array_equal(whole[:, :40], np.asarray(photo(1)))
    assert read_png(output / "1_level1.png").shape == (30, 40)


def test_predict_makes_large_images_small(extractor_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (200, 90), "white").save(tmp_path / "large.png")
    flags = ["--model", extractor_folder, "--contours", "--inputs", tmp_path / "large.png", "--max_side", 64]
    assert run("predict", *flags, "--levels", "--output", tmp_path / "drawn") == 0
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
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    message: str,
) -> None:
    given = [str(image_folder / "broken.jpg") if flag == "BROKEN" else flag for flag in flags]
    shared = ["--model", classifier_folder, "--output", tmp_path / "x.csv"]
    assert run("predict", *shared, *given) == code
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
