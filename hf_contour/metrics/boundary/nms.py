"""Non-maximum suppression of soft edge maps before they are scored, in all the steps of Dollar's toolbox."""

import numpy as np
from numpy.typing import NDArray

from hf_contour.edge_thinning_contour import edge_crests, triangle_smoothed

FloatArray = NDArray[np.float32]

SMOOTHING_RADIUS = 1  # of the map itself
FRAME = 5  # pixels along the frame that are faded


def boundary_nms(edge_probs: FloatArray) -> FloatArray:
    """Smooth a soft map and leave only the crests of its edges.

    The steps of `edgesDetect.m` and `edgesNmsMex.cpp` in single precision: `convTri(E, 1)`; directions from the
    second derivatives of `convTri(E, 4)`; a pixel is 0 where the map one pixel across the edge, to either side, is
    more than 1.01 times as strong; the 5 pixels along the frame are weakened in proportion to their distance from it,
    the outermost to 0.

    Args:
        edge_probs: `(H, W)`, float, in 0..1.

    Returns:
        `(H, W)`, float32 in 0..1.

    Source: see `edge_thinning_contour`. HED, RCF and PiDiNet are scored with the same settings. The toolbox's users
    save the result with 8 bits before they score it; here the values stay as they are.
    """
    crests = edge_crests(triangle_smoothed(edge_probs.astype(np.float32), SMOOTHING_RADIUS))
    depth = min(FRAME, *(side // 2 for side in crests.shape))
    for side in (crests.T, crests.T[::-1], crests, crests[::-1]):
        side[:depth] *= (np.arange(depth, dtype=np.float32) / np.float32(max(depth, 1)))[:, None]
    return crests
