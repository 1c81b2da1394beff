"""The routes of training begin alike, train what they say, and are scored alike."""

import json
from pathlib import Path

import pytest
from tiny_models import tiny_extractor
from trainer_routes import RoutesArguments, beginning, main

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.io import state_dict_sha256


@pytest.fixture
def arguments(tmp_path: Path) -> RoutesArguments:
    for seed, (split, count) in enumerate((("train", 6), ("validation", 5))):
        for index in range(count):
            path = tmp_path / "images" / split / ("men", "women")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_garment(index, seed=seed, size=(48, 40)).image.save(path)
    three_levels = {"hidden_sizes": [4, 6, 8], "depths": [1, 1, 1], "strides": [2, 2, 2]}
    tiny_extractor(**three_levels).save_pretrained(tmp_path / "extractor")
    return RoutesArguments(
        data=str(tmp_path / "images"),
        extractor=str(tmp_path / "extractor"),
        backbone="test_efficientnet",
        backbone_weights=None,
        image_size=[48, 32],
        epochs=1,
        batch_size=3,
        rank=2,
        output=str(tmp_path / "routes.json"),
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_each_route_trains_what_it_says(arguments, tmp_path):
    pytest.importorskip("peft")
    main(arguments)
    rows = json.loads(Path(arguments.output).read_text())["rows"]
    heads, both, plain, lora = (row["num_trained_parameters"] for row in rows)
    assert 0 < heads < lora < plain == both
    assert [row["num_samples"] for row in rows] == [5] * 4
    assert [row["learning_rate"] for row in rows] == [3e-3, 3e-4, 3e-4, 1e-3]
    assert all(0 <= row["accuracy_interval"][0] <= row["accuracy"] <= row["accuracy_interval"][1] for row in rows)


def test_routes_begin_with_the_same_weights(arguments, tmp_path):
    begun = [state_dict_sha256(beginning(arguments, tmp_path / name)[0].state_dict()) for name in ("a", "b")]
    assert begun[0] == begun[1]
