"""What the walks do to masks of one slice, without scipy: its import would take a third of the time to the first mask."""

from __future__ import annotations

import numpy as np


def touching(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The parts of a mask, connected by edges or corners, that hold a seed.

    Args:
        mask, seeds: boolean, ``H x W``. A seed beside the mask says nothing.

    Returns:
        Boolean, ``H x W``.
    """
    seeds = seeds & mask
    if not seeds.any():
        return np.zeros_like(mask)
    # Runs along the rows from first to stop, numbers that tell row and place, with room for a stop behind the last pixel.
    wide = mask.shape[1] + 2
    padded = np.zeros((2, mask.shape[0], wide), np.int8)
    padded[:, :, 1:-1] = mask, seeds
    changes = np.diff(padded[0].ravel())
    first, stop = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)
    # Those in the rows beside that a run touches lie side by side: they end behind its first pixel's left neighbour and begin
    # before its last pixel's right one.
    beside = [
        (np.searchsorted(stop, first + shift).tolist(), np.searchsorted(first, stop + shift, side="right").tolist())
        for shift in (-wide, wide)
    ]
    kept = np.logical_or.reduceat(padded[1].ravel(), np.column_stack([first, stop]).ravel() + 1)[::2]
    waiting = np.flatnonzero(kept).tolist()
    while waiting:
        run = waiting.pop()
        for low, high in beside:
            for other in range(low[run], high[run]):
                if not kept[other]:
                    kept[other] = True
                    waiting.append(other)
    if kept.all():
        return mask.copy()
    ends = np.zeros((mask.shape[0], wide), np.int8)
    ends.ravel()[first[kept] + 1] = 1
    ends.ravel()[stop[kept] + 1] = -1
    return np.cumsum(ends, axis=1, dtype=np.int8)[:, 1:-1].astype(bool)


def spread(mask: np.ndarray, reach: int) -> np.ndarray:
    """Where a mask is at most ``reach`` pixels away along both axes.

    Args:
        mask: boolean, ``(H + 2 reach) x (W + 2 reach)``: as far around the result as it may reach.
        reach: 0 or more.

    Returns:
        Boolean, ``H x W``.
    """
    for axis in (0, 1):
        size = mask.shape[axis] - 2 * reach
        counts = np.zeros([n + (m == axis) for m, n in enumerate(mask.shape)], np.int32)
        np.cumsum(mask, axis=axis, out=counts[1:] if axis == 0 else counts[:, 1:])
        mask = counts.take(range(2 * reach + 1, 2 * reach + 1 + size), axis) != counts.take(range(size), axis)
    return mask


def averaged(values_kji: np.ndarray, width: int, axis: int) -> None:
    """The running mean of whole numbers along an axis, in place and rounded down; the ends count as often as they are needed.

    Args:
        values_kji: uint8; overwritten.
        width: odd, of the mean.
        axis: of the array.
    """
    if width == 1:
        return
    size, half = values_kji.shape[axis], width // 2
    index = np.clip(np.arange(-half, size + half), 0, size - 1)
    for plane in values_kji if axis else values_kji.swapaxes(0, 1):  # sums of two bytes of the whole array would treble it
        along = plane.T if axis == 2 else plane
        there = along.take(index, 0).astype(np.uint16)
        along[...] = sum(there[n : n + size] for n in range(width)) // width
