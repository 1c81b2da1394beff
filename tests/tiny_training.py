"""A data set of a few drawn images and settings of a few thousand weights, for the tests of training."""

from datasets import ClassLabel, Dataset, Features, Image, List
from odd_images import encode
from PIL import Image as PILImage
from PIL import ImageDraw

from hf_contour.training.arguments import ARGUMENTS

LABEL_NAMES = ["box", "disc"]
EXTRACTOR = {"hidden_sizes": [4, 6], "depths": [1, 0], "strides": [2, 2], "level_channels": 4, "fusion_channels": 4}
CLASSIFIER = {"fusion_channels": 8, "head_dropout": 0.3}
AUGMENTATION = {"flip": 0.5, "rotate": 0.5, "brightness": 0.5, "noise": 0.5, "crop_size": [32, 32]}


def as_png(image):
    return {"bytes": encode(image, "PNG"), "path": None}


def drawn_row(number):
    """A grey box or disc on another grey, its outline as contour, and which of the two it is."""
    label = number % 2
    corner, side = 3 + number % 5, 16 + number % 7
    frame = [corner, corner, corner + side, corner + side]
    image = PILImage.new("RGB", (32, 32), (40 + number,) * 3)
    contour = PILImage.new("1", (32, 32), 0)
    for canvas, colour in ((image, {"fill": (200 - number,) * 3}), (contour, {"outline": 1})):
        draw = ImageDraw.Draw(canvas)
        (draw.rectangle if label == 0 else draw.ellipse)(frame, **colour)
    return {"image": as_png(image), "contours": [as_png(contour)], "label": label}


def write_source(folder, *, train=24, validation=7, change=lambda number, row: row, label=None):
    """Parquet files of two splits; `change` may alter a row, `label` is the label's feature."""
    features = Features({"image": Image(), "contours": List(Image()), "label": label or ClassLabel(names=LABEL_NAMES)})
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, first in (("train", train, 0), ("validation", validation, 100)):
        rows = [change(first + number, drawn_row(first + number)) for number in range(count)]
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def settings(tmp_path, stage, **changes):
    """Arguments of a stage that trains for a second or two, below `tmp_path`."""
    defaults = {
        "data": str(tmp_path / "source"),
        "output_dir": str(tmp_path / "runs"),
        "run_name": "run",
        "augmentation": AUGMENTATION,
        "batch_size": 4,
        "eval_batch_size": 4,
        "epochs": 2,
        "learning_rate": 0.01,
        "ema_decay": 0.9,
        "convergence_window": 2,
        "num_workers": 0,
        "torch_threads": 1,
        "log_every": 1,
        "cpu": True,
        "progress": False,
        "model": EXTRACTOR if stage == "contour" else CLASSIFIER,
    }
    if stage == "gender":
        defaults |= {"backbone": ["test_resnet"], "image_size": [32, 32]}
    return ARGUMENTS[stage](**{**defaults, **changes})
