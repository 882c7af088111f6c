"""Label arrays to DICOM structure sets (RTSTRUCT), the contours that planning of radiotherapy reads, and back.

By pydicom and contourpy: the libraries that write structure sets are not kept up (rt-utils: 2023) or bring OpenCV along. The
object refers to the series as DICOM C.8.8.5 to C.8.8.8 ask: its frame of reference, study, series and images, and each contour
to the image that it lies on.
"""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .contours import contours_of, filled
from .dicom_header import read_whole
from .dicom_source import PATIENT_AND_STUDY, Reference, check_images, dicom_name, references, series_number, source_images
from .grids import LPS_TO_RAS
from .paths import NotWhole, PathLike, existing_file
from .segmentations import DEFAULT_COLORS, Origin, Segment

_WHAT = "a DICOM structure set (RTSTRUCT)"
_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"
#: Part of the distance of two slices by which a contour may lie beside one.
_TOLERANCE = 0.25
#: Voxels from the first one that no contour reaches.
_FARTHEST = 1e9


def write_rtstruct(
    path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]
) -> None:
    """Write closed planar contours of every segment on the slices of its series.

    A structure's number is the segment's label, its colour the segment's. What is read back and filled is compared with the
    labels.

    Args:
        path: to write to.
        labels_kji: ``(k, j, i)``, on the grid of the source.
        volume: read from the source.
        segments: every label of the array among them.
        origin: the DICOM file or folder that was segmented.

    Raises:
        QMedSAMError: pydicom or contourpy is not installed, the source is no DICOM series, or it has no place.
        NotWhole: the file does not hold what it should.
    """
    _contourpy(path)
    images = source_images(path, origin, _WHAT)
    slices = references(images, volume, _WHAT, origin or Origin(path))
    made = _header(slices[0].image, images)
    to_lps = LPS_TO_RAS @ volume.ijk_to_ras
    # Of a hundredth of a voxel and better; a number has 16 characters.
    digits = int(np.clip(2 - np.floor(np.log10(volume.spacing_mm.min())), 2, 8))
    for n, (label, name, color) in enumerate(segments, start=1):
        structure = _of(ROINumber=label, ReferencedFrameOfReferenceUID=made.FrameOfReferenceUID, ROIName=dicom_name(label, name))
        structure.ROIGenerationAlgorithm = "SEMIAUTOMATIC"  # a user drew the box
        structure.ROIGenerationDescription = dicom_name(1, f"QMedSAM {origin.model if origin else ''}".strip())
        made.StructureSetROISequence.append(structure)
        rgb = color or DEFAULT_COLORS[(label - 1) % len(DEFAULT_COLORS)]
        drawn = _of(ROIDisplayColor=[round(255 * c) for c in rgb], ReferencedROINumber=label)
        contours = [
            _contour(contour, k, slices[k], to_lps, digits)
            for k in map(int, np.flatnonzero((labels_kji == label).any(axis=(1, 2))))
            for contour in contours_of(labels_kji[k] == label)
        ]
        if contours:
            drawn.ContourSequence = contours
        made.ROIContourSequence.append(drawn)
        made.RTROIObservationsSequence.append(
            _of(ObservationNumber=n, ReferencedROINumber=label, RTROIInterpretedType="", ROIInterpreter="")
        )
    _save(path, made)
    read, _ = read_rtstruct(path, volume)
    if not np.array_equal(read, labels_kji):
        raise NotWhole()


def check_source(path: Path, source: Path, series: Optional[str] = None) -> None:
    """Look before a long run whether a structure set can refer to what is segmented.

    Raises:
        QMedSAMError: pydicom or contourpy is not installed, the source is no DICOM series, or it has no place.
    """
    _contourpy(path)
    if any("FrameOfReferenceUID" not in image for image in check_images(path, source, series, _WHAT)):
        raise QMedSAMError(
            f"'{path.name}' would be {_WHAT}, but '{source.name}' does not say where it lies in the patient.",
            "Write a DICOM SEG (.dcm) or a .png file instead.",
        )


def read_rtstruct(path: PathLike, volume: Volume) -> Tuple[np.ndarray, List[Segment]]:
    """Fill the contours of a structure set on the grid of a volume.

    Args:
        path: of the file, whoever wrote it.
        volume: its slices lie where the contours do.

    Returns:
        Label array ``(k, j, i)`` (where structures overlap, the later one's) and the segments: the structures' numbers, names
        and colours.

    Raises:
        QMedSAMError: no structure set, or contours that do not lie on the slices of the volume.
    """
    path = existing_file(path, "a structure set")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = read_whole(path)
            named = {int(item.ROINumber): str(item.get("ROIName") or "") for item in content.StructureSetROISequence}
            drawn = [_Structure.of(item) for item in content.get("ROIContourSequence") or []]
    except (QMedSAMError, AttributeError, TypeError, ValueError, OverflowError, OSError) as error:
        raise QMedSAMError(f"'{path.name}' is not a DICOM structure set.", "Export it again.") from error
    to_ijk = np.linalg.inv(LPS_TO_RAS @ volume.ijk_to_ras)
    structures = [s for s in drawn if s.number in named]
    if any(not 0 < number <= 65535 for number in named):
        raise QMedSAMError(f"The structures in '{path.name}' have no numbers from 1 to 65535.", "Export it again.")
    labels = np.zeros(volume.array_kji.shape[:3], np.uint8 if max(named, default=0) <= 255 else np.uint16)
    for structure in structures:
        slices: Dict[int, List[np.ndarray]] = {}
        for points in structure.contours:
            with np.errstate(all="ignore"):
                ijk = (to_ijk @ np.c_[points, np.ones(len(points))].T)[:3].T
            near = bool((np.abs(ijk) < _FARTHEST).all())
            k = round(float(ijk[:, 2].mean())) if near else -1
            if not near or np.abs(ijk[:, 2] - k).max() > _TOLERANCE or not 0 <= k < len(labels):
                raise QMedSAMError(
                    f"The contours in '{path.name}' do not lie on the slices of the image.",
                    "Give the series that they were drawn on.",
                )
            slices.setdefault(k, []).append(ijk[:, :2])
        for k, contours in slices.items():
            labels[k][filled(contours, labels.shape[1:])] = structure.number
    colors = {structure.number: structure.color for structure in structures}
    return labels, [(number, name, colors.get(number)) for number, name in named.items()]


