"""What users type for boxes and options. Needs nothing that Slicer's Python lacks."""

from __future__ import annotations

import math
import re

from ..errors import QMedSAMError
from ..files.boxes import box_of_indices
from ..geometry import Box, Volume
from ..strategies import Options


def parse_box(text: str, image: Volume, number: int) -> Box:
    """A box typed as ``i0,j0,k0,i1,j1,k1`` (``i0,j0,i1,j1`` on a 2D image), both ends included; its label is ``number``.

    Raises:
        QMedSAMError: it is not that.
    """
    try:
        values = [float(v) for v in re.split(r"[,;\s]+", text.strip(" ,;[]()"))]
    except ValueError:
        values = []
    if len(values) not in (4, 6) or not all(map(math.isfinite, values)):
        raise QMedSAMError(f"'{text}' is not a box.", "Give six numbers: i0,j0,k0,i1,j1,k1 (four on a 2D image).")
    return box_of_indices(values, image, f"The box '{text}'", label=number)


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
