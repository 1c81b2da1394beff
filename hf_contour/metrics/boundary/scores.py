"""The BSDS boundary benchmark: ODS, OIS, AP and R50, exactly, without a model.

Check, format, count, compute: `count_matches` gives the counts of one image, `count_images` those of many on
several processes, `edge_scores` the scores from all counts. Contours are matched one to one with each annotator's,
within a distance, at each threshold; see `matching` for what is optimal about it.

    counts = [count_matches(edge_probs, annotations) for edge_probs, annotations in images]
    scores = edge_scores(counts)

Source: Martin, Fowlkes and Malik, Learning to detect natural image boundaries (2004); Arbelaez, Maire, Fowlkes and
Malik, Contour detection and hierarchical image segmentation (2011); `edgesEvalImg.m` and `edgesEvalDir.m` of Dollar's
structured edge toolbox, which give the same figures.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_contour.metrics.boundary import MAX_DIST, THRESHOLDS
from hf_contour.metrics.boundary.compiled import require_numba
from hf_contour.metrics.boundary.curves import EdgeCounts, EdgePoint, EdgeScores, edge_scores
from hf_contour.metrics.boundary.matching import follow_changes
from hf_contour.metrics.boundary.nms import boundary_nms
from hf_contour.metrics.boundary.pairs import pixel_pairs
from hf_contour.metrics.boundary.thinning import thinned_changes

__all__ = [
    "MAX_DIST",
    "THRESHOLDS",
    "EdgeCounts",
    "EdgePoint",
    "EdgeScores",
    "count_matches",
    "edge_scores",
    "protocol",
]


def count_matches(
    edge_probs: ArrayLike,
    annotations: ArrayLike,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    max_dist: float = MAX_DIST,
    nms: bool = True,
    thinning: bool = True,
) -> EdgeCounts:
    """Count the matched pixels of one image at every threshold.

    Annotations are taken as they are drawn, not thinned, as in the original.

    Args:
        edge_probs: `(H, W)` in 0..1; a pixel is an edge from the threshold on, never if it is 0. Booleans and 8-bit
            integers are taken too, the latter as shares of 255.
        annotations: `(A, H, W)`, one map per annotator, pixels that are not 0 are drawn.
        thresholds: ascending, in (0, 1].
        max_dist: largest distance of a match as a fraction of the diagonal, >= 0.
        nms: suppress what is not a crest first (`boundary_nms`): for soft maps. Leave it out for maps that are thin.
        thinning: thin the map of each threshold.

    Returns:
        The counts, T each. Maps and annotations without pixels count 0.

    Raises:
        ValueError: If shapes or ranges do not fit.
        ImportError: If Numba is not installed.
    """
    require_numba()
    probs, drawn = _check_maps(edge_probs, annotations)
    levels = _check_thresholds(thresholds)
    if not (math.isfinite(max_dist) and max_dist >= 0):
        raise ValueError(f"max_dist is {max_dist}; expected a fraction of the diagonal, such as {MAX_DIST}.")
    if nms:
        probs = boundary_nms(probs)
    changes, steps, predicted = thinned_changes(probs.astype(np.float64), levels, thinning=thinning)
    places, numbers = np.unique(np.abs(changes), return_inverse=True)
    changes = np.sign(changes) * (numbers + 1)
    matched_drawn = np.zeros(len(levels), np.int64)
    is_matched = np.zeros((len(places), len(levels)), bool)
    for annotation in drawn:
        rows = pixel_pairs(places - 1, annotation, max_dist * math.hypot(*probs.shape))
        num_matches, _, matched, _ = follow_changes(changes, steps, *rows)
        matched_drawn += num_matches
        is_matched |= matched
    num_drawn = np.full(len(levels), drawn.sum(), np.int64)
    return EdgeCounts(levels, matched_drawn, num_drawn, is_matched.sum(axis=0, dtype=np.int64), predicted)


def protocol(
    *, thresholds: Sequence[float] = THRESHOLDS, max_dist: float = MAX_DIST, nms: bool = True, thinning: bool = True
) -> dict[str, Any]:
    """What the scores depend on besides maps and annotations, as plain JSON values for a results file."""
    return {
        "nms": "edgesNmsMex, radius 1, frame 5, multiplier 1.01, after convTri 1" if nms else None,
        "thinning": "bwmorph thin" if thinning else None,
        "max_dist": max_dist,
        "thresholds": f"{len(thresholds)} from {thresholds[0]} to {thresholds[-1]}",
        "annotators": "each by itself; recall summed over them, precision by any of them",
        "matching": "one to one, optimal",
    }


def _check_maps(edge_probs: ArrayLike, annotations: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The map as floats `(H, W)`, and the annotations as booleans `(A, H, W)`."""
    probs, drawn = np.asarray(edge_probs), np.asarray(annotations)
    if probs.ndim != 2 or not probs.size:
        raise ValueError(f"edge_probs has shape {probs.shape}; expected (height, width).")
    if drawn.ndim != 3 or not len(drawn) or drawn.shape[1:] != probs.shape:
        raise ValueError(
            f"annotations have shape {drawn.shape} and the map {probs.shape}; expected (annotators, height, width) of "
            "the map's own size, at least one annotator."
        )
    if probs.dtype == np.uint8:
        probs = probs / 255
    elif probs.dtype == bool:
        probs = probs.astype(np.float32)
    if probs.dtype.kind != "f" or not (probs.min() >= 0 and probs.max() <= 1):
        raise ValueError(
            f"edge_probs are {probs.dtype} from {probs.min()} to {probs.max()}; expected probabilities in 0..1, "
            "booleans or 8-bit integers. Logits need a sigmoid first."
        )
    return probs, drawn != 0


def _check_thresholds(thresholds: Sequence[float]) -> NDArray[np.float64]:
    levels = np.asarray(thresholds, np.float64)
    if levels.ndim != 1 or not len(levels) or not (levels[0] > 0 and levels[-1] <= 1 and (np.diff(levels) > 0).all()):
        raise ValueError(f"thresholds are {thresholds}; expected ascending numbers above 0 and up to 1.")
    return levels
