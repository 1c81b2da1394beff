"""Image classification helped by contours: a frozen contour extractor beside image backbones.

Importing the package registers its classes with the Auto classes of Transformers.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining, ContourExtractorModel
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.version import __version__

for _config, _model in (
    (ContourExtractorConfig, ContourExtractorModel),
    (ContourGenderConfig, ContourGenderForImageClassification),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoModelForPreTraining.register(ContourExtractorConfig, ContourExtractorForPreTraining, exist_ok=True)
AutoModelForImageClassification.register(
    ContourGenderConfig, ContourGenderForImageClassification, exist_ok=True
)

__all__ = [
    "ContourExtractorConfig",
    "ContourExtractorForPreTraining",
    "ContourExtractorModel",
    "ContourGenderConfig",
    "ContourGenderForImageClassification",
    "__version__",
]
