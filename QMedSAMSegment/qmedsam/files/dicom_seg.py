"""Label arrays to DICOM Segmentation objects (SEG) that refer to the series they were made on; needs ``qmedsam[dicom]``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .. import __version__
from ..errors import QMedSAMError
from ..geometry import Volume
from .dicom import series_files
from .paths import reason_of
from .segmentations import Origin, Segment, written_name
from .volumes import LPS_TO_RAS

#: Part of a voxel by which a source image may miss its slice of the label array.
_TOLERANCE = 0.1

#: Words of everyday for those of DICOM's context groups.
_SYNONYMS = {"tumor": "neoplasm", "tumour": "neoplasm", "metastasis": "neoplasmsecondary"}


def write_dicom_seg(
    path: Path, labels_kji: np.ndarray, volume: Volume, segments: Sequence[Segment], origin: Optional[Origin]
) -> None:
    """Write a binary DICOM SEG: patient, study and frame of reference of the source, a reference to the source per frame.

    Segments are numbered from 1 in their order (the standard demands it), whatever their labels are. Their codes come from the
    context groups of the standard that Slicer's terminology is made of, looked up by the segment's name: "right kidney" is a
    kidney (SCT 64033007) of the laterality right, "liver lesion" a lesion in the liver; an unknown name is a tissue, with the
    name as its label.

    Args:
        path: to write to.
        labels_kji: ``(k, j, i)``, on the grid of the source.
        volume: read from the source.
        segments: at least one; every label of the array among them.
        origin: the DICOM file or folder that was segmented.

    Raises:
        QMedSAMError: highdicom is not installed, the source is no DICOM series, or it lacks what a SEG has to say.
    """
    hd = _highdicom()
    sources = _sources(origin, path)
    _check_positions(sources, volume)
    numbers = np.zeros(65536, np.uint16)
    for n, (label, _, _) in enumerate(segments, start=1):
        numbers[label] = n
    model = (origin.model if origin else "") or "unknown"
    algorithm = hd.AlgorithmIdentificationSequence(
        name="QMedSAM",
        family=_group(7162)["artificialintelligence"],
        version=__version__,
        source="https://github.com/QMedSAM/SlicerQMedSAM",
        parameters={"model": model},
    )
    try:
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=numbers[labels_kji],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(hd, n, s, algorithm) for n, s in enumerate(segments, start=1)],
            series_instance_uid=hd.UID(),
            series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="QMedSAM developers",
            manufacturer_model_name="QMedSAM",
            software_versions=__version__,
            device_serial_number=model,
            content_label="SEGMENTATION",
            content_description="Boxes to masks, not for diagnosis",
            series_description="QMedSAM segmentation",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise QMedSAMError(
            f"No DICOM SEG could be made of '{_name(origin)}' ({reason_of(error)}).", "Write a .seg.nrrd file instead."
        ) from error
    made.save_as(path)


def check_source(path: Path, source: Path, series: Optional[str] = None) -> None:
    """Look before a long run whether a SEG can refer to what is segmented.

    Raises:
        QMedSAMError: highdicom is not installed, or the source is no DICOM series.
    """
    _highdicom()
    _series(path, source, series)


def _highdicom() -> Any:
    try:
        import highdicom
        import highdicom.color
        import highdicom.seg
    except ImportError as error:
        raise QMedSAMError(
            "A DICOM SEG needs the package highdicom.", "Install it: python -m pip install 'qmedsam[dicom]', or highdicom itself."
        ) from error
    return highdicom


def _name(origin: Optional[Origin]) -> str:
    return Path(origin.source).name if origin else "it"


def _series(path: Path, source: Optional[Path], series: Optional[str]) -> Sequence[str]:
    files = series_files(source, series) if source is not None else ()
    if not files:
        what = f"'{source.name}' is not DICOM" if source is not None else "the image did not come from a file"
        raise QMedSAMError(
            f"'{path.name}' would be a DICOM SEG, which refers to DICOM images, but {what}.",
            "Segment a DICOM series, or write a .seg.nrrd file.",
        )
    return files


def _sources(origin: Optional[Origin], path: Path) -> List[Any]:
    """Headers of the source's files, in the order of the slices."""
    import pydicom

    files = _series(path, Path(origin.source) if origin else None, origin.series if origin else None)
    return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]


