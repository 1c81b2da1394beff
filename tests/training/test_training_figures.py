"""Figures of the contour stage, worked out by hand and by scikit-learn."""

import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import precision_recall_fscore_support
from torch import nn
from torch.utils.data import DataLoader

from hf_contour.evaluation.loops import count_pixels, evaluate_contours, pixel_scores
from hf_contour.loss_contour import IGNORE_LABEL
from hf_contour.metrics.boundary import THRESHOLDS
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTrainingOutput


def test_pixels_are_counted_by_hand():
    edge_probs = torch.tensor([[[0.05, 0.5, 0.96], [0.0, 0.7, 0.3]]])
    labels = torch.tensor([[[0.0, 1.0, 0.5], [0.5, 0.2, IGNORE_LABEL]]])
    # Counted at a threshold of 0.5: 0.05 (background), 0.5, 0.96 and 0.0 (contours).
    counts = count_pixels(edge_probs, labels, consensus_threshold=0.5)
    assert counts.shape == (99, 3)
    at = dict(zip(THRESHOLDS, counts.tolist(), strict=True))
    assert at[0.05] == [2, 3, 3]
    assert at[0.1] == [2, 2, 3]
    assert at[0.5] == [2, 2, 3]
    assert at[0.55] == [1, 1, 3]
    assert at[0.95] == [1, 1, 3]


def test_counts_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    edge_probs = torch.rand(3, 20, 30, generator=generator)
    labels = (torch.rand(3, 20, 30, generator=generator) > 0.8).float()
    counts = count_pixels(edge_probs, labels, consensus_threshold=0.3)
    for threshold, row in zip(THRESHOLDS, counts, strict=True):
        found = (edge_probs >= threshold).flatten().numpy()
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels.flatten().numpy(), found, average="binary", zero_division=0
        )
        scores = pixel_scores(row[None])
        assert scores["pixel_precision"] == pytest.approx(precision)
        assert scores["pixel_recall"] == pytest.approx(recall)
        assert scores["pixel_f1"] == pytest.approx(f1)


@pytest.mark.parametrize(
    ("labels", "probability"), [(torch.zeros(1, 4, 4), 0.0), (torch.ones(1, 4, 4), 0.0), (torch.zeros(1, 4, 4), 1.0),
                                (torch.full((1, 4, 4), IGNORE_LABEL), 1.0)],
)  # fmt: skip
def test_nothing_found_or_drawn_scores_zero(labels, probability):
    counts = count_pixels(torch.full((1, 4, 4), probability), labels, consensus_threshold=0.3)
    assert pixel_scores(counts)["pixel_f1"] == 0


class Fixed(nn.Module):
    """Gives the logits that stand in the image's first channel, and their mean as the loss."""

    def forward(self, pixel_values, labels):
        logits = pixel_values[:, :1]
        return ContourExtractorForPreTrainingOutput(loss=logits.mean(), logits=logits)


def test_the_loss_is_the_mean_over_images_of_any_size():
    sizes = [(2, 2), (3, 5), (1, 7)]
    samples = [
        {"pixel_values": torch.full((3, *size), float(number)), "labels": torch.ones(size), "index": number}
        for number, size in enumerate(sizes)
    ]
    heeded = []
    figures = evaluate_contours(
        Fixed(),
        Accelerator(cpu=True).prepare(DataLoader(samples)),
        Accelerator(cpu=True),
        heed=lambda: heeded.append(None),
        consensus_threshold=0.3,
    )
    assert figures["loss"] == pytest.approx(1.0)
    assert figures["num_samples"] == len(heeded) == 3
    # Logits 0, 1 and 2 are all at 0.5 or above: every pixel is a contour and found.
    assert figures["pixel_f1"] == 1.0
