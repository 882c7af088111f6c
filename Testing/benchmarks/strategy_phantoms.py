"""Volumes whose truth is known, one for every way in which a walk through the slices can go wrong."""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple, Tuple

import numpy as np
from qmedsam import Box, Volume
from qmedsam.phantom.shapes import ellipsoid, tube
from scipy import ndimage

#: Full width at half maximum of a clinical PET scanner's point spread, mm.
PSF_MM = 6.0

Distance = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A prompt and what it asks for."""

    group: str
    name: str
    volume: Volume
    truth_kji: np.ndarray
    box: Box


def phantoms() -> Iterator[Case]:
    """Hot spheres (PET), and in CT: tapering vessels, an L, a Y, and objects that end before their box does."""
    for diameter in (13, 17, 22, 28, 37):  # mm, of the spheres in the NEMA body phantom; 10 mm is below 2.5 voxels
        for contrast in (4.0, 8.0):
            yield _sphere(diameter, contrast)
    bends = (
        ("straight", [(-6, -4, -40), (6, 4, 40)], [9, 3]),
        ("bent", [(-14, 0, -40), (8, 6, 0), (-4, -10, 40)], [8, 5.5, 3]),
        ("steep", [(-30, -10, -24), (30, 12, 24)], [7, 3.5]),
    )
    for name, line, radii in bends:
        yield _ct("tapering vessel", name, lambda p, line=line, radii=radii: tube(p, line, radii), spacing=(1, 1, 2.5))
    corner = [(-22, 0, -26), (-22, 0, 20), (24, 0, 20)]
    yield _ct("L-shaped", "along k and i", lambda p: tube(p, corner, [8, 8, 8]))
    yield _ct("L-shaped", "in the slice", lambda p: tube(p[[0, 2, 1]], corner, [8, 8, 8]))
    stem, left, right = [(0, 0, -34), (0, 0, 0)], [(0, 0, 0), (-20, 4, 32)], [(0, 0, 0), (18, -6, 32)]
    yield _ct(
        "branching",
        "a trunk and two",
        lambda p: np.minimum(tube(p, stem, [8, 8]), np.minimum(tube(p, left, [6, 4]), tube(p, right, [6, 4]))),
    )
    yield _ct(
        "branching",
        "two and a trunk",
        lambda p: np.minimum(tube(-p, stem, [8, 8]), np.minimum(tube(-p, left, [6, 4]), tube(-p, right, [6, 4]))),
    )
    for name, ends in (("one end", (0.0, 0.4)), ("both ends", (0.25, 0.25)), ("other end", (0.5, 0.0))):
        yield _ct("ends before the box", name, lambda p: ellipsoid(p, (2, -3, 0), (18, 14, 22)), ends=ends)
    yield _ct(
        "ends before the box",
        "bluntly",
        lambda p: np.maximum(np.hypot(p[0] - 2, p[1] + 3) - 13, np.abs(p[2]) - 16),
        ends=(0.0, 0.4),
    )


def _grid(half_mm: Tuple[float, float, float], spacing: Tuple[float, float, float]) -> Tuple[np.ndarray, Tuple[int, int, int]]:
    """``ijk_to_ras`` of a grid around RAS 0, and its shape (kji)."""
    counts = [2 * int(np.ceil(h / s)) + 1 for h, s in zip(half_mm, spacing)]
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(counts, spacing)]
    return matrix, (counts[2], counts[1], counts[0])


def _points(matrix: np.ndarray, shape_kji: Tuple[int, int, int], fine: int = 1) -> Iterator[np.ndarray]:
    """RAS of every slice, ``3 x rows x columns``; ``fine`` samples per voxel along each axis."""
    k, j, i = ((np.arange(n * fine) + 0.5) / fine - 0.5 for n in shape_kji)
    for height in k:
        x, y = np.meshgrid(i, j)
        ijk = np.stack([x, y, np.full_like(x, height)])
        yield (np.tensordot(matrix[:3, :3], ijk, axes=1) + matrix[:3, 3][:, None, None]).astype(np.float32)


def _box(truth: np.ndarray, ends: Tuple[float, float], room: float = 0.03) -> Box:
    """A little room on every side, and shares of the height below and above the object."""
    k, j, i = (np.flatnonzero(truth.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    low, high = np.array([i[0], j[0], k[0]]) - 0.5, np.array([i[-1], j[-1], k[-1]]) + 0.5
    size = high - low
    low, high = low - room * size, high + room * size
    low[2], high[2] = low[2] - ends[0] * size[2], high[2] + ends[1] * size[2]
    top = np.array(truth.shape[::-1]) - 0.5
    return Box.from_edges(np.maximum(low, -0.5), np.minimum(high, top), label=1)


def _sphere(diameter: float, contrast: float) -> Case:
    """A hot sphere in a warm background: partial volume, point spread, Poisson noise."""
    spacing, fine = (4.0, 4.0, 3.0), 4
    matrix, shape = _grid((48, 48, 42), spacing)
    center = (1.3, -0.8, 0.6)  # mm, off the grid's points
    dense = [ellipsoid(p, center, [diameter / 2] * 3) < 0 for p in _points(matrix, shape, fine)]
    share = np.stack(dense).reshape(shape[0], fine, shape[1], fine, shape[2], fine).mean(axis=(1, 3, 5))
    activity = 1 + (contrast - 1) * share
    sigma = [PSF_MM / 2.355 / s for s in spacing[::-1]]
    random = np.random.default_rng(int(10 * diameter + contrast))
    counts = ndimage.gaussian_filter(activity, sigma, mode="nearest") * 60
    noisy = ndimage.gaussian_filter(random.poisson(counts).astype(np.float32), 0.5)
    truth = share >= 0.5
    return Case("hot sphere", f"{diameter} mm, {contrast:g} : 1", Volume(noisy, matrix, "PET"), truth, _box(truth, (0, 0), 0.1))


def _ct(
    group: str,
    name: str,
    distance: Distance,
    spacing: Tuple[float, float, float] = (1.2, 1.2, 2.5),
    ends: Tuple[float, float] = (0.0, 0.0),
) -> Case:
    """An enhanced object in soft tissue with noise, and brighter neighbours that a box cannot keep out."""
    matrix, shape = _grid((52, 46, 66), spacing)
    random = np.random.default_rng(len(group) + 7 * len(name))
    array, truth = np.empty(shape, np.float32), np.empty(shape, bool)
    for k, points in enumerate(_points(matrix, shape)):
        inside = np.clip(0.5 - distance(points) / 1.2, 0, 1)
        neighbour = np.clip(0.5 - tube(points, [(30, 26, -70), (24, 30, 70)], [9, 9]) / 1.2, 0, 1)
        array[k] = 40 + 90 * inside + 160 * neighbour * (1 - inside)
        truth[k] = inside > 0.5
    array += ndimage.gaussian_filter(random.normal(0, 1, shape), 0.7) * 60
    array[:, :3] = -1000.0  # air: Hounsfield units, not a windowed picture
    return Case(group, name, Volume(array.astype(np.int16), matrix, "CT"), truth, _box(truth, ends))
