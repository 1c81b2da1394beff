"""Commands of the package.

    python -m hf_contour verify FOLDER          # is a model folder whole and harmless?
    python -m hf_contour verify FOLDER --json   # the same, for machines

Exit codes of `verify`: 0 whole and harmless, 1 damaged or not whole, 2 no such folder, 3 harmful (a pickle, foreign
code, a link out of the folder, a reference to elsewhere). Seconds; no network.
"""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Runs a command and gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hf_contour", description="Commands of hf_contour.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check that a model folder is whole and harmless")
    verify.add_argument("folder", type=Path, help="folder that save_pretrained wrote, or that was downloaded")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.add_argument("--write_manifest", action="store_true", help="write checksums if nothing has failed")
    arguments = parser.parse_args(argv)

    from hf_contour.hub import verify as verification

    return verification.main(arguments.folder, as_json=arguments.json, write_sums=arguments.write_manifest)


if __name__ == "__main__":
    sys.exit(main())
