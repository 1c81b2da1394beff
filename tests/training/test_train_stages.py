"""Both stages train on a tiny set: they learn, they leave whole folders, and the extractor stays as it is."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, List, load_dataset
from PIL import Image as PILImage
from safetensors.torch import save_file
from tiny_training import EXTRACTOR, LABEL_NAMES, drawn_row, settings, write_source
from transformers import pipeline

from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import state_dict_sha256
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining, ContourExtractorModel
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.training import contour_stage, gender_stage
from hf_contour.training.loop import NonFiniteLossError
from hf_contour.training.records import FrozenExtractorError, refuse_changed_extractor
from hf_contour.training.run import run_stage


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("tiny") / "source")


@pytest.fixture(scope="module")
def contour_run(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contour")
    arguments = settings(folder, "contour", data=str(source), epochs=8, num_images=3)
    return arguments, run_stage(arguments)


def gender_settings(tmp_path, source, contour_run, **changes):
    extractor = str(contour_run[0].folder / "model")
    return settings(tmp_path, "gender", data=str(source), extractor=extractor, **changes)


def log_lines(arguments):
    return [json.loads(line) for line in (arguments.folder / "log.jsonl").read_text().splitlines()]


def test_the_contour_stage_learns(contour_run):
    arguments, results = contour_run
    losses = [line["loss"] for line in log_lines(arguments) if "loss" in line]
    assert len(losses) == results["training"]["steps"] == 48
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_the_contour_stage_leaves_a_whole_folder(contour_run):
    arguments, results = contour_run
    written = json.loads((arguments.folder / "results.json").read_text())
    assert written == json.loads(json.dumps(results))
    assert written["evaluation"]["validation"]["num_samples"] == 7
    assert written["training"]["num_samples_seen"] == 8 * 24
    assert written["training"]["published_weights"] == "moving average"
    assert written["data"]["num_train_samples"] == 24
    assert {"torch", "timm", "transformers", "hf_contour"} <= written["versions"].keys()
    assert json.loads((arguments.folder / "status.json").read_text())["status"] == "finished"
    with PILImage.open(arguments.folder / "images" / "contours.png") as grid:
        assert grid.size == (3 * 32 + 4 * 2, 3 * 32 + 4 * 2)
    names = {path.name for path in (arguments.folder / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names
    assert {"modeling_contour_extractor.py", "image_processing_contour.py"} <= names
    loaded = ContourExtractorForPreTraining.from_pretrained(arguments.folder / "model")
    assert written["model"]["num_parameters"] == loaded.num_parameters()


def test_a_teacher_is_learnt_from_and_its_weights_belong_to_the_run(tmp_path, source, contour_run):
    """Without drawn contours in the loss the pupil must come nearer to its teacher than it began."""
    teacher_folder = str(contour_run[0].folder / "model")
    changes = {"data": str(source), "teacher": teacher_folder, "distillation_weight": 1000.0, "max_grad_norm": 1.0}
    first = run_stage(settings(tmp_path / "first", "contour", epochs=1, **changes))
    last = run_stage(settings(tmp_path / "last", "contour", epochs=10, **changes))
    assert first["identity"]["teacher_sha256"] == last["identity"]["teacher_sha256"]
    assert first["identity"]["teacher_sha256"] is not None
    teacher = ContourExtractorForPreTraining.from_pretrained(teacher_folder)
    pixels = ContourImageProcessor(do_resize=False)(
        load_dataset("parquet", data_files=str(source / "validation.parquet"))["train"]["image"][:],
        return_tensors="pt",
    )["pixel_values"]
    with torch.no_grad():
        distances = [
            (ContourExtractorForPreTraining.from_pretrained(result["model"]["folder"])(pixels).logits.sigmoid()
             - teacher(pixels).logits.sigmoid()).abs().mean().item()
            for result in (first, last)
        ]  # fmt: skip
    assert distances[1] < 0.7 * distances[0]


def test_a_teacher_of_another_normalisation_is_refused(tmp_path, source, contour_run):
    model = {**EXTRACTOR, "image_mean": [0.4, 0.5, 0.5]}
    teacher = str(contour_run[0].folder / "model")
    with pytest.raises(ValueError, match=r"image_mean \[0.5, 0.5, 0.5\].*\[0.4, 0.5, 0.5\]"):
        run_stage(settings(tmp_path, "contour", data=str(source), teacher=teacher, model=model))


def test_a_trained_extractor_is_gone_on_from(tmp_path, source, contour_run):
    """At a learning rate of nothing its weights stay, and the fields that `model` gives reach the config."""
    folder = str(contour_run[0].folder / "model")
    changes = {"data": str(source), "init_from": folder, "epochs": 1, "crop_jitter": 3, "ema_decay": 0.0}
    still = settings(tmp_path / "still", "contour", model={"loss": "balanced"}, learning_rate=0.0, **changes)
    identity = run_stage(still)["identity"]
    before = ContourExtractorForPreTraining.from_pretrained(folder)
    after = ContourExtractorForPreTraining.from_pretrained(still.folder / "model")
    assert identity["start_sha256"] == state_dict_sha256(before.state_dict())
    assert (before.config.loss, after.config.loss) == ("plain", "balanced")
    assert all(torch.equal(weight, dict(after.named_parameters())[name]) for name, weight in before.named_parameters())


def test_a_start_with_two_sets_of_weights_is_refused(tmp_path, source, contour_run):
    folder = str(contour_run[0].folder / "model")
    arguments = settings(tmp_path, "contour", data=str(source), init_from=folder, backbone_weights=[folder])
    with pytest.raises(ValueError, match="leave backbone_weights out"):
        run_stage(arguments)


def test_jittered_batches_keep_every_pixel_beside_its_label():
    torch.manual_seed(0)
    pixel_values = torch.arange(2 * 3 * 9 * 7.0).view(2, 3, 9, 7)
    sizes = set()
    for _ in range(200):
        pixels, labels = contour_stage.jitter_size(pixel_values, pixel_values[:, 0], 2)
        assert torch.equal(pixels[:, 0], labels)
        assert torch.equal(pixels, pixel_values[..., : pixels.shape[-2], : pixels.shape[-1]])
        sizes.add(tuple(pixels.shape[-2:]))
    assert sizes == {(height, width) for height in (7, 8, 9) for width in (5, 6, 7)}
    assert contour_stage.jitter_size(pixel_values, pixel_values, 1000)[0].shape[-2] >= 1
    assert contour_stage.jitter_size(pixel_values, pixel_values, 0)[0] is pixel_values


def test_the_saved_model_gives_the_validation_loss(contour_run, source):
    """A second way to the figure: the loaded folder and the processor, image by image."""
    arguments, results = contour_run
    model = ContourExtractorForPreTraining.from_pretrained(arguments.folder / "model").eval()
    processor = ContourImageProcessor.from_pretrained(arguments.folder / "model")
    rows = load_dataset("parquet", data_files=str(source / "validation.parquet"), split="train")
    losses = []
    for row in rows:  # images decoded by `datasets`, where training has a reader of its own
        pixel_values = processor([row["image"]], return_tensors="pt")["pixel_values"]
        labels = torch.from_numpy(np.asarray(row["contours"][0]).astype(np.float32))[None]
        with torch.no_grad():
            losses.append(model(pixel_values=pixel_values, labels=labels).loss.item())
    assert np.mean(losses) == pytest.approx(results["evaluation"]["validation"]["loss"], rel=1e-5)


def test_the_gender_stage_learns_with_a_frozen_extractor(tmp_path, source, contour_run):
    arguments = gender_settings(
        tmp_path, source, contour_run, batch_size=24, epochs=25, augmentation=None, model={"fusion_channels": 8}
    )
    results = run_stage(arguments)
    extractor = ContourExtractorModel.from_pretrained(contour_run[0].folder / "model")
    model = ContourGenderForImageClassification.from_pretrained(arguments.folder / "model")
    expected = state_dict_sha256(extractor.state_dict())
    assert results["extractor"] == {"sha256_before": expected, "sha256_after": expected}
    assert state_dict_sha256(model.extractor.state_dict()) == expected
    losses = [line["loss"] for line in log_lines(arguments) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert model.config.id2label == dict(enumerate(LABEL_NAMES))
    figures = results["evaluation"]["validation"]
    assert figures["num_samples"] == 7
    assert sum(map(sum, figures["confusion_matrix"])) == 7


def test_a_pipeline_loads_the_folder_and_sees_what_training_saw(tmp_path, source, contour_run):
    arguments = gender_settings(tmp_path, source, contour_run, max_steps=2)
    results = run_stage(arguments)
    classify = pipeline("image-classification", str(arguments.folder / "model"), trust_remote_code=True, device="cpu")
    right = 0
    for number in range(100, 107):
        path = tmp_path / f"{number}.png"
        path.write_bytes(drawn_row(number)["image"]["bytes"])
        best = classify(str(path))[0]
        right += best["label"] == LABEL_NAMES[number % 2]
    assert right / 7 == pytest.approx(results["evaluation"]["validation"]["accuracy"])


def test_several_labels_a_row(tmp_path, contour_run):
    def several(number, row):
        return {**row, "label": [[0], [1], [0, 1], []][number % 4]}

    source = write_source(tmp_path / "multi", change=several, label=List(ClassLabel(names=LABEL_NAMES)))
    arguments = gender_settings(tmp_path, source, contour_run, max_steps=3, class_balance=True, label_smoothing=0.1)
    results = run_stage(arguments)
    model = ContourGenderForImageClassification.from_pretrained(arguments.folder / "model")
    assert model.config.problem_type == "multi_label_classification"
    # Half of the rows have each label: one negative to a positive.
    assert results["data"]["class_weights"] == [1.0, 1.0]
    assert {"label_accuracy", "macro_f1"} <= results["evaluation"]["validation"].keys()


def test_rare_classes_weigh_more(tmp_path, contour_run):
    source = write_source(tmp_path / "rare", change=lambda number, row: {**row, "label": int(number % 4 == 0)})
    arguments = gender_settings(tmp_path, source, contour_run, max_steps=1, class_balance=True)
    # 18 of 24 rows are of class 0: 24 / (2 * 18) and 24 / (2 * 6).
    assert run_stage(arguments)["data"]["class_weights"] == pytest.approx([2 / 3, 2.0])


@pytest.mark.parametrize(
    ("train_parts", "frozen", "trained"),
    [("head", "image_backbones", "classifier"), ("backbone", "classifier", "image_backbones")],
)
def test_what_is_not_trained_does_not_change(tmp_path, source, contour_run, train_parts, frozen, trained):
    arguments = gender_settings(tmp_path, source, contour_run, max_steps=2, train_parts=train_parts, ema_decay=0.0)
    arguments.learning_rate = 0.0  # statistics would still move
    still = run_stage(arguments)
    arguments = gender_settings(
        tmp_path, source, contour_run, max_steps=2, train_parts=train_parts, ema_decay=0.0, run_name="moved"
    )
    moved = run_stage(arguments)
    first, second = (
        ContourGenderForImageClassification.from_pretrained(results["model"]["folder"]) for results in (still, moved)
    )
    assert state_dict_sha256(getattr(first, frozen).state_dict()) == state_dict_sha256(
        getattr(second, frozen).state_dict()
    )
    assert state_dict_sha256(getattr(first, trained).state_dict()) != state_dict_sha256(
        getattr(second, trained).state_dict()
    )
    assert moved["model"]["num_trained_parameters"] < moved["model"]["num_parameters"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_backbone_starts_from_a_file(tmp_path, source, contour_run, suffix):
    network = timm.create_model("test_resnet", num_classes=10)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    arguments = gender_settings(
        tmp_path, source, contour_run, max_steps=1, train_parts="head", ema_decay=0.0, backbone_weights=[str(path)]
    )
    results = run_stage(arguments)
    model = ContourGenderForImageClassification.from_pretrained(results["model"]["folder"])
    loaded = model.image_backbones[0].network.state_dict()
    assert set(network.state_dict()) - set(loaded) == {"fc.weight", "fc.bias"}
    for name, value in loaded.items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_weights_that_do_not_fit_are_refused(tmp_path, source, contour_run):
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit the backbone: missing \["):
        run_stage(gender_settings(tmp_path, source, contour_run, backbone_weights=[str(path)]))


def test_without_an_extractor_it_says_how_to_get_one(tmp_path, source):
    with pytest.raises(ValueError, match=r"holds no contour extractor; train one with --stage contour"):
        run_stage(settings(tmp_path, "gender", data=str(source)))


def test_the_best_weights_are_published(tmp_path, source, contour_run):
    arguments = gender_settings(tmp_path, source, contour_run, epochs=4, select_best=True, ema_decay=0.0)
    results = run_stage(arguments)
    accuracies = [line["validation_accuracy"] for line in log_lines(arguments) if "validation_accuracy" in line]
    assert len(accuracies) == 4
    assert results["evaluation"]["validation"]["accuracy"] == max(accuracies)
    assert results["training"]["best_step"] == 6 * (accuracies.index(max(accuracies)) + 1)


def test_it_stops_on_convergence_and_notes_the_step(tmp_path, source):
    arguments = settings(
        tmp_path, "contour", data=str(source), learning_rate=0.0, epochs=20, stop_on_convergence=True,
        augmentation=None, convergence_window=6, convergence_patience=2, convergence_tolerance=0.5,
    )  # fmt: skip
    results = run_stage(arguments)
    assert results["training"]["converged_step"] == results["training"]["steps"] == 18
    assert any(line.get("converged") == results["training"]["convergence_rule"] for line in log_lines(arguments))


def test_a_loss_that_is_not_finite_names_the_samples_and_saves_nothing(tmp_path, source, monkeypatch):
    def poisoned(self, model, batch):
        loss = model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
        return loss * math.nan if 5 in batch["index"] else loss

    monkeypatch.setattr(contour_stage.ContourTask, "train_loss", poisoned)
    arguments = settings(tmp_path, "contour", data=str(source), ema_decay=0.0)
    with pytest.raises(NonFiniteLossError, match=r"the loss was nan .* Nothing was updated .*\b5 \(row 5\)"):
        run_stage(arguments)
    assert not list((arguments.folder / "checkpoints").glob("*"))
    assert not (arguments.folder / "model").exists()
    status = json.loads((arguments.folder / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 3)


def test_a_changed_extractor_is_an_error():
    refuse_changed_extractor("a", "a")
    with pytest.raises(FrozenExtractorError, match="SHA-256 a before, b after"):
        refuse_changed_extractor("a", "b")


def test_the_checksum_sees_values_names_types_and_shapes():
    base = {"a": torch.tensor([1.0, 2.0])}
    others = [
        {"a": torch.tensor([1.0, 2.0000002])},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(1)},
    ]
    sums = {state_dict_sha256(state_dict) for state_dict in [base, *others]}
    assert len(sums) == 6
    assert state_dict_sha256({"b": base["a"], "a": base["a"]}) == state_dict_sha256({"a": base["a"], "b": base["a"]})


def test_bf16_channels_last_accumulation_and_other_optimisers_train(tmp_path, source):
    arguments = settings(
        tmp_path, "contour", data=str(source), mixed_precision="bf16", channels_last=True, optimizer="sgd",
        gradient_accumulation_steps=2, schedule="plateau", warmup_steps=2, cache=True, model={**EXTRACTOR,
        "loss": "balanced"}, colour={"exchange_channels": True, "max_changed": 0.5},
    )  # fmt: skip
    results = run_stage(arguments)
    assert results["training"]["steps"] == 6
    assert math.isfinite(results["evaluation"]["validation"]["loss"])


def test_bf16_reaches_the_frozen_extractor_too(tmp_path, source, contour_run, monkeypatch):
    seen = set()
    frozen_contours = gender_stage.GenderTask._frozen_contours

    def spy(task, pixel_values):
        maps = frozen_contours(task, pixel_values)
        seen.update(one.dtype for one in maps)
        return maps

    monkeypatch.setattr(gender_stage.GenderTask, "_frozen_contours", spy)
    results = run_stage(gender_settings(tmp_path, source, contour_run, mixed_precision="bf16", epochs=1))
    assert seen == {torch.bfloat16}
    assert math.isfinite(results["training"]["last_loss"])


def test_a_stream_trains(tmp_path, source):
    arguments = settings(tmp_path, "contour", data=str(source), streaming=True, shuffle_buffer=8, max_steps=8)
    results = run_stage(arguments)
    assert results["training"]["steps"] == 8
    assert results["data"]["num_train_samples"] is None


def test_the_colour_transform_is_audited_over_the_whole_training(tmp_path, source, contour_run):
    colour = {"exchange_channels": True, "max_changed": 5, "max_difference": 255.0}
    results = run_stage(gender_settings(tmp_path, source, contour_run, colour=colour, epochs=2))
    audit = results["training"]["colour_audit"]
    assert audit["images"] == 2 * 24
    assert audit["exchanged"] == 2 * 5  # the cap is reached in each epoch and never passed
    assert audit["unchanged"] == 2 * 19
    assert (audit["shifted"], audit["refused"]) == (0, 0)
    assert contour_run[1]["training"]["colour_audit"] is None


@pytest.mark.parametrize("stage", ["contour", "gender"])
def test_a_misspelt_model_field_is_refused(tmp_path, source, contour_run, stage):
    changes = {"data": str(source), "model": {"fusion_chanels": 8}}
    if stage == "gender":
        changes["extractor"] = str(contour_run[0].folder / "model")
    with pytest.raises(ValueError, match=r"fusion_chanels.*nearest: fusion_channels"):
        run_stage(settings(tmp_path, stage, **changes))


@pytest.mark.parametrize("train_parts", ["both", "head"])
def test_cached_features_train_as_computed_ones_do(tmp_path, source, contour_run, train_parts):
    shared = {"augmentation": None, "colour": None, "epochs": 2, "seed": 1, "train_parts": train_parts}
    cache = tmp_path / "cache"
    plain = gender_settings(tmp_path / "plain", source, contour_run, **shared)
    cached = gender_settings(tmp_path / "cached", source, contour_run, feature_cache=str(cache), **shared)
    run_stage(plain)
    run_stage(cached)
    losses = [[line["loss"] for line in log_lines(run) if "loss" in line] for run in (plain, cached)]
    # They are kept as float16, and a difference grows from step to step.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=2e-3)
    assert losses[0][1] == pytest.approx(losses[1][1], rel=3e-2)
    features = {path.parent.name: np.load(path, mmap_mode="r") for path in cache.rglob("*.npy")}
    assert len(features) == {"both": 1, "head": 2}[train_parts]
    model = ContourGenderForImageClassification.from_pretrained(cached.folder / "model")
    processor = ContourImageProcessor.from_pretrained(cached.folder / "model")
    pixels = processor(load_dataset(str(source), split="train")[5]["image"], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = [model.contour_features(pixels), *model.image_features(pixels)]
    for stored in features.values():
        by_hand = next(one for one in expected if one.shape[1:] == stored.shape[1:])
        assert (len(stored), stored.dtype) == (24, np.float16)
        np.testing.assert_allclose(stored[5], by_hand[0].numpy(), rtol=2e-3, atol=2e-3)


def test_cached_features_of_another_extractor_are_not_used(tmp_path, source, contour_run, monkeypatch):
    shared = {"augmentation": None, "colour": None, "epochs": 1, "feature_cache": str(tmp_path / "cache")}
    run_stage(gender_settings(tmp_path / "first", source, contour_run, **shared))
    random = gender_settings(tmp_path / "second", source, contour_run, extractor_weights="random", **shared)
    run_stage(random)
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 2
    monkeypatch.setattr(gender_stage.GenderTask, "_frozen_contours", None)  # nothing is computed a second time
    run_stage(gender_settings(tmp_path / "third", source, contour_run, **{**shared, "epochs": 2}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": {"flip": 0.5}}, "hf-contour augment"),
        ({"streaming": True, "max_steps": 3}, "hf-contour augment"),
        ({"model": {"contour_features": "none"}}, "all parts learn"),
    ],
)
def test_features_that_cannot_be_cached_are_refused(tmp_path, source, contour_run, changes, message):
    plain = {"augmentation": None, "colour": None, "feature_cache": str(tmp_path)}
    with pytest.raises(ValueError, match=message):
        run_stage(gender_settings(tmp_path, source, contour_run, **{**plain, **changes}))


def test_an_extractor_with_random_weights_is_a_control(tmp_path, source, contour_run):
    arguments = gender_settings(tmp_path, source, contour_run, extractor_weights="random", epochs=1)
    run_stage(arguments)
    model = ContourGenderForImageClassification.from_pretrained(arguments.folder / "model")
    trained = ContourExtractorModel.from_pretrained(arguments.extractor)
    fields = [one.config.to_dict() for one in (model.extractor, trained)]
    folders = [one.pop("_name_or_path") for one in fields]
    assert fields[0] == fields[1]
    assert folders[0] == "", "no folder of the training is named"
    kernels = [next(one.cascade.parameters()) for one in (model.extractor, trained)]
    assert not torch.equal(*kernels)


def test_an_extractor_that_is_not_frozen_changes(tmp_path, source, contour_run):
    fields = {**gender_settings(tmp_path, source, contour_run).mapping("model"), "freeze_extractor": False}
    arguments = gender_settings(tmp_path, source, contour_run, model=fields, epochs=1)
    results = run_stage(arguments)
    assert results["extractor"]["sha256_before"] != results["extractor"]["sha256_after"]
