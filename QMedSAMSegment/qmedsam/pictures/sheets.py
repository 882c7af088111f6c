"""Sheets of good and bad cases for an evaluation: truth and prediction on tiles, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..files import PathLike
from ..geometry import Box, Rectangle, Volume, extent_of
from ..intensity import Intensity
from .panels import BACKGROUND, DPI, FAINT, TEXT, Panel, axes_at, contour, dashed, grey, save, union, words

_TRUTH, _PREDICTED = "#3fd0ff", "#ffb02e"
_TILE_PIXELS = 256


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, already upright.

    Args:
        image: ``rows x columns (x 3)`` in 0..1.
        truth: boolean, ``rows x columns``.
        predicted: the same.
        rectangle: the prompt in pixels of the tile (edges), or None.
        pixel_mm: size of a pixel along x and y.
        caption: below the picture.
    """

    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    rectangle: Rectangle | None
    pixel_mm: tuple[float, float]
    caption: str


def sheet_png(path: PathLike, rows: Sequence[tuple[str, Sequence[Tile]]]) -> None:
    """Write a sheet: one row of tiles per heading, truth and prediction as contours, the prompt dashed.

    Args:
        path: of the PNG; written beside and renamed.
        rows: ``(heading, tiles)`` from top to bottom.
    """
    from matplotlib.figure import Figure

    columns = max([len(tiles) for _, tiles in rows] + [1])
    size, gap, heading, caption, header = 2.5, 0.1, 0.32, 0.42, 0.45
    width = max(columns * (size + gap) + gap, 6.0)
    height = header + max(len(rows), 1) * (heading + size + caption)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=BACKGROUND)
    for x, text, color in ((0.12, "truth", _TRUTH), (0.85, "predicted", _PREDICTED), (1.95, "- - prompt", TEXT)):
        figure.text(x / width, 1 - 0.24 / height, text, color=color, size=11, va="center", weight="bold")
    for n, (name, tiles) in enumerate(rows):
        top = header + n * (heading + size + caption)
        words(figure, 0.12 / width, 1 - (top + heading / 2) / height, name, color=FAINT, size=11, va="center")
        for column, tile in enumerate(tiles):
            axes = axes_at(figure, gap + column * (size + gap), top + heading, size, size)
            mm_x, mm_y = tile.pixel_mm
            extent = (0, tile.truth.shape[1] * mm_x, tile.truth.shape[0] * mm_y, 0)
            axes.imshow(tile.image, extent=extent, **grey(tile.image))
            contour(axes, tile.truth, tile.pixel_mm, _TRUTH, 1.4)
            contour(axes, tile.predicted, tile.pixel_mm, _PREDICTED, 1.4)
            if tile.rectangle is not None:
                dashed(axes, tile.rectangle, tile.pixel_mm, TEXT)
            middle, bottom = gap + column * (size + gap) + size / 2, top + heading + size + 0.06
            words(figure, middle / width, 1 - bottom / height, tile.caption, color=TEXT, size=7.5, ha="center", va="top")
    save(figure, path)


def tile_of(
    volume: Volume,
    index: int,
    truth: tuple[np.ndarray, tuple[slice, ...]],
    predicted: tuple[np.ndarray, tuple[slice, ...]],
    box: Box,
    intensity: Intensity,
    caption: str,
) -> Tile:
    """Cut a tile for :func:`sheet_png` out of an axial slice.

    Args:
        volume: the image.
        index: of the slice along k.
        truth: ``(mask of the crop, crop)`` in kji, False outside the crop.
        predicted: the same of the prediction.
        box: the prompt.
        intensity: window of the image.
        caption: below the picture.
    """
    panel = Panel(volume, 2, index)
    height, width = panel.view.shape_yx
    masks = [_paste(mask, crop, index, (height, width)) for mask, crop in (truth, predicted)]
    rectangle = box.cut(panel.view, index)
    extents = [r for r in (rectangle, *(extent_of(mask) for mask in masks)) if r is not None]
    x0, y0, x1, y1 = union(extents) if extents else (-0.5, -0.5, width - 0.5, height - 0.5)
    # A square in mm with a quarter of the object as context on every side, as far as there is image.
    mm_x, mm_y = panel.view.pixel_mm
    half = 0.75 * max((x1 - x0) * mm_x, (y1 - y0) * mm_y, 12 * mm_x, 12 * mm_y)
    (x0, x1), (y0, y1) = (
        (max(int(np.floor(middle - half / mm)), 0), min(int(np.ceil(middle + half / mm)) + 1, count))
        for middle, mm, count in (((x0 + x1) / 2, mm_x, width), ((y0 + y1) / 2, mm_y, height))
    )
    step = -(-max(x1 - x0, y1 - y0) // _TILE_PIXELS)
    cut = (slice(y0, y1, step), slice(x0, x1, step))
    image = panel.pose(intensity.apply(panel.pixels[cut]))
    shape = image.shape[:2]
    if rectangle is not None:
        left, top, right, bottom = ((edge + 0.5 - start) / step - 0.5 for edge, start in zip(rectangle, (x0, y0, x0, y0)))
        rectangle = panel.pose.rectangle((left, top, right, bottom), shape)
    return Tile(image, panel.pose(masks[0][cut]), panel.pose(masks[1][cut]), rectangle, panel.pixel_mm, caption)


def _paste(mask: np.ndarray, crop: tuple[slice, ...], index: int, shape_yx: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(shape_yx, dtype=bool)
    if crop[0].start <= index < crop[0].stop:
        whole[crop[1:]] = mask[index - crop[0].start]
    return whole
