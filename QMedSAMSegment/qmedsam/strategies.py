"""How a box's prompts walk through the slices.

Every strategy gets the boxes that share one frame and hands out one mask per box and slice. What all keep to: a slice
belongs to a box when its centre plane cuts the box, the prompt on it never exceeds the rectangle of that cut, and no
voxel outside the box is ever written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np

from .geometry import Box, Pixels, Rectangle, View, extent_of
from .predictor import SlicePredictor

#: Growth of the prompt from one slice to the next in ``propagate``: this share of the previous extent on every side, and
#: one pixel. The papers use 3 to 7 pixels of a 256 grid without looking at the object's size.
MARGIN = 0.10
#: How a box's cross-section is expected to shrink towards its ends: a superellipsoid of this exponent (2 is the inscribed
#: ellipsoid, infinity the box itself). A box drawn around an object touches it at its end faces in a point, not a face.
TAPER = 2.2
#: A propagated prompt never gets smaller than this share of the ROI's rectangle (sides), so a thin slice cannot trap it.
LEAST_SHARE = 0.15
#: Predicted IoU below which a propagated mask counts as lost, and below which the fallback does not restart the object.
END_CONFIDENCE = 0.3
RESTART_CONFIDENCE = 0.5
#: Slices in a row without the object after which it has ended; one may be an artefact.
PATIENCE = 2


@dataclass(frozen=True)
class SliceMask:
    """A box's mask on one slice: boolean for ``pixels`` (``x0, y0, x1, y1``, end excluded), and the network's confidence."""

    index: int
    pixels: Pixels
    mask: np.ndarray
    confidence: float

    def on(self, pixels: Pixels) -> np.ndarray:
        """The mask on another part of the slice plane; false where it was not defined."""
        out = np.zeros((pixels[3] - pixels[1], pixels[2] - pixels[0]), bool)
        x0, y0 = max(pixels[0], self.pixels[0]), max(pixels[1], self.pixels[1])
        x1, y1 = min(pixels[2], self.pixels[2]), min(pixels[3], self.pixels[3])
        if x1 > x0 and y1 > y0:
            mine = self.mask[y0 - self.pixels[1] : y1 - self.pixels[1], x0 - self.pixels[0] : x1 - self.pixels[0]]
            out[y0 - pixels[1] : y1 - pixels[1], x0 - pixels[0] : x1 - pixels[0]] = mine
        return out


@dataclass
class Item:
    """A box on its way through the slices of a view."""

    box: Box
    view: View
    emit: Callable[[SliceMask], None]
    slices: range = field(init=False)

    def __post_init__(self) -> None:
        self.slices = self.box.slices(self.view.axis, self.view.count)

    def rectangle(self, index: int) -> Rectangle:
        """Of the box's cut with one of its slices."""
        cut = self.box.cut(self.view, index)
        assert cut is not None, "asked for a slice that the box does not touch"
        return cut


#: Called after a slice with the number of box-slices it settled; true stops the run.
Tick = Callable[[int], bool]
Strategy = Callable[[SlicePredictor, Sequence[Item], Tick], bool]


def fixed(predictor: SlicePredictor, items: Sequence[Item], tick: Tick) -> bool:
    """The box's own rectangle on every slice (QMedSAM paper); slice by slice, each encoded once for all boxes.

    Args:
        predictor: of the items' common view and frame.
        items: boxes.
        tick: called after every slice.

    Returns:
        Whether it ran to the end.
    """
    for index in sorted({i for item in items for i in item.slices}):
        active = [item for item in items if index in item.slices]
        for item, found in zip(active, _masks(predictor, index, [(item, item.rectangle(index)) for item in active])):
            item.emit(found)
        if tick(len(active)):
            return False
    return True


def propagate(predictor: SlicePredictor, items: Sequence[Item], tick: Tick) -> bool:
    """From the middle slice both ways; the next prompt is the previous mask's extent, grown a little.

    The prompt is clamped to the ROI's rectangle and never falls below a minimum size; of the mask only what lies in it and
    touches the object of the neighbouring slice continues the object. When nothing does, the ROI's rectangle is tried;
    when that finds nothing convincing either, on two slices in a row, the object has ended in that direction, though the
    box goes on. Two sweeps over all boxes together (up, then down), so that boxes share encoded slices.

    Arguments and result as for :func:`fixed`.
    """
    walkers = [_Walker(item) for item in items if len(item.slices)]
    for step in (1, -1):
        for walker in walkers:
            walker.start(step)
        for index in sorted({i for walker in walkers for i in walker.ahead})[::step]:
            here = [walker for walker in walkers if index in walker.ahead]
            _advance(predictor, index, [walker for walker in here if not walker.ended])
            if tick(len(here)):
                return False
    return True


STRATEGIES: Dict[str, Strategy] = {"fixed": fixed, "propagate": propagate}


