"""The losses against figures worked out by hand."""

import math

import pytest
import torch

from hf_contour.loss_contour import IGNORE_LABEL, branched_loss, classification_loss, edge_loss

LN2 = math.log(2)


def cross_entropy(logit: float, target: int) -> float:
    return math.log1p(math.exp(-logit if target else logit))


def test_plain_loss_counts_contours_and_background_alike():
    logits = torch.tensor([[[2.0, -1.0, 0.0, 5.0]]])
    labels = torch.tensor([[[1.0, 0.0, 0.2, IGNORE_LABEL]]])  # the last two are not counted
    expected = (cross_entropy(2, 1) + cross_entropy(-1, 0)) / 2
    assert edge_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_consensus_threshold_moves_the_ignored_band():
    logits = torch.tensor([[[2.0, -1.0, 0.5]]])
    labels = torch.tensor([[[1.0, 0.0, 0.2]]])
    expected = (cross_entropy(2, 1) + cross_entropy(-1, 0) + cross_entropy(0.5, 1)) / 3
    assert edge_loss(logits, labels, consensus_threshold=0.2).item() == pytest.approx(expected, abs=1e-6)


def test_balanced_loss_weighs_rare_contours_up():
    logits = torch.tensor([[[2.0, -1.0, 3.0, 0.0]]])
    labels = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    edge, background = 3.0, 1.1  # one contour pixel weighs as 3 background pixels, those as 1 x 1.1
    total = edge * cross_entropy(2, 1) + background * sum(cross_entropy(logit, 0) for logit in (-1, 3, 0))
    expected = total / (edge + 3 * background)
    assert edge_loss(logits, labels, kind="balanced").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "balanced"])
def test_nothing_to_count_gives_zero_and_no_gradient_trouble(kind):
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    loss = edge_loss(logits, torch.full((1, 2, 2), IGNORE_LABEL), kind=kind)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("kind", ["plain", "balanced"])
def test_loss_of_a_batch_is_the_mean_over_its_images(kind):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 6, generator=generator)
    labels = (torch.rand(4, 5, 6, generator=generator) > 0.7).float()
    labels[1, :3] = IGNORE_LABEL
    singles = [edge_loss(logits[i : i + 1], labels[i : i + 1], kind=kind) for i in range(4)]
    assert edge_loss(logits, labels, kind=kind).item() == pytest.approx(torch.stack(singles).mean().item(), abs=1e-6)


def test_edge_loss_names_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(1, 3, 4\).*\(1, 4, 3\)"):
        edge_loss(torch.zeros(1, 4, 3), torch.zeros(1, 3, 4))


def test_softmax_loss_with_weights_and_smoothing():
    logits = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    labels = torch.tensor([0, 1])
    second = math.log1p(math.exp(2))
    assert classification_loss(logits, labels).item() == pytest.approx((LN2 + second) / 2, abs=1e-6)
    weighted = classification_loss(logits, labels, class_weights=torch.tensor([3.0, 0.5]))
    assert weighted.item() == pytest.approx((3 * LN2 + 0.5 * second) / 2, abs=1e-6)
    # smoothing 0.2: the true class keeps 0.9, the other gets 0.1; the other's loss is 2 less
    smoothed = classification_loss(logits, labels, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx((LN2 + second - 0.1 * 2) / 2, abs=1e-6)


def test_several_labels_take_the_sigmoid_loss():
    logits = torch.tensor([[0.0, 2.0]])
    expected = (LN2 + cross_entropy(2, 1)) / 2
    assert classification_loss(logits, torch.tensor([[1, 1]])).item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="zeros and ones"):
        classification_loss(logits, torch.tensor([1]), problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="class numbers"):
        classification_loss(logits, torch.tensor([[1, 0, 0]]))


def test_fused_branches_have_no_loss_of_their_own():
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    alone = branched_loss(logits, (), labels, branch_loss_weight=0.5)
    assert alone == branched_loss(logits, (), labels, branch_loss_weight=0.0)
