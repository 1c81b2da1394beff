"""One test, or more, for each convention of Transformers 5 that a custom model is caught by; each fails if it is."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tiny_models import CASCADE, TIMM_CASCADE, equal_states, tiny_classifier, tiny_extractor
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.backbone_utils import BackboneMixin
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.image_processing_backends import TorchvisionBackend

import hf_contour
from hf_contour import (
    ContourExtractorConfig,
    ContourExtractorForPreTraining,
    ContourExtractorModel,
    ContourGenderConfig,
    ContourGenderForImageClassification,
    ContourGenderModel,
    ContourImageProcessor,
)
from hf_contour.modeling_contour_branches import ImageBackbone

PACKAGE = Path(hf_contour.__file__).parent
# The files that travel to the Hub: everything that a registered class is defined in, and what it imports.
TRAVELLING = sorted(
    {*PACKAGE.glob("*_contour.py"), *PACKAGE.glob("configuration_*.py"), *PACKAGE.glob("modeling_*.py")}
)
THIRD_PARTY = {"torch", "torchvision", "timm", "transformers", "huggingface_hub", "safetensors", "PIL", "numpy"}
MODELS = {
    "extractor": tiny_extractor,
    "timm extractor": lambda: tiny_extractor(backbone="test_resnet"),
    "classifier": tiny_classifier,
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture
def uninitialised_memory_is_nan():
    """Makes `torch.empty` give NaN, so that a weight that nothing fills is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# Loading


def test_1_parts_of_equal_shape_are_not_swapped(tmp_path):
    twins = tiny_classifier(extractor=TIMM_CASCADE, backbone=["test_resnet", "test_resnet"])
    for index, parameter in enumerate(twins.parameters()):
        parameter.data.fill_(index)
    twins.save_pretrained(tmp_path)
    assert equal_states(AutoModelForImageClassification.from_pretrained(tmp_path), twins)


@pytest.mark.parametrize("make", [tiny_extractor, tiny_classifier])
def test_1_no_name_fits_another_with_the_prefix_on_or_off(make):
    model = make()
    names, prefix = set(model.state_dict()), f"{model.base_model_prefix}."
    assert not {prefix + name for name in names} & names
    assert not {name.removeprefix(prefix) for name in names if name.startswith(prefix)} & names


def test_2_the_extractor_is_frozen_before_an_optimiser_is_built(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("extractor.")}


@pytest.mark.parametrize("place", ["extractor", "image_backbones"])
def test_3_non_persistent_buffers_are_right_after_loading(tmp_path, place, uninitialised_memory_is_nan):
    blurred = {"backbone": "resnetblur18", "backbone_levels": [0, 1], "level_channels": 4}
    model = tiny_classifier(extractor=blurred) if place == "extractor" else tiny_classifier(backbone="resnetblur18")
    buffers = {name for name, _ in model.named_buffers()} - set(model.state_dict())
    assert any("filt" in name for name in buffers)
    model.save_pretrained(tmp_path)
    loaded = ContourGenderForImageClassification.from_pretrained(tmp_path)
    assert equal_states(loaded, model)
    pixels = torch.rand(1, 3, 40, 40)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_3_construction_reads_no_data(model):
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert {tensor.device.type for tensor in [*empty.parameters(), *empty.buffers()]} == {"meta"}
    stray = [
        (name, key)
        for name, module in empty.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    assert not stray  # a plain attribute would stay on the meta device


def test_4_what_timm_drew_is_kept(monkeypatch):
    drawn = []
    create_model = timm.create_model

    def recording(*args, **kwargs):
        network = create_model(*args, **kwargs)
        if torch.get_default_device().type != "meta":  # or it was only planned, to see how large it will be
            drawn.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network

    monkeypatch.setattr(timm, "create_model", recording)
    model = ContourGenderForImageClassification(
        ContourGenderConfig(extractor_config=ContourExtractorConfig(**TIMM_CASCADE), backbone="test_efficientnet")
    )
    networks = [model.image_backbones[0].network, model.extractor.cascade.network]
    assert len(drawn) == 2
    for network, expected in zip(networks, drawn, strict=True):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_4_an_incomplete_checkpoint_is_an_error_or_else_initialised(model, uninitialised_memory_is_nan):
    with pytest.raises(ValueError, match="missing"):
        type(model).from_pretrained(None, config=model.config, state_dict={})
    loaded, report = type(model).from_pretrained(None, config=model.config, state_dict={}, output_loading_info=True)
    assert set(report["missing_keys"]) == set(model.state_dict())
    for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
        assert torch.isfinite(tensor).all(), name
    for name, module in loaded.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.running_var == 1), name
            assert torch.all(module.running_mean == 0), name
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            spread = module.weight.square().mean().sqrt()
            if module.out_channels == 1:  # single-channel heads start close to even odds
                assert 0.003 < spread < 0.03, name
            else:
                assert 0.1 < spread * fan_out**0.5 < 5, name


