"""Image classification helped by contours: a frozen contour extractor beside image backbones.

Importing the package registers its classes with the Auto classes of Transformers.
"""

import sys
from pathlib import PurePath

from hf_contour.version import __version__

# `hf-contour --help` and its refusals answer before torch is loaded, which takes seconds; its commands load what they
# need.
if PurePath(getattr(sys, "argv", [""])[0]).stem != "hf-contour":
    from hf_contour.hub.registration import (
        ContourExtractorConfig,
        ContourExtractorForPreTraining,
        ContourExtractorModel,
        ContourGenderConfig,
        ContourGenderForImageClassification,
        ContourGenderModel,
        ContourImageClassificationPipeline,
        ContourImageProcessor,
        ImageReadError,
        fold_batch_norms,
        open_image,
    )

__all__ = [
    "ContourExtractorConfig",
    "ContourExtractorForPreTraining",
    "ContourExtractorModel",
    "ContourGenderConfig",
    "ContourGenderForImageClassification",
    "ContourGenderModel",
    "ContourImageClassificationPipeline",
    "ContourImageProcessor",
    "ImageReadError",
    "__version__",
    "fold_batch_norms",
    "open_image",
]
