"""A line as a prompt: the long axis of a lesion on one slice, or both axes, as radiologists draw them (RECIST 1.1)."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from .errors import QMedSAMError
from .geometry import Box, View, Volume
from .marks import SliceRectangle

#: Short axis over long axis where only the long one was drawn: the median of 67 lesions of training volumes.
WIDTH = 0.7
#: Extent through the slices over the long axis.
DEPTH = 1.3
#: By how much the box is larger than the rectangle on the line's slice, as a share of it on each side.
ROOM = 0.1


def box_of_line(long_ijk: np.ndarray, short_ijk: Optional[np.ndarray], volume: Volume, **attributes: Any) -> Box:
    """The box of an object of which somebody drew one axis, or two, on a slice.

    On that slice it is the rectangle around the ellipse with these axes, which goes with the box as its tight rectangle there;
    through the slices it is as long as lesions mostly are. What is found ends where the object does.

    Args:
        long_ijk: both ends of the line, ``2 x 3``, continuous voxel coordinates.
        short_ijk: of a second line across it, or None.
        volume: the image.
        attributes: ``label``, ``name``, ``color`` and ``strokes`` of the box.

    Raises:
        QMedSAMError: a line without length, one that lies in no slice, or two on different slices.
    """
    lines = [np.asarray(line, float).reshape(2, 3) for line in (long_ijk, short_ijk) if line is not None]
    name = f" '{attributes['name']}'" if attributes.get("name") else ""
    to_mm = volume.ijk_to_ras[:3, :3]
    lengths = [float(np.linalg.norm(to_mm @ (b - a))) for a, b in lines]
    if not all(np.isfinite(line).all() for line in lines) or min(lengths) <= 0:
        raise QMedSAMError(f"The line{name} has no length.", "Draw it from one end of the object to the other.")
    if len(lines) == 2 and lengths[1] > lengths[0]:
        lines, lengths = lines[::-1], lengths[::-1]
    axis = _axis_of(lines, volume, name)
    index = int(np.floor(lines[0][:, axis].mean() + 0.5))
    view = View.of(volume, axis)
    in_plane = list(view.in_plane)
    center = lines[0].mean(axis=0) if len(lines) == 1 else np.mean([line.mean(axis=0) for line in lines], axis=0)
    along = (lines[0][1] - lines[0][0])[in_plane] / 2
    mm = np.array(view.pixel_mm)
    across = np.array([-along[1] * mm[1], along[0] * mm[0]]) / mm * WIDTH
    if len(lines) == 2:
        across = (lines[1][1] - lines[1][0])[in_plane] / 2
    half = np.hypot(along, across)  # of the rectangle around an ellipse with these half axes
    low, high = center[in_plane] - half, center[in_plane] + half
    rectangle = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    lower, upper = np.zeros(3), np.zeros(3)
    lower[in_plane], upper[in_plane] = low - 2 * ROOM * half, high + 2 * ROOM * half
    deep = max(DEPTH * lengths[0] / view.spacing_mm[axis], 1.0) / 2
    lower[axis], upper[axis] = index - deep, index + deep
    size = np.array(volume.shape_ijk)
    lower, upper = np.clip(lower, -0.5, size - 0.5), np.clip(upper, -0.5, size - 0.5)
    if (upper - lower < 1e-6).any():
        raise QMedSAMError(f"The line{name} lies outside the image.", "Draw it on the image.")
    drawn = SliceRectangle(axis, index, rectangle)
    return Box.from_edges(lower, upper, rectangles=(drawn,), **attributes)


def crossing(first_ijk: np.ndarray, second_ijk: np.ndarray, volume: Volume) -> bool:
    """Whether two lines meet between their ends, to within a voxel: the axes of one object."""
    to_mm = volume.ijk_to_ras[:3, :3]
    (a, b), (c, d) = first_ijk @ to_mm.T, second_ijk @ to_mm.T
    shares, *_ = np.linalg.lstsq(np.column_stack([b - a, c - d]), c - a, rcond=None)
    gap = np.linalg.norm(a + shares[0] * (b - a) - c - shares[1] * (d - c))
    return bool((np.abs(shares - 0.5) <= 0.55).all() and gap <= volume.spacing_mm.max())


def _axis_of(lines: list, volume: Volume, name: str) -> int:
    """The axis along which the slices follow that all ends lie on (k before j before i)."""
    ends = np.concatenate(lines)
    spread = np.ptp(ends, axis=0)
    axis = min((2, 1, 0), key=lambda n: spread[n] * volume.spacing_mm[n])
    if spread[axis] > 1:
        many = "s are" if len(lines) == 2 else " is"
        raise QMedSAMError(
            f"The line{many}{name} not on one slice.", "Draw in one slice view, without scrolling between the clicks."
        )
    return axis
