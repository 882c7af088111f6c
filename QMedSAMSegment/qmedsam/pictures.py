"""Pictures of results: overlays for a user, sheets of good and bad cases for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .files import DEFAULT_COLORS, PathLike, writing
from .geometry import Box, Rectangle, Volume, extent_of
from .intensity import Intensity
from .panels import BACKGROUND, TEXT, Panel, Segment, axes_at, contour, corner, dashed, grey, union, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_WIDTH = 15.0  # inches
_FAINT = "#8b929c"
_TRUTH, _PREDICTED = "#3fd0ff", "#ffb02e"
_GAP = 0.08
_MAX_TILES = 12
_TILE_PIXELS = 256
_VIEW_NAMES = ("sagittal", "coronal", "axial")


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


def overlay_png(
    path: PathLike,
    volume: Volume,
    labels_kji: np.ndarray,
    segments: Sequence[tuple[int, str, tuple[float, float, float] | None]],
    boxes: Sequence[Box],
    intensity: Intensity,
    title: str = "",
    dpi: int = _DPI,
) -> None:
    """Write a picture of a segmentation.

    3D: an axial, a coronal and a sagittal slice with everything on it, and below them every object (the 12 largest) on
    the slice where it is largest. One slice or RGB: the whole picture with all objects.

    Args:
        path: of the PNG; written beside and renamed.
        volume: the image.
        labels_kji: label array on the volume's grid.
        segments: (label, name, RGB in 0..1 or None for a default), in the order of the tiles.
        boxes: the prompts; each is drawn in the colour of the segment with its label.
        intensity: window of the image.
        title: above the picture.
        dpi: pixels per inch; the picture is at most 15 inches wide.
    """
    from matplotlib.figure import Figure

    segments = [(label, name, color or DEFAULT_COLORS[(label - 1) % len(DEFAULT_COLORS)]) for label, name, color in segments]
    single = volume.array_kji.shape[0] == 1
    axes_shown = (2, 1, 0)
    areas = [] if single else [_areas(labels_kji, segments, axis) for axis in axes_shown]
    panels = [Panel(volume, axis, _richest_slice(area)) for axis, area in zip(axes_shown, areas)] or [Panel(volume, 2, 0)]
    tiles = [] if single else _key_slices(areas[0], segments, boxes)
    rows, columns, size = _grid(len(tiles))
    shapes = [min(max(panel.width / panel.height, 0.4), 2.5) for panel in panels]
    gap, header = _GAP, 0.55 if title else 0.1
    width = 9.0 if single else _WIDTH
    top_row = min((width - gap * (len(panels) + 1)) / sum(shapes), 11.0 if single else 7.5)
    if single:
        width = max(top_row * shapes[0], 4.0) + 2 * gap
    figure = Figure(figsize=(width, header + top_row + gap + rows * (size + gap)), dpi=dpi, facecolor=BACKGROUND)
    if title:
        words(figure, 0.12 / width, 1 - 0.32 / figure.get_figheight(), title, color=TEXT, size=15, va="center", weight="bold")

    left = (width - top_row * sum(shapes) - gap * (len(panels) - 1)) / 2
    for panel, shape in zip(panels, shapes):
        axes = axes_at(figure, left, header, top_row * shape, top_row)
        left += top_row * shape + gap
        panel.draw(axes, labels_kji, segments, boxes, intensity, names=single and len(segments) <= _MAX_TILES)
        if not single:
            corner(axes, f"{_VIEW_NAMES[panel.anatomical_axis]} {panel.index + 1}/{panel.view.count}", _FAINT)
    for n, (segment, index, found) in enumerate(tiles):
        row, column = divmod(n, columns)
        in_row = min(columns, len(tiles) - row * columns)
        left = (width - in_row * (size + gap) + gap) / 2 + column * (size + gap)
        axes = axes_at(figure, left, header + top_row + gap + row * (size + gap), size, size)
        Panel(volume, 2, index).draw(axes, labels_kji, segments, boxes, intensity, focus=segment[0])
        corner(axes, segment[1] + ("" if found else " (empty)"), segment[2])
    _save(figure, path)


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
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
    for x, text, color in ((0.12, "truth", _TRUTH), (0.85, "predicted", _PREDICTED), (1.95, "- - prompt", TEXT)):
        figure.text(x / width, 1 - 0.24 / height, text, color=color, size=11, va="center", weight="bold")
    for n, (name, tiles) in enumerate(rows):
        top = header + n * (heading + size + caption)
        words(figure, 0.12 / width, 1 - (top + heading / 2) / height, name, color=_FAINT, size=11, va="center")
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
    _save(figure, path)


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
        edges = tuple((edge + 0.5 - start) / step - 0.5 for edge, start in zip(rectangle, (x0, y0, x0, y0)))
        rectangle = panel.pose.rectangle(edges, shape)
    return Tile(image, panel.pose(masks[0][cut]), panel.pose(masks[1][cut]), rectangle, panel.pixel_mm, caption)


def _areas(labels_kji: np.ndarray, segments: Sequence[Segment], axis: int) -> np.ndarray:
    """Voxels on every slice along an axis, a row for each segment; counted together, not compared with one after another."""
    values = [label for label, _, _ in segments]
    slices = np.moveaxis(labels_kji, 2 - axis, 0)
    return np.array([np.bincount(labels.ravel(), minlength=max(values, default=0) + 1)[values] for labels in slices]).T


def _richest_slice(areas: np.ndarray) -> int:
    """The slice with the most objects; among those, the one with the most of every object's largest area."""
    score = ((areas > 0) + areas / np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0)
    return int(np.argmax(score)) if score.any() else len(score) // 2


def _key_slices(areas: np.ndarray, segments: Sequence[Segment], boxes: Sequence[Box]) -> list[tuple[Segment, int, bool]]:
    """The largest objects (12 at most, in the segments' order) with the axial slice where each is largest, and whether any."""
    result = []
    for n in sorted(np.argsort(-areas.sum(axis=1), kind="stable")[:_MAX_TILES]):
        area, segment = areas[n], segments[n]
        middle = next((box.center_ijk[2] for box in boxes if box.label == segment[0]), len(area) / 2)
        index = int(area.argmax()) if area.any() else int(np.clip(np.round(middle), 0, len(area) - 1))
        result.append((segment, index, bool(area.any())))
    return result


def _grid(count: int) -> tuple[int, int, float]:
    """Rows, columns and size in inches of the tiles."""
    rows = -(-count // 6)
    columns = max(-(-count // max(rows, 1)), 4)
    return rows, columns, (_WIDTH - _GAP * (columns + 1)) / columns


def _paste(mask: np.ndarray, crop: tuple[slice, ...], index: int, shape_yx: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(shape_yx, dtype=bool)
    if crop[0].start <= index < crop[0].stop:
        whole[crop[1:]] = mask[index - crop[0].start]
    return whole


def _save(figure: Figure, path: PathLike) -> None:
    with writing(path) as beside:
        figure.savefig(beside, format="png", facecolor=BACKGROUND)
