"""Optimiser groups, learning rates and the moving average."""

import math

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from tiny_models import tiny_extractor
from torch import nn

from hf_contour.training.arguments import OptimizationArguments
from hf_contour.training.optim import LearningRateSchedule, build_ema, build_optimizer


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.name = "test_resnet"
        self.network = timm.create_model("test_resnet", num_classes=0)


class Classifier(nn.Module):
    """The children's names of the real one, with a frozen part."""

    def __init__(self):
        super().__init__()
        self.extractor = nn.Conv2d(3, 2, 3).requires_grad_(False)
        self.image_backbones = nn.ModuleList([Backbone()])
        self.classifier = nn.Linear(4, 2)


def rates(model, optimizer):
    by_parameter = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    return {name: by_parameter.get(id(one)) for name, one in model.named_parameters()}


def test_frozen_weights_are_left_out_and_vectors_do_not_decay():
    model = Classifier()
    optimizer = build_optimizer(model, OptimizationArguments(weight_decay=0.1, learning_rate=0.5))
    found = rates(model, optimizer)
    assert found.pop("extractor.weight") is None
    assert found.pop("extractor.bias") is None
    assert set(found.values()) == {0.5}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_a_timm_cascade_learns_slower_and_a_cascade_of_our_own_does_not():
    arguments = OptimizationArguments(learning_rate=1.0, backbone_lr_scale=0.1)
    for model, expected in ((tiny_extractor(backbone="test_resnet"), 0.1), (tiny_extractor(), 1.0)):
        found = rates(model, build_optimizer(model, arguments))
        for name, rate in found.items():
            assert rate == (expected if ".cascade." in name else 1.0), name


def test_the_backbone_learns_slower_and_its_first_layers_slowest():
    model = Classifier()
    arguments = OptimizationArguments(learning_rate=1.0, backbone_lr_scale=0.1, layer_decay=0.5)
    found = rates(model, build_optimizer(model, arguments))
    assert found["classifier.weight"] == 1.0
    backbone = {name: rate for name, rate in found.items() if name.startswith("image_backbones")}
    stem = backbone["image_backbones.0.network.conv1.0.weight"]
    last = max(backbone.values())
    assert stem == min(backbone.values())
    assert last == pytest.approx(0.1)
    # Each group halves: every rate is 0.1 / 2**k.
    assert all(math.log2(0.1 / rate) == pytest.approx(round(math.log2(0.1 / rate))) for rate in backbone.values())
    assert stem < last / 4


@pytest.mark.parametrize(("name", "expected"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimisers_come_by_name(name, expected):
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizationArguments(optimizer=name, momentum=0.8))
    assert type(optimizer) is expected
    if name == "sgd":
        assert optimizer.param_groups[0]["momentum"] == 0.8


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimizationArguments())


def run_schedule(arguments, num_steps, losses=()):
    """The rates of all steps; `losses` are observed after the steps of the same number."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule = LearningRateSchedule(optimizer, arguments, num_steps)
    seen = []
    for step in range(num_steps):
        seen.append(schedule.rates[0])
        optimizer.step()
        schedule.step()
        if step < len(losses):
            schedule.observe(losses[step])
    return seen


def test_cosine_after_a_linear_warm_up():
    seen = run_schedule(OptimizationArguments(warmup_steps=3, min_lr_scale=0.1), 11)
    assert seen[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    cosine = [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 8)) / 2) for step in range(8)]
    assert seen[3:] == pytest.approx(cosine)


def test_constant_after_a_warm_up():
    assert run_schedule(OptimizationArguments(schedule="constant", warmup_steps=1), 4) == [1.0, 2.0, 2.0, 2.0]


def test_plateau_falls_when_the_loss_stands_still():
    arguments = OptimizationArguments(
        schedule="plateau", plateau_factor=0.1, plateau_patience=1, warmup_steps=1, min_lr_scale=0.05
    )
    losses = [5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    # The third and fourth loss are no better: from the fifth step on a tenth, but never below 0.05 * 2.
    assert run_schedule(arguments, 7, losses) == pytest.approx([1.0, 2.0, 2.0, 2.0, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
@pytest.mark.parametrize("break_at", [1, 4, 6])
def test_a_saved_schedule_goes_on(kind, break_at):
    arguments = OptimizationArguments(schedule=kind, plateau_patience=0, warmup_steps=2)
    losses = [3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    whole = run_schedule(arguments, 8, losses)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule = LearningRateSchedule(optimizer, arguments, 8)
    seen = []
    for step in range(8):
        if step == break_at:
            saved = (optimizer.state_dict(), schedule.state_dict())
            optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
            schedule = LearningRateSchedule(optimizer, arguments, 8)
            optimizer.load_state_dict(saved[0])
            schedule.load_state_dict(saved[1])
        seen.append(schedule.rates[0])
        optimizer.step()
        schedule.step()
        schedule.observe(losses[step])
    assert seen == whole


def test_the_moving_average_warms_up_and_then_has_its_decay():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, OptimizationArguments(ema_decay=0.5))
    value = None
    for step, weight in enumerate([1.0, 2.0, 4.0, 8.0], start=1):
        nn.init.constant_(model.weight, weight)
        ema.update(model, step=step)
        # timm: 0 in the first step, then min(decay, 1 - step ** (-2/3)), where step counts from 1 after the first.
        decay = 0.0 if step == 1 else min(0.5, 1 - step ** (-2 / 3))
        value = weight if value is None else decay * value + (1 - decay) * weight
        assert ema.module.weight.item() == pytest.approx(value)
    assert build_ema(model, OptimizationArguments(ema_decay=0.0)) is None


def test_the_moving_average_is_that_of_timm_beside_frozen_weights():
    model = Classifier().train()
    own, theirs = build_ema(model, OptimizationArguments(ema_decay=0.9)), ModelEmaV3(model, decay=0.9, use_warmup=True)
    for step in (1, 2, 3):
        with torch.no_grad():
            model.image_backbones[0].network(torch.randn(2, 3, 64, 64))  # changes statistics
            for parameter in model.parameters():
                parameter.add_(step * parameter.requires_grad)
        own.update(model, step=step)
        theirs.update(model, step=step)
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(own.module.state_dict()[name], value), name
