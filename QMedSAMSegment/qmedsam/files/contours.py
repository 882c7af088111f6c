"""Masks of slices to closed contours and back; needs contourpy.

A contour runs half-way between the centres of pixels inside and outside, so that whoever fills it by asking which centres lie
in it gets the mask again. Holes hang on their outer contour by a channel without width (the keyhole of DICOM C.8.8.6): every
contour stands for itself, whether a reader adds contours of a slice up or takes one out of the other.
"""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

#: Rows off the centres of pixels at which channels run: no centre lies on one.
_CHANNEL = 0.25


def contours_of(mask_ji: np.ndarray) -> List[np.ndarray]:
    """Closed contours of a mask, ``n x 2`` of x and y (centres at integers), the first point not repeated at the end.

    Args:
        mask_ji: boolean, ``(j, i)``.
    """
    from contourpy import FillType, contour_generator

    rows, columns = np.flatnonzero(mask_ji.any(axis=1)), np.flatnonzero(mask_ji.any(axis=0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    framed = np.pad(mask_ji[top : rows[-1] + 1, left : columns[-1] + 1].astype(float), 1)
    made = contour_generator(z=framed, name="serial", fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    found = []
    for points, offsets in zip(*made):
        rings = [_corners(points[a : b - 1]) for a, b in zip(offsets[:-1], offsets[1:])]
        found.append(_with_holes(rings[0], rings[1:]) + (left - 1, top - 1))
    return found


def filled(contours: Sequence[np.ndarray], shape_ji: Sequence[int]) -> np.ndarray:
    """Which centres of pixels lie inside: boolean ``(j, i)``. What lies in two contours of a slice is a hole.

    Args:
        contours: ``n x 2`` of x and y each, closed or not.
        shape_ji: rows and columns; contours may reach beyond.
    """
    height, width = shape_ji
    crossings = np.zeros((height, width + 1), np.int32)
    for points in contours:
        start = np.asarray(points, float)
        end = np.roll(start, -1, axis=0)
        low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        # Rows whose centres an edge crosses, its lower end included: an edge along a row crosses none.
        first, last = np.clip(np.ceil(low), 0, height).astype(int), np.clip(np.ceil(high), 0, height).astype(int)
        counts = last - first
        edge = np.repeat(np.arange(len(start)), counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        share = (row - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
        x = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
        np.add.at(crossings, (row, np.clip(np.ceil(x), 0, width).astype(int)), 1)
    return (np.cumsum(crossings, axis=1)[:, :width] % 2).astype(bool)


def _corners(ring: np.ndarray) -> np.ndarray:
    """A ring without the points along its straight parts."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return ring[turns]


def _with_holes(outer: np.ndarray, holes: List[np.ndarray]) -> np.ndarray:
    """One ring: from its leftmost part every hole is joined to what lies left of it."""
    for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
        n = int(hole[:, 0].argmin())
        y = hole[n, 1] + _CHANNEL
        inner, start = _crossing(hole, y, np.inf, rightmost=False)
        outside, end = _crossing(outer, y, start[0], rightmost=True)
        # There along the channel, round the hole, and back.
        outer = np.concatenate(
            [outer[: outside + 1], [end, start], hole[inner + 1 :], hole[: inner + 1], [start, end], outer[outside + 1 :]]
        )
    return outer


def _crossing(ring: np.ndarray, y: float, before: float, rightmost: bool) -> tuple:
    """Edge (its first point's index) and point where a ring crosses a row, of those left of ``before`` the last or the first."""
    start, end = ring, np.roll(ring, -1, axis=0)
    edges = np.flatnonzero((start[:, 1] - y) * (end[:, 1] - y) < 0)
    share = (y - start[edges, 1]) / (end[edges, 1] - start[edges, 1])
    x = start[edges, 0] + share * (end[edges, 0] - start[edges, 0])
    x = np.where(x < before, x, -np.inf if rightmost else np.inf)
    chosen = int(x.argmax() if rightmost else x.argmin())
    return int(edges[chosen]), np.array([x[chosen], y])
