"""A trained model works where the libraries of training and evaluation are not installed."""

import subprocess
import sys

import pytest
from PIL import Image
from tiny_models import tiny_classifier, tiny_extractor

from hf_contour import ContourImageProcessor

TRAINING_ONLY = ["accelerate", "datasets", "evaluate", "numba", "pandas", "pyarrow", "scipy", "sklearn"]
PROGRAM = """
import sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # importing it fails, as if it were not there
import hf_contour
from transformers import AutoImageProcessor, AutoModelForPreTraining, pipeline
folder = sys.argv[1]
(first, second) = pipeline("image-classification", f"{folder}/classifier")(f"{folder}/image.png")
print(first["label"], second["label"])
processor = AutoImageProcessor.from_pretrained(f"{folder}/extractor")
extractor = AutoModelForPreTraining.from_pretrained(f"{folder}/extractor")
edges = extractor(**processor(f"{folder}/image.png", return_tensors="pt"))
print(tuple(processor.post_process_contours(edges, threshold=0.5, thin=True)[0].shape))
"""


@pytest.mark.slow
def test_inference_needs_no_library_of_training(tmp_path):
    models = {"classifier": tiny_classifier(id2label={0: "men", 1: "women"}), "extractor": tiny_extractor()}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        ContourImageProcessor(size={"height": 40, "width": 32}).save_pretrained(tmp_path / name)
    Image.new("RGB", (30, 50), "white").save(tmp_path / "image.png")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), ",".join(TRAINING_ONLY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    labels, shape = done.stdout.splitlines()
    assert sorted(labels.split()) == ["men", "women"]
    assert shape == "(40, 32)"
