"""Volumes, boxes and slices.

Frames and units
    *ijk*   continuous voxel coordinates of a volume; voxel centres lie at integers, so voxel ``i`` covers
            ``[i - 0.5, i + 0.5]``. Arrays are stored *kji* (numpy order): ``array_kji[k, j, i]``.
    *xy*    the same, on one slice: ``x`` runs along the columns, ``y`` along the rows. A *rectangle* is
            ``(x0, y0, x1, y1)`` with its edges in these coordinates (a tight box around one pixel has the width 1).
    *uv*    network pixels inside a :class:`~qmedsam.frames.Frame`, again with centres at integers.
    *RAS*   patient coordinates in mm, as in 3D Slicer. Files and SimpleITK speak LPS; only ``files`` converts.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Optional, Sequence, Tuple, Union

import numpy as np

from .errors import QMedSAMError
from .marks import SliceRectangle, Stroke

Rectangle = Tuple[float, float, float, float]
Pixels = Tuple[int, int, int, int]
#: Three numbers.
Point = Union[Sequence[float], np.ndarray]

#: Slack in voxels when a plane touches a corner: keeps a box drawn from half-voxel edges stable against rounding.
TOUCH = 1e-6


@dataclass(frozen=True, eq=False)
class Volume:
    """An image with its place in the patient.

    Args:
        array_kji: ``(k, j, i)`` grey values, or ``(k, j, i, 3)`` RGB. A 2D image has ``k == 1``. Never written to.
        ijk_to_ras: ``4 x 4`` matrix from voxel indices to RAS in mm.
        modality: DICOM-like name (``CT``, ``MR``, ``PET``, ``US`` ...) or ``""`` when the file does not say.
        name: shown to the user and used for segment names.
        notes: what its reader had to assume or found odd, in sentences for the user.
        measured: whether lengths are mm; False where the file tells no voxel size, and a length of 1 is a voxel's.
        orientation: EXIF orientation (1 to 8) by which the file's pixels were turned to be the array as viewers show it.

    Raises:
        QMedSAMError: empty or wrongly shaped array, singular matrix, or a complex type.
    """

    array_kji: np.ndarray
    ijk_to_ras: np.ndarray = field(default_factory=lambda: np.eye(4))
    modality: str = ""
    name: str = ""
    notes: Tuple[str, ...] = ()
    measured: bool = True
    orientation: int = 1

    def __post_init__(self) -> None:
        array = self.array_kji
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
            raise QMedSAMError(
                f"The image has the shape {tuple(array.shape)}; a grey 3D image or an RGB image is needed.",
                "Extract one time point or channel first." if array.ndim >= 4 else "",
            )
        if array.size == 0:
            raise QMedSAMError("The image is empty.", "Check that the file was exported completely.")
        if array.dtype.kind not in "biuf":
            raise QMedSAMError(f"Voxels of the type {array.dtype} are not grey values.", "Convert the image to a scalar type.")
        matrix = np.asarray(self.ijk_to_ras, dtype=float)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not _spans(matrix[:3, :3]):
            raise QMedSAMError(
                "The image has no valid geometry (a voxel axis is missing, not finite or parallel to another).",
                "Check spacing and direction in the file's header.",
            )
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def shape_ijk(self) -> Tuple[int, int, int]:
        """Number of voxels along i, j and k."""
        k, j, i = self.array_kji.shape[:3]
        return i, j, k

    @property
    def spacing_mm(self) -> np.ndarray:
        """Distance of neighbouring voxel centres along i, j and k, in mm."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def is_rgb(self) -> bool:
        return self.array_kji.ndim == 4

    @property
    def has_ml(self) -> bool:
        """Whether its voxels have a size in millilitres: not those of a picture, nor of a file that tells no lengths."""
        return self.measured and self.array_kji.shape[0] > 1


