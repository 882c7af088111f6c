"""Boxes that follow their objects from one time point of a series to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

import numpy as np

from .errors import QMedSAMError
from .geometry import Box, Volume
from .painting import ObjectResult

#: How much a side may grow or shrink at once, and from the first time point to any.
_STEP, _TOTAL = 1.25, 2.0
#: Times that a time point is segmented at most, and the part of a half side by which a box may still be off after it.
_LOOKS, _SETTLED = 4, 0.08

#: Every time point, as :func:`qmedsam.files.read_frames` has it.
ALL = -1

#: Lower and upper end of a mask along the axes of its box, where the box reaches from -1 to 1; and half a voxel there.
_Extent = Tuple[np.ndarray, np.ndarray, np.ndarray]


def parse_frame_index(text: Optional[str]) -> Optional[int]:
    """A time point from 0, :data:`ALL`, or None where nothing was given.

    Raises:
        QMedSAMError: it is neither.
    """
    if text is None:
        return None
    text = text.strip().lower()
    if text == "all":
        return ALL
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise QMedSAMError(f"'{text[:60]}' is no time point.", "Give its number from 0, or 'all'.")
    return int(text)


def frame_path(path: Path, number: int, suffix: str) -> Path:
    """``heart.seg.nrrd`` of time point 3 is ``heart-t003.seg.nrrd``."""
    return path.with_name(f"{path.name[: -len(suffix)]}-t{number:03d}{path.name[-len(suffix) :]}")


def follow(volumes: Iterator[Volume], boxes: Callable[[Volume], List[Box]], segment: Callable[..., Any]) -> Iterator[Tuple]:
    """Segment every time point, with boxes kept around their objects as loosely as they were drawn at the first.

    A mask never leaves its box, so a moving object is cut by it first: the box is then moved by what the object's free end
    moved, and the time point is segmented again, up to four times in all, until the boxes lie as they should. Sides grow and
    shrink with the object, at most by a quarter a step and to twice or half their first length. An object that is not found
    leaves its box where it is.

    Args:
        volumes: the time points, in their order.
        boxes: of the first one.
        segment: ``Segmenter.segment`` with all but the volume, the boxes and ``keep_masks`` filled in.

    Yields:
        Volume, boxes and result of every time point.
    """
    first: List[Box] = []
    seen: List[Optional[_Extent]] = []
    current: List[Box] = []
    for volume in volumes:
        if not first:
            first = current = boxes(volume)
            result = segment(volume, current, keep_masks=True)
            seen = [_extent(box, found) for box, found in zip(current, result.objects)]
        else:
            for look in range(_LOOKS):
                result = segment(volume, current, keep_masks=True)
                moved = [_within(_moved(*each), volume) for each in zip(current, first, seen, result.objects)]
                if look == _LOOKS - 1 or result.cancelled or not any(_is_off(*pair) for pair in zip(current, moved)):
                    break
                current = moved
            # Reference of an object that the first time points did not show.
            seen = [old or _extent(box, found) for old, box, found in zip(seen, current, result.objects)]
        yield volume, current, result


def _moved(box: Box, first: Box, reference: Optional[_Extent], found: ObjectResult) -> Box:
    """The box as it should lie around its mask."""
    extent = _extent(box, found)
    if extent is None or reference is None:
        return box
    (low, high, voxel), (low0, high0, _) = extent, reference
    growth = np.clip((high - low) / (high0 - low0), 1 / _STEP, _STEP)
    shift = (low + high) / 2 - (low0 + high0) / 2 * growth
    for axis in range(3):
        touches = low[axis] < -1 + voxel[axis], high[axis] > 1 - voxel[axis]
        if touches[0] and touches[1]:
            free = low0[axis] > -1 + voxel[axis] or high0[axis] < 1 - voxel[axis]
            growth[axis], shift[axis] = _STEP if free else 1.0, 0.0
        elif touches[0] or touches[1]:  # cut there: the free end tells how far it went
            end = high[axis] - high0[axis] if touches[0] else low[axis] - low0[axis]
            growth[axis], shift[axis] = 1.0, min(end, 0.0) if touches[0] else max(end, 0.0)
    lengths, drawn = (np.linalg.norm(each.half_axes_ijk, axis=0) for each in (box, first))
    growth = np.clip(lengths * growth, drawn / _TOTAL, drawn * _TOTAL) / lengths
    return replace(box, center_ijk=box.center_ijk + box.half_axes_ijk @ shift, half_axes_ijk=box.half_axes_ijk * growth)


def _within(box: Box, volume: Volume) -> Box:
    """A box whose middle is on the image: an object that leaves it is waited for at its edge."""
    return replace(box, center_ijk=np.clip(box.center_ijk, 0, np.array(volume.shape_ijk) - 1))


def _is_off(box: Box, moved: Box) -> bool:
    """Whether a box lies so far from where it should that another look is worth it."""
    inside = np.linalg.pinv(box.half_axes_ijk)
    shift = np.abs(inside @ (moved.center_ijk - box.center_ijk)).max()
    growth = np.linalg.norm(moved.half_axes_ijk, axis=0) / np.maximum(np.linalg.norm(box.half_axes_ijk, axis=0), 1e-12)
    return bool(shift > _SETTLED or np.abs(growth - 1).max() > _SETTLED)


def _extent(box: Box, found: ObjectResult) -> Optional[_Extent]:
    """Where its mask lies in a box; None for an empty mask, or a box without thickness."""
    if found.mask_kji_crop is None or not found.mask_kji_crop.any():
        return None
    if np.linalg.norm(box.half_axes_ijk, axis=0).min() < 1e-6 or abs(np.linalg.det(box.half_axes_ijk)) < 1e-12:
        return None
    k, j, i = np.nonzero(found.mask_kji_crop)
    ijk = np.stack([i, j, k], axis=-1) + [part.start for part in found.crop[::-1]]
    inside = np.linalg.inv(box.half_axes_ijk)
    places = (ijk - box.center_ijk) @ inside.T
    voxel = np.abs(inside).sum(axis=1) / 2
    return places.min(axis=0) - voxel, places.max(axis=0) + voxel, voxel
