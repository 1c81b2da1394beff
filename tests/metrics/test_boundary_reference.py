"""The authors' maps against the authors' figures."""

import os
from pathlib import Path

import numpy as np
import pytest

from hf_contour.data.sources import load_source
from hf_contour.metrics.boundary.edge_maps import count_edge_maps, maps_in_parquet
from hf_contour.metrics.boundary.scores import EdgeScores, edge_scores

SHARED_DATA = Path(os.environ.get("HF_CONTOUR_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
REFERENCE = SHARED_DATA / "boundary_reference"


@pytest.fixture(scope="module")
def scores() -> EdgeScores:
    """Of gPb-owt-ucm on the 200 test images of BSDS500; the order of the rows is that of their ids as text."""
    maps = maps_in_parquet(REFERENCE / "gpb_ucm_test.parquet")
    source = load_source(SHARED_DATA / "bsds500", split="test")
    order = np.argsort(source["image_id"], kind="stable")
    return edge_scores(count_edge_maps(maps, source.select(order), nms=False, progress=False))


@pytest.mark.shared_data
def test_scores_are_the_authors(scores: EdgeScores) -> None:
    threshold, recall, precision, ods, *_, ois, ap = np.loadtxt(REFERENCE / "gpb_ucm_eval_bdry.txt")
    assert (scores.ods, scores.ois, scores.ap) == pytest.approx((ods, ois, ap), abs=5e-4)
    assert (scores.ods, scores.ois, scores.ap) == pytest.approx((0.7264, 0.7597, 0.7267), abs=5e-5)
    assert scores.ods_point.threshold == pytest.approx(threshold, abs=1e-6)
    assert (scores.ods_point.recall, scores.ods_point.precision) == pytest.approx((recall, precision), abs=1e-3)


@pytest.mark.shared_data
def test_every_recall_and_precision_is_the_authors(scores: EdgeScores) -> None:
    # In the order of recall, and without thresholds that have the recall of another.
    thresholds, recalls, precisions, _ = np.loadtxt(REFERENCE / "gpb_ucm_eval_bdry_thr.txt").T
    assert len(thresholds) == 99
    order = np.argsort(thresholds)
    np.testing.assert_allclose(scores.thresholds, thresholds[order], atol=1e-9)
    np.testing.assert_allclose(scores.recall, recalls[order], atol=1e-3)
    np.testing.assert_allclose(scores.precision, precisions[order], atol=1e-3)


@pytest.mark.shared_data
def test_the_best_f_of_every_image_is_the_authors(scores: EdgeScores) -> None:
    best = np.loadtxt(REFERENCE / "gpb_ucm_eval_bdry_img.txt")[:, 4]
    np.testing.assert_allclose(scores.image_f1, best, atol=3e-3)  # an image has few pixels, so the noise is larger