def _spans(axes: np.ndarray) -> bool:
    """Whether three columns span space, however short they are (microscopes have voxels of 50 nm)."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool((lengths > 0).all() and abs(np.linalg.det(axes / lengths)) > 1e-9)


@dataclass(frozen=True, eq=False)
class Box:
    """An oriented 3D box prompt: a parallelepiped in continuous voxel coordinates.

    Args:
        center_ijk: its centre.
        half_axes_ijk: ``3 x 3``; column ``n`` is the vector from the centre to the middle of face ``n``. A rotated ROI is
            a parallelepiped here (not a cuboid) as soon as voxels are anisotropic, which is why it is kept as vectors.
        label: value of the object in the label array, from 1; 0 means "number me by position".
        name: of the segment.
        color: RGB in 0..1, or None for a default.
        target: what it is a box of, where its name says something else (a ROI's own name).
        code: of that structure (:mod:`.terminology`), for models that were taught it.
        strokes: of the user, that correct what is found in the box.
        rectangles: around the object on single slices.
        candidate: which of the network's answers to take where it looks at the box alone, 0 for the surest; from there on the
            surest is followed.
    """

    center_ijk: np.ndarray
    half_axes_ijk: np.ndarray
    label: int = 0
    name: str = ""
    color: Optional[Tuple[float, float, float]] = None
    target: str = ""
    code: str = ""
    strokes: Tuple[Stroke, ...] = ()
    rectangles: Tuple[SliceRectangle, ...] = ()
    candidate: int = 0

    def __post_init__(self) -> None:
        center = np.asarray(self.center_ijk, dtype=float).reshape(-1)
        axes = np.asarray(self.half_axes_ijk, dtype=float)
        if center.shape != (3,) or axes.shape != (3, 3) or not (np.isfinite(center).all() and np.isfinite(axes).all()):
            raise QMedSAMError(f"The box {self.name or self.label or ''} has no valid position or size.", "Draw it again.")
        object.__setattr__(self, "center_ijk", center)
        object.__setattr__(self, "half_axes_ijk", axes)

    @classmethod
    def from_edges(cls, lower_ijk: Point, upper_ijk: Point, **attributes: Any) -> Box:
        """Axis-aligned box from its outer edges in continuous voxel coordinates (order of the corners is free)."""
        a, b = np.asarray(lower_ijk, dtype=float), np.asarray(upper_ijk, dtype=float)
        return cls((a + b) / 2, np.diag(np.abs(b - a) / 2), **attributes)

    @classmethod
    def from_voxels(cls, first_ijk: Point, last_ijk: Point, **attributes: Any) -> Box:
        """Axis-aligned box that contains the voxels ``first..last``, both included (what a mask's extent gives)."""
        a, b = np.asarray(first_ijk, dtype=float), np.asarray(last_ijk, dtype=float)
        return cls.from_edges(np.minimum(a, b) - 0.5, np.maximum(a, b) + 0.5, **attributes)

    @classmethod
    def from_ras(cls, center_ras: Point, half_axes_ras: np.ndarray, ijk_to_ras: np.ndarray, **attributes: Any) -> Box:
        """Box of a ROI given in RAS mm (``half_axes_ras``: columns) on a volume; exact for rotated and sheared grids."""
        ras_to_ijk = np.linalg.inv(np.asarray(ijk_to_ras, dtype=float))
        center = (ras_to_ijk @ np.append(np.asarray(center_ras, dtype=float), 1.0))[:3]
        return cls(center, ras_to_ijk[:3, :3] @ np.asarray(half_axes_ras, dtype=float), **attributes)

    @cached_property
    def corners_ijk(self) -> np.ndarray:
        """The eight corners, ``8 x 3``, in the order of :func:`itertools.product` of (-1, 1)."""
        return self.center_ijk + np.array(list(itertools.product((-1, 1), repeat=3))) @ self.half_axes_ijk.T

    @property
    def volume_voxels(self) -> float:
        """Size in voxels."""
        return float(8 * abs(np.linalg.det(self.half_axes_ijk)))

    def slices(self, axis: int, count: int) -> range:
        """Slices along ijk axis ``axis`` whose centre plane cuts the box, within ``0..count-1``."""
        along = self.corners_ijk[:, axis]
        first = int(np.ceil(along.min() - TOUCH))
        last = int(np.floor(along.max() + TOUCH))
        return range(max(first, 0), min(last, count - 1) + 1)

    def cut(self, view: View, index: int) -> Optional[Rectangle]:
        """Bounding rectangle (xy, edges) of the box's cut with a slice's centre plane; None where they do not meet."""
        corners = self.corners_ijk
        height = corners[:, view.axis] - index
        points = [corners[np.abs(height) <= TOUCH]]
        for a, b in _EDGES:  # where an edge passes through the plane
            if height[a] * height[b] < 0:
                t = height[a] / (height[a] - height[b])
                points.append((corners[a] + t * (corners[b] - corners[a]))[None])
        cut = np.concatenate(points)[:, view.in_plane]
        if not len(cut):
            return None
        (x0, y0), (x1, y1) = cut.min(axis=0), cut.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    @cached_property
    def _to_local(self) -> np.ndarray:
        # A flat ROI (a 2D box drawn on one slice) has one zero axis: give it one voxel of thickness, its plane decides.
        axes = self.half_axes_ijk
        if abs(np.linalg.det(axes)) < 1e-9:
            axes = axes + 0.5 * _missing_directions(axes)
        return np.linalg.inv(axes)

    def inside(self, view: View, index: int, pixels: Pixels) -> np.ndarray:
        """Which pixel centres of a slice lie in the box: boolean ``(y1 - y0) x (x1 - x0)`` for ``pixels`` (end excluded)."""
        x0, y0, x1, y1 = pixels
        x_axis, y_axis = view.in_plane
        x = np.arange(x0, x1) - self.center_ijk[x_axis]
        y = (np.arange(y0, y1) - self.center_ijk[y_axis])[:, None]
        result = np.ones((y1 - y0, x1 - x0), bool)
        for row in self._to_local:  # a box along the grid needs one comparison per row and column, not per pixel
            along_x = row[x_axis] * x if row[x_axis] else 0.0
            along_y = row[y_axis] * y if row[y_axis] else 0.0
            result &= np.abs(along_x + along_y + row[view.axis] * (index - self.center_ijk[view.axis])) <= 1 + TOUCH
        return result


_EDGES = [(a, b) for a, b in itertools.combinations(range(8), 2) if bin(a ^ b).count("1") == 1]


def _missing_directions(axes: np.ndarray) -> np.ndarray:
    """Unit columns that complete a rank-deficient set of axes; zero where a column is already there."""
    u, s, vt = np.linalg.svd(axes)
    weak = s < 1e-6 * max(s.max(), 1.0)
    return (u[:, weak]) @ vt[weak]


@dataclass(frozen=True)
class View:
    """A way to slice a volume.

    Args:
        axis: the ijk axis along which the slices follow each other (2 = k, the acquisition's own slices).
        shape_ijk: of the volume.
        spacing_mm: of the volume, ijk order.
        anatomical_axes: the axes along which axial, coronal and sagittal slices follow each other, whatever the way the
            volume was acquired or stored.
    """

    axis: int
    shape_ijk: Tuple[int, int, int]
    spacing_mm: Tuple[float, float, float]
    anatomical_axes: Tuple[int, int, int] = (2, 1, 0)

    @classmethod
    def of(cls, volume: Volume, axis: int) -> View:
        i, j, k = (float(s) for s in volume.spacing_mm)
        # Of an oblique grid the axes that together lie closest to S, A and R.
        along = np.abs(volume.ijk_to_ras[:3, :3]) / volume.spacing_mm
        s, a, r = max(
            itertools.permutations((2, 1, 0)), key=lambda order: round(sum(along[2 - n, a] for n, a in enumerate(order)), 6)
        )
        return cls(axis, volume.shape_ijk, (i, j, k), (s, a, r))

    @property
    def in_plane(self) -> Tuple[int, int]:
        """ijk axes of x (columns) and y (rows)."""
        return tuple(a for a in (0, 1, 2) if a != self.axis)  # type: ignore[return-value]

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape_ijk[self.axis]

    @property
    def shape_yx(self) -> Tuple[int, int]:
        """Rows and columns of a slice."""
        x, y = self.in_plane
        return self.shape_ijk[y], self.shape_ijk[x]

    @property
    def pixel_mm(self) -> Tuple[float, float]:
        """Size of a pixel along x and y in mm."""
        x, y = self.in_plane
        return self.spacing_mm[x], self.spacing_mm[y]

    def slice_of(self, array_kji: np.ndarray, index: int) -> np.ndarray:
        """A slice as ``rows x columns (x 3)``; a view into the array, not a copy."""
        return array_kji[(slice(None),) * (2 - self.axis) + (index,)]

    def clipped(self, rectangle: Rectangle) -> Rectangle:
        """The part of a rectangle (xy, edges) on the slice; without extent at the border when it lies beside the slice."""
        height, width = self.shape_yx
        x0, x1 = np.clip(rectangle[::2], -0.5, width - 0.5)
        y0, y1 = np.clip(rectangle[1::2], -0.5, height - 0.5)
        return float(x0), float(y0), float(x1), float(y1)

    def pixels_of(self, rectangle: Rectangle) -> Pixels:
        """Pixels whose centres lie in a rectangle, clipped to the slice: ``(x0, y0, x1, y1)``, end excluded."""
        height, width = self.shape_yx
        x0, y0 = (max(int(np.ceil(v - TOUCH)), 0) for v in rectangle[:2])
        x1 = min(int(np.floor(rectangle[2] + TOUCH)) + 1, width)
        y1 = min(int(np.floor(rectangle[3] + TOUCH)) + 1, height)
        return x0, y0, max(x1, x0), max(y1, y0)


def extent_of(mask: np.ndarray) -> Optional[Rectangle]:
    """Tight rectangle (edges) around a 2D mask, or None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5
