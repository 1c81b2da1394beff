"""The BSDS boundary benchmark: ODS, OIS and AP."""
