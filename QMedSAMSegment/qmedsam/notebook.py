"""One line for a notebook or a script: an image, boxes, a result that can be looked at and saved."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from os import PathLike as OSPath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from .errors import QMedSAMError
from .files import Origin, PathLike, read_boxes, read_volume, write_segmentation
from .files.boxes import box_of_indices
from .geometry import Box, Volume
from .intensity import Intensity
from .segmenter import Segmentation, Segmenter

#: A path, a volume, or an array ``(k, j, i)`` or ``(j, i)``, with three or four colours last for pictures in colour.
ImageLike = Union[str, "OSPath[str]", Volume, np.ndarray]
#: A box, voxel indices (four or six numbers, both ends included), a path of a boxes file, or several of the first two.
BoxesLike = Union[Box, Sequence[float], Sequence[Union[Box, Sequence[float]]], np.ndarray, str, "OSPath[str]"]


@dataclass(repr=False)
class Result(Segmentation):
    """A segmentation that knows its image: it can be saved, and a notebook shows its overlay.

    Attributes:
        volume, boxes: what was segmented.
        window: that was chosen.
        origin: the image's file; None for an array.
    """

    volume: Volume = field(default_factory=lambda: Volume(np.zeros((1, 1, 1))))
    boxes: Sequence[Box] = ()
    window: Optional[Tuple[float, float]] = None
    origin: Optional[Origin] = None

    @property
    def has_ml(self) -> bool:
        """Whether volumes can be told: a picture has no thickness, an array without a spacing no lengths."""
        return self.volume.has_ml

    def save(self, path: PathLike) -> Path:
        """Write the labels into a file whose suffix says how (``.seg.nrrd``, ``.nii.gz``, ``.dcm``...).

        Raises:
            QMedSAMError: as :func:`qmedsam.files.write_segmentation`.
        """
        write_segmentation(path, self.labels_kji, self.volume, self.written(self.boxes)[1], self.origin)
        return Path(path)

    def save_overlay(self, path: PathLike) -> Path:
        """Write the picture that a notebook shows: slices of the image with boxes and contours, as PNG.

        Raises:
            QMedSAMError: another suffix, or a place that cannot be written to.
        """
        from .pictures.overlays import overlay_png

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise QMedSAMError(f"The overlay is a PNG picture, not '{path.suffix}'.", "Give a name that ends in .png.")
        boxes, segments = self.written(self.boxes)
        intensity = Intensity.of(self.volume, self.modality, self.window)
        overlay_png(path, self.volume, self.labels_kji, segments, boxes, intensity, self.volume.name)
        return path

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the overlay."""
        with TemporaryDirectory(prefix="qmedsam-") as folder:
            return self.save_overlay(Path(folder) / "overlay.png").read_bytes()


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
) -> Result:
    """Segment what is in boxes; the model stays loaded for the next call.

    Example: ``qmedsam.segment("ct.nii.gz", [60, 80, 12, 210, 190, 41]).save("liver.seg.nrrd")``

    Args:
        image: file or DICOM folder, :class:`Volume`, or numpy array (``(k, j, i)``, ``(j, i)``, colours last).
        boxes: one or several: :class:`Box`, ``i0, j0, k0, i1, j1, k1`` (on one slice ``i0, j0, i1, j1``; both ends included),
            or a boxes file.
        spacing: of an array, in mm along i, j and k (or i and j): columns, rows, slices, the reverse of the array's axes.
            Without one voxels count as cubes (the strategies look at shapes in mm), and no ml and mm are told.
        model, threads: as for :class:`Segmenter`.
        series: of a DICOM folder with several.
        settings: as for :meth:`Segmenter.segment`.

    Raises:
        QMedSAMError: something about the input or the model that the user can mend.
    """
    source: Optional[PathLike] = None
    if isinstance(image, Volume):
        volume = image
    elif isinstance(image, np.ndarray):
        volume = volume_of_array(image, spacing)
    else:
        source, volume = image, read_volume(image, series)
    if spacing is not None and not isinstance(image, np.ndarray):
        raise QMedSAMError("A spacing is for an array; this image has its own.", "Leave it out.")
    drawn = read_boxes(boxes, volume) if isinstance(boxes, (str, OSPath)) else boxes_of_any(boxes, volume)
    key = (model, threads)
    if key not in _segmenters:
        _segmenters[key] = Segmenter(model, threads=threads)
    result = _segmenters[key].segment(volume, drawn, **settings)
    origin = None if source is None else Origin(Path(source), series, result.model)
    found = {one.name: getattr(result, one.name) for one in fields(result)}
    return Result(**found, volume=volume, boxes=drawn, window=settings.get("window"), origin=origin)


def volume_of_array(array: np.ndarray, spacing: Optional[Sequence[float]] = None) -> Volume:
    """An array as a volume whose first voxel lies at the origin.

    Args:
        array: ``(k, j, i)`` or ``(j, i)``, with three or four colours last for pictures in colour.
        spacing: mm along i, j and k (a picture: i and j); None for cubes of unknown size.

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
    return Volume(shaped if axes == 3 else shaped[None], np.diag([*sizes, 1.0]), measured=spacing is not None)


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
