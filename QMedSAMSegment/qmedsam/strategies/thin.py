"""Boxes with too few slices along an axis to be looked at from the side."""

from __future__ import annotations

from typing import Tuple

from ..geometry import Box, View, Volume
from .items import Item

#: A box with fewer slices than this along one axis is a picture: its other views would be a few pixels high.
LEAST_SLICES = 3
#: So few slices, each so many times as thick as the finest voxels are wide, are not looked at from the side either: of a box of
#: five 5 mm slices the other views would be five rows high.
FEW, THICK = 5, 3.5


def thinnest(box: Box, volume: Volume) -> Tuple[int, int]:
    """The axis along which a box is on the fewest slices (k before j before i), and on how many."""
    counts = [len(box.slices(axis, size)) for axis, size in enumerate(volume.shape_ijk)]
    axis = min((2, 1, 0), key=counts.__getitem__)
    return axis, counts[axis]


def is_thin(item: Item) -> bool:
    """Whether there are too few slices along an axis for views from the side."""
    counts = [len(item.box.slices(axis, size)) for axis, size in enumerate(item.view.shape_ijk)]
    return min(counts) < LEAST_SLICES or few_thick(item.box, item.view, item.view.axis)


def few_thick(box: Box, view: View, axis: int) -> bool:
    """Whether a box has few slices along an axis, each much thicker than the image's voxels are wide."""
    few = len(box.slices(axis, view.shape_ijk[axis])) <= FEW
    return few and view.spacing_mm[axis] >= THICK * min(view.spacing_mm)


def walked_along(box: Box, volume: Volume) -> int:
    """The axis whose slices show a box as it was drawn: that of one or two slices, or of few thick ones; else k."""
    axis, count = thinnest(box, volume)
    if count < LEAST_SLICES:
        return axis
    view = View.of(volume, 2)
    return next((a for a in (2, 1, 0) if few_thick(box, view, a)), 2)
