"""Three views of one box, and the majority of what they say (Modality-specific strategies, section 2.2)."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..geometry import Rectangle, View, extent_of
from ..morphology import averaged
from .items import Item, Options, Rounds, SliceMask, Strategy
from .propagation import propagate
from .second_look import SecondLook, shares
from .side_by_side import Tick
from .slicewise import fixed, guided, known, taper
from .thin import few_thick, is_thin

#: Votes are kept as whole numbers that add up to this, a byte per voxel.
ALL = 255
#: Voxels whose votes are counted at the same time (bytes). One box may have more.
BATCH_VOXELS = 64 * 2**20
#: A view looks at every n-th slice at most (or at as many as the options skip), however fine the voxels are along its axis.
COARSEST = 4
#: A view looks at this many slices of a box at least, where the box has them.
LEAST_ASKED = 12
#: Of ``ALL``: what a voxel needs of the first two views to count as found for the last one's prompt.
SOME = 40

WALKS: Dict[str, Strategy] = {"fixed": fixed, "taper": taper, "propagate": propagate}


def vote(rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """Passes along the three axes, each with frames square in mm; a voxel is the object's when more than half of the votes
    are for it (2 of 3 with equal weights).

    A view that walks from mask to mask, and whose slices lie closer than those of the coarsest axis, is asked on every n-th
    of them: what lies between has no more to say than one slice of that axis. The view with the most slices comes last, and
    only on those of its slices where it can still change the majority.
    A box that is one or two slices thin along one axis, or has few thick ones, is segmented on those slices alone. An
    item's masks come when all of its votes are counted: a cancelled run holds whole objects only.

    Arguments and result as for :func:`.slicewise.fixed`; ``options`` gives the weights, what is voted on and the walk.
    """
    for thick in (False, True):
        thin = [item for item in items if is_thin(item) and few_thick(item.box, item.view, item.view.axis) == thick]
        # Thick slices have little to do with each other: a walk from one to the next loses the object (decision 34).
        walk = fixed if thick and options.walk == "propagate" else WALKS[options.walk]
        if not walk(rounds, [_unanimous(item) for item in thin], tick, options):
            return False
    again = looks_again(rounds.hinted, options)
    for batch in _batches([item for item in items if not is_thin(item)]):
        ballots = [Ballot(item, options, again) for item in batch]
        last = len(ballots[0].order) - 1
        for turns in (range(last), [last]):  # the views before the last know nothing of each other: side by side
            passes = [ballot.ask(turn) for turn in turns for ballot in ballots]
            # The last view skips slices, so it cannot go from mask to mask; it is shown what the others found instead.
            walk = guided if last in turns and options.walk == "propagate" else WALKS[options.walk]
            if not _walked(walk, rounds, passes, tick, options):
                return False
        for ballot in ballots:
            ballot.count()
        if again and not _look_again(rounds, ballots, tick, options):
            return False
        rounds.kept.clear()
        for ballot in ballots:
            ballot.announce()
    return True


def looks_again(hinted: bool, options: Options) -> bool:
    """Whether the majority is looked at once more: by networks that are told of neighbours and of what a rectangle is, where the
    views walk and say how sure they are. Other votes are counted as the paper counts them."""
    return hinted and options.walk == "propagate" and options.vote_on == "probability"


def _look_again(rounds: Rounds, ballots: Sequence[Ballot], tick: Tick, options: Options) -> bool:
    looks = [ballot.look_again() for ballot in ballots]
    items = [look.ask() for look in looks]
    if not _walked(known, rounds, items, tick, options):
        return False
    for look in looks:
        look.blend()
    return True


def _walked(walk: Strategy, rounds: Rounds, items: Sequence[Item], tick: Tick, options: Options) -> bool:
    """Walk through the slices that are wanted, and tick those that are not; false when stopped."""
    if not walk(rounds, [item for item in items if len(item.wanted)], tick, options):
        return False
    unasked = sum(len(item.slices) - len(item.wanted) for item in items)
    return not (unasked and tick(unasked))


def _unanimous(item: Item) -> Item:
    """The item with the votes of its only view on its masks."""

    def emit(found: SliceMask) -> None:
        item.emit(replace(found, agreement=found.mask * np.uint8(100)))

    return replace(item, emit=emit)


def box_slices(item: Item, options: Options, hinted: bool) -> int:
    """How many box-slices :func:`vote` ticks for an item; ``hinted``: whether the network is told of neighbours."""
    if is_thin(item):
        return len(item.slices)
    axes = [axis for axis, weight in zip(item.view.anatomical_axes, options.view_weights) if weight]
    axes += axes[:1] * looks_again(hinted, options)
    return sum(len(item.box.slices(axis, item.view.shape_ijk[axis])) for axis in axes)


def _batches(items: Sequence[Item]) -> Iterator[List[Item]]:
    """Items in turn, few enough for the memory."""
    batch: List[Item] = []
    voxels = 0.0
    for item in items:
        if batch and voxels + item.box.volume_voxels > BATCH_VOXELS:
            yield batch
            batch, voxels = [], 0.0
        batch.append(item)
        voxels += item.box.volume_voxels
    if batch:
        yield batch


@dataclass
class Passed:
    """Contested slices that the last view is not asked on, and what it says on the others (``planes``)."""

    item: Item
    slices: List[int]
    planes: Dict[int, np.ndarray] = field(default_factory=dict)


@dataclass
class Ballot:
    """The votes on the voxels of one box; ``again``: whether the first view looks at them once more."""

    item: Item
    options: Options
    again: bool = False
    order: List[Tuple[int, int]] = field(init=False)  # axis and weight, in the order of asking

    def __post_init__(self) -> None:
        view, box = self.item.view, self.item.box
        shape = view.shape_ijk
        ranges = [box.slices(axis, shape[axis]) for axis in (0, 1, 2)]
        self.crop = tuple(slice(ranges[a].start, ranges[a].stop) for a in (2, 1, 0))
        self.votes_kji = np.zeros([c.stop - c.start for c in self.crop], np.uint8)
        self.asked_kji = np.zeros((1, 1, 1), np.uint8)  # of ``ALL``; per slice of the last view once that is asked
        self.certain: List[float] = []  # summed exactly, so that their order, which streams change, does not matter
        self.area = 0
        self._lock = threading.Lock()
        self.passed_over: Optional[Passed] = None
        total = sum(self.options.view_weights)
        weighted = [(a, int(ALL * w / total)) for a, w in zip(view.anatomical_axes, self.options.view_weights) if w]
        # The last one is asked on contested slices only, so it should be the one with the most slices.
        self.order = sorted(weighted, key=lambda entry: (-entry[1], len(ranges[entry[0]]), entry[0]))

    def ask(self, turn: int) -> Item:
        """The box in the view whose turn it is; in the last one with the slices on which its vote can count."""
        axis, weight = self.order[turn]
        view = View(axis, self.item.view.shape_ijk, self.item.view.spacing_mm, self.item.view.anatomical_axes)
        last = turn == len(self.order) - 1
        item = Item(self.item.box, view, self._collector(view, weight, last))
        item.every = self._stride(axis)
        if self.again and axis == self._first_axis:
            item.later = item.slices
        asked = np.full(len(item.slices), weight, np.uint8)
        if last:
            half = sum(w for _, w in self.order) / 2
            # slice by slice: whole arrays of comparisons would treble the memory
            planes = (view.slice_of(self.votes_kji, n) for n in range(len(item.slices)))
            contested = np.array([((plane <= half) & (plane > half - weight)).any() for plane in planes])
            open_slices = {index for index, matters in zip(item.slices, contested) if matters}
            ends = {i for i in open_slices if not {i - 1, i + 1} <= open_slices}
            item.wanted = sorted(ends | {i for i in open_slices if i % item.every == 0})
            self.passed_over = Passed(item, sorted(open_slices.difference(item.wanted)))
            item.prompts = self._found(view) if self.options.walk == "propagate" else {}
            asked *= contested
        shape = [1, 1, 1]
        shape[2 - axis] = -1
        self.asked_kji = self.asked_kji + asked.reshape(shape) if last else self.asked_kji + weight
        return item

    @property
    def _first_axis(self) -> int:
        return next(a for a, weight in zip(self.item.view.anatomical_axes, self.options.view_weights) if weight)

    def _finer(self, axis: int) -> int:
        """How many slices of a view lie where the coarsest axis has one."""
        spacing = self.item.view.spacing_mm
        return max(int(max(spacing) / spacing[axis] + 0.5), 1)

    def _coarse(self, axis: int) -> int:
        """Slices from one that a view looks at to the next of itself: however fine they are, enough to see the object's shape."""
        return max(min(self._finer(axis), COARSEST, self.votes_kji.shape[2 - axis] // LEAST_ASKED), 1)

    def _stride(self, axis: int) -> int:
        """The same with what the options skip, which comes on top only up to a bound."""
        return min(self._coarse(axis) * self.options.every, max(COARSEST, self.options.every))

    def _found(self, view: View) -> Dict[int, Rectangle]:
        """By slice of a view, the extent of what the views before it found there."""
        x_axis, y_axis = view.in_plane
        left, top, first = (self.crop[2 - axis].start for axis in (x_axis, y_axis, view.axis))
        extents = {}
        for n in range(self.votes_kji.shape[2 - view.axis]):
            extent = extent_of(view.slice_of(self.votes_kji, n) > SOME)
            if extent is not None:
                extents[first + n] = (extent[0] + left, extent[1] + top, extent[2] + left, extent[3] + top)
        return extents

    def _collector(self, view: View, weight: int, last: bool) -> Callable[[SliceMask], None]:
        start = self.crop[2 - view.axis].start
        x_axis, y_axis = view.in_plane
        left, top = self.crop[2 - x_axis].start, self.crop[2 - y_axis].start

        def collect(found: SliceMask) -> None:
            x0, y0, x1, y1 = found.pixels
            region = view.slice_of(self.votes_kji, found.index - start)[y0 - top : y1 - top, x0 - left : x1 - left]
            votes = self._votes(found, weight)
            area = int(found.mask.sum())
            with self._lock:
                region += votes
                if last and self.passed_over and self.passed_over.slices:
                    plane = self.passed_over.planes[found.index] = np.zeros_like(view.slice_of(self.votes_kji, 0))
                    plane[y0 - top : y1 - top, x0 - left : x1 - left] = votes
                self.certain.append(found.confidence * area)
                self.area += area

        return collect

    def _votes(self, found: SliceMask, weight: int) -> np.ndarray:
        if self.options.vote_on == "mask" or found.logits is None:
            return found.mask * np.uint8(weight)
        return (shares(found) * weight).astype(np.uint8)  # rounded down: exactly undecided by all is not a majority

    def _fill(self) -> None:
        """On slices that the last view passed over: between what it said on the two beside them."""
        if self.passed_over is None or not self.passed_over.slices:
            return
        item, planes = self.passed_over.item, self.passed_over.planes
        view, asked = item.view, np.array(sorted(planes))
        x_axis, y_axis = view.in_plane
        across, down = self.crop[2 - x_axis], self.crop[2 - y_axis]
        pixels = (across.start, down.start, across.stop, down.stop)
        for index in self.passed_over.slices:
            n = int(np.searchsorted(asked, index))
            before, after = int(asked[n - 1]), int(asked[n])
            mixed = planes[before] * np.float32(after - index) + planes[after] * np.float32(index - before)
            votes = (mixed / (after - before)).astype(np.uint8)
            votes *= item.box.inside(view, index, pixels)
            region = view.slice_of(self.votes_kji, index - self.crop[2 - view.axis].start)
            region += votes

    def _smooth(self) -> None:
        """Average along axes whose slices lie closer than the coarsest ones': what is asked on every n-th slice and filled
        between differs from what is asked, slice by slice, in a comb that no image of that resolution holds."""
        view = self.item.view
        # Not as wide as the options skip: where all axes are as fine, that would average the object's own surface away.
        widths = {axis: 2 * (self._coarse(axis) // 2) + 1 for axis in range(3)}
        if max(widths.values()) == 1:
            return
        for axis, width in widths.items():
            for kji in (self.votes_kji, self.asked_kji):  # both, or neighbours' votes would be shares of this slice's views
                averaged(kji, width, 2 - axis)
        for index, votes in zip(self.item.slices, self.votes_kji):
            pixels = (self.crop[2].start, self.crop[1].start, self.crop[2].stop, self.crop[1].stop)
            votes *= self.item.box.inside(view, index, pixels)

    def count(self) -> None:
        """All votes are in: settle what lies between the slices that were asked."""
        self._fill()
        self._smooth()
        self.passed_over = None

    def look_again(self) -> SecondLook:
        """At what was found, in the first view (in the patient) that has a weight; after :meth:`count`."""
        view = self.item.view
        view = View(self._first_axis, view.shape_ijk, view.spacing_mm, view.anatomical_axes)
        return SecondLook(self.item, view, self.crop, self.votes_kji, np.broadcast_to(self.asked_kji, self.votes_kji.shape))

    def announce(self) -> None:
        """Hand out the majority's mask, slice by slice along the item's own view."""
        confidence = math.fsum(self.certain) / self.area if self.area else 0.0
        pixels = (self.crop[2].start, self.crop[1].start, self.crop[2].stop, self.crop[1].stop)
        asked_kji = np.broadcast_to(self.asked_kji, self.votes_kji.shape)
        for index, votes, asked in zip(self.item.slices, self.votes_kji, asked_kji):
            agreement = (100.0 * votes / asked).astype(np.uint8) if self.options.agreement else None
            self.item.emit(SliceMask(index, pixels, votes > asked / 2, confidence, agreement=agreement))