class _Walker:
    """Where a box's propagation stands."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.key = item.slices[len(item.slices) // 2]
        self.at_key: Optional[SliceMask] = None

    def start(self, step: int) -> None:
        """Set out from the key slice: upwards with it, downwards from below it with what was found on it."""
        slices = self.item.slices
        self.ahead = range(self.key, slices.stop) if step > 0 else range(slices.start, self.key)
        self.previous = self.at_key if step < 0 else None
        self.lost = 0

    @property
    def ended(self) -> bool:
        return self.lost >= PATIENCE

    def prompt(self, index: int) -> Rectangle:
        """For a slice: the neighbour's extent, grown; the ROI's rectangle where there is no neighbour yet."""
        roi = self.item.rectangle(index)
        extent = extent_of(self.previous.mask) if self.previous else None
        if self.previous is None or extent is None:
            return roi
        x, y = self.previous.pixels[:2]
        previous = (extent[0] + x, extent[1] + y, extent[2] + x, extent[3] + y)
        return grown_within(previous, roi, self._expected_share(index))

    def _expected_share(self, index: int) -> float:
        """Of the ROI's sides, at a slice: 1 in the middle, 0 at its ends."""
        along = self.item.box.corners_ijk[:, self.item.view.axis]
        middle, half = (along.max() + along.min()) / 2, max((along.max() - along.min()) / 2, 0.5)
        return float(max(1 - (abs(index - middle) / half) ** TAPER, 0) ** (1 / TAPER))

    def continuing(self, found: SliceMask, prompt: Rectangle) -> SliceMask:
        """What of a mask lies in its prompt and touches the neighbour's (grown by as much as the prompt is)."""
        from scipy import ndimage

        if self.previous is None:
            return found
        x0, y0, x1, y1 = self.item.view.pixels_of(prompt)
        before = self.previous.on(found.pixels)
        reach = int(np.ceil(1 + MARGIN * np.sqrt(before.sum())))
        before = ndimage.maximum_filter(before, size=2 * reach + 1)
        mask = np.zeros_like(found.mask)
        x, y = found.pixels[:2]
        part = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        mask[part] = found.mask[part]
        parts, _ = ndimage.label(mask, np.ones((3, 3)))
        touching = np.unique(parts[before & mask])
        return replace(found, mask=np.isin(parts, touching) & mask)

    def arrive(self, found: SliceMask) -> None:
        """Take over the mask of a slice as the start for the next."""
        self.item.emit(found)
        if found.mask.any():
            self.previous, self.lost = found, 0
        if found.index == self.key:
            self.at_key = self.previous


def _advance(predictor: SlicePredictor, index: int, walkers: Sequence[_Walker]) -> None:
    """One slice of a sweep: prompt, fall back to the ROI where nothing continues the object, or end."""
    prompts = [walker.prompt(index) for walker in walkers]
    first = _masks(predictor, index, [(walker.item, prompt) for walker, prompt in zip(walkers, prompts)])
    found = [walker.continuing(mask, prompt) for walker, mask, prompt in zip(walkers, first, prompts)]
    lost = [walker for walker, mask in zip(walkers, found) if walker.previous and not _convincing(mask, END_CONFIDENCE)]
    rectangles = [walker.item.rectangle(index) for walker in lost]
    retries = _masks(predictor, index, [(walker.item, roi) for walker, roi in zip(lost, rectangles)])
    again = {id(walker): walker.continuing(mask, roi) for walker, mask, roi in zip(lost, retries, rectangles)}
    for walker, mask in zip(walkers, found):
        retry = again.get(id(walker))
        if retry is None:
            walker.arrive(mask)
        elif _convincing(retry, RESTART_CONFIDENCE):
            walker.arrive(retry)
        else:
            walker.lost += 1


def _convincing(found: SliceMask, least: float) -> bool:
    return bool(found.mask.any()) and found.confidence >= least


def grown_within(previous: Rectangle, roi: Rectangle, share: float = 1.0) -> Rectangle:
    """The next slice's prompt: ``previous`` grown by the margin, at most ``share`` of ``roi``'s sides, and inside it."""
    sides = []
    for low, high, start, stop in ((previous[0], previous[2], roi[0], roi[2]), (previous[1], previous[3], roi[1], roi[3])):
        margin = MARGIN * (high - low) + 1
        length = min(high - low + 2 * margin, share * (stop - start))
        length = max(length, LEAST_SHARE * (stop - start))
        first = min(max((low + high - length) / 2, start), stop - length)
        sides.append((first, first + length))
    (x0, x1), (y0, y1) = sides
    return x0, y0, x1, y1


def _masks(predictor: SlicePredictor, index: int, prompts: Sequence[Tuple[Item, Rectangle]]) -> Iterator[SliceMask]:
    """The masks of some prompts on one slice, brought back onto its pixels and cut to the boxes."""
    predictions = predictor.predict(index, [rectangle for _, rectangle in prompts]) if prompts else ()
    for (item, _), (logits, confidence) in zip(prompts, predictions):
        with predictor.clock.stage("restore"):
            pixels = item.view.pixels_of(item.rectangle(index))
            mask = predictor.frame.restore(logits, pixels) > 0
            mask &= item.box.inside(item.view, index, pixels)
        yield SliceMask(index, pixels, mask, confidence)
