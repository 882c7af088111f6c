"""An object and the strokes on it: what a stroke covers, and what the network makes of a slice that it lies on."""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Dict, Optional, Sequence, Tuple

import numpy as np

from .geometry import Box, Pixels, View, Volume
from .marks import Stroke
from .predictor import Prompt, Region, SlicePredictor
from .strategies import Item

Crop = Tuple[slice, slice, slice]

#: Least radius of a stroke as the network is told of it, in pixels of the hints' grid: as wide as in training.
TOLD_RADIUS = 1.5
#: The network's answers to a stroke are averaged, each weighted by ``exp(SURER * predicted IoU)``.
SURER = 10.0


def holding(box: Box, strokes: Sequence[Stroke]) -> Box:
    """The box, grown along its own axes until every point of the strokes lies in it, with half a voxel around it."""
    points = np.concatenate([stroke.points_ijk for stroke in strokes]) if strokes else np.zeros((0, 3))
    axes = np.array(box.half_axes_ijk)
    lengths = np.linalg.norm(axes, axis=0)
    if not len(points) or (lengths == 0).any():  # a flat box stays on its slice
        return box
    local = (points - box.center_ijk) @ np.linalg.inv(axes).T
    around = 0.5 / lengths
    low = np.where(local.min(axis=0) < -1, local.min(axis=0) - around, -1.0)
    high = np.where(local.max(axis=0) > 1, local.max(axis=0) + around, 1.0)
    if (low == -1).all() and (high == 1).all():
        return box
    return replace(box, center_ijk=box.center_ijk + axes @ ((low + high) / 2), half_axes_ijk=axes * ((high - low) / 2))


def drawn(stroke: Stroke, view: View) -> Optional[Region]:
    """The voxels of a stroke on its slice; None where none lies on the image.

    Args:
        stroke: along ``view.axis``.
        view: of the volume.
    """
    x_axis, y_axis = view.in_plane
    path = stroke.points_ijk[:, [x_axis, y_axis]]
    mm = np.array(view.pixel_mm)
    reach = np.ceil(stroke.radius_mm / mm) + 1
    height, width = view.shape_yx
    x0, y0 = (max(int(v), 0) for v in np.floor(path.min(axis=0) - reach))
    x1, y1 = (min(int(v) + 1, n) for v, n in zip(np.ceil(path.max(axis=0) + reach), (width, height)))
    if x1 <= x0 or y1 <= y0 or not 0 <= stroke.index < view.count:
        return None
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    for a, b in zip(path, path[1:] if len(path) > 1 else path):
        steps = int(np.ceil(4 * np.abs(b - a).max())) + 1
        along = np.floor(a + np.linspace(0, 1, steps)[:, None] * (b - a) + 0.5).astype(int) - (x0, y0)
        along = along[((along >= 0) & (along < (x1 - x0, y1 - y0))).all(axis=1)]
        mask[along[:, 1], along[:, 0]] = True
        if stroke.radius_mm:
            x, y = (np.arange(x0, x1) - a[0]) * mm[0], ((np.arange(y0, y1) - a[1]) * mm[1])[:, None]
            dx, dy = (b - a) * mm
            share = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
            mask |= (x - share * dx) ** 2 + (y - share * dy) ** 2 <= stroke.radius_mm**2
    return Region(mask, (x0, y0, x1, y1)) if mask.any() else None


