"""Train the contour extractor, the classifier, or both.

    accelerate launch scripts/train.py
    accelerate launch scripts/train.py --recipe hf_contour/training/recipes/gender_myntra.yaml --data FOLDER --seed 1

Without arguments: drawn garments, both stages, about 3 minutes on 2 CPU cores; `pipeline("image-classification")`
loads the folder `runs/garments/gender/model`. Every setting of a recipe is a flag (`--help` lists them), and the same
command goes on with a run that was interrupted.
"""

import os
import sys
from pathlib import Path

DEFAULT_RECIPE = Path(__file__).parents[1] / "hf_contour" / "training" / "recipes" / "garments.yaml"

if __name__ == "__main__":
    # Threads that wait must give their core away: beside another program, spinning ones are 10 times slower.
    # Set before torch is loaded, since it is read then.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from hf_contour.training.run import main

    try:
        sys.exit(main(sys.argv[1:], default_recipe=DEFAULT_RECIPE, description=__doc__.splitlines()[0]))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
