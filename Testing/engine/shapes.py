"""Objects and geometries that several tests share."""

from __future__ import annotations

import numpy as np
from qmedsam import Box, Volume


def rotation(angles) -> np.ndarray:
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        r = np.eye(3)
        a, b = [n for n in range(3) if n != axis]
        r[a, a], r[a, b], r[b, a], r[b, b] = c, -s, s, c
        out = out @ r
    return out


def geometry(angles, spacings, flip) -> np.ndarray:
    """ijk to RAS of a rotated, flipped, anisotropic volume somewhere in space."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(angles) @ np.diag([-1 if flip else 1, 1, 1]) @ np.diag(spacings)
    matrix[:3, 3] = [-40, 25, 310]
    return matrix


def ball(shape_kji, center_ijk, radii_ijk) -> np.ndarray:
    k, j, i = np.ogrid[: shape_kji[0], : shape_kji[1], : shape_kji[2]]
    (ci, cj, ck), (ri, rj, rk) = center_ijk, radii_ijk
    return ((i - ci) / ri) ** 2 + ((j - cj) / rj) ** 2 + ((k - ck) / rk) ** 2 <= 1


def phantom(truth: np.ndarray, ijk_to_ras=None) -> Volume:
    return Volume((truth * 100).astype(np.int16), np.eye(4) if ijk_to_ras is None else ijk_to_ras, "MR")


def tight(truth: np.ndarray, grow: float = 0.0, **attributes) -> Box:
    k, j, i = (np.flatnonzero(truth.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    low, high = np.array([i[0], j[0], k[0]]) - 0.5, np.array([i[-1], j[-1], k[-1]]) + 0.5
    return Box.from_edges(low - grow, high + grow, **attributes)


def dsc(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())
