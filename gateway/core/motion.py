"""Motion without gravity (decision 1). Pure; runs in the detectors' worker thread.

A neck-worn accelerometer always reads about 1 g (real heifer: p1 0.85, median 1.00, p99 1.16 g),
so the norm of a sample says nothing about motion; the difference of successive samples does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def norm_g(fxa_g: Floats, mya_g: Floats, rza_g: Floats) -> Floats:
    """Length of the acceleration vector in g, NaN where a sample is missing; any shape."""
    squares: Floats = fxa_g * fxa_g + mya_g * mya_g + rza_g * rza_g
    return np.sqrt(squares)


def motion_grid_g(fxa_g: Floats, mya_g: Floats, rza_g: Floats, reported_g: Floats) -> Floats:
    """Motion in g on a minute grid, shape [animals, minutes].

    The length of the vector difference between a minute and the one before it; NaN where either is
    missing, because a difference across a gap measures posture and not motion. What the collar
    reports itself (`motion_intensity`) wins where it is present.
    """
    motion = np.full(fxa_g.shape, np.nan, np.float32)
    if fxa_g.shape[1] > 1:
        motion[:, 1:] = norm_g(np.diff(fxa_g, axis=1), np.diff(mya_g, axis=1), np.diff(rza_g, axis=1))
    return np.where(np.isnan(reported_g), motion, reported_g)
