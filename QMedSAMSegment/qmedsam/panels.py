"""A slice drawn upright, with masks and boxes on it: what the pictures are made of.

Slices are shown as a radiologist holds them: head or front up, the patient's right on the left, sagittal slices facing
left, whatever the order of the voxels in the file. Pixels are square in mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .geometry import Box, Rectangle, View, Volume, extent_of
from .intensity import Intensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: (label, name, RGB in 0..1).
Segment = tuple[int, str, tuple[float, float, float]]

BACKGROUND, TEXT = "#0e1013", "#e8eaed"


@dataclass(frozen=True)
class Pose:
    """How a slice is turned upright: transposed first, then flipped."""

    transpose: bool
    flip_x: bool
    flip_y: bool

    def __call__(self, slice_yx: np.ndarray) -> np.ndarray:
        if self.transpose:
            slice_yx = slice_yx.swapaxes(0, 1)
        return slice_yx[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def rectangle(self, edges: Rectangle, shape: tuple[int, ...]) -> Rectangle:
        """The same for a rectangle; ``shape`` is that of the slice when upright."""
        x0, y0, x1, y1 = edges
        if self.transpose:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if self.flip_x:
            x0, x1 = shape[1] - 1 - x1, shape[1] - 1 - x0
        if self.flip_y:
            y0, y1 = shape[0] - 1 - y1, shape[0] - 1 - y0
        return x0, y0, x1, y1


class Panel:
    """A slice of a volume, upright; coordinates of its axes are mm from its upper left corner."""

    def __init__(self, volume: Volume, axis: int, index: int) -> None:
        self.view, self.index = View.of(volume, axis), index
        self.pixels = self.view.slice_of(volume.array_kji, index)
        along = volume.ijk_to_ras[:3, :3] / volume.spacing_mm
        # Which patient axis (R, A, S) each voxel axis follows most closely.
        patient = max(itertools.permutations(range(3)), key=lambda p: sum(abs(along[p[a], a]) for a in range(3)))
        self.anatomical_axis = patient[axis]
        x, y = self.view.in_plane
        self.pixel_mm = self.view.pixel_mm
        self.pose = Pose(False, False, False)  # a photograph is upright as it is
        if not volume.is_rgb:
            transpose = patient[x] > patient[y]
            if transpose:
                x, y = y, x
                self.pixel_mm = self.pixel_mm[::-1]
            self.pose = Pose(transpose, along[patient[x], x] > 0, along[patient[y], y] > 0)
        self.shape = self.pose(self.pixels).shape[:2]
        self.unit = "px" if volume.array_kji.shape[0] == 1 and np.allclose(volume.spacing_mm, 1) else "mm"

    @property
    def width(self) -> float:
        return self.shape[1] * self.pixel_mm[0]

    @property
    def height(self) -> float:
        return self.shape[0] * self.pixel_mm[1]

    def draw(
        self,
        axes: Axes,
        labels_kji: np.ndarray,
        segments: Sequence[Segment],
        boxes: Sequence[Box],
        intensity: Intensity,
        focus: int = 0,
        names: bool = False,
    ) -> None:
        """Draw everything, or with ``focus`` zoom in on one label and draw the others faintly."""
        image = self.pose(intensity.apply(self.pixels))
        extent = (0, self.width, self.height, 0)
        axes.imshow(image, extent=extent, **grey(image))
        labels = self.pose(self.view.slice_of(labels_kji, self.index))
        region = []
        tint = np.zeros((*labels.shape, 4), np.float32)  # one layer for all: a layer each costs seconds with 100 objects
        for label, name, color in segments:
            main = focus in (0, label)
            mask = labels == label
            rectangles = [box.cut(self.view, self.index) for box in boxes if box.label == label and main]
            for rectangle in (self.pose.rectangle(r, self.shape) for r in rectangles if r is not None):
                dashed(axes, rectangle, self.pixel_mm, color)
                region.append(rectangle)
            found = extent_of(mask)
            if found is None:
                continue
            tint[mask] = (*color, 0.24 if main else 0.1)
            contour(axes, mask, self.pixel_mm, color, 1.6 if main else 0.7)
            if main:
                region.append(found)
            if names:
                x, y = (found[0] + found[2] + 1) / 2 * self.pixel_mm[0], (found[1] + 0.5) * self.pixel_mm[1]
                _rim(words(axes, x, y, name, color=color, size=10, ha="center", va="bottom", clip_on=True))
        axes.imshow(tint, extent=extent, interpolation="nearest")
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        if focus and region:
            self._zoom(axes, union(region))
        _scale_bar(axes, self.unit)

    def _zoom(self, axes: Axes, rectangle: Rectangle) -> None:
        """A square around a rectangle with some context on every side."""
        mm_x, mm_y = self.pixel_mm
        x0, y0, x1, y1 = ((e + 0.5) * mm for e, mm in zip(rectangle, (mm_x, mm_y, mm_x, mm_y)))
        half = 0.6 * max(x1 - x0, y1 - y0) + 5 * max(mm_x, mm_y)
        axes.set_xlim((x0 + x1) / 2 - half, (x0 + x1) / 2 + half)
        axes.set_ylim((y0 + y1) / 2 + half, (y0 + y1) / 2 - half)


def union(rectangles: Sequence[Rectangle]) -> Rectangle:
    edges = np.array(rectangles)
    return (*edges[:, :2].min(axis=0).tolist(), *edges[:, 2:].max(axis=0).tolist())


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the figure's upper left corner."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def grey(image: np.ndarray) -> dict[str, Any]:
    return {"cmap": None if image.ndim == 3 else "gray", "vmin": 0, "vmax": 1, "interpolation": "bicubic"}


def contour(axes: Axes, mask: np.ndarray, pixel_mm: tuple[float, float], color: Any, width: float) -> None:
    """Outline a mask; nothing for an empty one."""
    found = extent_of(mask)
    if found is None:
        return
    x0, y0, x1, y1 = (int(edge + 0.5) for edge in found)
    # A rim of zeros closes the contour of a mask that touches the border.
    padded = np.pad(mask[y0:y1, x0:x1], 1).astype(np.float32)
    x, y = (np.arange(x0 - 1, x1 + 1) + 0.5) * pixel_mm[0], (np.arange(y0 - 1, y1 + 1) + 0.5) * pixel_mm[1]
    axes.contour(x, y, padded, [0.5], colors=[color], linewidths=width)


def dashed(axes: Axes, rectangle: Rectangle, pixel_mm: tuple[float, float], color: Any) -> None:
    from matplotlib.patches import Rectangle as Patch

    (mm_x, mm_y), (x0, y0, x1, y1) = pixel_mm, rectangle
    corner = ((x0 + 0.5) * mm_x, (y0 + 0.5) * mm_y)
    axes.add_patch(
        Patch(corner, (x1 - x0) * mm_x, (y1 - y0) * mm_y, fill=False, edgecolor=color, linewidth=0.9, linestyle=(0, (4, 3)))
    )


def corner(axes: Axes, text: str, color: Any) -> None:
    _rim(words(axes, 0.025, 0.975, text, color=color, size=10.5, ha="left", va="top", transform=axes.transAxes))


def words(where: Axes | Figure, x: float, y: float, text: str, **style: Any) -> Any:
    """Text that came from a file or a user, as it is: dollars are no formula, and what has no encoding is a question mark."""
    return where.text(x, y, text.encode("utf-8", "replace").decode("utf-8"), parse_math=False, **style)


def _rim(artist: Any) -> None:
    """A dark rim keeps text and bars readable on bright tissue."""
    from matplotlib.patheffects import withStroke

    artist.set_path_effects([withStroke(linewidth=2.5, foreground=BACKGROUND)])


def _scale_bar(axes: Axes, unit: str) -> None:
    """A bar of 1, 2 or 5 times a power of ten, at most a quarter of the panel."""
    (x0, x1), (y1, y0) = axes.get_xlim(), axes.get_ylim()
    room = (x1 - x0) / 4
    decade = 10.0 ** np.floor(np.log10(room))
    length = max(m * decade for m in (1, 2, 5) if m * decade <= room)
    right, bottom = x1 - 0.03 * (x1 - x0), y1 - 0.035 * (y1 - y0)
    (line,) = axes.plot([right - length, right], [bottom, bottom], color=TEXT, linewidth=2, solid_capstyle="butt")
    _rim(line)
    text = axes.text(
        right - length / 2, bottom - 0.012 * (y1 - y0), f"{length:g} {unit}", color=TEXT, size=8, ha="center", va="bottom"
    )
    _rim(text)
