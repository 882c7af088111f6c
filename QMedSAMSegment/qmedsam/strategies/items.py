"""What the strategies share: boxes on their way through the slices, the masks they leave, and what may be set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Box, Pixels, Rectangle, View
from ..kept import Kept
from ..predictor import Prompt, Region, SlicePredictor
from .side_by_side import Tick

#: How a box's cross-section is expected to shrink towards its ends: a superellipsoid of this exponent (2 is the inscribed
#: ellipsoid, infinity the box itself). A box drawn around an object touches it at its end faces in a point, not a face.
TAPER = 2.2


@dataclass(frozen=True)
class Options:
    """What may be set about the strategies; the defaults are what the evidence in ``Docs/Evidence/Strategies`` speaks for.

    Attributes:
        every: ``propagate`` encodes every n-th slice and interpolates the shape between (signed distances). ``vote`` does
            so within its views, and of itself skips slices that lie closer than those of the coarsest axis.
        least_iou: interpolate only where the two masks overlap by at least this; else the slices between are encoded
            after all. 0 always interpolates.
        fill_holes: close the holes in every slice's mask.
        view_weights: ``vote``'s weights of the axial, coronal and sagittal view; 0 leaves a view out.
        vote_on: ``mask`` (every view says yes or no) or ``probability`` (every view says how sure it is).
        walk: how ``vote`` prompts within a view: ``fixed``, ``taper`` (smaller towards the box's ends) or
            ``propagate``.
        agreement: return the map of the votes.
    """

    every: int = 1
    least_iou: float = 0.0
    fill_holes: bool = False
    view_weights: Tuple[float, float, float] = (1.0, 1.0, 1.0)
    vote_on: str = "probability"
    walk: str = "propagate"
    agreement: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise QMedSAMError(f"Every {self.every}-th slice cannot be encoded.", "Give 1 for all, 2 for every second one.")
        if not 0 <= self.least_iou <= 1:
            raise QMedSAMError(f"An overlap of {self.least_iou} cannot be.", "Give a number from 0 to 1.")
        weights = self.view_weights
        if len(weights) != 3 or not np.isfinite(weights).all() or min(weights) < 0 or sum(w > 0 for w in weights) < 2:
            raise QMedSAMError(
                f"The view weights {', '.join(map(str, weights))} are not valid.",
                "Give three numbers (axial, coronal, sagittal), none negative and two at least above 0.",
            )
        if self.vote_on not in ("mask", "probability"):
            raise QMedSAMError(f"Nobody can vote on '{self.vote_on}'.", "Use 'mask' or 'probability'.")
        if self.walk not in ("fixed", "taper", "propagate"):
            raise QMedSAMError(f"There is no walk '{self.walk}'.", "Use 'fixed', 'taper' or 'propagate'.")


@dataclass(frozen=True)
class SliceMask:
    """A box's mask on one slice.

    Attributes:
        index: of the slice.
        pixels: ``x0, y0, x1, y1`` (end excluded) that the mask is defined on; it is false elsewhere.
        mask: boolean ``(y1 - y0) x (x1 - x0)``.
        confidence: the network's own, 0..1.
        logits: what ``mask`` was cut from, same shape; None where the mask was interpolated.
        agreement: uint8, per cent of the votes asked that are for the object, same shape; None where nobody voted.
    """

    index: int
    pixels: Pixels
    mask: np.ndarray
    confidence: float
    logits: Optional[np.ndarray] = None
    agreement: Optional[np.ndarray] = None

    @property
    def region(self) -> Region:
        """What a prompt can say of it."""
        return Region(self.mask, self.pixels)

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
    """A box on its way through the slices of a view.

    Attributes:
        box: the prompt.
        view: how the volume is sliced for it.
        emit: takes its masks, at most one per slice, in any order and from any stream.
        slices: that its box touches.
        wanted: those of them that are looked at one by one; all, unless somebody took some away.
        prompts: by slice, the object's extent where something is known of it already.
        neighbours: by slice, the object on the slice beside, where that is known.
        every: encode every n-th slice of this view; 0 for what the options say.
        drawn: by slice, rectangles that a user drew tight around the object there.
        later: slices of it that a later pass asks again.
        again: whether this is that pass.
    """

    box: Box
    view: View
    emit: Callable[[SliceMask], None]
    slices: range = field(init=False)
    wanted: Sequence[int] = field(init=False)
    prompts: Dict[int, Rectangle] = field(init=False, default_factory=dict)
    neighbours: Dict[int, Region] = field(init=False, default_factory=dict)
    every: int = field(init=False, default=0)
    drawn: Dict[int, Rectangle] = field(init=False)
    later: Collection[int] = field(init=False, default=())
    again: bool = field(init=False, default=False)
    _rectangles: Dict[int, Rectangle] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.wanted = self.slices = self.box.slices(self.view.axis, self.view.count)
        mine = [one for one in self.box.rectangles if one.axis == self.view.axis and one.index in self.slices]
        within = {one.index: _common(one.rectangle, self.rectangle(one.index)) for one in mine}
        self.drawn = {index: drawn for index, drawn in within.items() if drawn[0] < drawn[2] and drawn[1] < drawn[3]}

    def rectangle(self, index: int) -> Rectangle:
        """Of the box's cut with one of its slices, as far as it lies on the slice."""
        if index not in self._rectangles:
            cut = self.box.cut(self.view, index)
            assert cut is not None, "asked for a slice that the box does not touch"
            self._rectangles[index] = self.view.clipped(cut)
        return self._rectangles[index]

    @property
    def flat(self) -> bool:
        """Whether the box is on a single slice: its rectangle is then drawn around the object on this very slice."""
        return len(self.slices) == 1

    def expected_share(self, index: int) -> float:
        """Of the rectangle's sides, at a slice: 1 in the middle, towards 0 at the box's ends.

        An end face more than a slice beyond the image ("to the end", or an object that goes on out there) is not in sight:
        nothing tapers towards the border, and towards the other end at most over what there is to see.
        """
        axis, last = self.view.axis, self.view.count - 1
        along, center = self.box.corners_ijk[:, axis], self.box.center_ijk[axis]
        reach = np.abs(self.box.half_axes_ijk[axis]).max()
        low, high = along.min(), along.max()
        half = max((high - low) / 2, 0.5)
        ends = [index - low] if center - reach >= -1.5 else []
        ends += [high - index] if center + reach <= last + 1.5 else []
        if len(ends) < 2:
            half = min(half, max(min(high, last + 0.5) - max(low, -0.5), 0.5))
        inward = half - min(ends, default=half)
        return float(max(1 - (max(inward, 0.0) / half) ** TAPER, 0) ** (1 / TAPER))


def _common(a: Rectangle, b: Rectangle) -> Rectangle:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


@dataclass(frozen=True)
class Rounds:
    """Groups items by the frame that they share, and brings the predictor of each group.

    Args:
        groups: of items.
        streams: how many predictors may be asked at the same time.
        hinted: whether their network is told of neighbours and of what a rectangle is.
        kept: embeddings of slices that are asked again.
    """

    groups: Callable[[Sequence[Item]], Iterator[Tuple[SlicePredictor, List[Item]]]]
    streams: int = 1
    hinted: bool = False
    kept: Kept = field(default_factory=Kept)

    def __call__(self, items: Sequence[Item]) -> Iterator[Tuple[SlicePredictor, List[Item]]]:
        return self.groups(items)


#: Runs to the end (true) or until ``tick`` stops it (false).
Strategy = Callable[[Rounds, Sequence[Item], Tick, Options], bool]


def masks_of(predictor: SlicePredictor, index: int, prompts: Sequence[Tuple[Item, Prompt]]) -> Iterator[SliceMask]:
    """The masks of some prompts on one slice, brought back onto its pixels and cut to the boxes."""
    predictions = predictor.predict(index, [prompt for _, prompt in prompts]) if prompts else ()
    for (item, prompt), (logits, confidence) in zip(prompts, predictions):
        with predictor.clock.stage("restore"):
            pixels = item.view.pixels_of(item.rectangle(index))
            chosen = int(np.argsort(-confidence, kind="stable")[min(prompt.candidate, len(confidence) - 1)])
            restored = predictor.frame.restore(logits[chosen], pixels)
            mask = restored > 0
            mask &= item.box.inside(item.view, index, pixels)
        yield SliceMask(index, pixels, mask, float(confidence[chosen]), restored)
