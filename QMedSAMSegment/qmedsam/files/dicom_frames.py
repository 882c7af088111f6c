"""What every frame of a DICOM file says of itself: place, pixel size, rescaling, and which point of time it is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from .dicom_header import DicomFile, items_of, value_of

#: Modalities whose frames are one after another in time when nothing else is said.
_MOVING = ("US", "XA", "RF", "ES", "IVUS", "XC", "GM", "IVOCT", "DX", "CR")
#: What FrameIncrementPointer names for time.
_TIMES = {0x00181063, 0x00181065, 0x00181242, 0x00181244, 0x00280009}
#: Vectors of nuclear medicine, by the keyword of the number of each frame; slices are not among them.
_VECTORS = {
    "TimeSlotVector": "time slot",
    "PhaseVector": "phase",
    "EnergyWindowVector": "energy window",
    "DetectorVector": "detector",
    "RRIntervalVector": "R-R interval",
    "RotationVector": "rotation",
    "AngularViewVector": "view",
    "TimeSliceVector": "time",
}
#: What tells images at one position apart, in the order in which it is asked: name for the message, and where it stands.
_KEYS: Tuple[Tuple[str, str], ...] = (
    ("TemporalPositionIndex", "time points"),
    ("TemporalPositionIdentifier", "time points"),
    ("NominalPercentageOfCardiacPhase", "cardiac phases"),
    ("EffectiveEchoTime", "echoes"),
    ("EchoTime", "echoes"),
    ("EchoNumbers", "echoes"),
    ("DiffusionBValue", "diffusion weightings"),
    ("TriggerTime", "cardiac phases"),
    ("FrameType", "types of image"),
    ("ImageType", "types of image"),
    ("AcquisitionNumber", "acquisitions"),
    ("FrameReferenceDateTime", "time points"),
    ("FrameAcquisitionDateTime", "time points"),
    ("AcquisitionTime", "time points"),
    ("StackID", "stacks"),
)
KEY_NAMES = dict(_KEYS)


@dataclass(frozen=True)
class Frame:
    """One image of a file.

    Attributes:
        file: that holds it.
        number: of it in the file, from 0.
        position: LPS of the centre of its first pixel, in mm; None where that is not said.
        axes: ``2 x 3``, directions of rising column and row in LPS; None where that is not said.
        spacing: mm between rows and between columns; None where that is not said.
        scale: slope and intercept.
        keys: what may tell it from others at its place.
        order: in the series.
    """

    file: DicomFile
    number: int
    position: Optional[np.ndarray]
    axes: Optional[np.ndarray]
    spacing: Optional[Tuple[float, float]]
    scale: Tuple[float, float] = (1.0, 0.0)
    keys: Dict[str, Any] = field(default_factory=dict)
    order: float = 0.0

    @property
    def size(self) -> Tuple[int, int]:
        """Rows and columns."""
        return self.file.get("Rows", int, 0), self.file.get("Columns", int, 0)


@dataclass(frozen=True)
class Depth:
    """How frames without a place of their own lie.

    Attributes:
        time: one after another in time.
        step: mm between them in depth; None where that is not said.
        note: for the user.
    """

    time: bool
    step: Optional[float] = None
    note: str = ""


def frames_of(file: DicomFile) -> List[Frame]:
    """Every frame of a file.

    Raises:
        QMedSAMError: it says something else of its frames than how many there are.
    """
    count = file.get("NumberOfFrames", int, 1)
    groups = items_of(file.dataset, "PerFrameFunctionalGroupsSequence")
    if groups or items_of(file.dataset, "SharedFunctionalGroupsSequence"):
        return _enhanced(file, count, groups)
    order = file.get("InstanceNumber", float, 0.0)
    position, axes = (
        file.get("ImagePositionPatient", _vector(3), None),
        _axes(file.get("ImageOrientationPatient", _vector(6), None)),
    )
    detector = items_of(file.dataset, "DetectorInformationSequence")
    if detector and position is None:
        position = value_of(detector[0], "ImagePositionPatient", _vector(3), None)
        axes = _axes(value_of(detector[0], "ImageOrientationPatient", _vector(6), None)) if axes is None else axes
    spacing = _spacing(file)
    scale = _scale(file.dataset)
    keys = {name: file.get(name, _key, None) for name, _ in _KEYS}
    if count == 1:
        return [Frame(file, 0, position, axes, spacing, scale, keys, order)]
    none: List[int] = []
    vectors = {name: file.get(name, _integers, none) for name in (*_VECTORS, "SliceVector")}
    vectors = {name: values for name, values in vectors.items() if len(values) == count and len(set(values)) > 1}
    step = depth_of(file).step
    frames = []
    for number in range(count):
        place = None
        if position is not None and axes is not None and "SliceVector" in vectors and step:
            place = position + np.cross(axes[0], axes[1]) * step * (vectors["SliceVector"][number] - 1)
        which = {name: values[number] for name, values in vectors.items() if name != "SliceVector"}
        frames.append(Frame(file, number, place, axes, spacing, scale, which, float(number)))
    return frames


def _integers(values: Iterable[Any]) -> List[int]:
    return [int(value) for value in values]


def depth_of(file: DicomFile) -> Depth:
    """How the frames of a file lie that do not say where each of them is."""
    none: List[int] = []
    pointer = file.get("FrameIncrementPointer", lambda v: _integers(v if hasattr(v, "__iter__") else [v]), none)
    modality = file.get("Modality", str, "").strip().upper()
    between = file.get("SpacingBetweenSlices", _positive, None)
    if set(pointer) & _TIMES or (modality in _MOVING and not between):
        return Depth(True)
    if between:
        return Depth(False, between)
    thickness = file.get("SliceThickness", _positive, None)
    if thickness:
        note = f"The file tells the thickness of its slices only; they were taken to be {thickness:g} mm apart."
        return Depth(False, thickness, note)
    return Depth(False, None, "The file does not tell how far its slices are apart: sizes are given in voxels.")


def _enhanced(file: DicomFile, count: int, groups: List[Any]) -> List[Frame]:
    shared = (items_of(file.dataset, "SharedFunctionalGroupsSequence") or [None])[0]
    if len(groups) not in (0, count):
        raise QMedSAMError(
            f"'{file.path.name}' has {count} frames, but says something about {len(groups)}.",
            "It may be damaged: export it again.",
        )
    if not groups:
        groups = [None] * count
    frames = []
    whole = {name: file.get(name, _key, None) for name in ("AcquisitionNumber",)}
    for number, group in enumerate(groups):

        def inside(sequence: str, keyword: str, convert: Callable[[Any], Any], group: Any = group) -> Any:
            for place in (group, shared):
                for item in items_of(place, sequence) if place is not None else ():
                    found = value_of(item, keyword, convert, None)
                    if found is not None:
                        return found
            return None

        position = inside("PlanePositionSequence", "ImagePositionPatient", _vector(3))
        axes = inside("PlaneOrientationSequence", "ImageOrientationPatient", _vector(6))
        if position is None:
            position = inside("PlanePositionVolumeSequence", "ImagePositionVolume", _vector(3))
            axes = inside("PlaneOrientationVolumeSequence", "ImageOrientationVolume", _vector(6)) if axes is None else axes
        spacing = inside("PixelMeasuresSequence", "PixelSpacing", _pair)
        slope = inside("PixelValueTransformationSequence", "RescaleSlope", float)
        intercept = inside("PixelValueTransformationSequence", "RescaleIntercept", float)
        scale = (_finite(slope, 1.0), _finite(intercept, 0.0)) if slope is not None else _scale(file.dataset)
        keys = {
            "TemporalPositionIndex": inside("FrameContentSequence", "TemporalPositionIndex", _key),
            "StackID": inside("FrameContentSequence", "StackID", _key),
            "FrameReferenceDateTime": inside("FrameContentSequence", "FrameReferenceDateTime", _key),
            "FrameAcquisitionDateTime": inside("FrameContentSequence", "FrameAcquisitionDateTime", _key),
            "NominalPercentageOfCardiacPhase": inside("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase", _key),
            "EffectiveEchoTime": inside("MREchoSequence", "EffectiveEchoTime", _key),
            "DiffusionBValue": inside("MRDiffusionSequence", "DiffusionBValue", _key),
            "FrameType": next(
                filter(None, (inside(f"{m}FrameTypeSequence", "FrameType", _key) for m in ("MRImage", "CTImage", "PETImage"))),
                None,
            ),
            **whole,
        }
        frames.append(Frame(file, number, position, _axes(axes), spacing or _spacing(file), scale, keys, float(number)))
    return frames


def _spacing(file: DicomFile) -> Optional[Tuple[float, float]]:
    """mm between rows and between columns, of a whole file."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = file.get(keyword, _pair, None)
        if found is not None:
            return found
    sizes = set()
    for region in items_of(file.dataset, "SequenceOfUltrasoundRegions"):
        units = [value_of(region, f"PhysicalUnits{axis}Direction", int, 0) for axis in "XY"]
        deltas = [value_of(region, f"PhysicalDelta{axis}", lambda v: abs(float(v)), 0.0) for axis in "YX"]
        if units == [3, 3] and value_of(region, "RegionSpatialFormat", int, 0) == 1:  # centimetres, of a 2D picture
            sizes.add((round(10 * deltas[0], 9), round(10 * deltas[1], 9)))
    found = next(iter(sizes)) if len(sizes) == 1 else None
    return found if found and min(found) > 0 else None