class Corrector:
    """An object and its strokes.

    Args:
        volume: the image.
        box: holds all strokes.
        present_kji: the object as it is now, boolean, of the volume's shape; not modified.
        kept: ``(axis, index)`` of slices that stay as they are, but for strokes.
    """

    def __init__(self, volume: Volume, box: Box, present_kji: np.ndarray, kept: Collection[Tuple[int, int]] = ()) -> None:
        self.volume, self.box, self.kept = volume, box, set(kept)
        self.views = {axis: View.of(volume, axis) for axis in range(3)}
        regions = [drawn(stroke, self.views[stroke.axis]) for stroke in box.strokes]
        marks = [(stroke, region) for stroke, region in zip(box.strokes, regions) if region is not None]
        self.crop = _crop_of(box, present_kji, [_corners(region, self.views[s.axis], s.index) for s, region in marks])
        self.before = present_kji[self.crop].copy()
        self.mask = self.before.copy()
        self.adds, self.removes = np.zeros_like(self.mask), np.zeros_like(self.mask)
        self.start = [part.start for part in self.crop[::-1]]  # ijk
        self.asked: Dict[Tuple[int, int], int] = {}  # slices in the order in which they are asked anew, the last stroke's last
        for number, (stroke, region) in enumerate(marks, 1):
            self._draw(stroke, region, last=number == len(marks))

    def _draw(self, stroke: Stroke, region: Region, last: bool) -> None:
        x, y = (v - self.start[a] for v, a in zip(region.pixels[:2], self.views[stroke.axis].in_plane))
        mask = region.mask
        part = (slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1]))
        signs = (self.adds, self.removes) if stroke.adds else (self.removes, self.adds)
        here, there = (self.plane(array, stroke.axis, stroke.index) for array in signs)
        here[part] |= mask
        there[part] &= ~mask  # the later stroke wins
        present = self.plane(self.before, stroke.axis, stroke.index)[part]
        if last or (present[mask] != stroke.adds).any():  # others were heard already
            self.asked.pop((stroke.axis, stroke.index), None)
            self.asked[stroke.axis, stroke.index] = len(self.asked)

    def plane(self, array_kji: np.ndarray, axis: int, index: int) -> np.ndarray:
        """A slice of a crop's array, a view into it."""
        return self.views[axis].slice_of(array_kji, index - self.start[axis])

    def item(self, axis: int) -> Item:
        """The box as a predictor's frame is made for it."""
        return Item(self.box, self.views[axis], lambda found: None)

    def ask(self, predictor: SlicePredictor, axis: int, index: int, candidate: int) -> Tuple[float, ...]:
        """One slice anew, with its mask and all strokes on it; returns the answers' predicted IoU, the one taken first."""
        if index not in self.item(axis).slices:
            return ()
        plane, adds, removes = (self.plane(array, axis, index) for array in (self.mask, self.adds, self.removes))
        mask, heard = self.answer(predictor, axis, index, (plane, adds, removes), candidate)
        plane[:] = (mask | adds) & ~removes
        return heard

    def answer(
        self,
        predictor: SlicePredictor,
        axis: int,
        index: int,
        told: Tuple[np.ndarray, np.ndarray, np.ndarray],
        candidate: int = 0,
    ) -> Tuple[np.ndarray, Tuple[float, ...]]:
        """What the network makes of a slice.

        It looks twice, at the slice and at its mirror image. Unless another candidate is wanted, what it would change far from
        every stroke stays: the user has pointed at what is wrong (decision 31).

        Args:
            predictor: of the view along ``axis``.
            axis, index: of the slice.
            told: its mask, and what is to be added and taken away; of the crop.
            candidate: 0 for all answers, weighted by how sure they are; 1 and 2 for the second and third alone.

        Returns:
            The mask, within the crop, and the answers' predicted IoU, the one taken first.
        """
        item, view = self.item(axis), self.views[axis]
        plane, adds, removes = told
        pixels = self.pixels(axis)
        add, remove = (Region(_widened(one, predictor, other), pixels) for one, other in ((adds, removes), (removes, adds)))
        kind = "tight" if item.flat else "volume"
        prompt = Prompt(item.rectangle(index), kind, None, Region(plane.copy(), pixels), add, remove)
        looks = [next(predictor.predict(index, [prompt], mirrored)) for mirrored in (False, True)]
        logits, confidence = (np.mean(both, axis=0) for both in zip(*looks))
        order = np.argsort(-confidence, kind="stable")
        chosen = order[min(candidate, len(order) - 1)]
        weights = np.exp(SURER * (confidence - confidence.max()))
        answer = logits[chosen] if candidate else np.tensordot(weights / weights.sum(), logits, axes=1)
        mask = predictor.frame.restore(answer, pixels) > 0
        mask = np.where(self.box.inside(view, index, pixels), mask, plane)
        if not candidate:
            mask = plane ^ _touching(plane ^ mask, add.mask | remove.mask)
        return mask, (float(confidence[chosen]), *(float(confidence[n]) for n in order))

    def pixels(self, axis: int) -> Pixels:
        """The crop's part of every slice along an axis."""
        x, y = self.views[axis].in_plane
        height, width = self.plane(self.mask, axis, self.start[axis]).shape
        return self.start[x], self.start[y], self.start[x] + width, self.start[y] + height

    def is_free(self, axis: int, index: int) -> bool:
        """Whether a slice is the box's, and may follow another one's correction."""
        return index in self.item(axis).slices and (axis, index) not in self.asked and (axis, index) not in self.kept

    def settle(self) -> np.ndarray:
        """What was to be kept is as it was, and every stroke holds; the mask."""
        for axis, index in self.kept:
            if 0 <= index - self.start[axis] < self.mask.shape[2 - axis]:
                self.plane(self.mask, axis, index)[:] = self.plane(self.before, axis, index)
        self.mask |= self.adds
        self.mask &= ~self.removes
        return self.mask


def _corners(region: Region, view: View, index: int) -> np.ndarray:
    """First and last voxel (ijk) of a region."""
    corners = np.full((2, 3), index)
    x0, y0, x1, y1 = region.pixels
    corners[:, list(view.in_plane)] = (x0, y0), (x1 - 1, y1 - 1)
    return corners


def _crop_of(box: Box, present_kji: np.ndarray, others: Sequence[np.ndarray]) -> Crop:
    """The smallest crop with the box, the object and other voxels (ijk) in it."""
    corners = np.concatenate([box.corners_ijk, *others])
    parts = []
    for axis, size in zip((2, 1, 0), present_kji.shape):
        there = np.flatnonzero(present_kji.any(axis=tuple(n for n in range(3) if n != 2 - axis)))
        low, high = np.floor(corners[:, axis].min()), np.ceil(corners[:, axis].max()) + 1
        if len(there):
            low, high = min(low, there[0]), max(high, there[-1] + 1)
        start = min(max(int(low), 0), size - 1)
        parts.append(slice(start, max(min(int(high), size), start + 1)))
    return parts[0], parts[1], parts[2]


def _widened(strokes: np.ndarray, predictor: SlicePredictor, against: np.ndarray) -> np.ndarray:
    """Strokes as wide as the network knows them, but not over those of the other sign."""
    if not strokes.any():
        return strokes
    from scipy import ndimage

    grid = 0.5  # the hints' pixels per network pixel
    rx, ry = (TOLD_RADIUS / (scale * grid) for scale in (predictor.frame.scale_x, predictor.frame.scale_y))
    y, x = np.ogrid[-int(ry) : int(ry) + 1, -int(rx) : int(rx) + 1]
    return ndimage.binary_dilation(strokes, (x / max(rx, 1e-6)) ** 2 + (y / max(ry, 1e-6)) ** 2 <= 1) & ~against


def _touching(change: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """The parts of a change, connected by edges, that some stroke lies on."""
    from scipy import ndimage

    parts, count = ndimage.label(change)
    touched = np.zeros(count + 1, bool)
    touched[parts[strokes]] = True
    touched[0] = False
    return touched[parts]
