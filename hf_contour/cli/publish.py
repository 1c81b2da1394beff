"""Make a model folder complete for the Hub, check it, and upload it.

    hf-contour publish FOLDER --to OWNER/NAME --output ready      # makes the folder `ready`, and uploads nothing
    hf-contour publish FOLDER --to OWNER/NAME --upload            # uploads it, private unless --public
    hf-contour publish FOLDER --to OWNER/NAME --data_name "Shop photographs" --license apache-2.0

To weights, config and processor come the code that loads the model where this package is not installed, an example
image, and the card: the folder's README.md, or one made from what the training and `hf-contour evaluate` wrote
beside the model. Where the card says "[More Information Needed]", only you know it: it is written to FOLDER for you
to edit. Needs `hf auth login` once. Exit codes: 0 done, 1 the folder has problems, 2 refused, or no way to the Hub.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_contour.cli.settings import read_settings
from hf_contour.flags import needed, setting


@dataclass
class PublishArguments:
    """What to publish, and where."""

    folder: str = needed("folder of a trained model", positional=True)
    to: str = needed("OWNER/NAME on the Hub")
    upload: bool = setting(False, "upload; without it nothing leaves this machine")
    public: bool = setting(False, "make a new repository public")
    output: str | None = setting(None, "keep the complete folder here; must not exist")
    data_name: str | None = setting(None, "what a new card calls the training data")
    license: str = setting("other", "licence of the weights in a new card")

    def __post_init__(self) -> None:
        if self.to.count("/") != 1 or not all(self.to.split("/")):
            raise ValueError(f"--to is {self.to!r}; expected OWNER/NAME.")


def main(argv: Sequence[str]) -> int:
    """Completes, checks and, where asked, uploads."""
    arguments = read_settings(PublishArguments, argv, command="publish", description=__doc__)
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    from hf_contour.hub.assemble import assemble
    from hf_contour.hub.publish import check_model_folder, files_of, pickles_of, upload

    with tempfile.TemporaryDirectory() as aside:
        problems = pickles_of(folder)
        if not problems:
            ready = assemble(folder, Path(arguments.output or f"{aside}/model"), card=card(arguments, folder))
            for path in files_of(ready):
                print(f"{path.stat().st_size:>12,}  {path.relative_to(ready)}")
            problems = check_model_folder(ready)
        for problem in problems:
            print(f"problem: {problem}", file=sys.stderr)
        if problems:
            return 1
        if arguments.upload:
            print(upload(ready, arguments.to, private=not arguments.public))
        else:
            print(f"In order. --upload would send these files to {arguments.to}.")
    return 0


def card(arguments: PublishArguments, folder: Path) -> str:
    """The card to publish: the folder's own, or a new one, which is put there too."""
    from hf_contour.hub.card_text import UNKNOWN
    from hf_contour.hub.run_card import card_of_run, with_repo_id

    path = folder / "README.md"
    if path.is_file():
        return with_repo_id(path.read_text(encoding="utf-8"), arguments.to)
    text = str(
        card_of_run(folder, repo_id=arguments.to, data_name=arguments.data_name, license_name=arguments.license)
    )
    path.write_text(text, encoding="utf-8")
    print(f"{path} is new; {text.count(UNKNOWN)} places in it say {UNKNOWN!r}, for you to fill in.")
    return text
