"""Half and double precision, and labels as data sets hold them."""

import math

import pytest
import torch
from tiny_models import tiny_classifier, tiny_extractor

from hf_contour.loss_contour import classification_loss

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-1.0, 3.0, 0.0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float32_pixels_are_cast_to_the_type_of_the_model(dtype):
    pixels = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    for model, labels in (
        (tiny_classifier(), torch.tensor([0, 1])),
        (tiny_classifier(contour_features="none"), torch.tensor([0, 1])),
        (tiny_extractor(side_loss_weight=0.5), torch.zeros(2, 40, 30)),
    ):
        with torch.no_grad():
            expected = model(pixels, labels=labels)
            outputs = model.to(dtype)(pixels, labels=labels)
        assert outputs.logits.dtype == dtype
        assert torch.allclose(outputs.logits.float(), expected.logits, atol=0.1)
        assert outputs.loss.item() == pytest.approx(expected.loss.item(), abs=0.1)


def losses(labels):
    """By hand: minus the logarithm of the softmax at the label."""
    return [
        -math.log(math.exp(row[label]) / sum(map(math.exp, row)))
        for row, label in zip(LOGITS.tolist(), labels, strict=True)
    ]


def test_images_without_a_label_do_not_count():
    expected = sum(losses([0, 1, 1])[::2]) / 2
    assert classification_loss(LOGITS, torch.tensor([0, -100, 1])).item() == pytest.approx(expected, rel=1e-5)
    weighted = classification_loss(LOGITS, torch.tensor([0, -100, 1]), class_weights=torch.tensor([2.0, 1.0, 9.0]))
    first, _, last = losses([0, 1, 1])
    assert weighted.item() == pytest.approx((2 * first + last) / 2, rel=1e-5)
    assert classification_loss(LOGITS, torch.full((3,), -100)).item() == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_class_numbers_of_any_integer_type_and_as_a_column(dtype, shape):
    labels = torch.tensor([0, 2, 1], dtype=dtype).reshape(shape)
    assert classification_loss(LOGITS, labels).item() == pytest.approx(sum(losses([0, 2, 1])) / 3, rel=1e-5)


def test_soft_labels_weigh_the_classes():
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    loss = classification_loss(LOGITS, shares, problem_type="single_label_classification")
    expected = (0.7 * losses([0, 2, 1])[0] + 0.3 * losses([1, 2, 1])[0] + sum(losses([0, 2, 1])[1:])) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    mixed = tiny_classifier(problem_type="single_label_classification").train()
    mixed(torch.rand(3, 3, 32, 32), labels=shares).loss.backward()
    assert mixed.classifier.output.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0, 2.0]), torch.zeros(2, dtype=torch.long)])
def test_labels_of_another_form_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels are \(\d,\) of type torch.*expected \(3,\) class numbers"):
        classification_loss(LOGITS, labels)
