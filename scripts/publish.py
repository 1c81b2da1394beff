"""Check a model folder, and upload it to the Hub.

    python scripts/publish.py --folder model_cards/NAME --repo_id OWNER/NAME            # lists the files and checks
    python scripts/publish.py --folder model_cards/NAME --repo_id OWNER/NAME --upload   # uploads them

Exit codes: 0 in order, 1 the folder has problems or the upload failed, 2 wrong flags. Needs `hf auth login` once.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.hub.publish import check_model_folder, files_of, publish


@dataclass
class PublishArguments:
    """What to publish, and where."""

    folder: str = field(metadata={"help": "model folder"})
    repo_id: str = field(metadata={"help": "OWNER/NAME on the Hub"})
    upload: bool = field(default=False, metadata={"help": "upload; without it nothing leaves this machine"})
    public: bool = field(default=False, metadata={"help": "make a new repository public"})


def main() -> int:
    """List, check and, where asked, upload."""
    parser = HfArgumentParser(PublishArguments)
    (arguments,) = parser.parse_args_into_dataclasses()
    folder = Path(arguments.folder)
    if not folder.is_dir():
        print(f"error: {folder} is no folder.", file=sys.stderr)
        return 2
    for path in files_of(folder):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    problems = check_model_folder(folder)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        return 1
    if not arguments.upload:
        print(f"In order. --upload would send these files to {arguments.repo_id}.")
        return 0
    try:
        print(publish(folder, arguments.repo_id, private=not arguments.public))
    except (ConnectionError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
