"""The scores of `hf_contour.metrics.boundary.scores` as a folder that `evaluate.load` takes."""
