"""Export a model for a runtime other than PyTorch: faster on a CPU, or without Transformers.

    hf-contour export --model MODEL --output exported                        # ONNX
    hf-contour export --model MODEL --output exported --calibration FOLDER   # ONNX of 8-bit integers
    hf-contour export --model MODEL --output exported --format openvino

The folder holds the program, the processor, and the config with labels, temperature and threshold; `hf-contour
predict --model exported` reads it. The batch may be of any size, images only of the size that was exported. A minute.
Exit codes: 0 done, 2 refused.
"""

from collections.abc import Sequence

from hf_contour.cli.settings import read_settings
from hf_contour.inference.arguments import ExportArguments


def main(argv: Sequence[str]) -> int:
    """Exports, and says how far the answers are from PyTorch's."""
    arguments = read_settings(ExportArguments, argv, command="export", description=__doc__)
    from hf_contour.inference.export import export

    described = export(arguments)
    print(
        f"written: {arguments.output}; logits differ from PyTorch's by at most {described['largest_difference']:.2g}"
    )
    return 0
