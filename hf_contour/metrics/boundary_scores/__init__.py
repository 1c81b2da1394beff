"""The scores of `hf_contour.metrics.boundary` as a folder that `evaluate.load` takes."""
