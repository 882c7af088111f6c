"""A slice drawn upright, with masks and boxes on it: what the pictures are made of.

Slices are shown as a radiologist holds them: head or front up, the patient's right on the left, sagittal slices facing
left, whatever the order of the voxels in the file. Pixels are square in mm.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import PathLike, writing
from ..geometry import Box, Rectangle, View, Volume, extent_of
from ..intensity import Intensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: (label, name, RGB in 0..1).
Segment = tuple[int, str, tuple[float, float, float]]

#: Pixels along the longer side of what is drawn; pictures are at most 1800 wide.
_MOST_PIXELS = 2000

BACKGROUND, TEXT, FAINT = "#0e1013", "#e8eaed", "#8b929c"
DPI = 120


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
        if not volume.is_rgb and volume.orientation == 1:
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
        labels = self.pose(self.view.slice_of(labels_kji, self.index))
        cuts = [(box.label, box.cut(self.view, self.index)) for box in boxes if focus in (0, box.label)]
        rectangles = [(label, self.pose.rectangle(cut, self.shape)) for label, cut in cuts if cut is not None]
        region = [r for r in (extent_of(labels == focus), *(r for _, r in rectangles)) if r is not None] if focus else []
        x0, x1, y0, y1 = self._around(union(region)) if region else (0, self.width, 0, self.height)
        # What is shown, no finer than a screen: every layer takes 16 bytes a pixel, and a photograph has 24 million of them.
        (mm_x, mm_y), (rows, columns) = self.pixel_mm, self.shape
        left, right = _pixels_between(x0 / mm_x, x1 / mm_x, columns)
        top, bottom = _pixels_between(y0 / mm_y, y1 / mm_y, rows)
        step = -(-max(right - left, bottom - top) // _MOST_PIXELS)
        cut = (slice(top, bottom, step), slice(left, right, step))
        image, labels = intensity.apply(self.pose(self.pixels)[cut]), labels[cut]
        pixel_mm, corner_mm = (mm_x * step, mm_y * step), (left * mm_x, top * mm_y)
        (height, width), (x, y) = labels.shape, corner_mm
        extent = (x, x + width * pixel_mm[0], y + height * pixel_mm[1], y)
        axes.imshow(image, extent=extent, **grey(image))
        tint = np.zeros((*labels.shape, 4), np.float32)  # one layer for all: a layer each costs seconds with 100 objects
        for label, name, color in segments:
            main = focus in (0, label)
            mask = labels == label
            for owner, rectangle in rectangles:
                if owner == label:
                    dashed(axes, rectangle, self.pixel_mm, color)
            found = extent_of(mask)
            if found is None:
                continue
            tint[mask] = (*color, 0.24 if main else 0.1)
            contour(axes, mask, pixel_mm, color, 1.6 if main else 0.7, corner_mm)
            if names:
                x, y = (found[0] + found[2] + 1) / 2 * pixel_mm[0], (found[1] + 0.5) * pixel_mm[1]
                _rim(words(axes, x, y, name, color=color, size=10, ha="center", va="bottom", clip_on=True))
        axes.imshow(tint, extent=extent, interpolation="nearest")
        axes.set_xlim(x0, x1)
        axes.set_ylim(y1, y0)
        _scale_bar(axes, self.unit)

    def _around(self, rectangle: Rectangle) -> tuple[float, float, float, float]:
        """A square in mm around a rectangle with some context on every side: its limits in x and in y."""
        mm_x, mm_y = self.pixel_mm
        x0, y0, x1, y1 = ((e + 0.5) * mm for e, mm in zip(rectangle, (mm_x, mm_y, mm_x, mm_y)))
        half = 0.6 * max(x1 - x0, y1 - y0) + 5 * max(mm_x, mm_y)
        return (x0 + x1) / 2 - half, (x0 + x1) / 2 + half, (y0 + y1) / 2 - half, (y0 + y1) / 2 + half


def _pixels_between(low: float, high: float, count: int) -> tuple[int, int]:
    """Start and stop of what lies between two places along an axis and a little around it; never empty."""
    start = min(max(int(low) - 2, 0), count - 1)
    return start, max(min(int(high) + 3, count), start + 1)


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


def contour(
    axes: Axes,
    mask: np.ndarray,
    pixel_mm: tuple[float, float],
    color: Any,
    width: float,
    corner_mm: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Outline a mask whose upper left corner lies at ``corner_mm``; nothing for an empty one."""
    found = extent_of(mask)
    if found is None:
        return
    x0, y0, x1, y1 = (int(edge + 0.5) for edge in found)
    # A rim of zeros closes the contour of a mask that touches the border.
    padded = np.pad(mask[y0:y1, x0:x1], 1).astype(np.float32)
    x = (np.arange(x0 - 1, x1 + 1) + 0.5) * pixel_mm[0] + corner_mm[0]
    y = (np.arange(y0 - 1, y1 + 1) + 0.5) * pixel_mm[1] + corner_mm[1]
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


def save(figure: Figure, path: PathLike) -> None:
    """Write a figure beside and rename it."""
    drawn = io.BytesIO()  # so that it is Python that writes the file: it says when a disk is full
    figure.savefig(drawn, format="png", facecolor=BACKGROUND)
    with writing(path) as beside:
        beside.write_bytes(drawn.getbuffer())
