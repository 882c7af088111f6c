"""What a segmentation can be written as: the table of the formats, chosen by the suffix of a file's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Sequence

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from . import dicom_seg, rtstruct
from .labelmaps import check_flat, write_label_map, write_npz, write_png, write_seg_nrrd
from .orientation import as_stored
from .paths import PathLike, check_target, writing
from .saving import check_not_sheared
from .segmentations import Origin, Segment


class Format(NamedTuple):
    """How a segmentation is written.

    Attributes:
        write: puts the label array ``(k, j, i)`` with its volume, segments and origin into a new file.
        check: looks before a long run whether that can be done of a source (file to write, source, DICOM series UID).
        fits: looks before it whether the format can hold what is on the volume's grid.
    """

    write: Callable[[Path, np.ndarray, Volume, Sequence[Segment], Optional[Origin]], None]
    check: Optional[Callable[[Path, Path, Optional[str]], None]] = None
    fits: Optional[Callable[[Path, Volume], None]] = None


#: By suffix, the longer ones first.
_FORMATS: Dict[str, Format] = {
    ".seg.nrrd": Format(write_seg_nrrd),
    ".nii.gz": Format(write_label_map, fits=check_not_sheared),
    ".nii": Format(write_label_map, fits=check_not_sheared),
    ".nrrd": Format(write_label_map),
    ".mha": Format(write_label_map),
    ".npz": Format(write_npz),
    ".png": Format(write_png, fits=check_flat),
    ".rtstruct.dcm": Format(rtstruct.write_rtstruct, rtstruct.check_source),
    ".dcm": Format(dicom_seg.write_dicom_seg, dicom_seg.check_source),
}

_NAMES = {".dcm": "dicom-seg", ".rtstruct.dcm": "rtstruct"}

#: What a user calls a format where files are named for him (``qmedsam batch --format``), and its suffix.
FORMATS: Dict[str, str] = {_NAMES.get(suffix, suffix[1:]): suffix for suffix in _FORMATS}


def format_of(path: PathLike) -> str:
    """The suffix that says how a segmentation is written.

    Raises:
        QMedSAMError: it is not a known one.
    """
    path = Path(path)
    name = path.name.lower()
    if re.search(r"(^|[-_ ])rtstruct\.dcm$", name):  # whoever calls a file so wants one
        return ".rtstruct.dcm"
    for suffix in _FORMATS:
        if name.endswith(suffix):
            return suffix
    raise QMedSAMError(f"A segmentation cannot be written to '{path.name}'.", f"Use one of {', '.join(_FORMATS)}.")


def check_output(path: PathLike, source: PathLike, series: Optional[str] = None) -> None:
    """Look before a long run whether the segmentation of an image can be written where it shall go.

    Args:
        path: of the segmentation.
        source: image file or DICOM folder.
        series: DICOM series UID, where the folder holds several.

    Raises:
        QMedSAMError: an unknown suffix, see :func:`~qmedsam.files.check_target`, or the format cannot refer to the source
            (a DICOM SEG of what is no DICOM).
    """
    path = Path(path)
    check = _FORMATS[format_of(path)].check
    check_target(path, source)
    if check is not None:
        check(path, Path(source), series)


def check_fits(path: PathLike, volume: Volume) -> None:
    """Look before a long run whether a format can hold a segmentation of what was read.

    Args:
        path: of the segmentation.
        volume: to be segmented.

    Raises:
        QMedSAMError: an unknown suffix, several slices for a picture (``.png``), or a sheared grid for NIfTI.
    """
    fits = _FORMATS[format_of(path)].fits
    if fits is not None:
        fits(Path(path), volume)


def write_segmentation(
    path: PathLike, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin] = None
) -> None:
    """Write a label array with the geometry of its volume; all or nothing.

    Args:
        path: ``.seg.nrrd`` (opens in Slicer with names and colours), ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mha`` (label maps) or
            ``.npz`` (the challenge's ``segs``; of a 2D image ``(j, i)``), ``.png`` (of one slice; a pixel's value is its label),
            ``.dcm`` (DICOM SEG; see :mod:`.dicom_seg`) or ``.rtstruct.dcm`` (see :mod:`.rtstruct`).
        labels_kji: ``(k, j, i)`` integers or booleans, 0 = background. Stored as uint8, as uint16 above the label 255; of a
            photograph that its file holds turned (EXIF) for the file's own pixels.
        volume: the segmented image.
        segments: one for every label of the array; more may be given (empty segments).
        origin: for formats that name what was segmented.

    Raises:
        QMedSAMError: unknown suffix, missing folder, another shape than the volume's, labels without a segment or used
            twice, colors that are none, sheared geometry in a NIfTI file, a DICOM SEG of what is no DICOM, or the file cannot be
            written.
    """
    path = Path(path)
    write = _FORMATS[format_of(path)].write
    labels_kji = _checked(np.asarray(labels_kji), volume, segments)
    labels_kji, volume = as_stored(labels_kji, volume)
    with writing(path) as beside:
        write(beside, labels_kji, volume, segments, origin)


def _checked(labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment]) -> np.ndarray:
    """The array as uint8 or uint16."""
    if labels_kji.shape != volume.array_kji.shape[:3]:
        raise QMedSAMError(
            f"The segmentation has the shape {labels_kji.shape}, its volume {volume.array_kji.shape[:3]}.",
            "Segment this volume again.",
        )
    if labels_kji.dtype.kind not in "biu":
        raise QMedSAMError(f"Labels of the type {labels_kji.dtype} are not whole numbers.", "Round them first.")
    values = [label for label, _, _ in segments]
    if len(set(values)) != len(values) or any(not 0 < value <= 65535 for value in values):
        raise QMedSAMError("The labels of the segments are not different numbers from 1 to 65535.", "Number them again.")
    for _, name, color in segments:
        if color is not None and not (len(color) == 3 and all(0 <= c <= 1 for c in color)):
            raise QMedSAMError(f"The color of the segment '{name}' is not red, green and blue between 0 and 1.", "Divide by 255.")
    unnamed = sorted({int(v) for v in np.unique(labels_kji)} - {0} - set(values))
    if unnamed:
        raise QMedSAMError(f"The label {unnamed[0]} has no segment.", "Name every label of the array.")
    return labels_kji.astype(np.uint8 if max(values, default=0) <= 255 else np.uint16, copy=False)
