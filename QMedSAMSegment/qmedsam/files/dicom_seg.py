"""Label arrays to DICOM Segmentation objects (SEG) that refer to the series they were made on; needs ``qmedsam[dicom]``."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .dicom_source import check_images, dicom_name, references, series_number, source_images
from .paths import reason_of
from .segmentations import Origin, Segment

_WHAT = "a DICOM SEG"

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
    hd = _highdicom(path)
    images = source_images(path, origin, _WHAT)
    slices = references(images, volume, _WHAT, origin.time_point if origin else 0)
    numbers = np.zeros(65536, np.uint16)
    for n, (label, _, _) in enumerate(segments, start=1):
        numbers[label] = n
    order = [number for _, number in slices if number is not None]
    if not order:
        images = [image for image, _ in slices]
    else:  # of a multi-frame image those that were segmented: other time points lie in the same places
        images = [slices[0].image]
        groups = images[0].PerFrameFunctionalGroupsSequence
        images[0].PerFrameFunctionalGroupsSequence = [groups[number - 1] for number in order]
        images[0].NumberOfFrames = len(order)
    for image in images:
        _measure(image, volume)
    model = (origin.model if origin else "") or "unknown"
    made = _made(hd, images, numbers[labels_kji], segments, model)
    for group in made.PerFrameFunctionalGroupsSequence if order else ():
        for derivation in group.get("DerivationImageSequence") or ():
            for reference in derivation.SourceImageSequence:
                reference.ReferencedFrameNumber = order[int(reference.ReferencedFrameNumber) - 1]
    made.save_as(path)


def check_source(path: Path, source: Path, series: Optional[str] = None) -> None:
    """Look before a long run whether a SEG can refer to what is segmented, by making one of its first image.

    Raises:
        QMedSAMError: highdicom is not installed, the source is no DICOM series, or it lacks what a SEG has to say.
    """
    hd = _highdicom(path)
    image = check_images(path, source, series, _WHAT)[0]
    _measure(image, None)
    array = np.zeros((len(image.get("PerFrameFunctionalGroupsSequence") or [0]), int(image.Rows), int(image.Columns)), np.uint8)
    array[0, 0, 0] = 1
    _made(hd, [image], array, [(1, "", None)], "")


def _made(hd: Any, images: List[Any], array: np.ndarray, segments: Sequence[Segment], model: str) -> Any:
    """The object of an array whose values are the numbers of the segments."""
    from .. import __version__

    algorithm = hd.AlgorithmIdentificationSequence(
        name="QMedSAM",
        family=_group(7162)["artificialintelligence"],
        version=__version__,
        source="https://github.com/QMedSAM/SlicerQMedSAM",
        parameters={"model": model},
    )
    try:
        with warnings.catch_warnings():  # of values that the source has, and that the user cannot change
            warnings.simplefilter("ignore")
            return hd.seg.Segmentation(
                source_images=images,
                pixel_array=array,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_description(hd, n, s, algorithm) for n, s in enumerate(segments, start=1)],
                series_instance_uid=hd.UID(),
                series_number=series_number(images[0]),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="QMedSAM developers",
                manufacturer_model_name="QMedSAM",
                software_versions=__version__,
                device_serial_number=model,
                content_label="SEGMENTATION",
                content_description="Boxes to masks, not for diagnosis",
                series_description="QMedSAM segmentation",
                specific_character_set="ISO_IR 192",  # whatever the series has: names of segments are of any script
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise QMedSAMError(
            f"No DICOM SEG can be made that refers to these DICOM images ({reason_of(error)}).", "Write a .seg.nrrd file instead."
        ) from error


def _measure(image: Any, volume: Optional[Volume]) -> None:
    """Sizes of the voxels where the library looks for them; those of the volume (None: not known yet) where there are none."""
    spacing = volume.spacing_mm if volume is not None else np.ones(3)
    frames = image.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        if "FrameOfReferenceUID" in image:
            if not image.get("PixelSpacing"):
                image.PixelSpacing = [float(spacing[1]), float(spacing[0])]
            if not image.get("SliceThickness"):
                image.SliceThickness = float(spacing[2])
        return
    import pydicom

    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    shared = image.SharedFunctionalGroupsSequence[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):  # may be said of every frame anew
        if keyword not in shared and frames[0].get(keyword):
            setattr(shared, keyword, frames[0].get(keyword))


def _highdicom(path: Path) -> Any:
    try:
        import highdicom
        import highdicom.color
        import highdicom.seg
    except ImportError as error:
        raise QMedSAMError(
            f"'{path.name}' would be a DICOM SEG, which needs the package highdicom.",
            "Install it: python -m pip install 'qmedsam[dicom]', or highdicom itself.",
        ) from error
    return highdicom


def _description(hd: Any, number: int, segment: Segment, algorithm: Any) -> Any:
    label, name, color = segment
    category, kind, region, side = codes_of(name)
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=dicom_name(label, name),
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
