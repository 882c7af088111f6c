"""Boxes from what is segmented already: every segment's extent, with its name and colour."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from ..errors import QMedSAMError, says_what_is_missing, shown
from ..geometry import Box, Volume
from .grids import ijk_to_ras_of
from .paths import PathLike, existing_file
from .reading import read_image
from .segmentations import labels_in

#: Voxels by which the corners of two grids may differ and still be the same grid: formats keep 6 to 17 digits.
_SAME_GRID = 1e-2
_FIELD = re.compile(r"Segment(\d{1,6})_(Name|Color|LabelValue|Layer)")


def read_segments(path: PathLike, volume: Volume, margin: float = 0.0) -> List[Box]:
    """A box for every segment of a segmentation, as prompts for segmenting it anew.

    Args:
        path: ``.seg.nrrd`` (overlapping segments and cropped grids as Slicer writes them are fine), another label map, or a
            challenge ``.npz`` with ``segs``.
        volume: the image that shall be segmented. The segmentation may lie on another grid; its boxes are then oriented.
        margin: share of its length by which every side is moved outward.

    Returns:
        One box per segment that has a voxel. Names, colours and label values are the segmentation's (numbered anew where
        two layers use the same value).

    Raises:
        QMedSAMError: missing, damaged or foreign file, no segment with a voxel, or a plain label map without geometry
            (``.npz``) of another shape than the volume's.
    """
    path = existing_file(path, "a segmentation")
    if path.name.lower().endswith(".seg.nrrd"):
        voxels, matrix, segments = _read_seg_nrrd(path)
    else:
        labels, placed = labels_in(path)
        voxels = labels.transpose()[None]
        matrix = volume.ijk_to_ras if placed is None else placed
        if placed is None and labels.shape != volume.array_kji.shape[:3]:
            raise QMedSAMError(f"'{path.name}' has another shape than its image.", "Give the segmentation of this image.")
        segments = [{"LabelValue": int(value)} for value in np.unique(labels) if value]
    boxes = []
    extents: Dict[int, Dict[int, Tuple[np.ndarray, np.ndarray]]] = {}
    for segment in segments:
        layer = int(segment.get("Layer", 0))
        if not 0 <= layer < len(voxels):
            raise QMedSAMError(f"'{path.name}' names a layer that it does not have.", "Save it from Slicer again.")
        if layer not in extents:
            extents[layer] = _extents(voxels[layer])
        extent = extents[layer].get(int(segment.get("LabelValue", 0)))
        if extent is not None:
            boxes.append(_box(*extent, matrix, volume, margin, segment))
    if not boxes:
        raise QMedSAMError(f"'{path.name}' holds no segment with a voxel.", "Segment something in it, or give boxes.")
    if len({box.label for box in boxes}) < len(boxes):
        boxes = [replace(box, label=n) for n, box in enumerate(boxes, start=1)]
    return boxes


def _read_seg_nrrd(path: Path) -> Tuple[np.ndarray, np.ndarray, List[Dict[str, Any]]]:
    """Voxels ``(layer, i, j, k)``, the matrix to RAS, and what the header says of every segment."""
    import SimpleITK as sitk

    image = read_image(path)
    voxels = sitk.GetArrayFromImage(image)
    voxels = np.moveaxis(voxels, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else voxels[None]
    if voxels.ndim != 4 or voxels.dtype.kind not in "biu" or (voxels.size and (voxels.min() < 0 or voxels.max() > 65535)):
        raise QMedSAMError(f"'{path.name}' is not a segmentation: its voxels are no labels.", "Save it from Slicer again.")
    segments: Dict[str, Dict[str, Any]] = {}
    for key in image.GetMetaDataKeys():
        found = _FIELD.fullmatch(key)
        if found:
            number, name = found.groups()
            text = image.GetMetaData(key)
            try:
                value = _CONVERT[name](text)
            except ValueError as error:
                raise QMedSAMError(
                    f"'{path.name}' is not a segmentation: the {name} of a segment is '{shown(text)}'.",
                    "Save it from Slicer again.",
                ) from error
            segments.setdefault(number, {})[name] = value
    return voxels.transpose(0, 3, 2, 1), ijk_to_ras_of(image), [segments[number] for number in sorted(segments, key=int)]


def _small(text: str) -> int:
    """A label or the number of a layer."""
    if not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII):
        raise ValueError
    return int(text)


def _rgb(text: str) -> Tuple[float, ...]:
    """Three numbers between 0 and 1."""
    color = tuple(map(float, text.split()))
    if len(color) != 3 or not all(0 <= c <= 1 for c in color):
        raise ValueError
    return color


_CONVERT: Dict[str, Callable[[str], Any]] = {"Name": str, "Color": _rgb, "LabelValue": _small, "Layer": _small}


@says_what_is_missing
def _extents(labels_ijk: np.ndarray) -> Dict[int, Tuple[np.ndarray, np.ndarray]]:
    """First and last voxel of every label above 0."""
    from scipy.ndimage import find_objects

    crops = find_objects(labels_ijk.astype(np.int32, copy=False))
    return {
        value: (np.array([c.start for c in crop]), np.array([c.stop - 1 for c in crop]))
        for value, crop in enumerate(crops, start=1)
        if crop is not None
    }


def _box(first: np.ndarray, last: np.ndarray, matrix: np.ndarray, volume: Volume, margin: float, segment: Dict[str, Any]) -> Box:
    color = segment.get("Color")
    attributes: Dict[str, Any] = {
        "label": segment["LabelValue"],
        "name": segment.get("Name", ""),
        "color": color,
    }
    to_volume = np.linalg.inv(volume.ijk_to_ras) @ matrix
    shift = np.round(to_volume[:3, 3])
    same = np.eye(4)
    same[:3, 3] = shift
    reach = np.abs(to_volume - same)[:3] @ np.append(np.maximum(np.abs(first), np.abs(last)), 1)
    if reach.max() <= _SAME_GRID:  # exact, as a box typed by hand
        box = Box.from_voxels(first + shift, last + shift, **attributes)
    else:
        middle = np.append((first + last) / 2, 1.0)
        box = Box((to_volume @ middle)[:3], to_volume[:3, :3] * ((last - first + 1) / 2), **attributes)
    return replace(box, half_axes_ijk=box.half_axes_ijk * (1 + 2 * margin)) if margin else box
