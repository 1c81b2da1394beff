"""Write a larger data set: the images as they are, and augmented copies of them.

    hf-contour augment --data FOLDER --recipe contour_tiny --copies 4 --output larger

The recipe is one of training, a file or the name of one that comes with the package; its `augmentation` and `colour`
are used (with --stage, those of that stage). Copy k is the sample that training draws in epoch k with the same seed.
About 30 copies a second on one core at 481x321. Exit codes: 0 written, 2 refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_contour.cli.settings import read_settings
from hf_contour.flags import needed, setting


@dataclass
class AugmentArguments:
    """What to augment, how, and where to."""

    data: str = needed("a folder, a file or a Hub id")
    recipe: str = needed("training recipe with augmentation, colour or both: a file or a name")
    output: str = needed("folder to make; must not exist")
    copies: int = setting(1, "augmented copies of each image")
    seed: int = setting(0, "seed of every random choice")
    stage: str | None = setting(None, "contour or gender: that stage's part of the recipe")
    split: str = setting("train", "split to augment")
    use_colour: bool = setting(True, "apply the recipe's colour transform")
    data_config: str | None = setting(None, "configuration of the data set")
    streaming: bool = setting(False, "read the data set as a stream")
    keep_originals: bool = setting(True, "write the images themselves too")
    image_column: str = setting("image", "column of the images")
    contours_column: str = setting("contours", "column of the contour maps")
    label_column: str = setting("label", "column of the labels")


def main(argv: Sequence[str]) -> int:
    """Loads, augments, writes."""
    arguments = read_settings(AugmentArguments, argv, command="augment", description=__doc__)
    from hf_contour.data.augmentation.colour import ColourTransform
    from hf_contour.data.augmentation.recipe import Augmentation, AugmentationRecipe
    from hf_contour.data.offline import write_augmented
    from hf_contour.data.sources import ColumnNames, load_source
    from hf_contour.training.command_line import read_recipe, recipe_path

    recipe = read_recipe(recipe_path(arguments.recipe))
    recipe = {**recipe, **(recipe.get(arguments.stage) or {})}
    augmentation, colour = recipe.get("augmentation"), recipe.get("colour") if arguments.use_colour else None
    source = load_source(
        arguments.data,
        split=arguments.split,
        columns=ColumnNames(arguments.image_column, arguments.contours_column, arguments.label_column),
        streaming=arguments.streaming,
        config_name=arguments.data_config,
    )
    written = write_augmented(
        source,
        arguments.output,
        copies=arguments.copies,
        augmentation=Augmentation(AugmentationRecipe.from_dict(augmentation)) if augmentation else None,
        colour=ColourTransform.from_dict(colour) if colour else None,
        seed=arguments.seed,
        split=arguments.split,
        keep_originals=arguments.keep_originals,
    )
    print(f"{written.num_originals} images and {written.num_copies} copies written to {written.folder}")
    return 0