class _Structure(NamedTuple):
    """Number, colour and contours (``n x 3`` in mm, LPS)."""

    number: int
    color: Optional[Tuple[float, float, float]]
    contours: List[np.ndarray]

    @classmethod
    def of(cls, item: Any) -> _Structure:
        color = item.get("ROIDisplayColor")
        contours = [
            np.array(contour.ContourData, float).reshape(-1, 3)
            for contour in item.get("ContourSequence") or []
            if str(contour.get("ContourGeometricType")).startswith("CLOSED")
        ]
        if any(not np.isfinite(points).all() or not len(points) for points in contours):
            raise ValueError
        red, green, blue = (min(max(int(c), 0), 255) / 255 for c in color) if color else (0, 0, 0)
        return cls(int(item.ReferencedROINumber), (red, green, blue) if color else None, contours)


def _contourpy(path: Path) -> None:
    try:
        import contourpy  # noqa: F401
    except ImportError as error:
        hint = "Install it: python -m pip install 'qmedsam[dicom]', or contourpy itself."
        raise QMedSAMError(f"'{path.name}' would be {_WHAT}, which needs the package contourpy.", hint) from error


def _of(**attributes: Any) -> Any:
    import pydicom

    made = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _reference(image: Any, frame: Optional[int] = None) -> Any:
    made = _of(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    if frame is not None:
        made.ReferencedFrameNumber = frame
    return made


def _contour(contour: np.ndarray, k: int, reference: Reference, to_lps: np.ndarray, digits: int) -> Any:
    points = (to_lps @ np.c_[contour, np.full(len(contour), k), np.ones(len(contour))].T)[:3].T
    return _of(
        ContourImageSequence=[_reference(*reference)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.{digits}f}"[:16] for value in points.ravel()],
    )


def _header(image: Any, images: Sequence[Any]) -> Any:
    """All but the structures."""
    from pydicom.uid import generate_uid

    from .. import __version__

    now = datetime.datetime.now()
    made = _of(
        SpecificCharacterSet="ISO_IR 192",
        InstanceCreationDate=now.strftime("%Y%m%d"),
        InstanceCreationTime=now.strftime("%H%M%S"),
        SOPClassUID=_STRUCTURE_SET,
        SOPInstanceUID=generate_uid(),
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=series_number(image) + 1,  # a DICOM SEG of the same series may stand beside it
        SeriesDescription="QMedSAM structures",
        OperatorsName="",
        InstanceNumber=1,
        Manufacturer="QMedSAM developers",
        ManufacturerModelName="QMedSAM",
        SoftwareVersions=__version__,
        StudyInstanceUID=image.StudyInstanceUID,
        FrameOfReferenceUID=image.FrameOfReferenceUID,
        PositionReferenceIndicator=image.get("PositionReferenceIndicator") or "",
        StructureSetLabel="QMedSAM",
        StructureSetDescription="Boxes to masks, not for diagnosis",
        StructureSetDate=now.strftime("%Y%m%d"),
        StructureSetTime=now.strftime("%H%M%S"),
        ApprovalStatus="UNAPPROVED",
        StructureSetROISequence=[],
        ROIContourSequence=[],
        RTROIObservationsSequence=[],
    )
    for keyword in PATIENT_AND_STUDY:
        setattr(made, keyword, image.get(keyword))
    series = _of(SeriesInstanceUID=image.SeriesInstanceUID, ContourImageSequence=[_reference(one) for one in images])
    study = _of(
        ReferencedSOPClassUID=_STUDY, ReferencedSOPInstanceUID=image.StudyInstanceUID, RTReferencedSeriesSequence=[series]
    )
    made.ReferencedFrameOfReferenceSequence = [
        _of(FrameOfReferenceUID=image.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    return made


def _save(path: Path, made: Any) -> None:
    """In words that pydicom 2, which older Slicers have, and 3 understand."""
    import pydicom
    from pydicom.dataset import FileMetaDataset, validate_file_meta
    from pydicom.uid import ImplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # counted by the library
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    # Explicit lengths of numbers as text end at 64 KiB: a contour of 2,000 points is longer.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    validate_file_meta(meta, enforce_standard=True)
    file = pydicom.FileDataset(str(path), made, bytes(128), meta, is_implicit_VR=True, is_little_endian=True)
    file.save_as(str(path))
