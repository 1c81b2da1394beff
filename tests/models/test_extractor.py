"""The extractor: sizes, levels, borders, its head, and that it learns."""

import pytest
import torch

from hf_contour import ContourExtractorConfig, ContourExtractorForPreTraining, ContourExtractorModel

TINY = {
    "hidden_sizes": [4, 6, 8],
    "depths": [1, 1, 1],
    "strides": [2, 2, 2],
    "level_channels": 4,
    "fusion_channels": 6,
}


def random_statistics(model: torch.nn.Module) -> None:
    """Gives every batch normalisation statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (33, 47), (64, 32)])
@pytest.mark.parametrize("output_stride", [1, 2, 4])
def test_every_size_gives_features_of_the_stated_size(size, output_stride):
    config = ContourExtractorConfig(**TINY, output_stride=output_stride)
    model = ContourExtractorForPreTraining(config).eval()
    output = model(torch.rand(2, 3, *size))
    rows, columns = -(-size[0] // output_stride), -(-size[1] // output_stride)
    assert output.logits.shape == (2, 1, *size)
    assert output.last_hidden_state.shape == (2, 6, rows, columns)
    assert [level.shape for level in output.level_features] == [(2, 4, rows, columns)] * 3


def test_every_stage_gives_features_of_another_size():
    output = ContourExtractorModel(ContourExtractorConfig(**TINY)).eval()(torch.rand(1, 3, 32, 48))
    assert [tuple(state.shape[1:]) for state in output.hidden_states] == [(4, 16, 24), (6, 8, 12), (8, 4, 6)]


@pytest.mark.parametrize("levels", [[0], [1], [0, 2], [2, 1]])
def test_levels_asked_for_alone_are_those_of_all_and_nothing_else_is_run(levels):
    model = ContourExtractorModel(ContourExtractorConfig(**TINY)).eval()
    random_statistics(model)
    pixels = torch.rand(2, 3, 33, 47)
    everything = model(pixels)
    run = []
    for name, part in [("fusion", model.fusion), *enumerate(model.cascade.stages)]:
        part.register_forward_hook(lambda *_, name=name: run.append(name))
    output = model(pixels, levels=levels)
    assert run == list(range(max(levels) + 1))
    assert output.last_hidden_state is None
    expected = [everything.level_features[level] for level in levels]
    assert all(torch.equal(ours, one) for ours, one in zip(output.level_features, expected, strict=True))


def test_a_timm_cascade_gives_levels_alone_too():
    model = ContourExtractorModel(ContourExtractorConfig(backbone="test_resnet", backbone_levels=[0, 1, 2])).eval()
    pixels = torch.rand(1, 3, 64, 64)
    (level,) = model(pixels, levels=[1]).level_features
    assert torch.equal(level, model(pixels).level_features[1])


@pytest.mark.parametrize("levels", [[], [3], [-1], [0, 7]])
def test_levels_that_are_not_there_are_named(levels):
    with pytest.raises(ValueError, match=r"levels are .*expected numbers from 0 to 2"):
        ContourExtractorModel(ContourExtractorConfig(**TINY))(torch.rand(1, 3, 32, 32), levels=levels)


@pytest.mark.parametrize(("fusion", "channels"), [("concat", 12), ("sum", 4), ("conv", 6)])
def test_fusion_decides_the_channels(fusion, channels):
    model = ContourExtractorModel(ContourExtractorConfig(**TINY, fusion=fusion)).eval()
    output = model(torch.rand(1, 3, 16, 16))
    assert output.last_hidden_state.shape[1] == channels == model.num_features
    if fusion == "concat":
        assert torch.equal(output.last_hidden_state, torch.cat(output.level_features, dim=1))
    if fusion == "sum":
        assert torch.allclose(output.last_hidden_state, sum(output.level_features), atol=1e-6)


def test_a_new_deconvolution_interpolates_bilinearly_away_from_the_border():
    deconv = ContourExtractorModel(ContourExtractorConfig(**TINY, unify="deconv")).eval()
    bilinear = ContourExtractorModel(ContourExtractorConfig(**TINY, unify="bilinear")).eval()
    bilinear.load_state_dict({k: v for k, v in deconv.state_dict().items() if "deconv" not in k})
    pixels = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(deconv(pixels).level_features[1:], bilinear(pixels).level_features[1:], strict=True):
        assert torch.allclose(ours[..., 8:-8, 8:-8], theirs[..., 8:-8, 8:-8], atol=1e-5)


def test_a_image_does_not_depend_on_the_others_in_its_batch():
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**TINY)).eval()
    random_statistics(model)
    pixels = torch.rand(5, 3, 40, 24)
    together = model(pixels).logits
    alone = torch.cat([model(image[None]).logits for image in pixels])
    assert torch.allclose(together, alone, atol=1e-5)


def test_padding_inside_is_a_repeated_border():
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**TINY)).eval()
    pixels = torch.rand(1, 3, 29, 35)
    padded = torch.nn.functional.pad(pixels, (0, 5, 0, 3), mode="replicate")
    assert torch.equal(model(pixels).logits, model(padded).logits[..., :29, :35])


def test_the_head_is_dropped_and_the_features_stay(tmp_path):
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**TINY, side_loss_weight=0.5)).eval()
    random_statistics(model)
    model.save_pretrained(tmp_path)
    pixels = torch.rand(2, 3, 33, 47)
    before = model(pixels)
    extractor = ContourExtractorModel.from_pretrained(tmp_path)
    after = extractor(pixels)
    assert not any("head" in name for name in extractor.state_dict())
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    for level_before, level_after in zip(before.level_features, after.level_features, strict=True):
        assert torch.equal(level_before, level_after)


def test_side_maps_add_their_loss():
    pixels, labels = torch.rand(2, 3, 16, 16), (torch.rand(2, 16, 16) > 0.8).float()
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**TINY, side_loss_weight=0.5)).eval()
    output = model(pixels, labels=labels)
    assert len(output.side_logits) == 3
    expected = model._loss(output.logits, labels)
    expected = expected + 0.5 * sum(model._loss(side, labels) for side in output.side_logits) / 3
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_new_head_is_undecided():
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**TINY, side_loss_weight=1.0)).eval()
    output = model(torch.randn(1, 3, 32, 32))
    assert all(logits.abs().max() < 0.5 for logits in (output.logits, *output.side_logits))
    assert output.logits.std() > 0


@pytest.mark.parametrize("residual_type", ["resnet", "densenet", "senet"])
def test_it_learns_a_square(residual_type):
    torch.manual_seed(0)
    model = ContourExtractorForPreTraining(
        ContourExtractorConfig(**TINY, residual_type=residual_type, loss="balanced")
    )
    pixels = -torch.ones(1, 3, 32, 32)
    pixels[..., 8:24, 8:24] = 1
    labels = torch.zeros(1, 32, 32)
    labels[:, 8:24, 8:24] = 1
    labels[:, 9:23, 9:23] = 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.45 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrong_pixel_values_are_named():
    model = ContourExtractorModel(ContourExtractorConfig(**TINY))
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\).*3"):
        model(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="ContourImageProcessor"):
        model(torch.rand(3, 8, 8))


def test_a_timm_cascade_starts_from_weights_of_its_architecture(tmp_path):
    import timm

    donor = timm.create_model("resnet10t", num_classes=7)
    torch.save(donor.state_dict(), tmp_path / "resnet10t.pth")
    config = ContourExtractorConfig(backbone="resnet10t", backbone_levels=[0, 1, 2], level_channels=4)
    model = ContourExtractorModel(config)
    model.load_backbone_weights(tmp_path / "resnet10t.pth")
    mine = model.cascade.network.state_dict()
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in mine.items())
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth.*missing"):
        model.load_backbone_weights(tmp_path / "other.pth")
    with pytest.raises(ValueError, match="cascade of its own"):
        ContourExtractorModel(ContourExtractorConfig(**TINY)).load_backbone_weights(tmp_path / "resnet10t.pth")
