"""Label arrays to ``.seg.nrrd`` and other label maps, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .challenge import read_arrays
from .paths import PathLike, existing_file, writing
from .reading import header_of
from .volumes import image_of, read_volume

#: Label value, name (``""`` for a default) and RGB in 0..1 (None for a default).
Segment = Tuple[int, str, Optional[Tuple[float, float, float]]]

#: For segments without a colour, by label, in muted anatomical tones; any two are at least 0.2 apart in RGB.
DEFAULT_COLORS: Tuple[Tuple[float, float, float], ...] = (
    (0.50, 0.68, 0.50),
    (0.95, 0.84, 0.57),
    (0.73, 0.30, 0.28),
    (0.43, 0.72, 0.82),
    (0.93, 0.56, 0.33),
    (0.49, 0.40, 0.70),
    (0.86, 0.92, 0.32),
    (0.95, 0.63, 0.74),
    (0.24, 0.48, 0.32),
    (0.24, 0.42, 0.75),
    (0.52, 0.36, 0.12),
    (0.58, 0.93, 0.60),
    (0.80, 0.25, 0.58),
    (0.20, 0.72, 0.66),
    (0.96, 0.95, 0.85),
    (0.82, 0.68, 0.16),
    (0.76, 0.66, 0.92),
    (0.44, 0.14, 0.24),
    (0.42, 0.44, 0.50),
    (0.93, 0.28, 0.16),
)

#: On a smooth 100 x 256 x 256 label map level 9 takes ten times as long as 4 for a file a fifth smaller.
_COMPRESSION = 4


class Origin(NamedTuple):
    """Where a segmentation comes from, for the formats that refer to it.

    Attributes:
        source: image file or DICOM folder that was segmented.
        series: DICOM series UID, where the folder holds several.
        model: name of the model.
    """

    source: Path
    series: Optional[str] = None
    model: str = ""


_Writer = Callable[[Path, np.ndarray, Volume, Sequence[Segment], Optional[Origin]], None]


def write_segmentation(
    path: PathLike, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin] = None
) -> None:
    """Write a label array with the geometry of its volume; all or nothing.

    Args:
        path: ``.seg.nrrd`` (opens in Slicer with names and colours), ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mha`` (label maps) or
            ``.npz`` (the challenge's ``segs``; of a 2D image ``(j, i)``) or ``.dcm`` (DICOM SEG; see :mod:`.dicom_seg`).
        labels_kji: ``(k, j, i)`` integers or booleans, 0 = background. Stored as uint8, as uint16 above the label 255.
        volume: the segmented image.
        segments: one for every label of the array; more may be given (empty segments).
        origin: for formats that name what was segmented.

    Raises:
        QMedSAMError: unknown suffix, missing folder, another shape than the volume's, labels without a segment or used
            twice, sheared geometry in a NIfTI file, a DICOM SEG of what is no DICOM, or the file cannot be written.
    """
    path = Path(path)
    writer = _WRITERS[format_of(path)]
    labels_kji = _checked(np.asarray(labels_kji), volume, segments)
    with writing(path) as beside:
        writer(beside, labels_kji, volume, segments, origin)


def read_labels(path: PathLike) -> np.ndarray:
    """The label array ``(k, j, i)`` of a label map, a ``.seg.nrrd`` without overlapping segments, or a challenge ``.npz``.

    Raises:
        QMedSAMError: missing, damaged or foreign file, overlapping segments, or values that are no labels.
    """
    return labels_in(path)[0]


def labels_in(path: PathLike) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """The same, and the ``4 x 4`` matrix from ijk to RAS; None for a challenge ``.npz``, whose masks have no place.

    Raises:
        QMedSAMError: as :func:`read_labels`.
    """
    path = existing_file(path, "a label map")
    matrix = None
    if path.suffix.lower() == ".npz":
        array = read_arrays(path, ("segs",))["segs"]
        array = array[None] if array.ndim == 2 else array
    else:
        layered = path.name.lower().endswith(".seg.nrrd") and header_of(path)
        if layered and (layered.channels > 1 or layered.frames > 1):
            raise QMedSAMError(
                f"The segments of '{path.name}' overlap, and a label map holds one label per voxel.", "Save them one by one."
            )
        volume = read_volume(path)
        array, matrix = volume.array_kji, volume.ijk_to_ras
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise QMedSAMError(f"'{path.name}' is not a label map.", "Its voxels must be whole numbers, one per voxel.")
    # In this order: numbers that are not finite, or beyond the type, are compared before they are converted.
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise QMedSAMError(f"'{path.name}' is not a label map.", "Its voxels must be whole numbers, one per voxel.")
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise QMedSAMError(f"'{path.name}' has labels outside 0 to 65535.", "Export it as a label map again.")
    return array.astype(np.uint8 if not array.size or array.max() <= 255 else np.uint16), matrix


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
    unnamed = sorted({int(v) for v in np.unique(labels_kji)} - {0} - set(values))
    if unnamed:
        raise QMedSAMError(f"The label {unnamed[0]} has no segment.", "Name every label of the array.")
    return labels_kji.astype(np.uint8 if max(values, default=0) <= 255 else np.uint16, copy=False)


def _write_seg_nrrd(
    path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]
) -> None:
    """By SimpleITK, which Slicer's own Python has (slicerio is not part of it): segments are fields of the NRRD header."""
    import SimpleITK as sitk

    image = image_of(labels_kji, volume.ijk_to_ras)
    extent = " ".join(f"0 {count - 1}" for count in volume.shape_ijk)
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    for n, (label, name, color) in enumerate(segments):
        fields = {
            "ID": f"Segment_{label}",
            "Name": " ".join(name.split()) or f"Segment_{label}",  # a line break would end the header's line
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{float(c):.6g}" for c in color or DEFAULT_COLORS[(label - 1) % len(DEFAULT_COLORS)]),
            "ColorAutoGenerated": "1" if color is None else "0",
            "LabelValue": str(label),
            "Layer": "0",
            "Extent": extent,
            "Tags": "Segmentation.Status:inprogress|",
        }
        for key, value in fields.items():
            image.SetMetaData(f"Segment{n}_{key}", value)
    sitk.WriteImage(image, str(path), True, _COMPRESSION)


def _write_image(
    path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]
) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(image_of(labels_kji, volume.ijk_to_ras), str(path), True)


