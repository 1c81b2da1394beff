"""The classifier: frozen extractor, joined parts, confidence, loading, and that contours matter."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_contour import (
    ContourExtractorConfig,
    ContourExtractorForPreTraining,
    ContourExtractorModel,
    ContourGenderConfig,
    ContourGenderForImageClassification,
)
from hf_contour.batch_norm_folding_contour import fold_batch_norms

EXTRACTOR = {"hidden_sizes": [4, 6], "depths": [1, 1], "strides": [2, 2], "level_channels": 4, "fusion_channels": 6}
SMALL = {"backbone": "mobilenetv3_small_050", "contour_channels": 8, "fusion_channels": 8}


def tiny_classifier(**fields) -> ContourGenderForImageClassification:
    torch.manual_seed(0)
    extractor_config = ContourExtractorConfig(**{**EXTRACTOR, **fields.pop("extractor", {})})
    return ContourGenderForImageClassification(
        ContourGenderConfig(extractor_config=extractor_config, **{**SMALL, **fields})
    )


def checksum(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_steps(model, *, steps=3, autocast=False, call=None) -> None:
    model.train()
    call = model if call is None else call  # a compiled model has no truth value
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)  # every parameter is offered to it
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = call(torch.rand(2, 3, 64, 64), labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_training_leaves_the_extractor_bit_equal_and_moves_the_rest(autocast):
    model = tiny_classifier()
    before = {name: checksum(part) for name, part in model.named_children()}
    train_steps(model, autocast=autocast)
    after = {name: checksum(part) for name, part in model.named_children()}
    assert before["extractor"] == after["extractor"]
    assert all(before[name] != after[name] for name in ("image_backbones", "contour_fusion", "classifier"))


@pytest.mark.slow
def test_a_compiled_model_leaves_the_extractor_bit_equal():
    model = tiny_classifier()
    before = checksum(model.extractor)
    train_steps(model, call=torch.compile(model))
    assert checksum(model.extractor) == before


def test_the_extractor_stays_frozen_after_loading(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    model = ContourGenderForImageClassification.from_pretrained(tmp_path).train()
    assert not any(module.training for module in model.extractor.modules())
    assert not any(parameter.requires_grad for parameter in model.extractor.parameters())
    assert all(parameter.requires_grad for parameter in model.image_backbones.parameters())


def test_parts_are_joined_from_folder_and_file(tmp_path):
    torch.manual_seed(1)
    extractor = ContourExtractorForPreTraining(ContourExtractorConfig(**EXTRACTOR)).eval()
    extractor.save_pretrained(tmp_path / "extractor")
    donor = tiny_classifier().image_backbones[0].network.state_dict()
    save_file({**donor, "classifier.weight": torch.zeros(2, 2)}, tmp_path / "backbone.safetensors")
    model = ContourGenderForImageClassification.from_extractor_and_backbone(
        tmp_path / "extractor",
        "mobilenetv3_small_050",
        backbone_weights=tmp_path / "backbone.safetensors",
        fusion_channels=8,
        id2label={0: "cotton", 1: "denim", 2: "silk"},
    ).eval()
    assert checksum(model.extractor) == checksum(extractor.contour_extractor)
    assert all(torch.equal(v, donor[k]) for k, v in model.image_backbones[0].network.state_dict().items())
    assert model.config.image_mean == pytest.approx([0.485, 0.456, 0.406])
    assert model(torch.rand(2, 3, 40, 32)).logits.shape == (2, 3)
    # the extractor sees its own normalisation, whatever that of the backbone is
    image = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    features = model((image - mean) / std, output_level_features=True).level_features
    expected = extractor.contour_extractor((image - 0.5) / 0.5).level_features
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(features, expected, strict=True))


def test_backbones_of_different_normalisation_need_a_stated_one():
    extractor = ContourExtractorModel(ContourExtractorConfig(**EXTRACTOR))
    names = ["tf_efficientnet_lite0", "mobilenetv3_small_050"]
    with pytest.raises(ValueError, match="image_mean"):
        ContourGenderForImageClassification.from_extractor_and_backbone(extractor, names)


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit.*missing.*conv_stem\.weight"):
        tiny_classifier().image_backbones[0].load_weights(tmp_path / "other.safetensors")


def test_levels_are_joined_as_they_are_and_only_they_are_computed():
    model = tiny_classifier(contour_features="levels", contour_levels=[0]).eval()
    pixels = torch.rand(2, 3, 64, 64)
    output = model(pixels, output_level_features=True)
    assert len(output.level_features) == 2  # on request all are returned, also those that are not used
    run = []
    for part in (model.extractor.fusion, model.extractor.cascade.stages[1]):
        part.register_forward_hook(lambda *_: run.append(1))
    assert torch.equal(model.contour_features(pixels), output.level_features[0])
    assert torch.equal(model(pixels).logits, output.logits)
    assert not run


@pytest.mark.parametrize("features", [{"contour_features": "fused"}, {"contour_features": "levels"}])
@pytest.mark.parametrize("fusion", ["concat", "conv", "concat_conv"])
def test_blank_contours_change_the_answer(features, fusion):
    model = tiny_classifier(fusion=fusion, **features).eval()
    pixels = torch.rand(2, 3, 64, 64)
    logits = model(pixels).logits
    blank = torch.zeros_like(model.contour_features(pixels))
    assert (model(pixels, contour_features=blank).logits - logits).abs().max() > 1e-6


def test_temperature_divides_logits_in_evaluation_only():
    model = tiny_classifier(temperature=2.0)
    plain = tiny_classifier()
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    ours, theirs = model.eval()(pixels, labels=labels), plain.eval()(pixels, labels=labels)
    assert torch.equal(ours.logits, theirs.logits / 2)
    assert torch.equal(ours.loss, theirs.loss)
    torch.manual_seed(3)
    trained = model.train()(pixels).logits
    torch.manual_seed(3)
    assert torch.equal(trained, plain.train()(pixels).logits)


def test_hidden_states_are_maps_of_one_grid():
    model = tiny_classifier(backbone=["resnet10t", "shufflenet_v2_x0_5"]).eval()
    output = model(torch.rand(1, 3, 70, 40), output_hidden_states=True)
    assert [tuple(state.shape[1:]) for state in output.hidden_states] == [
        (8, 3, 2),
        (512, 3, 2),
        (1024, 3, 2),
        (8, 3, 2),
    ]


def test_averaged_contours_are_means_of_cells():
    model = tiny_classifier(contour_downsampling="average").eval()
    pixels = torch.rand(1, 3, 64, 96)
    contours = torch.cat([model.extractor(pixels).level_features[index] for index in model.level_indices], dim=1)
    joined = model(pixels, output_hidden_states=True).hidden_states[0]
    assert torch.equal(joined, model.contour_features(pixels))
    stride = model.join_stride // model.extractor.config.output_stride
    by_hand = contours.unfold(2, stride, stride).unfold(3, stride, stride).mean(dim=(4, 5))
    torch.testing.assert_close(joined, by_hand)


def test_learned_downsampling_ends_on_the_grid_of_the_backbone():
    model = tiny_classifier(contour_channels=9)
    widths = [layer[0].out_channels for layer in model.contour_downsampling.layers]
    assert model.join_stride == 32
    assert model.extractor.config.output_stride == 2
    assert widths == [3, 5, 7, 9]  # 9 / 4, 18 / 4, 27 / 4 and 36 / 4, rounded up
    assert model(torch.rand(1, 3, 64, 96), output_hidden_states=True).hidden_states[0].shape == (1, 9, 2, 3)


def test_a_grid_in_the_head_knows_places():
    sides = torch.zeros(2, 8, 4, 4)
    sides[0, :, :, :2], sides[1, :, :, 2:] = 1.0, 1.0  # the left half, and the right
    plain, placed = (tiny_classifier(head_grid=grid).eval().classifier for grid in ([1, 1], [1, 2]))
    assert torch.equal(*plain(sides))
    assert (placed(sides)[0] - placed(sides)[1]).abs().min() > 1e-4
    cells = torch.cat([sides[:1, :, :, :2].mean((2, 3)), sides[:1, :, :, 2:].mean((2, 3))], dim=1)
    by_hand = placed.output(cells.reshape(1, 2, 8).transpose(1, 2).flatten(1))
    torch.testing.assert_close(placed(sides)[:1], by_hand)


def test_without_contours_the_backbone_is_alone(tmp_path):
    model = tiny_classifier(contour_features="none").eval()
    assert model.extractor is None
    assert not [name for name in model.state_dict() if name.startswith(("extractor", "contour_downsampling"))]
    pixels = torch.rand(2, 3, 64, 64)
    feature_map = model.image_backbones[0](pixels)
    by_hand = model.classifier(model.contour_fusion([feature_map]))
    assert torch.equal(model(pixels).logits, by_hand)
    model.save_pretrained(tmp_path)
    assert torch.equal(ContourGenderForImageClassification.from_pretrained(tmp_path).eval()(pixels).logits, by_hand)
    with pytest.raises(ValueError, match="no extractor"):
        model.contour_features(pixels)


def test_features_that_are_given_take_the_place_of_the_extractor():
    model = tiny_classifier().eval()
    pixels = torch.rand(2, 3, 50, 70)
    features = model.contour_features(pixels)
    given = model(pixels, contour_features=features, output_level_features=True)
    assert torch.equal(given.logits, model(pixels).logits)
    assert given.level_features is None
    folded = model.contour_features(pixels, fold_batch_norms(model.extractor))
    torch.testing.assert_close(folded, features, rtol=1e-4, atol=1e-5)


def test_an_unfrozen_extractor_learns():
    model = tiny_classifier(contour_features="fused", freeze_extractor=False).train()
    model(torch.rand(2, 3, 64, 64), labels=torch.tensor([0, 1])).loss.backward()
    assert model.extractor.training
    gradients = [parameter.grad for parameter in model.extractor.cascade.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def damaged(folder, change) -> None:
    state_dict = load_file(folder / "model.safetensors")
    change(state_dict)
    save_file(state_dict, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("classifier.output.weight"), r"missing \['classifier.output.weight'\]"),
        (lambda weights: weights.update(extra=torch.zeros(1)), r"unexpected \['extra'\]"),
        (lambda weights: weights["classifier.output.bias"].fill_(float("nan")), "NaN or infinity.*classifier"),
        (lambda weights: weights["classifier.output.bias"].fill_(float("inf")), "NaN or infinity.*classifier"),
    ],
    ids=["missing", "surplus", "nan", "infinite"],
)
def test_weights_that_do_not_fit_are_an_error_and_not_a_random_model(tmp_path, change, said):
    tiny_classifier().save_pretrained(tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(ValueError, match=said):
        ContourGenderForImageClassification.from_pretrained(tmp_path)


def test_who_asks_for_the_report_gets_it(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    damaged(tmp_path, lambda weights: weights.pop("classifier.output.weight"))
    model, report = ContourGenderForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert list(report["missing_keys"]) == ["classifier.output.weight"]
    assert torch.isfinite(model.classifier.output.weight).all()


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_it_learns_one_batch(problem_type):
    model = tiny_classifier(problem_type=problem_type, num_labels=3, head="mlp", fusion="concat").train()
    pixels = torch.rand(4, 3, 64, 64)
    labels = torch.tensor([0, 1, 2, 1])
    if problem_type == "multi_label_classification":
        labels = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = model(pixels, labels=labels).loss
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
