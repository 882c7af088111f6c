"""What a user draws on single slices beside a box: strokes that correct, and rectangles around the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from .errors import QMedSAMError


@dataclass(frozen=True, eq=False)
class Stroke:
    """A click or a drag on one slice.

    Args:
        points_ijk: ``N x 3``, its path in continuous voxel coordinates; one point for a click.
        axis: ijk axis along which the slices of the view follow each other that it was drawn in.
        adds: whether what it covers belongs to the object (true) or does not.
        radius_mm: half of its width in the slice; 0 for a line one voxel thin.

    Raises:
        QMedSAMError: no point, a number that is none, or no axis.
    """

    points_ijk: np.ndarray
    axis: int = 2
    adds: bool = True
    radius_mm: float = 0.0

    def __post_init__(self) -> None:
        points = np.asarray(self.points_ijk, dtype=float)
        points = points[None] if points.ndim == 1 else points
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
            raise QMedSAMError("A stroke has no valid points.", "Give three voxel indices for each.")
        if self.axis not in (0, 1, 2) or not (np.isfinite(self.radius_mm) and self.radius_mm >= 0):
            raise QMedSAMError("A stroke has no valid axis or radius.", "The axis is 0, 1 or 2, the radius in mm.")
        object.__setattr__(self, "points_ijk", points)

    @property
    def index(self) -> int:
        """The slice that it lies on."""
        return int(np.floor(np.median(self.points_ijk[:, self.axis]) + 0.5))


@dataclass(frozen=True)
class SliceRectangle:
    """The tight rectangle around the object on one slice, as a user draws it there.

    Args:
        axis: ijk axis along which the slices of the view follow each other.
        index: of the slice.
        rectangle: ``x0, y0, x1, y1`` on it, edges in continuous voxel coordinates.
    """

    axis: int
    index: int
    rectangle: Tuple[float, float, float, float]
