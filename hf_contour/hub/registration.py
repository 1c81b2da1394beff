"""Registers the classes of the package with the Auto classes of Transformers; `import hf_contour` imports it."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)

from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining, ContourExtractorModel
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification, ContourGenderModel
from hf_contour.pipeline_contour import register_pipelines

for _config, _model in ((ContourExtractorConfig, ContourExtractorModel), (ContourGenderConfig, ContourGenderModel)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    # By name, as the first place is that of another backend, and every load would complain that ours is missing.
    AutoImageProcessor.register(_config, fast_image_processor_class=ContourImageProcessor, exist_ok=True)
AutoModelForPreTraining.register(ContourExtractorConfig, ContourExtractorForPreTraining, exist_ok=True)
AutoModelForImageClassification.register(ContourGenderConfig, ContourGenderForImageClassification, exist_ok=True)
register_pipelines()
