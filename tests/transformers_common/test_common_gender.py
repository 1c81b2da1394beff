import copy
import tempfile
import unittest
from typing import Any
from unittest.mock import patch

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from partial_loading import partial_loading
from skips import NO_EMBEDDINGS, OWN_CHECKPOINTING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers_common_tests import test_modeling_common
from transformers_common_tests.test_configuration_common import ConfigTester
from transformers_common_tests.test_modeling_common import ModelTesterMixin

from hf_contour import ContourExtractorConfig, ContourGenderConfig, ContourGenderForImageClassification

pytestmark = pytest.mark.transformers_common


class ContourGenderTester:
    """A small extractor beside a small timm network, and two images."""

    batch_size = 2
    image_size = 32
    is_training = True

    def get_config(self) -> ContourGenderConfig:
        return ContourGenderConfig(
            extractor_config=ContourExtractorConfig(
                hidden_sizes=[4, 8], depths=[1, 1], strides=[2, 2], level_channels=4, fusion_channels=8
            ),
            backbone="test_resnet",
            contour_features="levels",
            contour_channels=6,
            fusion_channels=8,
            head="mlp",
            head_channels=8,
            num_labels=3,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[ContourGenderConfig, dict[str, Any]]:
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, self.image_size, self.image_size)}


class ContourGenderModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ContourGenderForImageClassification,)
    test_resize_embeddings = False
    has_attentions = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = ContourGenderTester()
        # As a model of the library: the tests then give it labels.
        names = patch.dict(
            MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, contour_gender="ContourGenderForImageClassification"
        )
        names.start()
        self.addCleanup(names.stop)

    def test_config(self) -> None:
        tester = ConfigTester(
            self, config_class=ContourGenderConfig, has_text_modality=False, common_properties=["extractor_config"]
        )
        tester.run_common_tests()

    def test_can_init_all_missing_weights(self) -> None:
        """As the test that this overrides, but what timm draws its own way need only be of the same scale."""
        config = self.model_tester.get_config()
        with test_modeling_common.seeded_weight_init(), partial_loading():
            built = ContourGenderForImageClassification(config).state_dict()
            loaded = ContourGenderForImageClassification.from_pretrained(
                None, config=config, state_dict={}
            ).state_dict()
        assert built.keys() == loaded.keys()
        for name, tensor in loaded.items():
            if "image_backbones" in name:
                assert torch.isfinite(tensor).all(), name
                if tensor.ndim > 1:
                    assert 1 / 3 < tensor.std() / built[name].std() < 3, name
            else:
                assert torch.equal(tensor, built[name]), name

    def test_can_load_ignoring_mismatched_shapes(self) -> None:
        # The test takes every field with "_std" for a scale of initial weights; image_std is none.
        with patch.object(test_modeling_common, "_config_zero_init", copy.deepcopy):
            super().test_can_load_ignoring_mismatched_shapes()

    def test_mismatched_head_keeps_the_rest(self) -> None:
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        model = ContourGenderForImageClassification(config)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = ContourGenderForImageClassification.from_pretrained(
                folder, num_labels=42, ignore_mismatched_sizes=True
            )
        expected = model.state_dict()
        changed = {name for name, tensor in loaded.state_dict().items() if tensor.shape != expected[name].shape}
        assert changed == {"classifier.output.weight", "classifier.output.bias"}
        for name, tensor in loaded.state_dict().items():
            assert torch.isfinite(tensor).all() if name in changed else torch.equal(tensor, expected[name])

    def test_hidden_states_output(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        outputs = ContourGenderForImageClassification(config).eval()(**inputs, output_hidden_states=True)
        channels = [hidden_state.shape[1] for hidden_state in outputs.hidden_states]
        assert (channels[0], channels[-1]) == (6, 8)  # the levels, brought down; the fused map
        assert len({hidden_state.shape[-2:] for hidden_state in outputs.hidden_states}) == 1

    def test_retain_grad_hidden_states_attentions(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = ContourGenderForImageClassification(config)
        outputs = model(**inputs, output_hidden_states=True)
        for hidden_state in outputs.hidden_states:
            hidden_state.retain_grad()
        outputs.logits.flatten()[0].backward()
        assert all(hidden_state.grad.abs().sum() > 0 for hidden_state in outputs.hidden_states)
        assert all(parameter.grad is None for parameter in model.extractor.parameters())  # it is frozen
        assert all(parameter.grad is not None for parameter in model.contour_downsampling.parameters())

    def test_problem_types(self) -> None:
        """As the test that this overrides, without regression, which the config refuses."""
        labels = {"single_label_classification": torch.tensor([0, 2]), "multi_label_classification": torch.ones(2, 3)}
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for problem_type, target in labels.items():
            config.problem_type = problem_type
            ContourGenderForImageClassification(config)(**inputs, labels=target).loss.backward()
        with pytest.raises(StrictDataclassError):
            ContourGenderConfig(problem_type="regression")

    @unittest.skip(OWN_CHECKPOINTING)
    def test_training_gradient_checkpointing(self) -> None: ...

    @unittest.skip(OWN_CHECKPOINTING)
    def test_training_gradient_checkpointing_use_reentrant_false(self) -> None: ...

    @unittest.skip(OWN_CHECKPOINTING)
    def test_training_gradient_checkpointing_use_reentrant_true(self) -> None: ...

    @unittest.skip(NO_EMBEDDINGS)
    def test_model_get_set_embeddings(self) -> None: ...
