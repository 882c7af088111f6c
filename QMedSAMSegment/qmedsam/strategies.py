"""How a box's prompts walk through the slices.

Every strategy gets the boxes that share one frame and hands out one mask per box and slice. What all keep to: a slice
belongs to a box when its centre plane cuts the box, the prompt on it never exceeds the rectangle of that cut, and no
voxel outside the box is ever written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np

from .geometry import Box, Pixels, Rectangle, View, extent_of
from .predictor import SlicePredictor

#: Growth of the prompt from one slice to the next in ``propagate``: this share of the previous extent on every side, and
#: one pixel. The papers use 3 to 7 pixels of a 256 grid without looking at the object's size.
MARGIN = 0.10
#: A propagated prompt never gets smaller than this share of the ROI's rectangle (sides), so a thin slice cannot trap it.
LEAST_SHARE = 0.15
#: Below this predicted IoU a mask found with the fallback prompt does not restart an object that had vanished.
RESTART_CONFIDENCE = 0.5


@dataclass(frozen=True)
class SliceMask:
    """A box's mask on one slice: boolean for ``pixels`` (``x0, y0, x1, y1``, end excluded), and the network's confidence."""

    index: int
    pixels: Pixels
    mask: np.ndarray
    confidence: float


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

    The prompt is clamped to the ROI's rectangle and never falls below a minimum size. An empty mask falls back to the
    ROI's rectangle; when that finds nothing convincing either, the object has ended in that direction, though the box
    goes on. Two sweeps over all boxes together (up, then down), so that boxes share encoded slices.

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
        self.at_key: Optional[Rectangle] = None

    def start(self, step: int) -> None:
        """Set out from the key slice: upwards with it, downwards from below it with what was found on it."""
        slices = self.item.slices
        self.ahead = range(self.key, slices.stop) if step > 0 else range(slices.start, self.key)
        self.previous = self.at_key if step < 0 else None
        self.ended = False

    def prompt(self, index: int) -> Rectangle:
        roi = self.item.rectangle(index)
        return roi if self.previous is None else grown_within(self.previous, roi)

    def arrive(self, found: SliceMask) -> None:
        """Take over the mask of a slice as the start for the next."""
        self.item.emit(found)
        extent = extent_of(found.mask)
        if extent is not None:
            x, y = found.pixels[:2]
            self.previous = (extent[0] + x, extent[1] + y, extent[2] + x, extent[3] + y)
        if found.index == self.key:
            self.at_key = self.previous


def _advance(predictor: SlicePredictor, index: int, walkers: Sequence[_Walker]) -> None:
    """One slice of a sweep: prompt, fall back to the ROI where the mask came out empty, or end."""
    first = list(_masks(predictor, index, [(w.item, w.prompt(index)) for w in walkers]))
    lost = [w for w, found in zip(walkers, first) if w.previous is not None and not found.mask.any()]
    again = dict(zip(map(id, lost), _masks(predictor, index, [(w.item, w.item.rectangle(index)) for w in lost])))
    for walker, found in zip(walkers, first):
        retry = again.get(id(walker))
        if retry is None:
            walker.arrive(found)
        elif retry.mask.any() and retry.confidence >= RESTART_CONFIDENCE:
            walker.arrive(retry)
        else:
            walker.ended = True


def grown_within(previous: Rectangle, roi: Rectangle) -> Rectangle:
    """The next slice's prompt: ``previous`` grown by the margin, at least the minimum size, inside ``roi``."""
    sides = []
    for low, high, start, stop in ((previous[0], previous[2], roi[0], roi[2]), (previous[1], previous[3], roi[1], roi[3])):
        margin = MARGIN * (high - low) + 1
        half = max(high - low + 2 * margin, LEAST_SHARE * (stop - start)) / 2
        center = min(max((low + high) / 2, start), stop)
        sides.append((max(center - half, start), min(center + half, stop)))
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
