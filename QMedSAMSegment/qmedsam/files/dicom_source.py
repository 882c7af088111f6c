"""Headers of the DICOM images that a segmentation was made on, complete enough to be referred to; needs pydicom.

Anonymised series lack what the standard asks for: what may be empty becomes empty, what follows from the rest (the thickness of
a slice, a frame of reference) is filled in, and what a reference cannot be made without is asked for before a long run.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .dicom import frame_order, series_files
from .dicom_header import read_dicom_header
from .grids import LPS_TO_RAS
from .segmentations import Origin, written_name

#: Part of a voxel by which a source image may miss its slice of the label array.
_TOLERANCE = 0.1
#: Without these nothing can be referred to.
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows", "Columns")
#: Facts of patient and study that a new object takes over; all may be empty.
PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_DATES = {"PatientBirthDate": "DA", "StudyDate": "DA", "StudyTime": "TM"}


class Reference(NamedTuple):
    """The image that a slice of a label array refers to.

    Attributes:
        image: its header.
        frame: number of the frame from 1, of a multi-frame image.
    """

    image: Any
    frame: Optional[int]


def check_images(path: Path, source: Path, series: Optional[str], what: str) -> List[Any]:
    """Headers of what is segmented, looked at before a long run.

    Args:
        path: of the object that would refer to them.
        source: file or folder that is segmented.
        series: DICOM series UID, where the folder holds several.
        what: the object is ("a DICOM SEG").

    Raises:
        QMedSAMError: pydicom is not installed, the source is no DICOM, lacks what a reference needs, or is a stack whose slices
            do not say where they lie.
    """
    images = source_images(path, Origin(source, series), what)
    places = _places(images)
    if len(places) > 1 and any(place is None for place in places):
        raise _nowhere(what)
    return images


def source_images(path: Path, origin: Optional[Origin], what: str) -> List[Any]:
    """Headers of the source's files, in no order that counts; see :func:`check_images`."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        hint = "Install it: python -m pip install 'qmedsam[dicom]', or pydicom itself."
        raise QMedSAMError(f"'{path.name}' would be {what}, which needs the package pydicom.", hint) from error
    files: Sequence[str] = ()
    if origin is not None:
        files = series_files(Path(origin.source), origin.series, origin.time_point)
    if not files:
        problem = f"'{Path(origin.source).name}' is not DICOM" if origin else "the image did not come from a file"
        raise QMedSAMError(
            f"'{path.name}' would be {what}, which refers to DICOM images, but {problem}.",
            "Segment a DICOM series, or write a .seg.nrrd file.",
        )
    with warnings.catch_warnings():  # of values that the user cannot change
        warnings.simplefilter("ignore")
        images = [read_dicom_header(Path(file)).dataset for file in files]
        for image in images:
            _complete(image, what)
    for image in images[1:]:  # rounded differently from slice to slice, where the reader took them for the same
        if "ImageOrientationPatient" in image and "ImageOrientationPatient" in images[0]:
            image.ImageOrientationPatient = images[0].ImageOrientationPatient
    return images


