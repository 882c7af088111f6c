"""Every slice for itself: prompts that do not depend on what was found on other slices."""

from __future__ import annotations

from functools import partial
from typing import Callable, Iterator, List, Sequence

from ..geometry import Rectangle
from ..predictor import Prompt, SlicePredictor
from .items import Item, Options, Rounds, masks_of
from .side_by_side import Job, Tick, side_by_side

#: A tapered prompt never gets smaller than this share of the ROI's rectangle (sides), nor than a pixel.
LEAST_SHARE = 0.15
#: Growth of a prompt that comes from a mask elsewhere: this share of the mask's extent on every side, and one pixel. The
#: papers use 3 to 7 pixels of a 256 grid without looking at the object's size.
MARGIN = 0.10
#: Room that a user leaves around an object on every side, as a share of its extent (0 to 5 %, in the middle).
ROOM = 0.03


def fixed(rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """The box's own rectangle on every slice (QMedSAM paper); slice by slice, each encoded once for all boxes.

    Args:
        rounds: groups the items by frame.
        items: boxes.
        tick: called after every slice.
        options: not looked at.

    Returns:
        Whether it ran to the end.
    """
    return _each_slice(rounds, items, tick, whole)


def taper(rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """The box's rectangle, smaller towards the box's ends: the cross-section of a superellipsoid in it.

    Arguments and result as for :func:`fixed`.
    """

    def prompt(item: Item, index: int) -> Prompt:
        return whole(item, index) if index in item.drawn else at_first(item, tapered(item, index), kind_of(item))

    return _each_slice(rounds, items, tick, prompt)


def guided(rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """Prompts around what is known of the object already (``item.prompts``); tapered where nothing is.

    Arguments and result as for :func:`fixed`.
    """

    def prompt(item: Item, index: int) -> Prompt:
        if index in item.drawn:
            return whole(item, index)
        if index not in item.prompts:
            return at_first(item, tapered(item, index), "volume")
        rectangle = grown_within(item.prompts[index], item.rectangle(index), item.expected_share(index))
        return Prompt(rectangle, "propagated")

    return _each_slice(rounds, items, tick, prompt)


def known(rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """Tight rectangles around what was found (``item.prompts``), told of the object beside (``item.neighbours``).

    Arguments and result as for :func:`fixed`.
    """

    def prompt(item: Item, index: int) -> Prompt:
        rectangle = item.drawn.get(index) or widened(item.prompts[index], item.rectangle(index))
        return Prompt(rectangle, "tight", item.neighbours.get(index))

    return _each_slice(rounds, items, tick, prompt)


def whole(item: Item, index: int) -> Prompt:
    """The box's own rectangle on a slice, or the user's."""
    if index in item.drawn:
        return at_first(item, item.drawn[index], "tight")
    return at_first(item, item.rectangle(index), kind_of(item))


def at_first(item: Item, rectangle: Rectangle, kind: str = "") -> Prompt:
    """A look at a box alone: here the user's choice among the answers counts."""
    return Prompt(rectangle, kind, candidate=item.box.candidate)


def kind_of(item: Item) -> str:
    """What a box's rectangle is to the network: on a single slice it was drawn around the object there."""
    return "tight" if item.flat else "volume"


def tapered(item: Item, index: int) -> Rectangle:
    """The rectangle around the cut of a slice with the superellipsoid in the box, centred in the box's own."""
    x0, y0, x1, y1 = item.rectangle(index)
    share = max(item.expected_share(index), LEAST_SHARE)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    across, down = (max(share * (b - a), min(b - a, 1.0)) / 2 for a, b in ((x0, x1), (y0, y1)))
    return x - across, y - down, x + across, y + down


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


def widened(found: Rectangle, roi: Rectangle) -> Rectangle:
    """A rectangle as a user draws it around an object of that extent: with a little room, inside the ROI's."""
    x0, y0, x1, y1 = found
    across, down = ROOM * (x1 - x0), ROOM * (y1 - y0)
    return max(x0 - across, roi[0]), max(y0 - down, roi[1]), min(x1 + across, roi[2]), min(y1 + down, roi[3])


def _each_slice(rounds: Rounds, items: Sequence[Item], tick: Tick, prompt: Callable[[Item, int], Prompt]) -> bool:

    def look(predictor: SlicePredictor, group: List[Item], indices: Sequence[int], tick: Tick) -> bool:
        for index in indices:
            active = [item for item in group if index in item.wanted]
            for item, found in zip(active, masks_of(predictor, index, [(item, prompt(item, index)) for item in active])):
                item.emit(found)
            if tick(len(active)):
                return False
        return True

    def jobs() -> Iterator[Job]:
        for predictor, group in rounds(items):
            indices = sorted({index for item in group for index in item.wanted})
            share = max(-(-len(indices) // rounds.streams), 1)
            for start in range(0, len(indices), share):
                yield partial(look, predictor, group, indices[start : start + share])

    return side_by_side(jobs(), rounds.streams, tick)
