"""Augmentation: the recipe of geometric and photometric operations, warping, and the colour transform."""
