"""Every option of both models: build, forward, backward, save, load, bit-equal logits.

The extractor's grid is walked whole: residual module (3 kinds and a mix) x unifier (3 and a mix) x fusion (3).
The classifier's whole grid has contour features (fused, all levels, chosen levels, kinds of levels) x fusion (3) x
head (3) x backbone (4 families and a list of two) x labels (one, several), 360 in all, and is walked in the slow
part; the fast part walks 22 of them, in which every two values of every two options meet.
"""

import itertools

import pytest
import torch
from tiny_models import equal_states, random_statistics

from hf_contour import (
    ContourExtractorConfig,
    ContourExtractorForPreTraining,
    ContourExtractorModel,
    ContourGenderConfig,
    ContourGenderForImageClassification,
)

SIZES = [(1, 1), (1, 37), (33, 47), (64, 32)]

RESIDUAL_TYPES = ["resnet", "densenet", "senet", ["senet", "resnet", "densenet"]]
UNIFIERS = ["bilinear", "nearest", "deconv", ["nearest", "bilinear", "deconv"]]
EXTRACTOR_FUSIONS = ["concat", "sum", "conv"]
EXTRACTOR_GRID = list(itertools.product(RESIDUAL_TYPES, UNIFIERS, EXTRACTOR_FUSIONS))

CONTOURS = [
    {"contour_features": "fused"},
    {"contour_features": "fused", "contour_downsampling": "average"},
    {"contour_features": "none"},
    {"contour_features": "levels", "contour_levels": ["texture", "edges", "outline"]},
    {"contour_features": "levels", "contour_levels": [0, 2]},
    {"contour_features": "levels", "contour_levels": ["edges", "outline"]},
]
FUSIONS = ["concat", "conv", "concat_conv"]
HEADS = [
    {"head": "linear"},
    {"head": "linear", "head_grid": [1, 1]},
    {"head": "mlp"},
    {"head": "cnn", "head_grid": [2, 3]},
]
BACKBONES = [
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "resnet10t",
    "shufflenet_v2_x0_5",
    ["test_efficientnet", "shufflenet_v2_x0_5"],
]
PROBLEM_TYPES = ["single_label_classification", "multi_label_classification"]
AXES = [CONTOURS, FUSIONS, HEADS, BACKBONES, PROBLEM_TYPES]


def pairwise(axes):
    """A selection of the product in which every pair of values of every two axes occurs; greedy, deterministic."""
    rows = list(itertools.product(*(range(len(axis)) for axis in axes)))
    pairs = {row: {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(axes)), 2)} for row in rows}
    wanted, chosen = set().union(*pairs.values()), []
    while wanted:
        best = max(rows, key=lambda row: len(pairs[row] & wanted))
        chosen.append(best)
        wanted -= pairs[best]
    return [tuple(axis[index] for axis, index in zip(axes, row, strict=True)) for row in chosen]


def check_round_trip(model, pixels, labels, folder) -> None:
    """One step of training, then the saved model gives the same logits and holds the same tensors."""
    model.train()
    loss = model(pixels, labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    random_statistics(model)
    model.eval()
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder)
    assert equal_states(loaded, model)
    generator = torch.Generator().manual_seed(2)
    for size in SIZES:
        image = torch.randn(1, 3, *size, generator=generator)
        with torch.no_grad():
            expected, answer = model(image).logits, loaded(image).logits
        assert torch.isfinite(expected).all()
        assert torch.equal(answer, expected), size


@pytest.mark.parametrize(("residual_type", "unify", "fusion"), EXTRACTOR_GRID, ids=str)
def test_extractor(tmp_path, residual_type, unify, fusion):
    torch.manual_seed(0)
    config = ContourExtractorConfig(
        hidden_sizes=[4, 6, 8],
        depths=[1, 1, 1],
        strides=[2, 2, 2],
        residual_type=residual_type,
        dense_growth_rate=4,
        unify=unify,
        level_channels=4,
        fusion=fusion,
        fusion_channels=6,
        side_loss_weight=0.5,
    )
    model = ContourExtractorForPreTraining(config)
    pixels, labels = torch.randn(2, 3, 33, 47), (torch.rand(2, 33, 47) > 0.8).float()
    check_round_trip(model, pixels, labels, tmp_path)
    # without its single-channel layer
    extractor = ContourExtractorModel.from_pretrained(tmp_path)
    features = model(pixels).last_hidden_state
    assert torch.equal(extractor(pixels).last_hidden_state, features)


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("unify", ["bilinear", "nearest", "deconv"])
def test_extractor_of_a_timm_network(tmp_path, backbone, unify):
    torch.manual_seed(0)
    config = ContourExtractorConfig(
        backbone=backbone, backbone_levels=[0, 1, 2], unify=unify, level_channels=4, fusion_channels=6
    )
    model = ContourExtractorForPreTraining(config)
    check_round_trip(model, torch.randn(2, 3, 33, 47), (torch.rand(2, 33, 47) > 0.8).float(), tmp_path)


def check_classifier(folder, contours, fusion, head, backbone, problem_type) -> None:
    torch.manual_seed(0)
    extractor = ContourExtractorConfig(
        hidden_sizes=[4, 6, 8], depths=[1, 1, 1], strides=[2, 2, 2], level_channels=4, fusion_channels=6
    )
    config = ContourGenderConfig(
        extractor_config=extractor,
        backbone=backbone,
        fusion=fusion,
        fusion_channels=8,
        head_channels=8,
        **head,
        id2label={0: "cotton", 1: "denim", 2: "silk"},
        problem_type=problem_type,
        **contours,
    )
    labels = torch.tensor([0, 2])
    if problem_type == "multi_label_classification":
        labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    check_round_trip(ContourGenderForImageClassification(config), torch.randn(2, 3, 64, 64), labels, folder)


@pytest.mark.parametrize("options", pairwise(AXES), ids=str)
def test_classifier_pairs(tmp_path, options):
    check_classifier(tmp_path, *options)


@pytest.mark.slow
@pytest.mark.parametrize("options", list(itertools.product(*AXES)), ids=str)
def test_classifier(tmp_path, options):
    check_classifier(tmp_path, *options)


@pytest.mark.parametrize(("fusion_layers", "fusion_kernel_size"), [(1, 1), (2, 3), (3, 5), (1, 7)])
@pytest.mark.parametrize("fusion", ["conv", "concat_conv"])
def test_cascaded_convolutions_have_the_stated_number_and_size(fusion, fusion_layers, fusion_kernel_size):
    config = ContourGenderConfig(
        extractor_config=ContourExtractorConfig(hidden_sizes=[4], depths=[0], strides=[2]),
        backbone="test_efficientnet",
        fusion=fusion,
        fusion_layers=fusion_layers,
        fusion_kernel_size=fusion_kernel_size,
        fusion_channels=8,
    )
    model = ContourGenderForImageClassification(config).eval()
    layers = [module for module in model.contour_fusion.layers.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(fusion_kernel_size,) * 2] * fusion_layers
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 2)


def test_the_pairs_are_complete():
    chosen = [tuple(axis.index(value) for axis, value in zip(AXES, row, strict=True)) for row in pairwise(AXES)]
    for (i, first), (j, second) in itertools.combinations(enumerate(AXES), 2):
        assert len({(row[i], row[j]) for row in chosen}) == len(first) * len(second)