def references(images: Sequence[Any], volume: Volume, what: str, origin: Origin) -> List[Reference]:
    """For every slice of a volume the image or frame that lies where it does (a file may have changed since it was read).

    Args:
        images: from :func:`source_images`.
        volume: read from them.
        what: refers to them, for messages.
        origin: where they are from, and which time point of several in the same place is meant.

    Raises:
        QMedSAMError: there is none for a slice.
    """
    frames = [Reference(image, n) for image in images for n in _frames(image)]
    places = _places(images)
    if len(frames) == 1 == volume.shape_ijk[2] and places[0] is None:  # a projection lies nowhere, and its only frame is meant
        return frames
    if any(place is None for place in places):
        raise _nowhere(what)
    ras = volume.ijk_to_ras @ np.array([(0, 0, k, 1) for k in range(volume.shape_ijk[2])], float).T
    wanted = (LPS_TO_RAS @ ras)[:3].T
    apart = np.abs(np.array(places, float)[None] - wanted[:, None]).max(axis=2)
    meant: Tuple[int, ...] = ()  # of a multi-frame file the frames of the time point
    if frames[0].frame is not None:
        meant = tuple(n + 1 for n in frame_order(Path(origin.source), origin.series, origin.time_point))
    found = []
    for row in apart:
        near = [n for n in np.flatnonzero(row <= _TOLERANCE * volume.spacing_mm.min()) if not meant or frames[n].frame in meant]
        if not near:
            raise QMedSAMError("The DICOM images are not where the segmented ones were.", "Segment the series again.")
        found.append(frames[near[0]])
    if any((int(image.Columns), int(image.Rows)) != volume.shape_ijk[:2] for image, _ in found):
        raise QMedSAMError("The DICOM images are not of the size of the segmented ones.", "Segment the series again.")
    return found


def dicom_name(label: int, name: str) -> str:
    """A segment's name as a "long string": 64 characters, among which the backslash would part two values."""
    return written_name(label, name.replace("\\", "_"), 64)


def series_number(image: Any) -> int:
    """For a series made of an image's: a thousand more, so that it stands behind the scanner's."""
    try:
        return min(max(int(image.get("SeriesNumber") or 0), 0), 2**31 - 1001) + 1000
    except (TypeError, ValueError):
        return 1000


def _nowhere(what: str) -> QMedSAMError:
    return QMedSAMError(
        "The DICOM images do not say where they lie in the patient.", f"Write a .seg.nrrd file instead of {what}."
    )


def _complete(image: Any, what: str) -> None:
    """Fill in what may be empty, or follows from the rest."""
    from pydicom.uid import generate_uid

    missing = [keyword for keyword in _NEEDED if not image.get(keyword)]
    if missing:
        raise QMedSAMError(
            f"The DICOM images have no {' and no '.join(missing)}, by which {what} refers to them.",
            "Write a .seg.nrrd file, or anonymise the images with a program that gives new UIDs.",
        )
    image.decode()  # texts are kept as bytes of the source's character set until somebody looks
    for keyword in PATIENT_AND_STUDY:
        if not _is_valid(image, keyword):
            setattr(image, keyword, "")
    placed = any(place is not None for place in _places([image]))
    if not placed:
        image.pop("FrameOfReferenceUID", None)  # of a projection it says nothing, and asks for a position
    elif not image.get("FrameOfReferenceUID"):
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(image.SeriesInstanceUID), "frame of reference"])


def _is_valid(image: Any, keyword: str) -> bool:
    from pydicom import valuerep

    value = image.get(keyword)
    if value is None:
        return False
    if keyword == "PatientSex":
        return value in ("", "M", "F", "O")
    kind = _DATES.get(keyword)
    try:
        return kind is None or not value or getattr(valuerep, kind)(str(value)) is not None
    except ValueError:
        return False


def _frames(image: Any) -> List[Optional[int]]:
    count = int(image.get("NumberOfFrames") or 1)
    return list(range(1, count + 1)) if count > 1 or image.get("PerFrameFunctionalGroupsSequence") else [None]


def _places(images: Sequence[Any]) -> List[Optional[List[float]]]:
    """Corners of all frames in mm (LPS); None of those that do not say it."""
    found: List[Optional[List[float]]] = []
    for image in images:
        groups = image.get("PerFrameFunctionalGroupsSequence")
        if groups:
            planes = [group.get("PlanePositionSequence") for group in groups]
            found += [_numbers(plane[0]) if plane else None for plane in planes]
        else:
            found += [_numbers(image) if len(_frames(image)) == 1 else None] * len(_frames(image))
    return found


def _numbers(item: Any) -> Optional[List[float]]:
    value = item.get("ImagePositionPatient")
    return [float(v) for v in value] if value and len(value) == 3 else None
