"""Shapes between two slices, from their signed distances (Raya and Udupa 1990), so that not every slice is encoded."""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np

from ..geometry import Pixels
from .items import Item, SliceMask


def iou(a: SliceMask, b: SliceMask) -> float:
    """Overlap of two masks in the slice plane, 0..1."""
    pixels = _common(a, b)
    one, two = a.on(pixels), b.on(pixels)
    union = np.count_nonzero(one | two)
    return np.count_nonzero(one & two) / union if union else 0.0


def between(item: Item, first: SliceMask, last: SliceMask, indices: Sequence[int]) -> Iterator[SliceMask]:
    """Masks of slices between two: zero level of the linearly interpolated signed distances in mm, cut to the box.

    Args:
        item: the box and its view.
        first: mask on a slice, not empty.
        last: mask on another, not empty.
        indices: slices between them.
    """
    pixels = _common(first, last)
    sampling = item.view.pixel_mm[::-1]
    start, stop = (_signed_distance(mask.on(pixels), sampling) for mask in (first, last))
    for index in indices:
        share = (index - first.index) / (last.index - first.index)
        found = SliceMask(index, pixels, (1 - share) * start + share * stop < 0, min(first.confidence, last.confidence))
        here = item.view.pixels_of(item.rectangle(index))
        mask = found.on(here) & item.box.inside(item.view, index, here)
        yield SliceMask(index, here, mask, found.confidence)


def _signed_distance(mask: np.ndarray, sampling: Sequence[float]) -> np.ndarray:
    """Negative inside; measured between pixel centres, so an edge lies half a pixel from both of its sides."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(~mask, sampling) - ndimage.distance_transform_edt(mask, sampling)


def _common(a: SliceMask, b: SliceMask) -> Pixels:
    """The smallest part of the plane that holds what both masks are defined on, and a pixel around it."""
    low = [min(p, q) - 1 for p, q in zip(a.pixels[:2], b.pixels[:2])]
    high = [max(p, q) + 1 for p, q in zip(a.pixels[2:], b.pixels[2:])]
    return low[0], low[1], high[0], high[1]