def test_4_a_head_that_is_missing_is_drawn_and_the_rest_is_loaded(uninitialised_memory_is_nan):
    model = tiny_classifier()
    weights = {name: tensor for name, tensor in model.state_dict().items() if "classifier" not in name}
    loaded, _ = ContourGenderForImageClassification.from_pretrained(
        None, config=model.config, state_dict=weights, output_loading_info=True
    )
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items() if name in weights)
    assert torch.isfinite(loaded.classifier.output.weight).all()
    assert loaded.classifier.output.weight.std() > 0


def test_5_post_init_has_run(model):
    assert model.all_tied_weights_keys == {}
    assert all(part.all_tied_weights_keys == {} for part in model.modules() if isinstance(part, PreTrainedModel))


def test_6_weights_come_back_in_the_type_that_they_were_saved_in(tmp_path, model):
    model.to(torch.bfloat16).save_pretrained(tmp_path, safe_serialization=False)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert not list(tmp_path.glob("*.bin"))
    assert type(model).from_pretrained(tmp_path).dtype == torch.bfloat16
    assert type(model).from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


# Training


class Rows(torch.utils.data.Dataset):
    """One image and target `length` times, so that every batch has the same loss."""

    def __init__(self, model, length=8):
        self.length = length
        generator = torch.Generator().manual_seed(0)
        labels = torch.tensor(1)
        if isinstance(model, ContourExtractorForPreTraining):
            labels = (torch.rand(64, 64, generator=generator) > 0.8).float()
        self.row = {"pixel_values": torch.rand(3, 64, 64, generator=generator), "labels": labels}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.row


def trainer(model, folder, **arguments) -> Trainer:
    """A plain Trainer of two steps on the CPU."""
    defaults = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    settings = TrainingArguments(str(folder), dataloader_pin_memory=False, **{**defaults, **arguments})
    return Trainer(model, settings, train_dataset=Rows(model), eval_dataset=Rows(model, 4))


@pytest.mark.parametrize("make", [tiny_extractor, tiny_classifier])
def test_the_plain_trainer_trains_and_its_checkpoint_loads(tmp_path, make):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loop = trainer(model, tmp_path, learning_rate=0.01, save_steps=2)
    loop.train()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if make is tiny_classifier:  # trap 9 under the Trainer: statistics too
        frozen = model.extractor.state_dict()
        assert all(torch.equal(tensor, before[f"extractor.{name}"]) for name, tensor in frozen.items())
    assert equal_states(type(model).from_pretrained(tmp_path / "checkpoint-2"), model)


@pytest.mark.parametrize("make", [tiny_extractor, tiny_classifier])
def test_7_accumulation_does_not_inflate_the_loss(tmp_path, make):
    losses = []
    for steps in (1, 4):
        loop = trainer(make(), tmp_path, learning_rate=0.0, gradient_accumulation_steps=steps)
        losses.append(loop.train().training_loss)
    model = make().train()
    row = Rows(model).row
    expected = model(row["pixel_values"].expand(2, -1, -1, -1), labels=torch.stack([row["labels"]] * 2)).loss
    assert losses == pytest.approx([expected.item()] * 2, rel=1e-5)


def test_8_a_subclass_of_another_name_trains():
    class SectionClassifier(ContourGenderForImageClassification):
        pass

    model = SectionClassifier(tiny_classifier().config)
    assert model.loss_type == "ForImageClassification"
    loss = model(torch.rand(2, 3, 32, 32), labels=torch.tensor([0, 2])).loss
    logits = model.eval()(torch.rand(2, 3, 32, 32)).logits
    loss.backward()
    assert logits.shape == (2, 3)
    assert torch.isfinite(loss)


def test_9_statistics_of_the_frozen_part_do_not_move():
    model = tiny_classifier()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    model(torch.rand(2, 3, 32, 32))
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith("extractor.")]
    assert not any(module.training for module in model.extractor.modules())


@pytest.mark.parametrize("make", [tiny_extractor, tiny_classifier])
def test_10_maps_stay_out_of_the_predictions(tmp_path, make):
    model = make(output_hidden_states=True)
    predictions = trainer(model, tmp_path, per_device_eval_batch_size=2).predict(Rows(model, 4)).predictions
    assert isinstance(predictions, np.ndarray)
    assert predictions.shape == ((4, 1, 64, 64) if make is tiny_extractor else (4, 3))


