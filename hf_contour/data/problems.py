"""What is wrong with a source as a whole: said at once when it is loaded, collected when it is checked."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

ERROR, WARNING = "error", "warning"
_ROW = "correct or remove the rows"
_RENAME = "rename or move the files or folders"

# Severity of each kind, and what to do. An error: nothing can be trained on the row or the split, or scores would be
# wrong. A warning: it can be trained on, by a stated rule.
KINDS = {
    "split_unreadable": (ERROR, "see the message"),
    "cache_not_writable": (ERROR, "name a folder that can be written with the environment variable HF_HOME"),
    "split_empty": (ERROR, "add images, or leave the split out"),
    "split_named_twice": (ERROR, "keep one name of the split"),
    "split_doubtful": (ERROR, _RENAME),
    "split_missing": (ERROR, "fill the column split"),
    "split_unlabelled": (WARNING, "predict with it; to train or score, put its images into class folders"),
    "stray_image": (ERROR, "move the images into class folders, or away"),
    "class_doubtful": (ERROR, "put the images into the class folders directly"),
    "class_twins": (ERROR, "write the class names alike"),
    "hidden_folder": (ERROR, "rename the folders without the point, or move them away"),
    "name_not_utf8": (ERROR, _RENAME),
    "name_not_taken": (ERROR, _RENAME),
    "archive": (ERROR, "pack the images again as a zip file without a password"),
    "table_empty": (ERROR, "add rows, or remove the table"),
    "table_not_utf8": (ERROR, "save the table as UTF-8"),
    "table_header": (ERROR, "correct the header"),
    "table_row": (ERROR, "correct the line"),
    "table_parts_differ": (ERROR, "give the parts the same columns"),
    "label_separator": (ERROR, "name the separator with --label_separator"),
    "stray_table": (WARNING, "move the tables away, or name one to read it"),
    "image_not_in_table": (WARNING, "add rows for the images, or move them away"),
    "image_not_read": (WARNING, "pip install 'hf_contour[heif]' for HEIC; convert others to PNG or JPEG"),
    "image_unreadable": (ERROR, "replace the images or remove their rows"),
    "image_bomb": (ERROR, "make the images smaller"),
    "label_wrong": (ERROR, f"{_ROW}; --unlabelled skip leaves out rows without a label"),
    "class_names_differ": (ERROR, "use the same classes in all splits"),
    "duplicate_across_splits": (ERROR, "keep each image in one split"),
    "duplicate_other_label": (ERROR, "decide for one label"),
    "contours_missing": (ERROR, "draw contours, or remove the rows"),
    "contour_unreadable": (ERROR, "draw the maps white on black"),
    "contour_other_size": (ERROR, "draw the maps at the size of their images"),
    "contour_inverted": (ERROR, "invert the maps"),
    "contour_not_turned": (ERROR, "store the images upright and check that the maps fit"),
    "label_doubtful": (WARNING, "look at these rows: a model contradicts their labels with confidence"),
    "contour_blank": (WARNING, "check that nothing is to be drawn there"),
    "class_absent": (WARNING, "add rows of the class, or leave it out"),
    "duplicate_in_split": (WARNING, "keep one of them"),
    **dict.fromkeys(
        ("mode_high_bit_depth", "mode_float", "mode_cmyk", "mode_palette", "mode_grey", "mode_other"),
        (WARNING, "nothing, if the conversion to 8-bit RGB is right"),
    ),
    "mode_alpha": (WARNING, "nothing, if a white ground is right"),
    "several_frames": (WARNING, "nothing, if the first is meant"),
    "exif_rotated": (WARNING, "nothing, if the images are upright in viewers"),
    "size_tiny": (WARNING, "use larger images"),
    "size_extreme_aspect": (WARNING, "crop the images"),
}
SEVERITIES = {kind: severity for kind, (severity, _) in KINDS.items()}


class SourceError(ValueError):
    """A source that cannot be understood for certain.

    Args:
        kind: one of `KINDS`.
        message: what came, what was expected and what to do.
        files: the files or folders that it is about.
    """

    def __init__(self, kind: str, message: str, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kind, self.files = kind, tuple(files)


@dataclass(frozen=True)
class Problem:
    """Something wrong or odd with a source.

    Attributes:
        kind: one of `KINDS`, which says whether the source is refused.
        message: what came, what was expected and what to do.
        files: the files or folders that it is about.
    """

    kind: str
    message: str
    files: tuple[str, ...] = ()


def report_problems(problems: Sequence[Problem]) -> None:
    """Write warnings to the log.

    Raises:
        SourceError: At the first problem that is an error.
    """
    for problem in problems:
        if SEVERITIES[problem.kind] == ERROR:
            raise SourceError(problem.kind, problem.message, problem.files)
        logger.warning("%s", problem.message)


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names and how many there are more: `a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
