"""Check a model folder, and upload it to the Hub.

    hf-contour publish FOLDER --to OWNER/NAME            # lists the files and checks
    hf-contour publish FOLDER --to OWNER/NAME --upload   # uploads them

Exit codes: 0 in order, 1 the folder has problems or the upload failed, 2 wrong flags. Needs `hf auth login` once.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_contour.cli.settings import read_settings


@dataclass
class PublishArguments:
    """What to publish, and where."""

    folder: str = field(metadata={"help": "model folder", "positional": True})
    to: str = field(metadata={"help": "OWNER/NAME on the Hub"})
    upload: bool = field(default=False, metadata={"help": "upload; without it nothing leaves this machine"})
    public: bool = field(default=False, metadata={"help": "make a new repository public"})


def main(argv: Sequence[str]) -> int:
    """Lists, checks and, where asked, uploads."""
    arguments = read_settings(PublishArguments, argv, command="publish", description=__doc__)
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    from hf_contour.hub.publish import check_model_folder, files_of, publish

    for path in files_of(folder):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    problems = check_model_folder(folder)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        return 1
    if not arguments.upload:
        print(f"In order. --upload would send these files to {arguments.to}.")
        return 0
    try:
        print(publish(folder, arguments.to, private=not arguments.public))
    except (ConnectionError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
