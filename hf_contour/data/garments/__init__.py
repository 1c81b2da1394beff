"""Drawn garments: the embedded data set, with exact contours."""
