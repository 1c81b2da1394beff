"""Settings come from a recipe, then from flags; what is no setting is refused with the nearest names."""

from dataclasses import fields
from pathlib import Path

import pytest

from hf_contour.training.arguments import ContourTrainingArguments, parse_arguments

RECIPES = sorted((Path(__file__).parents[2] / "hf_contour" / "training" / "recipes").glob("*.yaml"))


def write_recipe(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_without_anything_both_stages_have_the_defaults():
    contour, gender = parse_arguments([])
    assert (contour.stage, gender.stage) == ("contour", "gender")
    assert contour == ContourTrainingArguments(stage="contour")
    assert gender.folder == Path("runs/garments/gender")


def test_flags_override_the_stage_section_which_overrides_the_recipe(tmp_path):
    recipe = write_recipe(
        tmp_path,
        "seed: 3\nepochs: 2\nbatch_size: 4\ngender:\n  epochs: 5\n  batch_size: 6\n  model: {head: mlp}\n",
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
        ("schedule: linear\n", r"schedule is 'linear'; expected Literal"),
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
        (["--recipe", "absent.yaml"], "absent.yaml cannot be read"),
    ],
)
def test_impossible_flags_are_refused_by_name(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(flags)


def test_every_setting_is_a_flag_with_help(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = capsys.readouterr().out
    for setting in fields(ContourTrainingArguments):
        assert f"--{setting.name}" in shown
        assert setting.metadata["help"]


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
