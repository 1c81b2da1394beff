"""Train the contour extractor, the classifier, or both.

    hf-contour train path/to/images
    hf-contour train
    hf-contour train --recipe gender_myntra --data FOLDER --seed 1
    accelerate launch -m hf_contour train --recipe gender_myntra --data FOLDER      # on several processes

PATH, a folder of class folders, a csv or a Parquet file, is all that a classifier of your own needs: the data is
checked, a part held out, a recipe chosen and ImageNet weights found; then it is trained, calibrated and measured, and
has a card and a picture of its worst mistakes. Flags beside PATH, which comes first, change what they name.

Without settings: drawn garments, both stages, about 3 minutes on 2 CPU cores; `pipeline("image-classification")`
loads the folder `runs/garments/gender/model`. A recipe is a YAML file or the name of one that comes with the package;
every setting of a recipe is a flag, with `--contour_` or `--gender_` before it for one stage only. The same command
goes on with a run that was interrupted. Exit codes: 0 done, 2 impossible or other settings than the run's, 3 not
finite, 4 cannot be written, 5 folder in use, 128 + the signal after one.
"""

import os
from collections.abc import Sequence

from hf_contour.training.command_line import parse_arguments, recipe_path


def main(argv: Sequence[str]) -> int:
    """Trains, and prints a table of results."""
    if argv and not argv[0].startswith("-"):
        from hf_contour.cli.train_path import train_path

        return train_path(argv[0], argv[1:])
    stages = parse_arguments(argv, default_recipe=recipe_path("garments"), description=__doc__ or "")
    # Threads that wait must give their core away: beside another program, spinning ones are 10 times slower.
    # Set before torch is loaded, since it is read then.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import hf_contour.hub.registration  # noqa: F401 - `pipeline` loads what was trained
    from hf_contour.training.run import train

    return train(stages)
