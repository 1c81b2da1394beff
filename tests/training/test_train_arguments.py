"""Settings come from a recipe, then from flags; what is no setting is refused with the nearest names."""

import dataclasses
from dataclasses import fields
from pathlib import Path

import pytest

from hf_contour.training.arguments import ContourArguments, GenderArguments
from hf_contour.training.command_line import parse_arguments

RECIPES = sorted((Path(__file__).parents[2] / "hf_contour" / "training" / "recipes").glob("*.yaml"))


def write_recipe(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_without_anything_both_stages_have_the_defaults():
    contour, gender = parse_arguments([])
    assert (contour.stage, gender.stage) == ("contour", "gender")
    assert contour == ContourArguments()
    assert gender.folder == Path("runs/garments/gender")


def test_flags_override_the_stage_section_which_overrides_the_recipe(tmp_path):
    recipe = write_recipe(
        tmp_path, "seed: 3\nepochs: 2\nbatch_size: 4\ngender:\n  epochs: 5\n  batch_size: 6\n  model: {head: mlp}\n"
    )
    contour, gender = parse_arguments(["--recipe", str(recipe), "--gender_batch_size", "7", "--contour-seed=9"])
    assert (contour.seed, contour.epochs, contour.batch_size, contour.model) == (9, 2, 4, None)
    assert (gender.seed, gender.epochs, gender.batch_size, gender.model) == (3, 5, 7, {"head": "mlp"})


def test_a_flag_without_prefix_counts_for_both_stages(tmp_path):
    recipe = write_recipe(tmp_path, "gender: {epochs: 5}\n")
    assert [stage.epochs for stage in parse_arguments(["--recipe", str(recipe), "--epochs", "8"])] == [8, 8]


def test_one_stage_alone(tmp_path):
    recipe = write_recipe(tmp_path, "stage: gender\n")
    assert [one.stage for one in parse_arguments(["--recipe", str(recipe)])] == ["gender"]
    assert [one.stage for one in parse_arguments(["--recipe", str(recipe), "--stage", "contour"])] == ["contour"]


def test_the_default_recipe_is_for_the_embedded_data_only(tmp_path):
    recipe = write_recipe(tmp_path, "seed: 3\n")
    assert parse_arguments([], default_recipe=recipe)[0].seed == 3
    assert parse_arguments(["--data", "somewhere"], default_recipe=recipe)[0].seed == 0


def test_values_take_the_type_of_their_setting(tmp_path):
    recipe = write_recipe(
        tmp_path, "learning_rate: 1e-3\nweight_decay: 0\nbackbone: resnet18\nimage_size: [64, 48]\nprogress: false\n"
    )
    arguments = parse_arguments(["--recipe", str(recipe), "--model", '{"head": "cnn"}', "--overwrite"])[1]
    assert arguments.learning_rate == 0.001  # YAML reads 1e-3, without a dot, as a word
    assert arguments.weight_decay == 0.0
    assert isinstance(arguments.weight_decay, float)
    assert arguments.backbone == ["resnet18"]
    assert arguments.image_size == [64, 48]
    assert arguments.progress is False
    assert arguments.model == {"head": "cnn"}
    assert arguments.overwrite is True


def test_none_on_the_command_line_is_nothing():
    assert parse_arguments(["--validation_split", "none"])[0].validation_split is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", r"'learning_rat', which is no setting; nearest: learning_rate"),
        ("gender: {epoch: 1}\n", r"'gender: epoch', which is no setting; nearest: epochs"),
        ("gender: 3\n", r"holds 3 under 'gender'; expected a mapping"),
        ("- a\n", r"holds list; expected a mapping"),
        ("a: [\n", r"cannot be read"),
        ("batch_size: 1.5\n", r"batch_size is 1\.5; expected int"),
        ("batch_size: true\n", r"batch_size is True; expected int"),
        ("epochs: null\n", r"epochs is None; expected int"),
        ("model: [1]\n", r"model is \[1\]; expected"),
        ("schedule: linear\n", r"schedule is 'linear'; expected"),
        ("image_size: [64]\n", r"image_size is \[64\]; expected a height and a width"),
        ("streaming: true\n", r"give max_steps with streaming"),
        ("schedule: plateau\nvalidation_split: null\n", r"needs evaluations"),
    ],
)
def test_impossible_recipes_are_refused_by_name(tmp_path, text, message):
    recipe = write_recipe(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--recipe", str(recipe)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batchsize", "3"], "'--batchsize' is no setting; nearest: batch_size"),
        (["--gender_epoch", "3"], "nearest: epochs"),
        (["--batch_size", "0"], "batch_size is 0; expected a number from 1"),
        (["--label_smoothing", "nan"], "label_smoothing is nan"),
        (["--model", "{head: mlp}"], "expected JSON"),
        (["--model", "[1]"], "expected a JSON object"),
        (["--recipe", "absent.yaml"], "absent.yaml cannot be read: it is no file"),
    ],
)
def test_impossible_flags_are_refused_by_name(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(flags)


def test_every_setting_is_a_flag_with_help(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    for setting in {*fields(ContourArguments), *fields(GenderArguments)}:
        if setting.init:
            assert f"--{setting.name}" in shown
            assert setting.metadata["help"]
    assert "highest learning rate (default: 0.001)" in " ".join(shown.split())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_are_shipped_are_read(path):
    stages = parse_arguments(["--recipe", str(path)])
    expected = {
        "garments": ["contour", "gender"],
        "contour_base": ["contour"],
        "contour_tiny": ["contour"],
        "gender_myntra": ["gender"],
        "gender_myntra_fast": ["gender"],
    }
    assert [arguments.stage for arguments in stages] == expected.get(path.stem, [stages[0].stage])


def test_the_sources_of_a_recipe_are_looked_for_in_the_folder_that_is_given(tmp_path):
    recipe = write_recipe(
        tmp_path, "stage: gender\ndata: [{path: shop, config: a}, {path: /other}, {path: embedded}]\n"
    )
    (arguments,) = parse_arguments(["--recipe", str(recipe), "--data_root", "somewhere"])
    assert [source["path"] for source in arguments.data] == [str(Path("somewhere/shop")), "/other", "embedded"]
    assert dataclasses.replace(arguments, seed=1).data == arguments.data  # not looked for twice


def test_a_flag_changes_the_field_of_a_mapping_that_it_names(tmp_path):
    recipe = write_recipe(
        tmp_path, "stage: contour\nmodel: {loss: balanced, residual_type: resnet}\ncolour: {max_changed: 3}\n"
    )
    flags = ["--recipe", str(recipe), "--model", '{"residual_type": "senet"}']
    (arguments,) = parse_arguments(flags)
    assert arguments.model == {"loss": "balanced", "residual_type": "senet"}
    assert arguments.colour == {"max_changed": 3}
    (arguments,) = parse_arguments(["--recipe", str(recipe), "--colour", "none"])
    assert arguments.colour is None


@pytest.mark.parametrize(
    ("written", "flags", "expected"),
    [
        ("max_steps: 500", ["--epochs", "1"], (1, 0)),
        ("epochs: 9", ["--max_steps", "7"], (9, 7)),  # steps, where there are any, are what counts
        ("epochs: 9\nmax_steps: 500", [], (9, 500)),
    ],
)
def test_how_long_a_training_takes_is_what_was_said_last(tmp_path, written, flags, expected):
    recipe = write_recipe(tmp_path, written)
    for arguments in parse_arguments(["--recipe", str(recipe), *flags]):
        assert (arguments.epochs, arguments.max_steps) == expected


def test_flags_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="--epochs and --max_steps both say how long"):
        parse_arguments(["--epochs", "2", "--max_steps", "3"])


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ([], ["lite0.safetensors"]),
        (["--backbone", "tf_efficientnet_lite0"], ["lite0.safetensors"]),
        (["--backbone", "resnet18"], None),
        (["--backbone", "resnet18", "--backbone_weights", "resnet18.pth"], ["resnet18.pth"]),
    ],
)
def test_another_backbone_does_not_get_the_weights_of_the_recipe(tmp_path, caplog, flags, kept):
    recipe = write_recipe(
        tmp_path, "stage: gender\nbackbone: tf_efficientnet_lite0\nbackbone_weights: [lite0.safetensors]\n"
    )
    (arguments,) = parse_arguments(["--recipe", str(recipe), *flags])
    assert arguments.backbone_weights == kept
    assert ("are left out, since the backbone is resnet18 now" in caplog.text) == (kept is None)


