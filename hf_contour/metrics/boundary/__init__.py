"""The BSDS boundary benchmark: ODS, OIS and AP."""

MAX_DIST = 0.0075  # of the diagonal, as the benchmark of BSDS500 has it; 4.3 pixels at 481x321
