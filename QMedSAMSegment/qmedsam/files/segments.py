"""Boxes from what is segmented already: every segment's extent, with its name and colour."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError, says_what_is_missing, shown
from ..geometry import Box, Volume
from .challenge import read_arrays
from .dicom_masks import mask_file, read_masks
from .grey import as_labels, values_of
from .grids import ijk_to_ras_of
from .paths import PathLike, existing_file
from .reading import read_image
from .volumes import read_volume

#: Voxels by which the corners of two grids may differ and still be the same grid: formats keep 6 to 17 digits.
_SAME_GRID = 1e-2
_FIELD = re.compile(r"Segment(\d{1,6})_(Name|Color|LabelValue|Layer)")


@dataclass(frozen=True)
class Layers:
    """What a segmentation holds, on its own grid.

    Attributes:
        voxels: ``(layer, i, j, k)`` of uint8 or uint16; segments that overlap lie in different layers.
        ijk_to_ras: ``4 x 4``; None where the file says nothing of its place.
        segments: ``LabelValue``, and if known ``Name``, ``Color`` and ``Layer``.
        notes: sentences on how its values were understood.
    """

    voxels: np.ndarray
    ijk_to_ras: Optional[np.ndarray]
    segments: List[Dict[str, Any]]
    notes: Tuple[str, ...] = ()


def read_segments(
    path: PathLike,
    volume: Volume,
    margin: float = 0.0,
    notes: Optional[List[str]] = None,
    read: Callable[[PathLike], Volume] = read_volume,
) -> List[Box]:
    """A box for every segment of a segmentation, as prompts for segmenting it anew.

    Args:
        path: ``.seg.nrrd`` (overlapping segments and cropped grids as Slicer writes them are fine), another label map, DICOM SEG
            or RTSTRUCT, or a challenge ``.npz`` with ``segs``.
        volume: the image that shall be segmented. The segmentation may lie on another grid; its boxes are then oriented.
        margin: share of its length by which every side is moved outward.
        notes: gets sentences on how the file was understood.
        read: what an image file is read by: that of a :class:`~.apart.Reader` where the program has to go on.

    Returns:
        One box per segment that has a voxel. Names, colours and label values are the segmentation's (numbered anew where
        two layers use the same value).

    Raises:
        QMedSAMError: missing, damaged or foreign file, no segment with a voxel, or a plain label map without geometry
            (``.npz``) of another shape than the volume's.
    """
    found = read_layers(path, volume, read)
    voxels, segments, path = found.voxels, found.segments, Path(path)
    matrix = volume.ijk_to_ras if found.ijk_to_ras is None else found.ijk_to_ras
    if found.ijk_to_ras is None and voxels.shape[1:] != volume.shape_ijk:
        raise QMedSAMError(f"'{path.name}' has another shape than its image.", "Give the segmentation of this image.")
    if notes is not None:
        notes += found.notes
    boxes = []
    extents: Dict[int, Dict[int, Tuple[np.ndarray, np.ndarray]]] = {}
    for segment in segments:
        layer = int(segment.get("Layer", 0))
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


def read_layers(path: PathLike, volume: Volume, read: Callable[[PathLike], Volume] = read_volume) -> Layers:
    """A segmentation's voxels and what its file says of them.

    Args:
        path: as for :func:`read_segments`.
        volume: the image that it is of (an RTSTRUCT's contours are filled on its slices).
        read: as for :func:`read_segments`.

    Raises:
        QMedSAMError: missing, damaged or foreign file, or values that are no labels.
    """
    path = Path(path)
    masks = mask_file(path)
    if masks is not None:
        return _stacked(*read_masks(masks, volume))
    path = existing_file(path, "a segmentation")
    if path.name.lower().endswith(".seg.nrrd"):
        voxels, matrix, segments = _read_seg_nrrd(path)
        if len(segments) == len(voxels) and not any({"LabelValue", "Layer"} & set(segment) for segment in segments):
            for n, segment in enumerate(segments):  # Slicer before 4.11: a layer each
                segment.update(LabelValue=1, Layer=n)
        if any(not 0 <= int(segment.get("Layer", 0)) < len(voxels) for segment in segments):
            raise QMedSAMError(f"'{path.name}' names a layer that it does not have.", "Save it from Slicer again.")
        return Layers(voxels, matrix, segments)
    placed: Optional[np.ndarray] = None
    if path.suffix.lower() == ".npz":
        array = read_arrays(path, ("segs",))["segs"]
        array = array[None] if array.ndim == 2 else array
    else:
        image = read(path)
        array, placed = image.array_kji, image.ijk_to_ras
    labels, note = as_labels(array, path.name, values_of(volume.array_kji))
    segments = [{"LabelValue": int(value)} for value in np.unique(labels) if value]
    return Layers(labels.transpose()[None], placed, segments, (note,) if note else ())


def _stacked(masks: List[np.ndarray], ijk_to_ras: np.ndarray, segments: List[Dict[str, Any]]) -> Layers:
    """Masks in as few layers as hold them without overlap."""
    kind = np.uint8 if max((s["LabelValue"] for s in segments), default=0) <= 255 else np.uint16
    layers: List[np.ndarray] = []
    for mask, segment in zip(masks, segments):
        n = next((n for n, layer in enumerate(layers) if not layer[mask].any()), len(layers))
        if n == len(layers):
            layers.append(np.zeros(mask.shape, kind))
        layers[n][mask] = segment["LabelValue"]
        segment["Layer"] = n
    if not layers:
        raise QMedSAMError("The segmentation holds no segment.", "Segment something in it.")
    return Layers(np.stack(layers).transpose(0, 3, 2, 1), ijk_to_ras, segments)


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
