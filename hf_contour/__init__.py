"""Image classification helped by contours: a frozen contour extractor beside image backbones.

Importing the package registers its classes with the Auto classes of Transformers.
"""

import sys
from pathlib import PurePath

from hf_contour.version import __version__

# `hf-contour --help` and its refusals answer before torch is loaded, which takes seconds; its commands load what they
# need. So does `python -m hf_contour`, which is still called `-m` while it is looked for.
_arguments = getattr(sys, "argv", [""])
_as_module = _arguments[0] == "-m" and sys.orig_argv[-len(_arguments)] == "hf_contour"
if PurePath(_arguments[0]).stem != "hf-contour" and not _as_module:
    import hf_contour.hub.registration  # noqa: F401
    from hf_contour.batch_norm_folding_contour import fold_batch_norms
    from hf_contour.configuration_contour_extractor import ContourExtractorConfig
    from hf_contour.configuration_contour_gender import ContourGenderConfig
    from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError, open_image
    from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining, ContourExtractorModel
    from hf_contour.modeling_contour_gender import ContourGenderForImageClassification, ContourGenderModel
    from hf_contour.pipeline_contour import ContourImageClassificationPipeline

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
