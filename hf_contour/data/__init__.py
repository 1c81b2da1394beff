"""Readers, augmentation and checks of data; knows no model."""

EMBEDDED = "embedded"  # in the place of a path: the drawn garments
