"""Scores of contours and of classes as plain functions; knows no model."""
