"""The picture of a result: three views with the richest slices, and a tile per object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..files import DEFAULT_COLORS, PathLike
from ..geometry import Box, Volume
from ..intensity import Intensity
from .panels import BACKGROUND, DPI, FAINT, TEXT, Panel, Segment, axes_at, corner, save, words

if TYPE_CHECKING:
    pass

_WIDTH = 15.0  # inches
_GAP = 0.08
_MAX_TILES = 12
_VIEW_NAMES = ("sagittal", "coronal", "axial")


def overlay_png(
    path: PathLike,
    volume: Volume,
    labels_kji: np.ndarray,
    segments: Sequence[tuple[int, str, tuple[float, float, float] | None]],
    boxes: Sequence[Box],
    intensity: Intensity,
    title: str = "",
    dpi: int = DPI,
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

    coloured = [(label, name, color or DEFAULT_COLORS[(label - 1) % len(DEFAULT_COLORS)]) for label, name, color in segments]
    single = volume.array_kji.shape[0] == 1
    axes_shown = (2, 1, 0)
    areas = [] if single else [_areas(labels_kji, coloured, axis) for axis in axes_shown]
    panels = [Panel(volume, axis, _richest_slice(area)) for axis, area in zip(axes_shown, areas)] or [Panel(volume, 2, 0)]
    tiles = [] if single else _key_slices(areas[0], coloured, boxes)
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
        panel.draw(axes, labels_kji, coloured, boxes, intensity, names=single and len(coloured) <= _MAX_TILES)
        if not single:
            corner(axes, f"{_VIEW_NAMES[panel.anatomical_axis]} {panel.index + 1}/{panel.view.count}", FAINT)
    for n, (segment, index, found) in enumerate(tiles):
        row, column = divmod(n, columns)
        in_row = min(columns, len(tiles) - row * columns)
        left = (width - in_row * (size + gap) + gap) / 2 + column * (size + gap)
        axes = axes_at(figure, left, header + top_row + gap + row * (size + gap), size, size)
        Panel(volume, 2, index).draw(axes, labels_kji, coloured, boxes, intensity, focus=segment[0])
        corner(axes, segment[1] + ("" if found else " (empty)"), segment[2])
    save(figure, path)


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
