"""One line for a notebook or a script: an image, boxes, a result that can be looked at and saved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike as OSPath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from .errors import QMedSAMError
from .files import Origin, PathLike, Segment, read_boxes, read_volume, write_segmentation
from .files.boxes import box_of_indices
from .geometry import Box, Volume
from .intensity import Intensity
from .segmenter import Segmentation, Segmenter

#: Objects that a result lists on a screen.
_LISTED = 12
#: A path, a volume, or an array ``(k, j, i)`` or ``(j, i)``, with three or four colours last for pictures in colour.
ImageLike = Union[str, "OSPath[str]", Volume, np.ndarray]
#: A box, voxel indices (four or six numbers, both ends included), a path of a boxes file, or several of the first two.
BoxesLike = Union[Box, Sequence[float], Sequence[Union[Box, Sequence[float]]], np.ndarray, str, "OSPath[str]"]


@dataclass(frozen=True)
class Shown:
    """What belongs to a result that is saved and shown: the image, its file and the boxes."""

    volume: Volume
    boxes: Sequence[Box]
    window: Optional[Tuple[float, float]] = None
    origin: Optional[Origin] = None


_segmenters: Dict[Tuple[Optional[str], int], Segmenter] = {}


def segment(
    image: ImageLike,
    boxes: BoxesLike,
    *,
    spacing: Optional[Sequence[float]] = None,
    model: Optional[str] = None,
    series: Optional[str] = None,
    threads: int = 0,
    **settings: Any,
) -> Segmentation:
    """Segment what is in boxes; the model stays loaded for the next call.

    Example: ``qmedsam.segment("ct.nii.gz", [60, 80, 12, 210, 190, 41]).save("liver.seg.nrrd")``

    Args:
        image: file or DICOM folder, :class:`Volume`, or numpy array (``(k, j, i)``, ``(j, i)``, colours last).
        boxes: one or several: :class:`Box`, ``i0, j0, k0, i1, j1, k1`` (on one slice ``i0, j0, i1, j1``; both ends included),
            or a boxes file.
        spacing: of an array, in mm along i, j and k (or i and j).
        model, threads: as for :class:`Segmenter`.
        series: of a DICOM folder with several.
        settings: as for :meth:`Segmenter.segment`.

    Raises:
        QMedSAMError: something about the input or the model that the user can mend.
    """
    volume = image if isinstance(image, Volume) else None
    source = None
    if volume is None and isinstance(image, np.ndarray):
        volume = volume_of_array(image, spacing)
    elif volume is None:
        source, volume = image, read_volume(image, series)  # type: ignore[arg-type]
    if spacing is not None and not isinstance(image, np.ndarray):
        raise QMedSAMError("A spacing is for an array; this image has its own.", "Leave it out.")
    drawn = read_boxes(boxes, volume) if isinstance(boxes, (str, OSPath)) else boxes_of_any(boxes, volume)
    key = (model, threads)
    if key not in _segmenters:
        _segmenters[key] = Segmenter(model, threads=threads)
    result = _segmenters[key].segment(volume, drawn, **settings)
    origin = None if source is None else Origin(Path(source), series, result.model)
    result.shown = Shown(volume, drawn, settings.get("window"), origin)
    return result


def save(result: Segmentation, path: PathLike) -> Path:
    """See :meth:`Segmentation.save`."""
    if result.shown is None:
        raise QMedSAMError(
            "This result does not know its image.", "Segment with qmedsam.segment, or use qmedsam.files.write_segmentation."
        )
    write_segmentation(path, result.labels_kji, result.shown.volume, _segments(result), result.shown.origin)
    return Path(path)


def described(result: Segmentation) -> str:
    """One line for each object and note: arrays say nothing on a screen."""
    size = " x ".join(str(n) for n in result.labels_kji.shape[::-1])
    about = ", ".join(filter(None, [result.model, result.modality or "no modality", result.strategy]))
    lines = [f"Segmentation of {size} voxels ({about})"]
    for o in result.objects[:_LISTED]:
        ml = "" if len(result.labels_kji) == 1 else f" ({o.volume_ml:.2f} ml)"  # a picture has no thickness
        lines.append(f"  {o.label} {o.name}: {o.voxels} voxels{ml}, confidence {o.confidence:.2f}")
    if len(result.objects) > _LISTED:
        lines.append(f"  and {len(result.objects) - _LISTED} more")
    return "\n".join([*lines, *(f"  Note: {message}" for message in result.messages)])


def picture(result: Segmentation) -> Optional[bytes]:
    """The overlay as a PNG; None for a result that does not know its image."""
    from .pictures.overlays import overlay_png

    if result.shown is None:
        return None
    volume, boxes = result.shown.volume, list(result.shown.boxes)
    intensity = Intensity.of(volume, result.modality, result.shown.window)
    with TemporaryDirectory(prefix="qmedsam-") as folder:
        path = Path(folder) / "overlay.png"
        overlay_png(path, volume, result.labels_kji, _segments(result), boxes, intensity, volume.name)
        return path.read_bytes()


def _segments(result: Segmentation) -> List[Segment]:
    assert result.shown is not None
    return [(o.label, o.name, box.color) for o, box in zip(result.objects, result.shown.boxes)]


def volume_of_array(array: np.ndarray, spacing: Optional[Sequence[float]] = None) -> Volume:
    """An array as a volume whose first voxel lies at the origin.

    Args:
        array: ``(k, j, i)`` or ``(j, i)``, with three or four colours last for pictures in colour.
        spacing: mm along i, j and k (a picture: i and j); 1 where it is not given.

    Raises:
        QMedSAMError: another number of axes, or a spacing that is none.
    """
    colours = array.ndim in (3, 4) and array.shape[-1] in (3, 4) and array.dtype == np.uint8
    axes = array.ndim - int(colours)
    if axes not in (2, 3):
        raise QMedSAMError(f"An array of the shape {array.shape} is no image.", "Give k x j x i, or j x i.")
    shaped = array[..., :3] if colours else array
    sizes = np.ones(3)
    if spacing is not None:
        given = np.asarray(spacing, float).ravel()
        if len(given) not in (axes, 3) or not (np.isfinite(given).all() and (given > 0).all()):
            raise QMedSAMError(f"The spacing {list(spacing)} is not {axes} lengths.", "Give mm along i, j and k.")
        sizes[: len(given)] = given
    return Volume(shaped if axes == 3 else shaped[None], np.diag([*sizes, 1.0]))


def boxes_of_any(boxes: Any, volume: Volume) -> List[Box]:
    """What was given as boxes as a list of them.

    Raises:
        QMedSAMError: it is none.
    """
    if isinstance(boxes, Box):
        return [boxes]
    entries = list(boxes)
    if entries and all(np.isscalar(entry) for entry in entries):
        entries = [entries]
    result = []
    for n, entry in enumerate(entries, start=1):
        if isinstance(entry, Box):
            result.append(entry)
            continue
        try:
            numbers = [float(v) for v in np.asarray(entry, float).ravel()]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) not in (4, 6) or not np.isfinite(numbers).all():
            raise QMedSAMError(
                f"Box {n} is not four or six numbers.", "Give i0, j0, k0, i1, j1, k1 (on one slice i0, j0, i1, j1)."
            )
        result.append(box_of_indices(numbers, volume, f"Box {n}", label=0))
    return result if all(box.label for box in result) else [replace(box, label=0) for box in result]
