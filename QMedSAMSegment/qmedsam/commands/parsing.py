"""What users type for boxes and options. Needs nothing that Slicer's Python lacks."""

from __future__ import annotations

import math
import re
from typing import List

import numpy as np

from ..errors import QMedSAMError
from ..files.boxes import box_of_indices
from ..geometry import Box, Volume
from ..lines import box_of_line
from ..strategies import Options


def parse_box(text: str, image: Volume, number: int) -> Box:
    """A box typed as ``i0,j0,k0,i1,j1,k1`` (``i0,j0,i1,j1`` on a 2D image), both ends included; its label is ``number``.

    Raises:
        QMedSAMError: it is not that.
    """
    values = _numbers(text)
    if len(values) not in (4, 6):
        raise QMedSAMError(f"'{text}' is not a box.", "Give six numbers: i0,j0,k0,i1,j1,k1 (four on a 2D image).")
    return box_of_indices(values, image, f"The box '{text}'", label=number)


def parse_line(text: str, image: Volume, number: int) -> Box:
    """The box of a line typed as ``i0,j0,k0,i1,j1,k1`` (its ends; ``i0,j0,i1,j1`` on a 2D image), or of two lines, one after the
    other: the axes of an object on one slice; its label is ``number``.

    Raises:
        QMedSAMError: it is not that.
    """
    values, flat = _numbers(text), image.shape_ijk[2] == 1
    size = 2 if flat and len(values) in (4, 8) else 3
    if len(values) not in (2 * size, 4 * size):
        raise QMedSAMError(f"'{text}' is not a line.", "Give its two ends: i0,j0,k0,i1,j1,k1 (i0,j0,i1,j1 on a 2D image).")
    points = np.zeros((len(values) // size, 3))
    points[:, :size] = np.reshape(values, (-1, size))
    return box_of_line(points[:2], points[2:] if len(points) > 2 else None, image, label=number)


def _numbers(text: str) -> List[float]:
    """None of what is not a list of finite numbers."""
    try:
        values = [float(v) for v in re.split(r"[,;\s]+", text.strip(" ,;[]()"))]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def strategy_options(
    every: int, least_iou: float, fill_holes: bool, view_weights: str, vote_on: str, walk: str, agreement: bool = False
) -> Options:
    """The strategies' options from their texts.

    Raises:
        QMedSAMError: one of them cannot be.
    """
    try:
        axial, coronal, sagittal = (float(v) for v in view_weights.split(","))
    except ValueError:
        raise QMedSAMError(f"'{view_weights}' are not three weights.", "Give AXIAL,CORONAL,SAGITTAL, e.g. 1,1,0.") from None
    return Options(every, least_iou, fill_holes, (axial, coronal, sagittal), vote_on, walk, agreement)
