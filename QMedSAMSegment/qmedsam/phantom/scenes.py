"""Generated volumes whose truth is known: an abdominal CT for the demo, single ellipsoids for tests.

Shapes are signed distances in mm (negative inside) of points in RAS, so the anatomy does not know the voxel grid and the
grid may lie obliquely in it, as in a scan with a tilted gantry and a patient who does not lie straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import PathLike, write_boxes, write_image, write_segmentation
from ..geometry import Box, Volume
from .anatomy import KIDNEY_TURN, paint_abdomen
from .shapes import Scene, Waves, rotation

#: label -> (name, RGB in 0..1) of the abdominal phantom.
ORGANS: dict[int, tuple[str, tuple[float, float, float]]] = {
    1: ("liver", (0.76, 0.38, 0.29)),
    2: ("spleen", (0.61, 0.43, 0.78)),
    3: ("right kidney", (0.95, 0.64, 0.27)),
    4: ("left kidney", (0.96, 0.83, 0.38)),
    5: ("aorta", (0.90, 0.24, 0.24)),
    6: ("liver lesion", (0.42, 0.80, 0.52)),
}


@dataclass(frozen=True)
class Phantom:
    """A volume, what is in it, and a box prompt for every object.

    Args:
        volume: grey values.
        labels_kji: uint8 truth, 0 is background; where an object lies within another (lesion in liver), the inner one.
        names: label to name.
        boxes: one per label, a few percent larger than the object.
        parts: label to the labels of what lies within it.
    """

    volume: Volume
    labels_kji: np.ndarray
    names: dict[int, str]
    boxes: list[Box]
    parts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def truth_kji(self, label: int) -> np.ndarray:
        """Boolean mask of an object with everything within it (the liver contains its lesion)."""
        return np.isin(self.labels_kji, (label, *self.parts.get(label, ())))


def ellipsoid_phantom(
    shape_kji: Sequence[int] = (24, 48, 48),
    spacing_mm: Sequence[float] = (1.0, 1.0, 2.0),
    center_ijk: Sequence[float] | None = None,
    radii_mm: Sequence[float] = (14.0, 10.0, 12.0),
    contrast: float = 100.0,
    noise: float = 10.0,
    turn: Sequence[float] = (0.0, 0.0, 0.0),
    seed: int = 0,
) -> Phantom:
    """One bright ellipsoid, aligned with the voxel grid, on a noisy background of mean 0 (float32).

    Args:
        shape_kji: slices, rows, columns.
        spacing_mm: along i, j, k.
        center_ijk: of the ellipsoid; the middle of the volume by default.
        radii_mm: along i, j, k.
        contrast: of the ellipsoid above the background.
        noise: standard deviation.
        turn: of the voxel grid about R, A and S, in degrees.
        seed: of the noise.
    """
    shape_ijk = np.array(shape_kji[::-1])
    center = (shape_ijk - 1) / 2 if center_ijk is None else np.asarray(center_ijk, dtype=float)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*turn) * np.asarray(spacing_mm, dtype=float)
    k, j, i = np.ogrid[tuple(slice(0, n) for n in shape_kji)]
    inside = sum(((axis - c) * mm / r) ** 2 for axis, c, mm, r in zip((i, j, k), center, spacing_mm, radii_mm)) <= 1
    values = contrast * inside + np.random.default_rng(seed).normal(0, noise, shape_kji)
    volume = Volume(values.astype(np.float32), matrix, "CT", "ellipsoid")
    labels = inside.astype(np.uint8)
    box = _roi(labels > 0, volume, matrix[:3, :3] / volume.spacing_mm, 0.04, label=1, name="ellipsoid", color=ORGANS[1][1])
    return Phantom(volume, labels, {1: "ellipsoid"}, [box])


def abdomen_phantom(seed: int = 0) -> Phantom:
    """A CT of the upper abdomen in the portal venous phase: 168 x 132 x 42 voxels of 2 x 2 x 4 mm, HU in int16.

    The stack is tilted by 12 degrees about the left-right axis and the patient rolled by 7 degrees; slices average over
    their thickness. The boxes of the kidneys and of the aorta are turned against the voxel grid.

    Args:
        seed: of shape irregularities, texture and noise. The same seed gives the same bytes.
    """
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    shape_ijk, spacing = np.array([168, 132, 42]), np.array([2.0, 2.0, 4.0])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(12, 0, 7) @ np.diag([-1, -1, 1]) * spacing  # DICOM's order: i to the left, j to the back
    matrix[:3, 3] = np.array([0, -9, 0]) - matrix[:3, :3] @ ((shape_ijk - 1) / 2)
    bend, grain = Waves(random, 90, 6), Waves(random, 14, 16)
    values = np.zeros(shape_ijk[::-1], dtype=np.float32)
    labels = np.zeros(shape_ijk[::-1], dtype=np.uint8)
    j, i = np.mgrid[0 : shape_ijk[1], 0 : shape_ijk[0]].astype(np.float32)
    for half in range(-1, 2 * shape_ijk[2]):  # planes half a slice apart: the HU average over the slice's thickness
        points = np.tensordot(matrix[:3, :3], np.stack([i, j, np.full_like(i, half / 2)]), axes=1)
        scene = Scene((points + matrix[:3, 3, None, None]).astype(np.float32), bend, grain)
        paint_abdomen(scene)
        if half % 2:
            for k in {max(half // 2, 0), min(half // 2 + 1, len(values) - 1)}:
                values[k] += scene.values / 4
        else:
            values[half // 2] += scene.values / 2
            labels[half // 2] = scene.labels
    noise = gaussian_filter(random.normal(size=values.shape), (0, 0.55, 0.55))  # the kernel's short correlation
    values = gaussian_filter(values, (0, 0.45, 0.45)) + noise * (np.where(values > -900, 10, 5) / noise.std())
    # Steps of 2 HU: a fifth of the noise, and the compressed file stays below 1 MB.
    volume = Volume((2 * np.round(np.clip(values, -1024, 1500) / 2)).astype(np.int16), matrix, "CT", "QMedSAMPhantom")
    phantom = Phantom(volume, labels, {label: name for label, (name, _) in ORGANS.items()}, [], {1: (6,)})
    grid = matrix[:3, :3] / spacing
    for label, (name, color) in ORGANS.items():
        # The kidneys' boxes follow their long axes and the aorta's the patient's, so they lie obliquely in the voxel grid.
        along = {3: rotation(*KIDNEY_TURN[0])[:, 2], 4: rotation(*KIDNEY_TURN[1])[:, 2], 5: np.array([0.0, 0.0, 1.0])}.get(label)
        axes = grid if along is None else _axes_along(along, grid)
        phantom.boxes.append(_roi(phantom.truth_kji(label), volume, axes, 0.05, label=label, name=name, color=color))
    return phantom


def write_sample(folder: PathLike, seed: int = 0) -> list[Path]:
    """Write the abdominal phantom as ``QMedSAMPhantom.nrrd``, ``-truth.seg.nrrd`` and ``-boxes.mrk.json`` into a folder.

    Returns:
        The three paths, in this order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    phantom = abdomen_phantom(seed)
    image, truth, boxes = (folder / f"QMedSAMPhantom{end}" for end in (".nrrd", "-truth.seg.nrrd", "-boxes.mrk.json"))
    write_image(image, phantom.volume.array_kji, phantom.volume, level=9)
    segments = [(label, name, color) for label, (name, color) in ORGANS.items()]
    write_segmentation(truth, phantom.labels_kji, phantom.volume, segments)
    write_boxes(boxes, phantom.boxes, phantom.volume)
    return [image, truth, boxes]


def _axes_along(long_axis: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Unit columns of which the third is ``long_axis`` and the first as close to the grid's first as that allows."""
    first = grid[:, 0] - (grid[:, 0] @ long_axis) * long_axis
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(long_axis, first), long_axis], axis=1)


def _roi(mask_kji: np.ndarray, volume: Volume, axes_ras: np.ndarray, margin: float, **attributes: Any) -> Box:
    """Box along given axes (unit columns, RAS) around a mask's voxels, every side moved out by ``margin`` of its length."""
    voxels = np.argwhere(mask_kji)[:, ::-1]
    along = (voxels @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]) @ axes_ras
    # A voxel reaches this far from its centre along the box's axes.
    reach = np.abs(axes_ras.T @ volume.ijk_to_ras[:3, :3]).sum(axis=1) / 2
    low, high = along.min(axis=0) - reach, along.max(axis=0) + reach
    half = (high - low) / 2 * (1 + 2 * margin)
    return Box.from_ras(axes_ras @ ((low + high) / 2), axes_ras * half, volume.ijk_to_ras, **attributes)
