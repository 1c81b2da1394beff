"""The scores of `hf_contour.metrics.classification` as a folder that `evaluate.load` takes."""
