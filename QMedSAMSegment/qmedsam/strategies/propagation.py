"""From slice to slice: the mask of one is the prompt for the next (Modality-specific strategies, section 2.2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..geometry import Rectangle, extent_of
from ..morphology import spread, touching
from ..predictor import Prompt, SlicePredictor
from .interpolation import between, iou
from .items import Item, Options, Rounds, SliceMask, masks_of
from .side_by_side import Tick, side_by_side
from .slicewise import MARGIN, at_first, grown_within, tapered, whole

#: Where else a key slice is looked for when the middle one is not SURE, as shares of the box's slices; the most confident
#: one is taken.
KEYS = (1 / 3, 2 / 3, 1 / 6, 5 / 6)
SURE = 0.7
#: Predicted IoU below which a propagated mask counts as lost, and below which the fallback does not restart the object.
END_CONFIDENCE = 0.3
RESTART_CONFIDENCE = 0.5
#: The same for a mask that grows, as a share of the median confidence on the object's slices so far: a network that trusts
#: its box paints something on every slice, but it is less sure of noise than of an object, and noise fills the prompt.
FALL = 0.8
#: Slices in a row without the object after which it has ended; one may be an artefact.
PATIENCE = 2


def propagate(rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """From the best key slice both ways; the next prompt is the previous mask's extent, grown a little.

    The prompt is clamped to the ROI's rectangle and never falls below a minimum size; of the mask only what lies in it and
    touches the object of the neighbouring slice continues the object. When nothing does, the ROI's rectangle is tried;
    when that finds nothing convincing either, on two slices in a row, the object has ended in that direction, though the
    box goes on. Two sweeps over all boxes together (up, then down), so that boxes share encoded slices.

    With ``options.every`` above 1 a sweep looks at every n-th slice; shapes between two masks are interpolated when these
    are alike enough, and looked at after all when they are not or when the object was lost between them.

    Arguments and result as for :func:`.slicewise.fixed`.
    """
    jobs = (partial(_walk, predictor, group, options) for predictor, group in rounds(items))
    return side_by_side(jobs, rounds.streams, tick)


def _walk(predictor: SlicePredictor, group: Sequence[Item], options: Options, tick: Tick) -> bool:
    """The boxes of one frame; false when stopped."""
    walkers = [Walker(item, options, predictor.network.hinted) for item in group if len(item.slices)]
    if not _find_keys(predictor, walkers, tick):
        return False
    for step in (1, -1):
        for walker in walkers:
            walker.start(step)
        for index in sorted({i for walker in walkers for i in walker.ahead})[::step]:
            here = [walker for walker in walkers if index in walker.ahead]
            settled = sum(walker.gap(index) for walker in here)
            _advance(predictor, index, here)
            if tick(settled):
                return False
    return True


class Walker:
    """Where a box's propagation stands.

    Attributes:
        key: slice that it sets out from.
        hinted: whether the network is told of the neighbour's mask.
        ahead: slices of the present sweep that it looks at.
        previous: mask that it comes from.
    """

    def __init__(self, item: Item, options: Options, hinted: bool) -> None:
        self.item, self.options, self.hinted = item, options, hinted
        middle = item.slices[len(item.slices) // 2]
        self.key = min(item.drawn, key=lambda index: abs(index - middle), default=middle)
        self.at_key: Optional[SliceMask] = None
        self.previous: Optional[SliceMask] = None
        self.ahead: List[int] = []
        self.sure: List[float] = []

    @property
    def aside(self) -> List[int]:
        """Slices that might be the key when the middle one is not."""
        slices = self.item.slices
        return sorted({slices[int(share * (len(slices) - 1) + 0.5)] for share in KEYS} - {self.key})

    def start(self, step: int) -> None:
        """Set out from the key slice: upwards with it, downwards from below it with what was found on it."""
        slices, every = self.item.slices, self.item.every or self.options.every
        way = range(self.key, slices.stop) if step > 0 else range(self.key - 1, slices.start - 1, -1)
        # On a grid of the whole volume, so that boxes with different keys share their slices; the ends always.
        self.ahead = [i for i in way if i % every == 0 or i in (self.key, way[-1])] if len(way) else []
        self.previous = self.at_key if step < 0 else None
        self.at, self.step, self.lost = self.key, step, 0

    @property
    def ended(self) -> bool:
        return self.lost >= PATIENCE

    def gap(self, index: int) -> int:
        """How many slices are settled by stepping on ``index``."""
        return 1 if index == self.key else abs(index - self.at)

    def prompt(self, index: int) -> Prompt:
        """For a slice: the neighbour's mask and extent, grown; the ROI's tapered rectangle where there is no neighbour yet."""
        if index in self.item.drawn:
            first = whole(self.item, index)
            return first if self.previous is None else replace(first, neighbour=self.previous.region, candidate=0)
        roi = self.item.rectangle(index)
        extent = extent_of(self.previous.mask) if self.previous else None
        if self.previous is None or extent is None:
            return first_look(self.item, index, self.hinted)
        x, y = self.previous.pixels[:2]
        previous = (extent[0] + x, extent[1] + y, extent[2] + x, extent[3] + y)
        rectangle = grown_within(previous, roi, self.item.expected_share(index))
        return Prompt(rectangle, "propagated", self.previous.region)

    def convinced(self, found: SliceMask, least: float) -> bool:
        """Whether a mask is the object: the network is sure enough, and about as sure as before if the object grows."""
        area = np.count_nonzero(found.mask)
        if self.previous is not None and area > np.count_nonzero(self.previous.mask):
            least = max(least, FALL * float(np.median(self.sure)))
        return bool(area) and found.confidence >= least

    def continuing(self, found: SliceMask, prompt: Rectangle) -> SliceMask:
        """What of a mask lies in its prompt and touches the neighbour's (grown by as much as the prompt is)."""
        if self.previous is None:
            return found
        x0, y0, x1, y1 = self.item.view.pixels_of(prompt)
        reach = int(np.ceil(1 + MARGIN * np.sqrt(np.count_nonzero(self.previous.mask))))
        before = self.previous.on((x0 - reach, y0 - reach, x1 + reach, y1 + reach))
        x, y = found.pixels[:2]
        part = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        mask = np.zeros_like(found.mask)
        mask[part] = touching(found.mask[part], spread(before, reach))
        return replace(found, mask=mask)

    def step_to(self, index: int, found: Optional[SliceMask], look: Callable[[int], Optional[SliceMask]]) -> None:
        """Settle a slice and those skipped on the way to it.

        Args:
            index: of the slice.
            found: on it; None when the object was not there.
            look: finds this walker's object on a slice that was skipped.
        """
        skipped = range(self.at + self.step, index, self.step) if index != self.key else range(0)
        going = len(skipped) > 0 and not self.ended
        if going:
            last = self.previous
            if found is not None and last is not None and last.index == self.at and self._alike(last, found):
                for filled in between(self.item, last, found, skipped):
                    self.item.emit(filled)
            else:
                for passed in skipped:
                    self.arrive(passed, look(passed))
                    if self.ended:
                        break
                found = None if self.ended else look(index)
        self.arrive(index, found)

    def _alike(self, last: SliceMask, found: SliceMask) -> bool:
        """Whether the shape between two masks may be interpolated."""
        overlap = iou(last, found)
        return overlap > 0 and overlap >= self.options.least_iou

    def arrive(self, index: int, found: Optional[SliceMask]) -> None:
        """Take over the mask of a slice as the start for the next, or count the slice as one without the object."""
        self.at = index
        if found is None:
            self.lost += 1
            return
        if self.options.fill_holes and found.mask.any():
            from scipy import ndimage

            found = replace(found, mask=ndimage.binary_fill_holes(found.mask))
        self.item.emit(found)
        if found.mask.any():
            self.previous, self.lost = found, 0
            self.sure.append(found.confidence)
        if index == self.key:
            self.at_key = self.previous


