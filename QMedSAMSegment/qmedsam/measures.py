"""How long and wide an object is, as radiologists measure it: the longest diameter on an axial slice, and across it.

RECIST 1.1 (Eisenhauer et al., European Journal of Cancer 45, 2009): a lesion's longest diameter in the plane of measurement, for
lymph nodes the longest one perpendicular to it (the short axis).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

#: Pixels that are measured at the same time.
_TOGETHER = 2**16
#: Directions in a plane, ``2 x 16``, of half a turn: a line has no more.
_SIDES = np.array([(np.cos(angle), np.sin(angle)) for angle in np.pi * np.arange(16) / 16]).T


@dataclass(frozen=True)
class Diameters:
    """An object's two axes on one slice.

    Attributes:
        index: the slice (k) on which the object is longest.
        long_ijk, short_ijk: both ends of either, ``2 x 3``, continuous voxel coordinates, on the object's outline.
        long_mm, short_mm: lengths.
    """

    index: int
    long_ijk: np.ndarray
    short_ijk: np.ndarray
    long_mm: float
    short_mm: float


def diameters(
    labels_kji: np.ndarray, ijk_to_ras: np.ndarray, start_kji: Sequence[int] = (0, 0, 0), label: int = 1
) -> Optional[Diameters]:
    """The longest axial diameter of an object and the longest extent at right angles to it on the same slice.

    An outline runs through the middles of the outer pixels' edges: a disc of radius ``r`` measures ``2 r``.

    Args:
        labels_kji: ``(k, j, i)``, the object's voxels have the value ``label``; not modified.
        ijk_to_ras: ``4 x 4``, of the volume.
        start_kji: where the array begins in the volume.

    Returns:
        None where no voxel has the label.
    """
    axes = np.asarray(ijk_to_ras, float)[:3, :2]  # columns: a step along i and along j, in mm
    turned = np.linalg.qr(axes)[1]  # the same lengths in two coordinates
    outlines: List[Tuple[float, int, np.ndarray]] = []
    for k, labels in enumerate(labels_kji):  # slice by slice: a mask of the whole object would add to the peak
        points = _outline(labels == label)
        if len(points):
            outlines.append((_bound(points, turned), k, points))
    if not outlines:
        return None
    # Upper bounds first, so that few slices are looked at closely.
    outlines.sort(key=lambda one: -one[0])
    length, k, ends = 0.0, 0, np.zeros((2, 2))
    for bound, at, points in outlines:
        if bound <= length:
            break
        found, pair = _longest(points, axes)
        if found > length:
            length, k, ends = found, at, pair
    width, across = _across(labels_kji[k] == label, axes, ends)
    start = np.array([start_kji[2], start_kji[1], start_kji[0]], float)
    long_ijk, short_ijk = (np.column_stack([line, np.full(2, k)]) + start for line in (ends, across))
    return Diameters(k + int(start_kji[0]), long_ijk, short_ijk, length, width)


def _outline(plane: np.ndarray) -> np.ndarray:
    """``N x 2`` (x, y): the outer edges' middles of every row's and column's first and last pixel."""
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    left = plane[rows].argmax(axis=1) - 0.5
    right = plane.shape[1] - plane[rows, ::-1].argmax(axis=1) - 0.5
    top = plane[:, columns].argmax(axis=0) - 0.5
    bottom = plane.shape[0] - plane[::-1, columns].argmax(axis=0) - 0.5
    x = np.concatenate([left, right, columns, columns])
    return np.column_stack([x, np.concatenate([rows, rows, top, bottom])])


def _bound(points: np.ndarray, axes: np.ndarray) -> float:
    """What no distance of two points exceeds: their widest extent seen from 16 sides, for the half step that a line may be turned
    from the nearest of these (half a per cent)."""
    across = points @ (axes.T @ _SIDES)
    return float((across.max(axis=0) - across.min(axis=0)).max() / np.cos(np.pi / 2 / _SIDES.shape[1]))


def _longest(points: np.ndarray, axes: np.ndarray) -> Tuple[float, np.ndarray]:
    points = _hull(points)
    in_mm = points @ axes.T
    distances = np.linalg.norm(in_mm[:, None] - in_mm[None], axis=2)
    a, b = np.unravel_index(int(distances.argmax()), distances.shape)
    return float(distances[a, b]), points[[a, b]]


def _hull(points: np.ndarray) -> np.ndarray:
    """The corners of the convex hull of ``N x 2`` points, both ends of a line among them (Andrew's monotone chain, 1979)."""
    ordered = sorted(set(map(tuple, points.tolist())))
    corners: List[Tuple[float, ...]] = []
    for chain in (ordered, ordered[::-1]):
        least = len(corners) + 1
        for x, y in chain:
            while len(corners) > least:
                (ax, ay), (bx, by) = corners[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                corners.pop()
            corners.append((x, y))
        corners.pop()  # the first of the other chain
    return np.array(corners or ordered)


def _across(plane: np.ndarray, axes: np.ndarray, ends: np.ndarray) -> Tuple[float, np.ndarray]:
    """Length and ends (xy) of the longest extent at right angles to a line, measured in strips one pixel wide."""
    along_mm = axes @ (ends[1] - ends[0])
    length = np.linalg.norm(along_mm)
    along = along_mm / length
    normal = np.cross(axes[:, 0], axes[:, 1])
    perpendicular = np.cross(normal / np.linalg.norm(normal), along)
    step = np.linalg.norm(axes, axis=0).min()
    corners = (np.array(list(itertools.product((0, plane.shape[1]), (0, plane.shape[0])))) - ends[0]) @ axes.T @ along / step
    first = int(np.floor(corners.min()))
    low, high = (np.full(int(corners.max()) - first + 2, value) for value in (np.inf, -np.inf))
    for strips, _, height in _strips(plane, axes, ends[0], along, perpendicular, step):
        np.minimum.at(low, strips - first, height)
        np.maximum.at(high, strips - first, height)
    half = 0.5 * np.linalg.norm(axes.T @ perpendicular)  # of a pixel, in that direction
    widest = int((high - low).argmax())
    members = [far[strips - first == widest] for strips, far, _ in _strips(plane, axes, ends[0], along, perpendicular, step)]
    at = float(np.concatenate(members).mean())
    middle, width = (high[widest] + low[widest]) / 2, min(high[widest] - low[widest] + 2 * half, length)
    corners = axes @ ends[0] + at * along + np.outer([middle - width / 2, middle + width / 2], perpendicular)
    return float(width), np.linalg.lstsq(axes, corners.T, rcond=None)[0].T


def _strips(
    plane: np.ndarray, axes: np.ndarray, origin: np.ndarray, along: np.ndarray, across: np.ndarray, step: float
) -> Iterator[Tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of an object's pixels, some rows at a time (a photograph's took 245 MiB): strip, and how far along and across in mm."""
    rows = max(_TOGETHER // plane.shape[1], 1)
    for start in range(0, len(plane), rows):
        y, x = np.nonzero(plane[start : start + rows])
        in_mm = np.column_stack([x, y + start]) @ axes.T - axes @ origin
        far = in_mm @ along
        yield np.floor(far / step).astype(int), far, in_mm @ across