def _write_nifti(
    path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]
) -> None:
    directions = volume.ijk_to_ras[:3, :3] / volume.spacing_mm
    # ITK writes the nearest rotation into the file and says nothing (seen with SimpleITK 2.5).
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise QMedSAMError("A NIfTI file cannot hold the sheared grid of this volume.", "Write a .seg.nrrd or .nrrd file.")
    _write_image(path, labels_kji, volume, segments, origin)


def _write_npz(path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]) -> None:
    with path.open("wb") as stream:  # given a name, numpy makes 's.NPZ.npz' of 's.NPZ'
        np.savez_compressed(stream, segs=labels_kji[0] if len(labels_kji) == 1 else labels_kji)


def _write_dicom_seg(
    path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]
) -> None:
    from .dicom_seg import write_dicom_seg

    write_dicom_seg(path, labels_kji, volume, segments, origin)


#: By suffix, the longer ones first.
_WRITERS: Dict[str, _Writer] = {
    ".seg.nrrd": _write_seg_nrrd,
    ".nii.gz": _write_nifti,
    ".nii": _write_nifti,
    ".nrrd": _write_image,
    ".mha": _write_image,
    ".npz": _write_npz,
    ".dcm": _write_dicom_seg,
}

#: What a user calls a format where files are named for him (``qmedsam batch --format``), and its suffix.
FORMATS: Dict[str, str] = {"dicom-seg" if suffix == ".dcm" else suffix[1:]: suffix for suffix in _WRITERS}


def format_of(path: PathLike) -> str:
    """The suffix that says how a segmentation is written.

    Raises:
        QMedSAMError: it is not a known one.
    """
    path = Path(path)
    for suffix in _WRITERS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise QMedSAMError(f"A segmentation cannot be written to '{path.name}'.", f"Use one of {', '.join(_WRITERS)}.")
