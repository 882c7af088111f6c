"""The square that the network sees of a slice, and the way back. Coordinates: see :mod:`qmedsam.geometry`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Tuple

import numpy as np

from .errors import QMedSAMError
from .geometry import Pixels, Rectangle, View

#: Grey values (all channels) that are prepared at the same time when a slice is drawn: float64 and its copies, 100 MB.
BLOCK_VALUES = 4 * 2**20
#: Weights of a sample up to which the first of all samples are worked on together, then the second of all, and so on: two of
#: them take an eighth of the time of row by row, 24 (a picture 3000 pixels wide) two and a half times as long.
FEW_TAPS = 8
#: Values that they are worked on in at the same time: 128 KiB stay in a core's cache.
CACHED_VALUES = 2**15


@dataclass(frozen=True)
class Frame:
    """The square that the network sees: crop, isotropic-in-mm scale and pad of a slice, and the way back.

    Sampling is separable: a row of weights per network pixel (a triangle as wide as the larger of a source and a
    network pixel, so that shrinking averages and does not alias), which is two small matrix products per slice. Most weights are
    zero, and those that are not lie side by side (:class:`Taps`). The
    papers' own code resamples differently in training and at run time; here both call this class.

    Args:
        left, top: outer edge of the square in slice coordinates (xy, centres at integers).
        scale_x, scale_y: network pixels per slice pixel. They differ when pixels are not square in mm.
        size: network pixels along a side.
    """

    left: float
    top: float
    scale_x: float
    scale_y: float
    size: int

    @classmethod
    def square(cls, center_xy: Tuple[float, float], side_mm: float, pixel_mm: Tuple[float, float], size: int) -> Frame:
        """A square of ``side_mm`` around a point of the slice."""
        per_mm = size / side_mm
        scale_x, scale_y = per_mm * pixel_mm[0], per_mm * pixel_mm[1]
        return cls(center_xy[0] - size / scale_x / 2, center_xy[1] - size / scale_y / 2, scale_x, scale_y, size)

    @classmethod
    def whole_slice(cls, view: View, size: int) -> Frame:
        """The papers' frame: the longest side fills the square, padding goes right and bottom."""
        height, width = view.shape_yx
        mm_x, mm_y = view.pixel_mm
        per_mm = size / max(width * mm_x, height * mm_y)
        return cls(-0.5, -0.5, per_mm * mm_x, per_mm * mm_y, size)

    @classmethod
    def around(cls, rectangle: Rectangle, view: View, size: int, margin: float) -> Frame:
        """A square around a rectangle, ``margin`` times its longer side (in mm) added on every side."""
        x0, y0, x1, y1 = rectangle
        mm_x, mm_y = view.pixel_mm
        # One pixel at least: a box around a single pixel still needs a frame of finite size.
        side = max((x1 - x0) * mm_x, (y1 - y0) * mm_y, mm_x, mm_y)
        return cls.square(((x0 + x1) / 2, (y0 + y1) / 2), side * (1 + 2 * margin), view.pixel_mm, size)

    def to_network(self, rectangle: Rectangle) -> Rectangle:
        """A rectangle of the slice in network pixels (uv, edges)."""
        x0, y0, x1, y1 = rectangle
        return (
            (x0 - self.left) * self.scale_x - 0.5,
            (y0 - self.top) * self.scale_y - 0.5,
            (x1 - self.left) * self.scale_x - 0.5,
            (y1 - self.top) * self.scale_y - 0.5,
        )

    def sample(
        self, image: np.ndarray, prepare: Callable[[np.ndarray], np.ndarray] = np.float32
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Draw a slice into the square.

        Args:
            image: ``rows x columns`` or ``rows x columns x channels``.
            prepare: applied to the touched part before it is resampled (grey values to 0..1); returns float32.

        Returns:
            ``size x size (x channels)`` float32, zero outside the slice, and the boolean ``size x size`` map of the
            pixels that lie on the slice.
        """
        height, width = image.shape[:2]
        columns, left, valid_u = _sampling(self.left, self.scale_x, self.size, width)
        rows, top, valid_v = _sampling(self.top, self.scale_y, self.size, height)
        touched = image[top : top + rows.length, left : left + columns.length]
        # In strips: grey values of 0..1 take four times a picture's memory and more.
        step = max(BLOCK_VALUES // max(touched[:, 0].size, 1), 1)
        strips = []
        for start in range(0, touched.shape[1], step):
            strips.append(rows.along_rows(prepare(touched[:, start : start + step])))
        drawn = columns.along_columns(strips[0] if len(strips) == 1 else np.concatenate(strips, axis=1))
        return np.ascontiguousarray(drawn), valid_v[:, None] & valid_u[None, :]

    def on_grid(self, mask: np.ndarray, pixels: Pixels, side: int) -> np.ndarray:
        """A mask of the slice as the network is told of it: boolean ``side x side``, true where most of a pixel is covered.

        Args:
            mask: boolean, ``(y1 - y0) x (x1 - x0)``; false elsewhere.
            pixels: its part of the slice, ``(x0, y0, x1, y1)``, end excluded.
            side: of the grid that covers the frame.
        """
        ratio = side / self.size
        x0, y0 = pixels[:2]
        columns = _coverage(self.left - x0, self.scale_x * ratio, side, mask.shape[1])
        rows = _coverage(self.top - y0, self.scale_y * ratio, side, mask.shape[0])
        return columns.along_columns(rows.along_rows(mask.astype(np.float32))) > 0.5

    def restore(self, values: np.ndarray, pixels: Pixels) -> np.ndarray:
        """Bring network output back onto slice pixels by linear interpolation.

        Args:
            values: ``m x m`` (logits); ``m`` may be a fraction of ``size``.
            pixels: the part of the slice wanted, ``(x0, y0, x1, y1)``, end excluded.

        Returns:
            ``(y1 - y0) x (x1 - x0)`` float32.
        """
        x0, y0, x1, y1 = pixels
        ratio = values.shape[-1] / self.size
        columns = _interpolation(x0, x1, self.left, self.scale_x, ratio, values.shape[1])
        rows = _interpolation(y0, y1, self.top, self.scale_y, ratio, values.shape[0])
        return columns.along_columns(rows.along_rows(np.asarray(values, dtype=np.float32)))


@dataclass(frozen=True)
class Taps:
    """A matrix of weights of which every row has a few beside each other that are not zero.

    As sums of rows that are picked out, products with it need neither BLAS, whose threads spin on the cores that the network
    wants, nor scipy's sparse matrices, whose import takes 0.2 s.

    Attributes:
        first: ``M`` integers, the first value that takes part in each of the ``M`` results; it may lie before the first there is.
        weight: ``K x M`` float32, of the values from there on; 0 for those that are not there.
        length: how many values there are.
    """

    first: np.ndarray
    weight: np.ndarray
    length: int

    @classmethod
    def of(cls, first: np.ndarray, weight: np.ndarray, length: int) -> Taps:
        """``weight`` may speak of values before the first and behind the last: they count as nothing."""
        index = first + np.arange(len(weight))[:, None]
        return cls(first, np.where((index >= 0) & (index < length), weight, 0).astype(np.float32), length)

    def along_rows(self, values: np.ndarray) -> np.ndarray:
        """The product with ``H x W (x C)`` values: ``M x W (x C)`` float32."""
        flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
        total = self._row_by_row(flat) if len(self.weight) > FEW_TAPS else self._tap_by_tap(flat)
        return total.reshape(len(total), *values.shape[1:])

    def _tap_by_tap(self, flat: np.ndarray) -> np.ndarray:
        total = np.empty((len(self.first), flat.shape[1]), np.float32)
        step = max(CACHED_VALUES // max(flat.shape[1], 1), 1)
        picked = np.empty_like(total[:step])
        for start in range(0, len(total), step):
            out = total[start : start + step]
            first, weights = self.first[start : start + step], self.weight[:, start : start + step, None]
            flat.take(first, axis=0, out=out, mode="clip")  # what is not there has no weight
            out *= weights[0]
            for tap in range(1, len(weights)):
                flat.take(first + tap, axis=0, out=picked[: len(out)], mode="clip")
                picked[: len(out)] *= weights[tap]
                out += picked[: len(out)]
        return total

    def _row_by_row(self, flat: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.first), flat.shape[1]), np.float32)
        weights = np.ascontiguousarray(self.weight.T)
        for out, weight, first in zip(total, weights, self.first.tolist()):
            begin, stop = max(first, 0), min(first + len(weight), self.length)
            if begin < stop:
                np.einsum("k,kw->w", weight[begin - first : stop - first], flat[begin:stop], out=out)
        return total

    def along_columns(self, values: np.ndarray) -> np.ndarray:
        """The same with the columns of ``H x W (x C)`` values: ``H x M (x C)``."""
        return np.swapaxes(self.along_rows(np.ascontiguousarray(np.swapaxes(values, 0, 1))), 0, 1)


def _triangle(centers: np.ndarray, radius: float) -> Tuple[np.ndarray, np.ndarray]:
    """First index (``M``) and weights (``K x M``) of a triangle around each center that falls to 0 at ``radius``."""
    first = np.floor(centers - radius).astype(int) + 1
    index = first + np.arange(max(int(np.ceil(2 * radius)), 1))[:, None]
    return first, np.clip(1 - np.abs(index - centers) / radius, 0, None)


@lru_cache(maxsize=16)  # the same frame is drawn on every slice of a run
def _sampling(start: float, scale: float, size: int, length: int) -> Tuple[Taps, int, np.ndarray]:
    """Weights of a triangle filter, ``size x touched`` pixels; the first of these; which of the ``size`` samples are valid.

    Only the touched pixels take part: a small ROI of a large slice costs what the ROI costs.
    """
    centers = start + (np.arange(size) + 0.5) / scale
    radius = max(1.0, 1.0 / scale)
    beside = np.abs(centers - np.clip(centers, -0.5, length - 0.5))
    valid = beside == 0
    if not valid.any():  # thinner than the samples lie apart: those whose own extent it lies in
        valid = beside < 0.5 / scale
    if not valid.any():
        raise QMedSAMError("The frame around the box lies outside the slice.", "Move the box onto the image.")
    first = max(int(np.ceil(centers[valid][0] - radius)), 0)
    stop = min(int(np.floor(centers[valid][-1] + radius)) + 1, length)
    begin, weights = _triangle(centers, radius)
    index = begin + np.arange(len(weights))[:, None]
    weights[:, ~valid] = 0
    weights[(index < first) | (index >= stop)] = 0
    total = weights.sum(axis=0)
    return Taps.of(begin - first, weights / np.where(total > 0, total, 1), stop - first), first, valid


@lru_cache(maxsize=32)
def _coverage(start: float, scale: float, size: int, length: int) -> Taps:
    """Weights ``size x length`` of a triangle filter as in :func:`_sampling`; what lies beside the pixels counts as nothing."""
    radius = max(1.0, 1.0 / scale)
    begin, weights = _triangle(start + (np.arange(size) + 0.5) / scale, radius)
    return Taps.of(begin, weights / radius, length)


@lru_cache(maxsize=64)  # a box's rectangle is the same on most slices
def _interpolation(first: int, stop: int, start: float, scale: float, ratio: float, length: int) -> Taps:
    """Weights ``stop - first x length`` of linear interpolation at the source pixels from ``first`` on, clamped at the border."""
    position = ((np.arange(first, stop) - start) * scale) * ratio - 0.5
    return Taps.of(*_triangle(np.clip(position, 0, length - 1), 1.0), length)
