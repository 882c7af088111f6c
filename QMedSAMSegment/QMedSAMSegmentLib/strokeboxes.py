"""The box that a stroke is about: an ROI's, a stored one, or one around what is in the segment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional, Sequence

import numpy as np
from qmedsam import Box, QMedSAMError
from qmedsam.marks import Stroke

from .boxes import FIT_MARGIN, boundRois, boxFromRoi
from .boxtags import storedBoxes
from .segments import Crop


def boundsOf(mask_kji: np.ndarray) -> Optional[Crop]:
    """The smallest crop that holds a mask."""
    parts: List[slice] = []
    for axis in range(3):  # narrowed axis by axis: all voxels are looked at once
        used = np.flatnonzero(mask_kji[tuple(parts)].any(axis=tuple(n for n in range(3) if n != axis)))
        if not len(used):
            return None
        parts.append(slice(int(used[0]), int(used[-1]) + 1))
    return parts[0], parts[1], parts[2]


def boxesOf(volumeNode: Any, segmentationNode: Any, segmentId: str, toNode: np.ndarray, present: np.ndarray) -> List[Box]:
    """The boxes of a segment: its ROIs, else those that it carries, else one around what is in it.

    Raises:
        QMedSAMError: it has no box and nothing in it.
    """
    found: List[Box] = []
    for n, roiNode in enumerate(boundRois(segmentationNode, segmentId), start=1):
        try:
            found.append(boxFromRoi(roiNode, volumeNode, label=n))
        except QMedSAMError:  # not placed yet
            continue
    found = found or storedBoxes(segmentationNode, segmentId, toNode)
    if found:
        return found
    bounds = boundsOf(present)
    if bounds is None:
        raise QMedSAMError("The selected segment is empty.", "Add a box and press Apply first, or paint a rough shape.")
    low = np.array([part.start - 0.5 for part in bounds[::-1]])
    high = np.array([part.stop - 0.5 for part in bounds[::-1]])
    room = FIT_MARGIN * (high - low)
    return [Box.from_edges(low - room, high + room, label=1)]


def chosenBox(boxes: Sequence[Box], stroke: Optional[Stroke], present: np.ndarray) -> Box:
    """Of several boxes the one that a stroke is about: in which it lies deepest; without one that with most of the segment."""
    if len(boxes) == 1:
        return boxes[0]
    points = stroke.points_ijk if stroke is not None else np.argwhere(present)[:: max(int(present.sum()) // 1000, 1), ::-1]
    return min(boxes, key=lambda box: float(np.median(_inBox(box, points).max(axis=1))) if len(points) else 0.0)


def _inBox(box: Box, points_ijk: np.ndarray) -> np.ndarray:
    """How far points lie from the centre along each half axis, ``n x 3``: up to 1 inside."""
    return np.abs((points_ijk - box.center_ijk) @ np.linalg.pinv(box.half_axes_ijk).T)


def grownBox(box: Box, strokes: Sequence[Stroke]) -> Box:
    """A box with room for what strokes add: what a user says is the object is not cut off by it."""
    for points in (stroke.points_ijk for stroke in strokes if stroke.adds):
        along = (points - box.center_ijk) @ np.linalg.pinv(box.half_axes_ijk).T
        low, high = np.minimum(along.min(axis=0), -1.0), np.maximum(along.max(axis=0), 1.0)
        room = 2 * FIT_MARGIN * (high - low)
        low, high = np.where(low < -1, low - room, low), np.where(high > 1, high + room, high)
        center = box.center_ijk + box.half_axes_ijk @ ((low + high) / 2)
        box = replace(box, center_ijk=center, half_axes_ijk=box.half_axes_ijk * ((high - low) / 2))
    return box
