"""Image classification helped by contours: a frozen contour extractor beside image backbones.

Importing the package registers its classes with the Auto classes of Transformers, and the pipeline that opens
images as training does.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError, open_image
from hf_contour.modeling_contour_extractor import (
    ContourExtractorForPreTraining,
    ContourExtractorModel,
    fold_batch_norms,
)
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.pipeline_contour import ContourImageClassificationPipeline, register_pipeline
from hf_contour.version import __version__

for _config, _model in (
    (ContourExtractorConfig, ContourExtractorModel),
    (ContourGenderConfig, ContourGenderForImageClassification),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoImageProcessor.register(_config, ContourImageProcessor, exist_ok=True)
AutoModelForPreTraining.register(ContourExtractorConfig, ContourExtractorForPreTraining, exist_ok=True)
AutoModelForImageClassification.register(ContourGenderConfig, ContourGenderForImageClassification, exist_ok=True)
register_pipeline()

__all__ = [
    "ContourExtractorConfig",
    "ContourExtractorForPreTraining",
    "ContourExtractorModel",
    "ContourGenderConfig",
    "ContourGenderForImageClassification",
    "ContourImageClassificationPipeline",
    "ContourImageProcessor",
    "ImageReadError",
    "__version__",
    "fold_batch_norms",
    "open_image",
]
