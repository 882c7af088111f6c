"""Strokes and rectangles of a plain boxes file.

An object there may have, beside its box,

- ``"positive"`` and ``"negative"``: lists of strokes; the negative ones are taken for the later. A stroke is a point (a click),
  a list of points (a line), or ``{"ijk": ...}`` or ``{"ras": ...}`` with either, and if wanted ``"axis"`` (``"i"``, ``"j"``
  or ``"k"``, along which the slices of its view follow each other; ``"k"`` where it is not given) and ``"radius_mm"``. All
  points of a stroke lie on one slice.
- ``"rectangles"``: ``[{"slice": 57, "xy": [x0, y0, x1, y1]}]``, drawn tight around the object on that slice; both ends
  included, in voxels along the slice's columns and rows; if wanted ``"axis"``.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np

from ..errors import QMedSAMError, shown
from ..geometry import Volume
from ..marks import SliceRectangle, Stroke
from .numeric import is_number, list_of

#: Points of a stroke, and strokes of an object: more are no one's drawing.
_MOST = 10_000


def marks_of(entry: Dict[str, Any], volume: Volume, where: str) -> Tuple[Tuple[Stroke, ...], Tuple[SliceRectangle, ...]]:
    """Strokes and rectangles of an object of a plain file.

    Args:
        entry: the object.
        volume: the image.
        where: which box it is, for messages.

    Raises:
        QMedSAMError: what is there is no stroke or rectangle, or a stroke leaves its slice.
    """
    strokes: List[Stroke] = []
    for key, adds in (("positive", True), ("negative", False)):
        for n, value in enumerate(_listed(entry, key, where), 1):
            strokes.append(_stroke(value, adds, volume, f"Stroke {n} of '{key}' of {where}"))
    rectangles = [
        _rectangle(value, f"Rectangle {n} of {where}") for n, value in enumerate(_listed(entry, "rectangles", where), 1)
    ]
    return tuple(strokes), tuple(rectangles)


def _listed(entry: Dict[str, Any], key: str, where: str) -> List[Any]:
    values = entry.get(key, [])
    if not isinstance(values, list) or len(values) > _MOST:
        raise QMedSAMError(f"'{key}' of {where} is not a list.", f"Give a list of {'strokes' if key != 'rectangles' else key}.")
    return values


def _stroke(value: Any, adds: bool, volume: Volume, what: str) -> Stroke:
    more: Dict[str, Any] = value if isinstance(value, dict) else {"ijk": value}
    points, in_ras = points_of(more, volume, what)
    axis, radius = _axis(more, what), more.get("radius_mm", 0)
    if not is_number(radius) or radius < 0:
        raise QMedSAMError(f"The radius_mm of {what} is not a length in mm.", "Correct the file.")
    stroke = Stroke(points, axis, adds, float(radius))
    if np.abs(points[:, axis] - stroke.index).max() > 0.5 + 1e-6 + 0.5 * in_ras:
        raise QMedSAMError(
            f"{what} leaves slice {stroke.index} along {'ijk'[axis]}.",
            'Draw it on one slice, or name the axis that its slices follow, e.g. "axis": "j".',
        )
    return stroke


def points_of(entry: Dict[str, Any], volume: Volume, what: str) -> Tuple[np.ndarray, bool]:
    """The points of ``"ijk"`` or ``"ras"``, ``N x 3`` in voxels, and whether they were told in RAS.

    Raises:
        QMedSAMError: neither is there, or both, or they are no points.
    """
    if ("ijk" in entry) == ("ras" in entry):
        raise QMedSAMError(f"{what} has neither 'ijk' nor 'ras', or both.", "Give one of them.")
    in_ras = "ras" in entry
    points = _points(entry["ras" if in_ras else "ijk"], 3 if in_ras or volume.shape_ijk[2] > 1 else 2, what)
    return (to_ijk(points, volume) if in_ras else points), in_ras


def to_ijk(points_ras: np.ndarray, volume: Volume) -> np.ndarray:
    """``N x 3`` in mm to voxels."""
    inverse = np.linalg.inv(volume.ijk_to_ras)
    return points_ras @ inverse[:3, :3].T + inverse[:3, 3]


def _points(value: Any, least: int, what: str) -> np.ndarray:
    rows = value if isinstance(value, list) and value and isinstance(value[0], (list, tuple)) else [value]
    if len(rows) > _MOST:
        raise QMedSAMError(f"{what} has {len(rows)} points.", f"Give {_MOST} at most.")
    counts = (3,) if least == 3 else (2, 3)
    return np.array([(list_of(row, counts, f"A point of {what}") + [0.0])[:3] for row in rows])


def _axis(entry: Dict[str, Any], what: str) -> int:
    axis = entry.get("axis", "k")
    if axis not in ("i", "j", "k"):
        raise QMedSAMError(f"The axis of {what} is {shown(axis)}.", 'Use "i", "j" or "k".')
    return "ijk".index(axis)


def _rectangle(value: Any, what: str) -> SliceRectangle:
    if not isinstance(value, dict) or not is_number(value.get("slice")) or value["slice"] != int(value["slice"]):
        raise QMedSAMError(f"{what} names no slice.", 'Give {"slice": 57, "xy": [x0, y0, x1, y1]}.')
    x0, y0, x1, y1 = list_of(value.get("xy"), (4,), f"The xy of {what}")
    edges = (min(x0, x1) - 0.5, min(y0, y1) - 0.5, max(x0, x1) + 0.5, max(y0, y1) + 0.5)
    return SliceRectangle(_axis(value, what), int(value["slice"]), edges)
