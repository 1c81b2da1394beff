"""Train the contour extractor, the classifier, or both, as `hf-contour train` does.

    accelerate launch scripts/train.py
    accelerate launch scripts/train.py --recipe gender_myntra --data FOLDER --seed 1

Without arguments: drawn garments, both stages, about 3 minutes on 2 CPU cores.
"""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in hf_contour/cli/train.py; read when torch is loaded
    from hf_contour.cli.main import main

    sys.exit(main(["train", *sys.argv[1:]]))
