"""Frames to a regular stack of slices, one for every time point; what is none is refused with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from .dicom_frames import KEY_NAMES, Frame, depth_of

#: Part of the slice distance by which a slice may miss its place on the regular grid: room for rounded positions. A missing
#: slice is farther off in a stack of any length, a gantry tilt of 1 degree from the sixth slice on (tan 1 degree = 0.017).
_TOLERANCE = 0.1
#: How far the axes of slices may differ (0.1 degrees), and the share by which their pixels may.
_SAME_AXES, _SAME_SIZE = 2e-3, 1e-3
#: mm below which two slices are at one place.
_SAME_PLACE = 1e-3


@dataclass(frozen=True)
class Stack:
    """A regular stack.

    Attributes:
        times: frames in the order of their slices, for every time point.
        matrix: ``4 x 4`` from ijk to LPS, in mm.
        what: the time points are ("echoes", ...).
        measured: whether lengths are mm.
        notes: for the user.
    """

    times: Tuple[Tuple[Frame, ...], ...]
    matrix: np.ndarray
    what: str = "time points"
    measured: bool = True
    notes: Tuple[str, ...] = ()


def stack_of(frames: Sequence[Frame], name: str) -> Stack:
    """Sort frames into slices and time points.

    Args:
        frames: of one file, or of the files of one series.
        name: of it, for messages.

    Raises:
        QMedSAMError: they are no regular stack.
    """
    _check_copies(frames, name)
    _check_sizes(frames, name)
    if len(frames) == 1:
        return _single(frames[0])
    if any(frame.position is None for frame in frames):
        return _placeless(frames, name)
    axes = _common_axes(frames, name)
    spacing = _common_spacing(frames, name)
    normal = np.cross(axes[0], axes[1])
    times, what = _time_points(frames, normal, name)
    stacks = _in_order(times, normal)
    first = np.array([frame.position for frame in stacks[0]])
    step = _checked_step(first, normal, name)
    for other in stacks[1:]:
        if np.abs(np.array([frame.position for frame in other]) - first).max() > _TOLERANCE * abs(step or 1.0):
            raise QMedSAMError(f"The {what} of '{name}' do not lie at the same places.", "Give a folder that holds one of them.")
    if len(first) == 1:
        step = _thickness(stacks[0][0])
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = axes[0] * spacing[1], axes[1] * spacing[0], normal * step
    matrix[:3, 3] = first[0]
    return Stack(tuple(map(tuple, stacks)), matrix, what)


def _check_copies(frames: Sequence[Frame], name: str) -> None:
    """Files that are copies of each other, as downloads and backups leave them behind."""
    seen: Dict[str, Frame] = {}
    for frame in frames:
        uid = frame.file.get("SOPInstanceUID", str, "").strip()
        other = seen.setdefault(uid, frame)
        if uid and other.file.path != frame.file.path:
            raise QMedSAMError(
                f"The series '{name}' holds the same image twice: '{other.file.path.name}' and '{frame.file.path.name}'.",
                "Remove the copies from its folder.",
            )


def _check_sizes(frames: Sequence[Frame], name: str) -> None:
    sizes = Counter(frame.size for frame in frames)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = next(frame for frame in frames if frame.size != usual)
        raise QMedSAMError(
            f"The slices of the series '{name}' differ in size: '{odd.file.path.name}' has {odd.size[1]} x {odd.size[0]} pixels, "
            f"most have {usual[1]} x {usual[0]}.",
            "A scout or a reformatted picture may lie among them: give the folder of one scan.",
        )


def _single(frame: Frame) -> Stack:
    """A picture, or one slice."""
    axes = frame.axes if frame.axes is not None else np.eye(3)[:2]
    position = frame.position if frame.position is not None else np.zeros(3)
    spacing, notes = frame.spacing, ()
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = axes[0] * (spacing or (1, 1))[1], axes[1] * (spacing or (1, 1))[0]
    matrix[:3, 2] = np.cross(axes[0], axes[1]) * _thickness(frame)
    matrix[:3, 3] = position
    return Stack(((frame,),), matrix, measured=spacing is not None, notes=notes)


def _thickness(frame: Frame) -> float:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        found = frame.file.get(keyword, lambda v: abs(float(v)), 0.0)
        if 0 < found < 1e6:
            return found
    return 1.0


def _placeless(frames: Sequence[Frame], name: str) -> Stack:
    """Frames of one file that do not say where each of them lies: time, or slices at a stated distance."""
    files = {frame.file.path for frame in frames}
    if len(files) > 1:
        raise QMedSAMError(f"The slices of the series '{name}' do not say where they lie.", "Give one of the files.")
    first = frames[0]
    depth = depth_of(first.file)
    spacing = first.spacing
    axes = first.axes if first.axes is not None else np.eye(3)[:2]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = axes[0] * (spacing or (1, 1))[1], axes[1] * (spacing or (1, 1))[0]
    matrix[:3, 2] = np.cross(axes[0], axes[1]) * (depth.step or 1.0)
    position = first.file.get("ImagePositionPatient", lambda v: np.array([float(n) for n in v]), np.zeros(3))
    matrix[:3, 3] = position if position.shape == (3,) and np.isfinite(position).all() else 0
    if depth.time:
        return Stack(tuple((frame,) for frame in frames), matrix, measured=spacing is not None)
    measured = spacing is not None and depth.step is not None
    notes = (depth.note,) if depth.note else ()
    if spacing is None and depth.step is not None:
        notes = ("The file does not tell the size of its pixels: sizes are given in voxels.",)
    return Stack((tuple(frames),), matrix, measured=measured, notes=notes)


def _common_axes(frames: Sequence[Frame], name: str) -> np.ndarray:
    if any(frame.axes is None for frame in frames):
        one = next(frame for frame in frames if frame.axes is None)
        raise QMedSAMError(f"'{one.file.path.name}' in '{name}' does not say how it is turned.", "Export the series again.")
    axes = np.array([frame.axes for frame in frames])
    middle = axes[len(axes) // 2]
    groups = [np.abs(axes - reference).max(axis=(1, 2)) <= _SAME_AXES for reference in (axes[0], middle, axes[-1])]
    usual = max(groups, key=lambda group: group.sum())
    if usual.all():
        return axes[0]
    odd = [frame for frame, same in zip(frames, usual) if not same]
    files = {frame.file.path for frame in frames}
    which = f"'{odd[0].file.path.name}'" if len(files) > 1 else f"frame {odd[0].number + 1}"
    few = len(odd) < len(frames) / 4
    raise QMedSAMError(
        f"The slices of '{name}' are not parallel: {which} is turned against {'the others' if few else 'others'}.",
        "It may be a scout among them: take it out of the folder."
        if few
        else "Is it a localizer in several planes? Give one scan.",
    )


def _common_spacing(frames: Sequence[Frame], name: str) -> Tuple[float, float]:
    known = [frame.spacing for frame in frames if frame.spacing is not None]
    if len(known) < len(frames):
        odd = next(frame for frame in frames if frame.spacing is None)
        raise QMedSAMError(
            f"'{odd.file.path.name}' in '{name}' does not tell the size of its pixels.",
            "Correct its PixelSpacing, or export it again.",
        )
    usual = Counter(known).most_common(1)[0][0]
    for frame in frames:
        own = np.array(frame.spacing, float)
        if np.abs(own / usual - 1).max() > _SAME_SIZE:
            raise QMedSAMError(
                f"The slices of '{name}' differ in the size of their pixels: {own[0]:g} mm in '{frame.file.path.name}', "
                f"{usual[0]:g} mm in others.",
                "A picture of another scan may lie among them: give the folder of one.",
            )
    return usual


def _time_points(frames: Sequence[Frame], normal: np.ndarray, name: str) -> Tuple[List[List[Frame]], str]:
    """Frames by time point, and what the time points are."""
    along = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(along, kind="stable")
    places: List[List[Frame]] = []
    last = -np.inf
    for n in order:
        if along[n] - last >= _SAME_PLACE or not places:
            places.append([])
        last = along[n]
        places[-1].append(frames[n])
    counts = {len(place) for place in places}
    if counts == {1}:
        return [list(frames)], "time points"
    if len(counts) > 1:
        raise QMedSAMError(
            f"The series '{name}' has several images at the same position, and not everywhere as many "
            f"({min(counts)} to {max(counts)}).",
            "Time points or echoes may be missing: give a folder that holds one of them.",
        )
    count = counts.pop()
    for key, what in KEY_NAMES.items():
        values = [[frame.keys.get(key) for frame in place] for place in places]
        sets = [set(v) for v in values]
        if None in sets[0] or any(len(s) != count or s != sets[0] for s in sets):
            continue
        rank = {value: n for n, value in enumerate(sorted(sets[0], key=lambda v: (isinstance(v, str), v)))}
        return _ranked(places, partial(_rank_of, rank, key), count), what
    varying = [{k for k in place[0].keys if len({f.keys.get(k) for f in place}) > 1} for place in places]
    what = next((KEY_NAMES[k] for k in KEY_NAMES if all(k in v for v in varying)), "time points")
    return _ranked(places, lambda frame: frame.order, count), what


def _rank_of(rank: Dict[Any, int], key: str, frame: Frame) -> int:
    return rank[frame.keys[key]]


def _ranked(places: List[List[Frame]], rank: Callable[[Frame], Any], count: int) -> List[List[Frame]]:
    ordered = [sorted(place, key=rank) for place in places]
    times = [[place[n] for place in ordered] for n in range(count)]
    return [sorted(time, key=lambda frame: frame.order) for time in times]


def _in_order(times: List[List[Frame]], normal: np.ndarray) -> List[List[Frame]]:
    """By position; the frames of one file in their own order where that runs against the normal at every time point."""
    along = [np.array([frame.position @ normal for frame in frames]) for frames in times]
    files = {frame.file.path for frames in times for frame in frames}
    if len(files) == 1 and all(len(places) > 1 and (np.diff(places) < 0).all() for places in along):
        return times
    return [[frames[n] for n in np.argsort(places, kind="stable")] for frames, places in zip(times, along)]


def _checked_step(positions: np.ndarray, normal: np.ndarray, name: str) -> float:
    """mm from slice to slice along the normal; negative for slices that run against it."""
    count = len(positions)
    if count == 1:
        return 0.0
    along = (positions - positions[0]) @ normal
    steps = np.abs(np.diff(along))
    step = along[-1] / (count - 1)
    if np.abs(along - step * np.arange(count)).max() > _TOLERANCE * np.median(steps):
        raise QMedSAMError(
            f"The slices of the series '{name}' are not evenly spaced ({steps.min():.2f} to {steps.max():.2f} mm apart).",
            "Slices may be missing: export the series again, or resample it onto a regular grid.",
        )
    miss = positions - positions[0] - np.outer(np.arange(count) * step, normal)
    if np.linalg.norm(miss, axis=1).max() > _TOLERANCE * abs(step):
        raise QMedSAMError(
            f"The slices of the series '{name}' are shifted against each other (gantry tilt).",
            "Resample it onto a regular grid first (in Slicer: load it, harden its acquisition transform).",
        )
    return float(step)