def first_look(item: Item, index: int, hinted: bool) -> Prompt:
    """What is asked where nothing is known of the object: the box's rectangle.

    To a network that cannot be told that it is a 3D box's and loose, it is made smaller towards the box's ends.
    """
    return whole(item, index) if hinted or index in item.drawn else at_first(item, tapered(item, index))


def _find_keys(predictor: SlicePredictor, walkers: Sequence[Walker], tick: Tick) -> bool:
    """Let every walker set out from a slice that shows its object; false when stopped."""
    best: Dict[int, Tuple[float, int]] = {id(walker): (-1.0, walker.key) for walker in walkers}
    for unsure in (False, True):
        seeking = [walker for walker in walkers if best[id(walker)][0] < SURE and not walker.item.drawn]
        places = [walker.aside if unsure else [walker.key] for walker in seeking]
        for index in sorted({i for some in places for i in some}):
            here = [walker for walker, some in zip(seeking, places) if index in some]
            prompts = [(walker.item, first_look(walker.item, index, walker.hinted)) for walker in here]
            for walker, found in zip(here, masks_of(predictor, index, prompts)):
                score = found.confidence * bool(found.mask.any())
                if score > best[id(walker)][0]:
                    best[id(walker)] = score, index
            if tick(0):
                return False
    for walker in walkers:
        walker.key = best[id(walker)][1]
    return True


def _advance(predictor: SlicePredictor, index: int, walkers: Sequence[Walker]) -> None:
    """One slice of a sweep, for all walkers that look at it."""
    for walker in walkers:
        walker.at = index if walker.ended else walker.at
    going = [walker for walker in walkers if not walker.ended]
    for walker, found in zip(going, _look(predictor, index, going)):
        walker.step_to(index, found, partial(_look_alone, predictor, walker))


def _look_alone(predictor: SlicePredictor, walker: Walker, index: int) -> Optional[SliceMask]:
    """What one walker finds on a slice that was skipped."""
    return next(_look(predictor, index, [walker]))


def _look(predictor: SlicePredictor, index: int, walkers: Sequence[Walker]) -> Iterator[Optional[SliceMask]]:
    """Prompt, fall back to the ROI where nothing continues the object, or give up (None)."""
    prompts = [walker.prompt(index) for walker in walkers]
    first = masks_of(predictor, index, [(walker.item, prompt) for walker, prompt in zip(walkers, prompts)])
    found = [walker.continuing(mask, prompt.rectangle) for walker, mask, prompt in zip(walkers, first, prompts)]
    lost = [walker for walker, mask in zip(walkers, found) if walker.previous and not walker.convinced(mask, END_CONFIDENCE)]
    rectangles = [walker.item.rectangle(index) for walker in lost]
    retries = masks_of(predictor, index, [(walker.item, Prompt(roi, "volume")) for walker, roi in zip(lost, rectangles)])
    again = {id(walker): walker.continuing(mask, roi) for walker, mask, roi in zip(lost, retries, rectangles)}
    for walker, mask in zip(walkers, found):
        retry = again.get(id(walker))
        if retry is None:
            yield mask
        else:
            yield retry if walker.convinced(retry, RESTART_CONFIDENCE) else None
