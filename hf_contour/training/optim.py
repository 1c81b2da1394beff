"""Optimisers, learning rates and the moving average of the weights; the work is done by timm and torch."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from hf_contour.training.arguments import OptimizationArguments


def build_optimizer(model: nn.Module, arguments: OptimizationArguments) -> Optimizer:
    """An optimiser over the weights that take a gradient.

    Biases and normalisation weights have no weight decay. Weights of timm networks (`image_backbones`, or a timm
    cascade of the extractor) learn at `learning_rate * backbone_lr_scale`, and image backbones with `layer_decay`
    below 1 the slower the nearer they are to the image.

    Args:
        model: parameters that are frozen are left out altogether.
        arguments: `optimizer`, `learning_rate`, `weight_decay`, `momentum`, `backbone_lr_scale`, `layer_decay`.

    Raises:
        ValueError: If nothing is left to train, or timm does not know the optimiser.
    """
    rates = learning_rate_scales(model, arguments)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim <= 1 or name.endswith(".bias") else arguments.weight_decay
            groups.setdefault((rates.get(name, 1.0), decay), []).append(parameter)
    if not groups:
        raise ValueError("No weight of the model takes a gradient; there is nothing to train.")
    return create_optimizer_v2(
        [
            {"params": parameters, "lr": arguments.learning_rate * scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ],
        opt=arguments.optimizer,
        lr=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        momentum=arguments.momentum,
    )


def learning_rate_scales(model: nn.Module, arguments: OptimizationArguments) -> dict[str, float]:
    """Learning rate of each backbone weight relative to `learning_rate`, by its name in the model."""
    scales: dict[str, float] = {}
    extractor = getattr(model, "contour_extractor", None)
    if extractor is not None and extractor.config.backbone is not None:
        for name, _ in extractor.cascade.named_parameters(prefix="contour_extractor.cascade"):
            scales[name] = arguments.backbone_lr_scale
    for index, backbone in enumerate(getattr(model, "image_backbones", [])):
        network = backbone.network
        layer_scales: dict[Tensor, float] = {}
        if arguments.layer_decay < 1:
            if not hasattr(network, "group_matcher"):
                raise ValueError(f"layer_decay needs a timm backbone with layer groups; {backbone.name} has none.")
            for group in param_groups_layer_decay(network, layer_decay=arguments.layer_decay):
                layer_scales.update(dict.fromkeys(group["params"], group["lr_scale"]))
        for name, parameter in network.named_parameters():
            scale = arguments.backbone_lr_scale * layer_scales.get(parameter, 1.0)
            scales[f"image_backbones.{index}.network.{name}"] = scale
    return scales


class LearningRateSchedule:
    """Linear warm-up, then cosine, plateau or constant.

    Args:
        optimizer: its groups' learning rates are the highest ones.
        arguments: `schedule`, `warmup_steps`, `min_lr_scale`, `plateau_factor`, `plateau_patience`.
        num_steps: steps in the whole training.
        head_steps: how many of them come before that, at a constant rate.
        head_scale: this rate relative to the highest.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        arguments: OptimizationArguments,
        num_steps: int,
        *,
        head_steps: int = 0,
        head_scale: float = 1.0,
    ) -> None:
        self.optimizer = optimizer
        self.plateau: ReduceLROnPlateau | None = None
        warmup_steps = min(arguments.warmup_steps, num_steps)
        if arguments.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(
                optimizer,
                factor=arguments.plateau_factor,
                patience=arguments.plateau_patience,
                min_lr=[group["lr"] * arguments.min_lr_scale for group in optimizer.param_groups],
            )
            # LinearLR multiplies what is there and stands still at its end, so that both may act on one rate.
            self.steps: LambdaLR | LinearLR = LinearLR(
                optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps
            )
            return
        curve: Callable[[int], float] = partial(
            learning_rate_curve,
            num_steps=num_steps - head_steps,
            warmup_steps=warmup_steps,
            min_scale=arguments.min_lr_scale if arguments.schedule == "cosine" else 1.0,
        )
        self.steps = LambdaLR(optimizer, lambda step: head_scale if step < head_steps else curve(step - head_steps))

    @property
    def rates(self) -> list[float]:
        """The learning rate of each group of the optimiser for the next step."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self) -> None:
        """To be called after each step of the optimiser."""
        self.steps.step()

    def observe(self, evaluation_loss: float) -> None:
        """To be called after each evaluation; only the plateau schedule heeds it."""
        if self.plateau is not None:
            self.plateau.step(evaluation_loss)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        plateau = None if self.plateau is None else self.plateau.state_dict()
        return {"steps": self.steps.state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave; the optimiser's state carries the rates themselves."""
        self.steps.load_state_dict(state["steps"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])


def learning_rate_curve(step: int, *, num_steps: int, warmup_steps: int, min_scale: float) -> float:
    """Factor of the learning rate after `step` steps: a line up to 1, then half a cosine down to `min_scale`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return min_scale + (1 - min_scale) * (1 + math.cos(math.pi * progress)) / 2


class TrainedWeightsEma(ModelEmaV3):
    """timm's moving average, which leaves out what is frozen: that is equal in both."""

    @torch.no_grad()
    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Moves weights that learn and all buffers towards those of the model; whole numbers are copied."""
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        new_values, averages, values = model.state_dict(), [], []
        for name, average in self.module.state_dict().items():
            if not average.is_floating_point():
                average.copy_(new_values[name])
            elif name not in frozen:
                averages.append(average)
                values.append(new_values[name])
        torch._foreach_lerp_(averages, values, weight=1 - decay)


def build_ema(model: nn.Module, arguments: OptimizationArguments) -> ModelEmaV3 | None:
    """The moving average of weights and buffers, or `None` where `ema_decay` is 0.

    The decay grows as `1 - (1 + step) ** (-2/3)` up to `ema_decay`, so that short trainings do not average their
    random beginning.
    """
    if not arguments.ema_decay:
        return None
    return TrainedWeightsEma(model, decay=arguments.ema_decay, use_warmup=True)