def enable_checkpointing(model, use_reentrant: bool) -> None:
    """Turns on gradient checkpointing; 5.23 renamed it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


def train_step(model) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of one step, and the bytes kept for its backward pass."""
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    model.train()
    model.zero_grad()
    row = Rows(model).row
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(row["pixel_values"].expand(2, -1, -1, -1), labels=torch.stack([row["labels"]] * 2)).loss
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(
    "make",
    [tiny_extractor, MODELS["timm extractor"], lambda: tiny_classifier(backbone="resnet10t")],
    ids=["extractor", "timm extractor", "classifier"],
)
def test_11_checkpointing_gives_the_same_gradients_and_keeps_less(make, use_reentrant):
    model = make()
    plain, plain_bytes = train_step(model)
    enable_checkpointing(model, use_reentrant)
    checkpointed, checkpointed_bytes = train_step(model)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], rtol=1e-4, atol=1e-6), name
    assert checkpointed_bytes < 0.9 * plain_bytes


def test_12_no_command_of_ours_thinks_that_it_starts_two_processes_on_a_cpu():
    root = PACKAGE.parent
    files = [root / "README.md", *root.glob("scripts/**/*"), *PACKAGE.glob("**/*.py"), root / ".ci" / "run"]
    wrong = re.compile(r"accelerate launch(?=.*--cpu)(?=.*--num_processes)")
    assert not [str(path) for path in files if path.is_file() and wrong.search(path.read_text(errors="ignore"))]


# Config


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_sizes": "16"},
        {"num_channels": 3.5},
        {"loss": "hinge"},
        {"output_stride": 3},
        {"consensus_threshold": "0.3"},
    ],
)
def test_13_types_and_values_are_checked(fields):
    with pytest.raises((StrictDataclassError, ValueError), match=next(iter(fields))):
        ContourExtractorConfig(**fields)


def test_13_a_wrong_combination_is_refused_on_saving(tmp_path):
    config = ContourExtractorConfig()
    config.strides = [2, 1, 2, 2]
    with pytest.raises((StrictDataclassError, ValueError), match="strides"):
        config.save_pretrained(tmp_path)


def test_13_a_whole_number_serves_for_a_fraction():
    assert ContourExtractorConfig(consensus_threshold=1, side_loss_weight=1).consensus_threshold == 1
    assert ContourGenderConfig(temperature=2).temperature == 2


@pytest.mark.parametrize("make", [tiny_extractor, tiny_classifier])
def test_13_a_config_comes_back_as_it_was(tmp_path, make):
    config = make(image_mean=(0.1, 0.2, 0.3)).config
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert loaded.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}


def test_13_a_nested_dictionary_becomes_a_config():
    config = ContourGenderConfig(extractor_config=ContourExtractorConfig(**CASCADE).to_dict())
    assert isinstance(config.extractor_config, ContourExtractorConfig)
    assert config.extractor_config.hidden_sizes == CASCADE["hidden_sizes"]
    assert ContourGenderConfig.sub_configs == {"extractor_config": ContourExtractorConfig}


