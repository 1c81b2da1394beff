"""Half precision, device maps, compilation and exports give the answers of the plain model on the CPU.

Tolerances, on outputs of the order of one: fp16 0.02, bf16 0.1 (8 bits of mantissa), compiled 1e-4, exported to
ONNX 1e-4, exported by torch 1e-5, and bit-equal where only the placement changes.
"""

import copy

import onnxruntime
import pytest
import torch
from tiny_models import TIMM_CASCADE, tiny_classifier, tiny_extractor
from torch.export import Dim

MODELS = {
    "extractor": lambda: tiny_extractor(unify=["bilinear", "deconv"], residual_type=["senet", "densenet"]),
    "timm extractor": lambda: tiny_extractor(backbone="test_resnet", unify="nearest"),
    "classifier": tiny_classifier,
    "timm classifier": lambda: tiny_classifier(
        extractor=TIMM_CASCADE, backbone=["test_resnet", "shufflenet_v2_x0_5"], contour_features="levels", head="mlp"
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture
def pixels():
    """Two images whose sides are no multiples of any stride."""
    return torch.randn(2, 3, 70, 51, generator=torch.Generator().manual_seed(0))


def logits(model, pixels):
    with torch.no_grad():
        return model(pixel_values=pixels).logits


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=["fp16", "bf16"])
def test_half_precision(tmp_path, model, pixels, dtype, tolerance):
    expected = logits(model, pixels)
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=dtype)
    answer = logits(half, pixels.to(dtype))
    assert answer.dtype == dtype
    assert torch.allclose(answer.float(), expected, atol=tolerance * expected.abs().max().clamp_min(1).item())
    with torch.autocast("cpu", dtype=dtype):
        answer = logits(model, pixels)
    assert torch.allclose(answer.float(), expected, atol=tolerance * expected.abs().max().clamp_min(1).item())


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_device_maps_change_nothing(tmp_path, model, pixels, device_map):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, device_map=device_map)
    answer = logits(loaded, pixels.to(loaded.device))
    if loaded.device.type == "cpu":
        assert torch.equal(answer, logits(model, pixels))
    else:
        assert torch.allclose(answer.cpu(), logits(model, pixels), atol=1e-3)


def test_parts_on_disk_change_nothing(tmp_path, pixels):
    model = tiny_classifier()
    model.save_pretrained(tmp_path / "model")
    places = {
        "extractor": "disk",
        "contour_downsampling": "cpu",
        "image_backbones": "cpu",
        "contour_fusion": "disk",
        "classifier": "cpu",
    }
    loaded = type(model).from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offloaded")
    assert torch.equal(logits(loaded, pixels), logits(model, pixels))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_may_be_named_and_changes_nothing(tmp_path, model, pixels, attention):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation=attention)
    assert torch.equal(logits(loaded, pixels), logits(model, pixels))


def test_channels_last_changes_little(model, pixels):
    expected = logits(model, pixels)
    answer = logits(model.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last))
    assert torch.allclose(answer, expected, atol=1e-5 * expected.abs().max().clamp_min(1).item())


def check_compiled(model, pixels) -> None:
    expected = logits(model, pixels)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    assert torch.allclose(logits(compiled, pixels), expected, atol=1e-4 * expected.abs().max().clamp_min(1).item())


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_one_graph_is_compiled(kind, pixels):
    """With the backend that only traces, which shows that nothing breaks the graph."""
    model = MODELS[kind]()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(logits(compiled, pixels), logits(model, pixels))


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_compiled_code_gives_the_same(kind, pixels):
    check_compiled(MODELS[kind](), pixels)


@pytest.mark.slow
def test_compiled_training_gives_the_same_gradients():
    model = tiny_classifier().train()
    twin = copy.deepcopy(model)
    pixels, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 1])
    model(pixels, labels=labels).loss.backward()
    torch.compiler.reset()
    torch.compile(twin, fullgraph=True)(pixels, labels=labels).loss.backward()
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            largest = parameter.grad.abs().max().item()
            assert torch.allclose(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-4 * largest + 1e-6), name


def test_torch_export_takes_any_batch(model, pixels):
    shapes = {"pixel_values": {0: Dim("batch")}}
    program = torch.export.export(model, (), {"pixel_values": pixels}, dynamic_shapes=shapes).module()
    for count in (1, 2, 5):
        batch = torch.randn(count, *pixels.shape[1:], generator=torch.Generator().manual_seed(count))
        expected = logits(model, batch)
        assert torch.allclose(program(pixel_values=batch).logits, expected, rtol=1e-5, atol=1e-5)


def check_onnx(model, pixels, folder) -> None:
    path = folder / "model.onnx"
    shapes = {"pixel_values": {0: Dim("batch")}}
    torch.onnx.export(
        model,
        kwargs={"pixel_values": pixels},
        f=path,
        dynamo=True,
        dynamic_shapes=shapes,
        output_names=["logits"],  # the first output; the maps follow
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        batch = torch.randn(count, *pixels.shape[1:], generator=torch.Generator().manual_seed(count))
        (answer,) = session.run(["logits"], {"pixel_values": batch.numpy()})
        expected = logits(model, batch)
        tolerance = 1e-4 * expected.abs().max().clamp_min(1).item()
        assert torch.allclose(torch.from_numpy(answer), expected, atol=tolerance)


def test_onnx_gives_the_same_for_any_batch(tmp_path, pixels):
    check_onnx(MODELS["extractor"](), pixels, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm extractor", "classifier", "timm classifier"])
def test_onnx_gives_the_same_for_every_model(tmp_path, pixels, kind):
    check_onnx(MODELS[kind](), pixels, tmp_path)
