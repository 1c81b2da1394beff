"""`python -m hf_contour`, and `accelerate launch -m hf_contour`, are `hf-contour`."""

import sys

from hf_contour.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
