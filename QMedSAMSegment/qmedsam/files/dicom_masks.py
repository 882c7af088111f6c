"""Masks that DICOM keeps: segmentation objects (SEG) and radiotherapy's contours (RTSTRUCT)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from ..terminology import code_of
from .contours import filled
from .dicom_header import class_of, read_whole
from .grids import LPS_TO_RAS
from .header import check_fits_memory

_SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_MODIFIER = "SegmentedPropertyTypeModifierCodeSequence"
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
#: Part of the distance of two slices by which a frame or a contour may miss its slice.
_OFF = 0.1

#: ``LabelValue``, ``Name`` and, if known, ``Color`` (RGB in 0..1) of a segment.
Fields = Dict[str, Any]
#: Masks ``(k, j, i)`` by segment, their matrix to RAS, and what the file says of the segments.
Masks = Tuple[List[np.ndarray], np.ndarray, List[Fields]]


def mask_file(path: Path) -> Optional[Path]:
    """The SEG or RTSTRUCT that a path means (a folder: its only file), or None."""
    if path.is_dir():
        files = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
        return mask_file(files[0]) if len(files) == 1 else None
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
    except OSError:
        return None
    try:
        return path if class_of(path) in (*_SEG, _RTSTRUCT) else None
    except (QMedSAMError, ImportError):  # not one of these, whatever it is: the image reader says it
        return None


def read_masks(path: Path, volume: Volume) -> Masks:
    """The segments of a SEG on its own grid, or the structures of an RTSTRUCT filled on the grid of an image.

    Args:
        path: of :func:`mask_file`.
        volume: the image that the structures were drawn on.

    Raises:
        QMedSAMError: damaged file, no segment, frames that are no regular stack, contours off the image's slices.
    """
    try:
        with warnings.catch_warnings():  # of values that the user cannot change
            warnings.simplefilter("ignore")
            content = read_whole(path)
            return _contours(content, path, volume) if str(content.SOPClassUID) == _RTSTRUCT else _frames(content, path)
    except QMedSAMError:
        raise
    except MemoryError:
        raise QMedSAMError(f"There is not enough memory for '{path.name}'.", "Crop the segmentation.") from None
    except Exception as error:  # pydicom raises whatever a damaged file makes it stumble over
        raise QMedSAMError(
            f"'{path.name}' could not be read as a segmentation.", "It may be damaged: export it again."
        ) from error


def codes_of_segments(path: Path) -> Dict[str, str]:
    """What a SEG says its segments are, by their names, in the form of :func:`qmedsam.terminology.code_of`.

    Args:
        path: of :func:`mask_file`.

    Raises:
        QMedSAMError: it is damaged.
    """
    found = {}
    for segment in read_whole(path).get("SegmentSequence") or ():
        kind = _code(segment.get("SegmentedPropertyTypeCodeSequence"))
        entry = f"~~{kind}~{_code(segment.SegmentedPropertyTypeCodeSequence[0].get(_MODIFIER))}" if kind else ""
        found[str(segment.get("SegmentLabel", "")).strip()] = code_of(entry)
    return {name: code for name, code in found.items() if name and code}


def _code(sequence: Any) -> str:
    """``scheme^value`` of the first item."""
    item = sequence[0] if sequence else {}
    scheme, value = item.get("CodingSchemeDesignator"), item.get("CodeValue")
    return f"{scheme}^{value}" if scheme and value else ""


def _frames(content: Any, path: Path) -> Masks:
    shared, frames = content.get("SharedFunctionalGroupsSequence"), content.PerFrameFunctionalGroupsSequence

    def group(frame: Any, name: str) -> Any:
        for holder in (frame, *(shared or ())):
            if name in holder:
                return holder[name][0]
        raise QMedSAMError(f"The frames of '{path.name}' do not say where they lie.", "Export the segmentation again.")

    axes = [np.array(group(f, "PlaneOrientationSequence").ImageOrientationPatient, float) for f in frames]
    if np.abs(np.array(axes) - axes[0]).max() > 1e-4:
        raise QMedSAMError(f"The frames of '{path.name}' are turned against each other.", "Export one stack of slices.")
    measures = group(frames[0], "PixelMeasuresSequence")
    down, across = (float(v) for v in measures.PixelSpacing)
    x, y = axes[0][:3], axes[0][3:]
    normal = np.cross(x, y)
    positions = np.array([group(f, "PlanePositionSequence").ImagePositionPatient for f in frames], float)
    along = positions @ normal
    places = np.unique(np.round(along, 3))
    step = float(np.diff(places).min()) if len(places) > 1 else float(measures.get("SliceThickness", 1) or 1)
    index = (along - places[0]) / step
    first = positions[int(along.argmin())]
    beside = np.abs((positions - first) - np.outer(along - along.min(), normal)).max()
    if not (np.abs(index - np.round(index)).max() <= _OFF and beside <= _OFF * min(down, across)):  # or not a number
        raise QMedSAMError(f"The frames of '{path.name}' are no regular stack of slices.", "Export one stack of slices.")
    index = np.round(index).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack([x * across, y * down, normal * step])
    matrix[:3, 3] = first
    described = {int(s.SegmentNumber): s for s in content.SegmentSequence}
    area = int(content.Rows) * int(content.Columns)
    check_fits_memory(path, area * (len(frames) + len(described) * int(index.max() + 1)))
    pixels = content.pixel_array.reshape(len(frames), int(content.Rows), int(content.Columns))
    masks = {n: np.zeros((index.max() + 1, *pixels.shape[1:]), bool) for n in described}
    kind = str(content.get("SegmentationType", "BINARY"))
    half = float(content.get("MaximumFractionalValue", 1)) / 2
    for plane, k, frame in zip(pixels, index, frames):
        if kind == "LABELMAP":
            for n in np.intersect1d(np.unique(plane), list(described)):
                masks[int(n)][k] |= plane == n
        else:
            number = int(group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            masks[number][k] |= plane > half if kind == "FRACTIONAL" else plane > 0
    segments = [{"LabelValue": n, "Name": str(s.get("SegmentLabel", "")).strip()} for n, s in described.items()]
    return list(masks.values()), LPS_TO_RAS @ matrix, segments


def _contours(content: Any, path: Path, volume: Volume) -> Masks:
    """Even-odd filling of all contours that lie on a slice: holes are contours within contours."""
    names = {int(s.ROINumber): str(s.get("ROIName", "")) for s in content.StructureSetROISequence}
    to_ijk = np.linalg.inv(volume.ijk_to_ras) @ LPS_TO_RAS
    masks, segments = [], []
    for roi in content.ROIContourSequence:
        number = int(roi.ReferencedROINumber)
        planes: Dict[float, List[np.ndarray]] = {}
        for contour in roi.get("ContourSequence") or ():
            if str(contour.get("ContourGeometricType", "CLOSED_PLANAR")) != "CLOSED_PLANAR":
                continue
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            ijk = points @ to_ijk[:3, :3].T + to_ijk[:3, 3]
            if len(points) < 3:
                continue
            if np.ptp(ijk[:, 2]) > 2 * _OFF:
                raise QMedSAMError(
                    f"The contours of '{names.get(number, number)}' in '{path.name}' are not drawn on the image's slices.",
                    "Give the series that the structures refer to, or export them as a label map.",
                )
            planes.setdefault(round(float(ijk[:, 2].mean()), 2), []).append(ijk[:, :2])
        mask = np.zeros(volume.array_kji.shape[:3], bool)
        nearest: Dict[int, float] = {}  # of several planes within one slice the one closest to its middle
        for z in sorted(planes, key=lambda z: -abs(z - round(z))):
            nearest[round(z)] = z
        for k, z in nearest.items():
            if 0 <= k < len(mask):
                mask[k] = filled(planes[z], mask.shape[1:])
        masks.append(mask)
        color = roi.get("ROIDisplayColor")
        segments.append(
            {
                "LabelValue": number,
                "Name": names.get(number, "").strip(),
                **({"Color": tuple(int(c) / 255 for c in color)} if color is not None and len(color) == 3 else {}),
            }
        )
    return masks, volume.ijk_to_ras, segments
