import copy
import unittest
from typing import Any
from unittest.mock import patch

import pytest
import torch
from partial_loading import partial_loading
from skips import NO_EMBEDDINGS
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers_common_tests import test_modeling_common
from transformers_common_tests.test_configuration_common import ConfigTester
from transformers_common_tests.test_modeling_common import ModelTesterMixin

from hf_contour import ContourExtractorConfig, ContourExtractorForPreTraining, ContourExtractorModel

pytestmark = pytest.mark.transformers_common


class ContourExtractorTester:
    """A cascade of two small stages of different kinds, and two images."""

    batch_size = 2
    image_size = 16
    is_training = True

    def get_config(self) -> ContourExtractorConfig:
        return ContourExtractorConfig(
            hidden_sizes=[4, 8],
            depths=[1, 1],
            strides=[2, 2],
            residual_type=["densenet", "senet"],
            unify=["bilinear", "deconv"],
            level_channels=4,
            fusion_channels=8,
            side_loss_weight=0.5,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[ContourExtractorConfig, dict[str, Any]]:
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, self.image_size, self.image_size)}


class ContourExtractorModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ContourExtractorModel, ContourExtractorForPreTraining)
    test_resize_embeddings = False
    has_attentions = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = ContourExtractorTester()
        # As a model of the library: the tests ask no loss of a bare model.
        names = patch.dict(MODEL_MAPPING_NAMES, contour_extractor="ContourExtractorModel")
        names.start()
        self.addCleanup(names.stop)

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is ContourExtractorForPreTraining:
            size = (self.model_tester.batch_size, self.model_tester.image_size, self.model_tester.image_size)
            inputs["labels"] = torch.randint(0, 2, size, generator=torch.Generator().manual_seed(0)).float()
        return inputs

    def test_config(self) -> None:
        tester = ConfigTester(
            self, config_class=ContourExtractorConfig, has_text_modality=False, common_properties=["num_channels"]
        )
        tester.run_common_tests()

    def test_can_init_all_missing_weights(self) -> None:
        with partial_loading():
            super().test_can_init_all_missing_weights()

    def test_can_load_ignoring_mismatched_shapes(self) -> None:
        # The test takes every field with "_std" for a scale of initial weights; image_std is none.
        with patch.object(test_modeling_common, "_config_zero_init", copy.deepcopy):
            super().test_can_load_ignoring_mismatched_shapes()

    def test_hidden_states_output(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            outputs = model_class(config).eval()(**inputs)
            shapes = [tuple(hidden_state.shape) for hidden_state in outputs.hidden_states]
            assert shapes == [(2, 4, 8, 8), (2, 8, 4, 4)]

    @unittest.skip(NO_EMBEDDINGS)
    def test_model_get_set_embeddings(self) -> None: ...
