"""One evaluation for both kinds of model: scores, perturbations, predictions, calibration, comparison."""