def _scale(dataset: Any) -> Tuple[float, float]:
    slope = value_of(dataset, "RescaleSlope", float, 1.0)
    return _finite(slope, 1.0) or 1.0, _finite(value_of(dataset, "RescaleIntercept", float, 0.0), 0.0)


def _finite(value: Any, default: float) -> float:
    return float(value) if value is not None and np.isfinite(value) and abs(value) < 1e30 else default


def _vector(count: int) -> Callable[[Any], Optional[np.ndarray]]:
    def convert(value: Any) -> Optional[np.ndarray]:
        out = np.array([float(v) for v in value], float)
        return out if out.shape == (count,) and np.isfinite(out).all() and np.abs(out).max() < 1e9 else None

    return convert


def _pair(value: Any) -> Optional[Tuple[float, float]]:
    """Two lengths above 0: scanners write 0\\0 where they do not know."""
    rows, columns = (float(v) for v in value)
    return (rows, columns) if np.isfinite([rows, columns]).all() and 0 < rows < 1e6 and 0 < columns < 1e6 else None


def _positive(value: Any) -> Optional[float]:
    number = abs(float(value))
    return number if np.isfinite(number) and 0 < number < 1e6 else None


def _axes(value: Optional[np.ndarray]) -> Optional[np.ndarray]:
    """``2 x 3`` of length 1, None where they are no two directions at right angles."""
    if value is None:
        return None
    axes = value.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 0.01:
        return None
    axes = axes / lengths[:, None]
    return axes if abs(axes[0] @ axes[1]) < 0.01 else None


def _key(value: Any) -> Any:
    """A value that can be compared and sorted: a number where it is one."""
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        return "\\".join(map(str, value))
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
