"""The BSDS boundary benchmark: ODS, OIS and AP."""

MAX_DIST = 0.0075  # of the diagonal, as the benchmark of BSDS500 has it; 4.3 pixels at 481x321
THRESHOLDS = tuple(number / 100 for number in range(1, 100))  # of edge probabilities, as the benchmark has them
