"""Classify images, or draw their contours: a folder, or a hundred million images.

    hf-contour predict --model MODEL --inputs FOLDER --output predicted --format csv
    hf-contour predict --model MODEL --inputs 's3://bucket/shards/*.tar' --output predicted
    hf-contour predict --model MODEL --data OWNER/NAME --split test --output predicted --probabilities
    torchrun --nproc_per_node 4 -m hf_contour predict --model MODEL --inputs FOLDER --output predicted
    hf-contour predict --model EXTRACTOR --contours --inputs FOLDER --output drawn

Every input has a row with id, label, score, abstained and error, in tables of 4,096 rows that are whole or absent.
The same command goes on with what is missing, after a kill too, and may run in any number of processes at once.
Exit codes: 0 all done, 1 no image could be read, 2 refused, 3 some images could not be read; one of several processes
gives 0 for 1 and 3, since a launcher stops them all when one ends otherwise.
"""

import sys
from collections.abc import Sequence

from hf_contour.cli.settings import read_settings
from hf_contour.inference.arguments import PredictionArguments


def main(argv: Sequence[str]) -> int:
    """Predicts, and says what was done."""
    arguments = read_settings(PredictionArguments, argv, command="predict", description=__doc__)
    from hf_contour.inference.predict import predict
    from hf_contour.inference.processes import Place

    report = predict(arguments)
    if not report.num_rows and report.num_finished == report.num_parts:
        print(f"{arguments.output} was finished already; --overwrite starts anew.")
    else:
        print(f"{report.num_rows} rows written to {arguments.output}, {report.num_errors} of them with an error")
    for error in report.examples:
        print(f"error: {error}", file=sys.stderr)
    if report.num_finished < report.num_parts:
        left = report.num_parts - report.num_finished
        print(f"{left} parts are left to other processes; the same command does what they leave", file=sys.stderr)
    return 0 if Place.here().world_size > 1 else report.exit_code
