"""How the slices beside a corrected one follow it: how far is read from the two views that cross it (decision 31)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Sequence, Tuple

import numpy as np

from .corrector import Corrector
from .marks import Stroke
from .predictor import SlicePredictor
from .strategies import Item

#: A slice follows while the crossing views change at least this share there of what they change on the corrected slice.
LEAST_SHARE = 0.1
#: From this share on it is asked anew, told where the crossing views changed; below, its border moves as the corrected one's did.
ASKED_SHARE = 0.2
#: Nothing follows farther than so many times the width of the change.
FARTHEST = 2.0
#: Where crossing views say nothing (thin boxes), the border follows this far, as a share of the change's width.
REACH = 0.5
#: A slice's change lies over its neighbour's, or at most so many pixels beside it.
SLACK = 2


@dataclass
class Crossing:
    """A slice of another view through a stroke, and what that view would change there."""

    axis: int
    index: int
    change: np.ndarray


def carry_on(corrector: Corrector, predictor_of: Callable[[Item], SlicePredictor], axis: int, index: int) -> None:
    """Let the slices on both sides of a corrected one follow, less the farther they are.

    The last stroke on the slice is a stroke of the two views that cross it there as well: what those change says how far the
    error reaches through the slices, and where it lies on each of them. An error is largest where it was pointed at: a slice that
    would change more than the one before it does not follow, and ends the walk. Slices that were asked for strokes of their
    own, or are kept, do not follow; nor does anything where the object has just come or gone altogether.

    Args:
        corrector: has asked the slice.
        predictor_of: brings a view's predictor.
        axis, index: of the slice.
    """
    old, new = (corrector.plane(array, axis, index) for array in (corrector.before, corrector.mask))
    strokes = [stroke for stroke in corrector.box.strokes if (stroke.axis, stroke.index) == (axis, index)]
    change = old ^ new
    if not change.any() or not old.any() or not new.any() or not strokes:
        return
    if len(corrector.item(axis).slices) < 2:  # a picture, or a box of this slice alone
        return
    crossings = _crossings(corrector, predictor_of, strokes[-1])
    share = _shares(corrector, crossings, axis, index, change)
    _move_borders(corrector, axis, index, share)
    if crossings:
        predictor = predictor_of(corrector.item(axis))
        _ask_beside(corrector, predictor, (axis, index), share, change, _told(corrector, crossings, strokes[-1]))
    free = _free(corrector)
    free[(slice(None),) * (2 - axis) + (share == 0,)] = False  # where nothing reaches
    for one in crossings:
        plane = corrector.plane(corrector.mask, one.axis, one.index)
        change = one.change & corrector.plane(free, one.axis, one.index)
        plane[change] = ~corrector.plane(corrector.before, one.axis, one.index)[change]


def _crossings(corrector: Corrector, predictor_of: Callable[[Item], SlicePredictor], stroke: Stroke) -> List[Crossing]:
    """What the other views would change through the middle of a stroke, of the object as it was."""
    middle = np.round(stroke.points_ijk[len(stroke.points_ijk) // 2]).astype(int)
    found = []
    for axis in range(3):
        index = int(middle[axis])
        if axis == stroke.axis or not corrector.is_free(axis, index):
            continue
        planes = [corrector.plane(array, axis, index) for array in (corrector.before, corrector.adds, corrector.removes)]
        mask, _ = corrector.answer(predictor_of(corrector.item(axis)), axis, index, (planes[0], planes[1], planes[2]))
        mask = (mask | planes[1]) & ~planes[2]
        found.append(Crossing(axis, index, mask ^ planes[0]))
    return found


def _shares(corrector: Corrector, crossings: Sequence[Crossing], axis: int, index: int, change: np.ndarray) -> np.ndarray:
    """How much of the change reaches each slice of the crop, 1 on the corrected one and less and less from there."""
    count = corrector.mask.shape[2 - axis]
    center = index - corrector.start[axis]
    away = np.abs(np.arange(count) - center)
    view = corrector.views[axis]
    width = 2 * np.sqrt(np.count_nonzero(change) * np.prod(view.pixel_mm) / np.pi) / view.spacing_mm[axis]  # in slices
    if not crossings:
        return np.maximum(1 - away / max(REACH * width, 1e-6), 0)
    changed = np.zeros(count)
    for one in crossings:
        along_rows = corrector.views[one.axis].in_plane[1] == axis
        changed += one.change.sum(axis=1 if along_rows else 0)
    share = np.minimum(changed / max(changed[center], 1), 1) * (changed[center] > 0)
    share *= away < FARTHEST * width
    share[share < LEAST_SHARE] = 0
    share[center:] = np.minimum.accumulate(share[center:])
    share[: center + 1] = np.minimum.accumulate(share[: center + 1][::-1])[::-1]
    return share


def _move_borders(corrector: Corrector, axis: int, index: int, share: np.ndarray) -> None:
    """Borders move as the corrected slice's did, by their share of it: signed distances in mm."""
    view = corrector.views[axis]
    mm = view.pixel_mm[::-1]
    old, new = (corrector.plane(array, axis, index) for array in (corrector.before, corrector.mask))
    moved = _signed_distance(new, mm) - _signed_distance(old, mm)
    for at in _following(corrector, axis, index, share, 0.0):
        plane = corrector.plane(corrector.mask, axis, at)
        if plane.any():
            inside = corrector.box.inside(view, at, corrector.pixels(axis))
            plane[inside] = (_signed_distance(plane, mm) + share[at - corrector.start[axis]] * moved < 0)[inside]