def _check_positions(sources: Sequence[Any], volume: Volume) -> None:
    """The slices of the label array lie where their source images do (a file may have changed since it was read)."""
    positions = [_position(image) for image in sources] if len(sources) > 1 else _frame_positions(sources[0])
    ras = volume.ijk_to_ras @ np.array([(0, 0, k, 1) for k in range(volume.shape_ijk[2])], float).T
    wanted = (LPS_TO_RAS @ ras)[:3].T
    known = all(position is not None for position in positions)
    if not known or len(positions) != len(wanted):
        raise QMedSAMError(
            "The DICOM images do not say where they lie in the patient.", "Write a .seg.nrrd file instead of a DICOM SEG."
        )
    if np.abs(np.array(positions, float) - wanted).max() > _TOLERANCE * volume.spacing_mm.min():
        raise QMedSAMError("The DICOM images are not where the segmented ones were.", "Segment the series again.")


def _position(image: Any) -> Optional[List[float]]:
    value = image.get("ImagePositionPatient")
    return [float(v) for v in value] if value else None


def _frame_positions(image: Any) -> List[Optional[List[float]]]:
    """Positions of the frames of a multi-frame image, or of the only one."""
    frames = image.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return [_position(image)]
    planes = [frame.get("PlanePositionSequence") for frame in frames]
    return [_position(plane[0]) if plane else None for plane in planes]


def _description(hd: Any, number: int, segment: Segment, algorithm: Any) -> Any:
    label, name, color = segment
    category, kind, region, side = codes_of(name)
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=written_name(label, name, 64),  # the attribute holds no more
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,  # a user drew the box
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=f"Segment_{label}",
        anatomic_regions=[region] if region else None,
        display_color=hd.color.CIELabColor.from_rgb(*(round(255 * c) for c in color)) if color else None,
    )
    if side is not None:
        place = made.AnatomicRegionSequence[0] if region else made.SegmentedPropertyTypeCodeSequence[0]
        coded = hd.sr.CodedConcept.from_code(side)
        if region:
            place.AnatomicRegionModifierSequence = [coded]
        else:
            place.SegmentedPropertyTypeModifierCodeSequence = [coded]
    return made


def _group(number: int) -> Dict[str, Any]:
    """Codes of a context group of the standard by their keyword in lower case."""
    from pydicom.sr.codedict import codes

    group = getattr(codes, f"cid{number}")
    return {keyword.lower(): getattr(group, keyword) for keyword in group.dir()}


def codes_of(name: str) -> Tuple[Any, Any, Optional[Any], Optional[Any]]:
    """Category, type, anatomic region and laterality that a segment's name speaks of; the last two may be None."""
    categories, organs, abnormal, tissues = (_group(n) for n in (7150, 7192, 7194, 7191))
    words = [_SYNONYMS.get(word, word) for word in re.findall(r"[^\W\d_]+", name.lower())]
    side = next((_group(244)[word] for word in words if word in ("left", "right")), None)
    words = [word for word in words if word not in ("left", "right")]
    whole = "".join(words)
    found = next((word for word in words if word in abnormal), None)
    if found is not None:
        region = organs.get("".join(word for word in words if word != found))
        return categories["morphologicallyabnormalstructure"], abnormal[found], region, side
    if whole in organs:
        return categories["anatomicalstructure"], organs[whole], None, side
    kind = tissues.get(whole)
    return categories["tissue"], kind or tissues["tissue"], None, side if kind else None
