"""Say whether a model folder is whole and harmless, before it is loaded.

    hf-contour verify FOLDER
    hf-contour verify FOLDER --json      # the same, for machines

Seconds; no network, and nothing of the folder is executed. Exit codes: 0 whole and harmless, 1 damaged or not whole,
2 no such folder, 3 harmful (a pickle, foreign code, a link out of the folder, a reference to elsewhere).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_contour.cli.settings import read_settings
from hf_contour.flags import needed, setting


@dataclass
class VerifyArguments:
    """Which folder."""

    folder: str = needed("folder that save_pretrained wrote, or that was downloaded", positional=True)
    json: bool = setting(False, "print one JSON object")
    write_manifest: bool = setting(False, "write checksums if nothing has failed")


def main(argv: Sequence[str]) -> int:
    """Prints what was found and gives the exit code."""
    arguments = read_settings(VerifyArguments, argv, command="verify", description=__doc__)
    from hf_contour.hub import verify

    return verify.main(Path(arguments.folder), as_json=arguments.json, write_sums=arguments.write_manifest)