def _told(corrector: Corrector, crossings: Sequence[Crossing], stroke: Stroke) -> Tuple[np.ndarray, np.ndarray]:
    """Strokes of the crop where the crossing views changed as the user's stroke does: what they add and what they take away."""
    told, nothing = np.zeros_like(corrector.mask), np.zeros_like(corrector.mask)
    for one in crossings:
        corrector.plane(told, one.axis, one.index)[one.change] = True
    if stroke.adds:
        return told & ~corrector.before, nothing
    return nothing, told & corrector.before


def _ask_beside(
    corrector: Corrector,
    predictor: SlicePredictor,
    corrected: Tuple[int, int],
    share: np.ndarray,
    change: np.ndarray,
    told: Tuple[np.ndarray, np.ndarray],
) -> None:
    """Slices of which the crossing views change enough are asked anew, with the strokes that are told there."""
    from scipy import ndimage

    axis, index = corrected
    ended = {1: change, -1: change}
    for at in _following(corrector, axis, index, share, ASKED_SHARE):
        side = 1 if at > index else -1
        before, add, remove = (corrector.plane(array, axis, at) for array in (corrector.before, *told))
        if not ended[side].any() or not (add.any() or remove.any()):
            ended[side] = np.zeros_like(change)
            continue
        mask, _ = corrector.answer(predictor, axis, at, (before, add, remove))
        changed = (mask ^ before) & ndimage.binary_dilation(ended[side], iterations=SLACK)
        if np.count_nonzero(changed) > np.count_nonzero(ended[side]):
            changed[:] = False
        ended[side] = changed
        if changed.any():
            corrector.plane(corrector.mask, axis, at)[:] = before ^ changed


def _following(corrector: Corrector, axis: int, index: int, share: np.ndarray, least: float) -> List[int]:
    """The slices on both sides, nearest first, as far as each has a share and may follow."""
    found = []
    for step in (1, -1):
        at = index + step
        while 0 <= at - corrector.start[axis] < len(share) and corrector.is_free(axis, at):
            if share[at - corrector.start[axis]] <= least:
                break
            found.append(at)
            at += step
    return found


def _free(corrector: Corrector) -> np.ndarray:
    """Voxels of the crop that may follow: not on a slice that has strokes of its own or is kept."""
    free = np.ones_like(corrector.mask)
    for other, index in [*corrector.asked, *corrector.kept]:
        if 0 <= index - corrector.start[other] < free.shape[2 - other]:
            corrector.plane(free, other, index)[:] = False
    return free


def _signed_distance(mask: np.ndarray, sampling: Sequence[float]) -> np.ndarray:
    """mm, negative inside, zero between the pixels of a border; ``mask`` is neither empty nor full (a full one: as if around it
    lay a border)."""
    from scipy import ndimage

    padded = np.pad(mask, 1)
    inside, outside = (ndimage.distance_transform_edt(one, sampling) for one in (padded, ~padded))
    half = min(sampling) / 2
    return np.where(padded, half - inside, outside - half)[1:-1, 1:-1]
