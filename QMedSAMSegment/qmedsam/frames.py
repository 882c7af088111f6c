"""The square that the network sees of a slice, and the way back. Coordinates: see :mod:`qmedsam.geometry`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Callable, Tuple

import numpy as np

from .errors import QMedSAMError
from .geometry import Pixels, Rectangle, View

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: Grey values (all channels) that are prepared at the same time when a slice is drawn: float64 and its copies, 100 MB.
BLOCK_VALUES = 4 * 2**20


@dataclass(frozen=True)
class Frame:
    """The square that the network sees: crop, isotropic-in-mm scale and pad of a slice, and the way back.

    Sampling is separable: a row of weights per network pixel (a triangle as wide as the larger of a source and a
    network pixel, so that shrinking averages and does not alias), which is two small matrix products per slice. Most weights are
    zero: as sparse products they need no BLAS, whose threads spin on the cores that the network wants. The
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
        touched = image[top : top + rows.shape[1], left : left + columns.shape[1]]
        # In strips: grey values of 0..1 take four times a picture's memory and more.
        step = max(BLOCK_VALUES // max(touched[:, 0].size, 1), 1)
        strips = []
        for start in range(0, touched.shape[1], step):
            strips.append(_along_rows(rows, prepare(touched[:, start : start + step])))
        drawn = _along_columns(columns, np.concatenate(strips, axis=1))
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
        return _along_columns(columns, _along_rows(rows, mask.astype(np.float32))) > 0.5

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
        u = ((np.arange(x0, x1) - self.left) * self.scale_x) * ratio - 0.5
        v = ((np.arange(y0, y1) - self.top) * self.scale_y) * ratio - 0.5
        rows, columns = _interpolation(v, values.shape[0]), _interpolation(u, values.shape[1])
        return _along_columns(columns, _along_rows(rows, np.asarray(values, dtype=np.float32)))


def _along_rows(weights: csr_array, values: np.ndarray) -> np.ndarray:
    """``M x H`` weights for the rows of ``H x W (x C)`` values: ``M x W (x C)``."""
    beside = values.shape[1:]
    return (weights @ values.reshape(len(values), int(np.prod(beside)))).reshape(weights.shape[0], *beside)


def _along_columns(weights: csr_array, values: np.ndarray) -> np.ndarray:
    """``M x W`` weights for the columns of ``H x W (x C)`` values: ``H x M (x C)``."""
    return np.swapaxes(_along_rows(weights, np.ascontiguousarray(np.swapaxes(values, 0, 1))), 0, 1)


def _sparse(weights: np.ndarray) -> csr_array:
    from scipy.sparse import csr_array

    return csr_array(weights.astype(np.float32))


@lru_cache(maxsize=16)  # the same frame is drawn on every slice of a run
def _sampling(start: float, scale: float, size: int, length: int) -> Tuple[csr_array, int, np.ndarray]:
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
    weights = 1 - np.abs(np.arange(first, stop)[None, :] - centers[:, None]) / radius
    np.clip(weights, 0, None, out=weights)
    weights[~valid] = 0
    total = weights.sum(axis=1, keepdims=True)
    return _sparse(weights / np.where(total > 0, total, 1)), first, valid


@lru_cache(maxsize=32)
def _coverage(start: float, scale: float, size: int, length: int) -> csr_array:
    """Weights ``size x length`` of a triangle filter as in :func:`_sampling`; what lies beside the pixels counts as nothing."""
    centers = start + (np.arange(size) + 0.5) / scale
    radius = max(1.0, 1.0 / scale)
    weights = np.clip(1 - np.abs(np.arange(length)[None, :] - centers[:, None]) / radius, 0, None)
    return _sparse(weights / (radius if radius > 1 else 1.0))


def _interpolation(position: np.ndarray, length: int) -> csr_array:
    """Weights ``len(position) x length`` of linear interpolation, clamped at the border."""
    position = np.clip(position, 0, length - 1)
    weights = 1 - np.abs(np.arange(length)[None, :] - position[:, None])
    return _sparse(np.clip(weights, 0, None))