def test_13_label2id_follows_id2label():
    config = ContourGenderConfig(id2label={0: "cotton", 1: "denim", 2: "silk"})
    assert (config.num_labels, config.label2id) == (3, {"cotton": 0, "denim": 1, "silk": 2})
    stale = ContourGenderConfig(id2label={0: "men", 1: "women"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert stale.label2id == {"men": 0, "women": 1}


# Remote code


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_14_travelling_files_import_siblings_with_one_dot_and_else_third_parties(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"line {node.lineno}"
            assert node.module, f"line {node.lineno}: `from . import x` is not copied"
            assert "." not in node.module, f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            tops = {name.split(".")[0] for name in names}
            assert tops <= THIRD_PARTY | set(sys.stdlib_module_names), f"line {node.lineno}"
        elif isinstance(node, ast.Name):
            assert node.id != "TYPE_CHECKING", f"line {node.lineno}"


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_14_the_search_for_relative_imports_finds_just_the_siblings(path):
    found = {Path(file).name for file in get_relative_import_files(str(path))}
    assert found <= {sibling.name for sibling in TRAVELLING} - {path.name}


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_15_no_travelling_file_compares_a_config_by_its_class(path):
    assert not re.search(r"isinstance\([^)]*(Contour\w*Config|ContourImageProcessor)", path.read_text())


def test_15_a_config_of_a_second_copy_of_its_class_serves(tmp_path, monkeypatch):
    folder = tmp_path / "second_copy"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in TRAVELLING:
        shutil.copy(path, folder)
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = importlib.import_module("second_copy.configuration_contour_gender")
    assert copy.ContourGenderConfig is not ContourGenderConfig
    config = copy.ContourGenderConfig(
        extractor_config=CASCADE, backbone="test_efficientnet", fusion_channels=8, num_labels=3
    )
    model = ContourGenderForImageClassification(config).eval()
    assert model(torch.rand(1, 3, 32, 32)).logits.shape == (1, 3)
    ContourGenderConfig(extractor_config=config.extractor_config)
    for name in [name for name in sys.modules if name.startswith("second_copy")]:
        del sys.modules[name]


def test_16_folders_say_which_classes_they_hold(tmp_path):
    tiny_classifier().save_pretrained(tmp_path / "classifier")
    tiny_extractor().save_pretrained(tmp_path / "extractor")
    for folder, autos in {
        "classifier": {"AutoConfig", "AutoModel", "AutoModelForImageClassification"},
        "extractor": {"AutoConfig", "AutoModel", "AutoModelForPreTraining"},
    }.items():
        auto_map = json.loads((tmp_path / folder / "config.json").read_text())["auto_map"]
        assert set(auto_map) == autos
        for reference in auto_map.values():
            assert (tmp_path / folder / f"{reference.split('.')[0]}.py").is_file()


def test_16_the_installed_package_serves_folders(tmp_path):
    tiny_classifier().save_pretrained(tmp_path / "classifier")
    tiny_extractor().save_pretrained(tmp_path / "extractor")
    ContourImageProcessor().save_pretrained(tmp_path / "extractor")
    for auto, folder, expected in [
        (AutoModel, "classifier", ContourGenderModel),
        (AutoModelForImageClassification, "classifier", ContourGenderForImageClassification),
        (AutoModel, "extractor", ContourExtractorModel),
        (AutoModelForPreTraining, "extractor", ContourExtractorForPreTraining),
        (AutoImageProcessor, "extractor", ContourImageProcessor),
    ]:
        assert type(auto.from_pretrained(tmp_path / folder)) is expected


def test_17_importing_prints_nothing():
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import hf_contour"], capture_output=True, text=True, check=True
    )
    assert (finished.stdout, finished.stderr) == ("", "")


# Processor, pipeline and timm


def test_18_grey_images_become_rgb_whatever_form_they_come_in():
    processor = ContourImageProcessor(size={"height": 16, "width": 16})
    assert isinstance(processor, TorchvisionBackend)
    assert processor.do_convert_rgb
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    expected = processor(Image.fromarray(grey).convert("RGB"), return_tensors="pt")["pixel_values"]
    for form in (Image.fromarray(grey), grey, torch.from_numpy(grey)):
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], expected)


def test_18_the_pipeline_opens_images_as_training_does(tmp_path):
    model = tiny_classifier()
    processor = ContourImageProcessor(size={"height": 32, "width": 32})
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)  # Transformers would show it white
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    classify = pipeline("image-classification", model=model, image_processor=processor)
    answer = {entry["label"]: entry["score"] for entry in classify(str(tmp_path / "ramp.png"), top_k=3)}
    pixels = processor(tmp_path / "ramp.png", return_tensors="pt")["pixel_values"]
    scores = model(pixels).logits.softmax(dim=-1)[0]
    for index, label in model.config.id2label.items():
        assert answer[label] == pytest.approx(scores[index].item(), abs=1e-6)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "test_efficientnet", "mobilenetv2_035", "shufflenet_v2_x0_5"]
)
def test_19_the_width_of_a_backbone_is_that_of_its_map(name):
    backbone = ImageBackbone(name).eval()
    assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, backbone.num_features, 64 // backbone.stride, 2)
    if name == "mobilenetv3_small_050":
        assert backbone.num_features == 1024 != backbone.network.num_features


def test_20_the_extractor_is_no_autobackbone(tmp_path):
    assert not issubclass(ContourExtractorModel, BackboneMixin)
    model = tiny_extractor(backbone="test_resnet")
    model.save_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 20, 20)
    features = AutoModel.from_pretrained(tmp_path)(pixels).last_hidden_state
    assert torch.equal(features, model(pixels).last_hidden_state)


def test_parts_that_must_not_be_split_exist(model):
    names = {type(module).__name__ for module in model.modules()}
    assert names & set(model._no_split_modules)
    assert model._supports_sdpa