def test_the_cascade_of_a_contour_recipe_has_its_weights_too(tmp_path):
    recipe = write_recipe(tmp_path, "stage: contour\nmodel: {backbone: resnet18}\nbackbone_weights: [resnet18.pth]\n")
    (arguments,) = parse_arguments(["--recipe", str(recipe), "--model", '{"backbone": "resnet34"}'])
    assert (arguments.model, arguments.backbone_weights) == ({"backbone": "resnet34"}, None)


def test_a_flag_of_the_other_stage_is_refused_where_one_is_trained_alone():
    with pytest.raises(ValueError, match="--label_smoothing is no setting of the stage contour"):
        parse_arguments(["--stage", "contour", "--label_smoothing", "0.1"])
    contour, gender = parse_arguments(["--label_smoothing", "0.1"])
    assert not hasattr(contour, "label_smoothing")
    assert gender.label_smoothing == 0.1


def test_older_recipes_are_read_by_their_old_names(tmp_path):
    recipe = write_recipe(tmp_path, "on_bad_picture: skip\ncontour: {start_from: old, num_pictures: 3}\n")
    contour, gender = parse_arguments(["--recipe", str(recipe)])
    assert (contour.init_from, contour.num_images) == ("old", 3)
    assert (contour.on_bad_image, gender.on_bad_image) == ("skip", "skip")


def test_several_sources_are_a_list(tmp_path):
    recipe = write_recipe(tmp_path, "data:\n- {path: a, weight: 2}\n- {path: b, name: second}\n")
    assert parse_arguments(["--recipe", str(recipe)])[0].data == [
        {"path": "a", "weight": 2},
        {"path": "b", "name": "second"},
    ]
    assert parse_arguments(["--data", '[{"path": "c"}]'])[1].data == [{"path": "c"}]
    assert parse_arguments(["--data", "c"])[1].data == "c"
