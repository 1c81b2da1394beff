"""Scores of contours and of classes as plain functions; knows no model."""

MIN_SLICE = 30  # images; see `slices`
