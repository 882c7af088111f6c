"""What a vote found, looked at once more: on a slice where the object is known well enough, its own extent is a tight prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Tuple

import numpy as np

from ..geometry import Rectangle, View, extent_of
from ..predictor import Region
from .items import Item, SliceMask

#: Every n-th slice with the object is asked again; what that changes is interpolated between.
EVERY = 2
#: How much of a voxel's votes the answer is worth.
SHARE = 1 / 3


@dataclass
class SecondLook:
    """One view of a counted vote, asked about the object that was found.

    Args:
        item: the box.
        view: that is asked.
        crop: ``(k, j, i)`` slices of the voxels that the votes are on.
        votes_kji: uint8, the votes for the object; :meth:`blend` changes them.
        asked_kji: the votes that there could be, same shape (or a view that is broadcast to it).
    """

    item: Item
    view: View
    crop: Tuple[slice, ...]
    votes_kji: np.ndarray
    asked_kji: np.ndarray
    _answers: Dict[int, np.ndarray] = field(default_factory=dict)  # by slice of the crop: 0 to 255

    def __post_init__(self) -> None:
        x_axis, y_axis = self.view.in_plane
        first, left, top = (self.crop[2 - axis].start for axis in (self.view.axis, x_axis, y_axis))
        self._first, self._left, self._top = first, left, top

    def ask(self) -> Item:
        """The box in the view, with what was found as its prompts and the neighbours' masks: towards the object's largest slice,
        where most of it is known."""
        item = Item(self.item.box, self.view, self._collect)
        item.again = True
        areas = np.array([np.count_nonzero(self._mask(n)) for n in range(self.votes_kji.shape[2 - self.view.axis])])
        held = np.flatnonzero(areas).tolist()
        item.wanted = []
        for n in sorted({*held[::EVERY], *held[-1:]}):  # the object's first and last slice always
            mask = self._mask(n)
            beside = min(max(n + (1 if n < areas.argmax() else -1), 0), len(areas) - 1)
            index = self._first + n
            item.wanted.append(index)
            item.prompts[index] = self._extent(mask)
            if areas[beside]:
                height, width = mask.shape
                pixels = (self._left, self._top, self._left + width, self._top + height)
                item.neighbours[index] = Region(self._mask(beside), pixels)
        return item

    def blend(self) -> None:
        """Mix the answers into the votes; between two of them what they change is interpolated."""
        asked = sorted(self._answers)
        changes = (self._change(n) for n in asked)  # each taken before its slice is written to
        before = next(changes, None)
        for n, stop in zip(asked, [*asked[1:], 0]):
            assert before is not None
            after = next(changes, None)
            self._add(n, before)
            if after is not None and stop - n <= EVERY:  # else there are slices without the object between
                for between in range(n + 1, stop):
                    share = np.float32((between - n) / (stop - n))
                    self._add(between, before * (1 - share) + after * share)
            before = after

    def _mask(self, n: int) -> np.ndarray:
        """The majority on a slice of the crop."""
        votes, asked = (self.view.slice_of(kji, n) for kji in (self.votes_kji, self.asked_kji))
        return votes > asked / 2

    def _extent(self, mask: np.ndarray) -> Rectangle:
        extent = extent_of(mask)
        assert extent is not None, "asked of a slice without the object"
        return extent[0] + self._left, extent[1] + self._top, extent[2] + self._left, extent[3] + self._top

    def _collect(self, found: SliceMask) -> None:
        n = found.index - self._first
        x0, y0, x1, y1 = found.pixels
        answer = np.zeros_like(self.view.slice_of(self.votes_kji, n))
        answer[y0 - self._top : y1 - self._top, x0 - self._left : x1 - self._left] = shares(found) * 255
        self._answers[n] = answer

    def _change(self, n: int) -> np.ndarray:
        votes, asked = (self.view.slice_of(kji, n) for kji in (self.votes_kji, self.asked_kji))
        return self._answers[n] * (asked / np.float32(255)) - votes

    def _add(self, n: int, change: np.ndarray) -> None:
        votes = self.view.slice_of(self.votes_kji, n)
        height, width = votes.shape
        pixels = (self._left, self._top, self._left + width, self._top + height)
        mixed = np.clip(votes + np.float32(SHARE) * change, 0, self.view.slice_of(self.asked_kji, n))
        votes[...] = mixed * self.item.box.inside(self.view, self._first + n, pixels)


def shares(found: SliceMask) -> np.ndarray:
    """How sure the network is of every pixel, 0 to 1; 0 where the mask was cut off (outside the box, not connected)."""
    if found.logits is None:
        return found.mask.astype(np.float32)
    sure = 1 / (1 + np.exp(-np.clip(found.logits, -30, 30)))
    sure[(found.logits > 0) & ~found.mask] = 0
    return sure
