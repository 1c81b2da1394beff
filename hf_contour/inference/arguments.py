"""Settings of a prediction, apart from the code that needs torch, so that `--help` is quick."""

from dataclasses import dataclass, field


@dataclass
class PredictionArguments:
    """What to predict, of what, and where to; `help` describes each."""

    model: str = field(metadata={"help": "folder of a classifier, or of an extractor with --contours"})
    output: str = field(metadata={"help": "table (.csv, .jsonl), or folder with --contours"})
    inputs: list[str] = field(default_factory=list, metadata={"help": "images and folders"})
    data: str | None = field(default=None, metadata={"help": "data set in the place of --inputs"})
    data_config: str | None = field(default=None, metadata={"help": "its configuration, where it has several"})
    split: str = field(default="test", metadata={"help": "split of the data set"})
    rows: list[int] | None = field(default=None, metadata={"help": "rows of the split, from 0; default: all"})
    contours: bool = field(default=False, metadata={"help": "draw contours instead of classifying"})
    threshold: float = field(default=0.5, metadata={"help": "of the thin map"})
    levels: bool = field(default=False, metadata={"help": "with --contours: also draw what each level sees"})
    with_image: bool = field(default=False, metadata={"help": "with --contours: also the image beside its maps"})
    max_side: int = field(default=1024, metadata={"help": "with --contours: read longer images this small; 0: never"})
    batch_size: int = field(default=32, metadata={"help": "images classified at a time"})
    top_k: int = field(default=1, metadata={"help": "labels written for each image"})
    cpu: bool = field(default=False, metadata={"help": "run on the CPU even where there is an accelerator"})

    def __post_init__(self) -> None:
        if bool(self.inputs) == bool(self.data):
            raise ValueError("give images with --inputs, or a data set with --data, and not both.")
        if not self.contours and (self.levels or self.with_image):
            raise ValueError("--levels and --with_image draw beside contours; add --contours.")
