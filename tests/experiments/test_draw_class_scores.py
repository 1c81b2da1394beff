"""Images of a classifier's scores show the figures of its results file, whatever these are."""

import draw_class_scores as class_plots
import numpy as np
import pytest
from draw_class_scores import draw_class_scores
from matplotlib.figure import Figure
from PIL import Image

from hf_contour.evaluation.classes import prediction_scores
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.metrics.classification import ScoreSettings


def scores(labels, logits, names):
    rows = np.arange(len(labels))
    predictions = ClassPredictions(np.asarray(logits, dtype=np.float32), np.array(labels), rows, rows, names)
    return prediction_scores(predictions, settings=ScoreSettings(num_resamples=5))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_images_show_the_figures(drawn, tmp_path):
    # Two sure images, one of them wrong, and two unsure ones that are right.
    found = scores([0, 0, 1, 1], [[3, 0], [0, 3], [0, 0.5], [0, 0.5]], ["men", "women"])
    path = tmp_path / "images" / "scores.png"
    draw_class_scores(found, path, title="four garments")
    matrix, reliability, coverage, counts, table = drawn[0].axes
    assert texts(matrix) == ["1\n50.0%", "1\n50.0%", "0\n0.0%", "2\n100.0%"]
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["men", "women"]
    confidence = [1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-3))]
    measured = reliability.lines[1]
    assert measured.get_xdata() == pytest.approx(confidence)
    assert list(measured.get_ydata()) == [1.0, 0.5]
    assert [bar.get_height() for bar in counts.patches] == [2, 2]
    assert coverage.lines[0].get_ydata()[0] == 0.75
    assert coverage.get_yticks().max() <= 1
    assert "100.00%  50.00%" in texts(table)[0]
    with Image.open(path) as image:
        assert image.size == (1650, 594)


def test_many_classes_and_one_image_are_drawn_too(drawn, tmp_path):
    names = [f"a rather long name {number}" for number in range(class_plots.MAX_PRINTED_CLASSES + 1)]
    logits = np.eye(len(names))
    draw_class_scores(scores(range(len(names)), logits, names), tmp_path / "many.png")
    assert texts(drawn[0].axes[0]) == []
    draw_class_scores(scores([1], [[0.0, 9.0]], ["men", "women"]), tmp_path / "one.png")
    assert texts(drawn[1].axes[0])[-1] == "1\n100.0%"


def test_older_results_are_refused_by_what_they_lack(tmp_path):
    with pytest.raises(ValueError, match="no reliability, coverage; evaluate"):
        draw_class_scores({"confusion_matrix": [[1]]}, tmp_path / "old.png")
