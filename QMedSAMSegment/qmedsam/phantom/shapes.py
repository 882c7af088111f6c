"""Signed distances in mm (negative inside) and a plane to paint them on: what the phantom's anatomy is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


class Waves:
    """A smooth random field of standard deviation 1: a sum of plane waves, so that it can be asked for any point."""

    def __init__(self, random: np.random.Generator, length_mm: float, count: int) -> None:
        direction = random.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        self.vectors = (direction * (2 * np.pi / (length_mm * random.uniform(0.7, 1.5, (count, 1))))).astype(np.float32)
        self.phases = random.uniform(0, 2 * np.pi, count).astype(np.float32)

    def __call__(self, points: Array, shift: float = 0.0) -> Array:
        """``3 x ...`` points in mm to ``...``; a different ``shift`` gives another field of the same kind."""
        phases = self.phases + np.float32(shift) * np.arange(len(self.phases), dtype=np.float32)
        angle = np.tensordot(self.vectors, points, axes=1) + phases.reshape((-1,) + (1,) * (points.ndim - 1))
        return np.sin(angle).sum(axis=0) * np.float32(np.sqrt(2 / len(phases)))


class Scene:
    """One plane that is painted back to front.

    Args:
        points: ``3 x rows x columns``, float32, in RAS mm.
        bend: field that displaces the points by a few mm, so that no outline is an exact quadric.
        grain: field of the parenchyma's texture.
    """

    def __init__(self, points: Array, bend: Waves, grain: Waves) -> None:
        self.p = points + 2.2 * np.stack([bend(points, shift) for shift in (0, 1, 2)])
        self.texture = grain(points)
        self.values = np.full(points.shape[1:], -1000, dtype=np.float32)
        self.labels = np.zeros(points.shape[1:], dtype=np.uint8)

    def paint(self, distance: Array, hu: Array | float, label: int = 0, texture: float = 0.0, soft: float = 1.2) -> None:
        """Fill where ``distance`` (mm) is negative, with an edge ``soft`` mm wide; what is painted later lies in front."""
        share = np.clip(0.5 - distance / soft, 0, 1)
        self.values += share * (hu + texture * self.texture - self.values)
        self.labels[distance < 0] = label


def rotation(about_r: float, about_a: float, about_s: float) -> Array:
    """Rotation matrix: about R first, then A, then S; degrees."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians([about_r, about_a, about_s])):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def local(p: Array, center: Sequence[float], turn: tuple[float, float, float] | None = None) -> Array:
    """Points in the coordinates of a turned shape."""
    q = p - np.asarray(center, np.float32)[:, None, None]
    return q if turn is None else np.tensordot(rotation(*turn).T.astype(np.float32), q, axes=1)


def ellipsoid(p: Array, center: Sequence[float], radii: Sequence[float], turn: tuple[float, float, float] | None = None) -> Array:
    """First-order distance to an ellipsoid: its implicit function divided by the length of its gradient."""
    shrink = (1 / np.asarray(radii, np.float32))[:, None, None]
    q = local(p, center, turn) * shrink
    level = np.sqrt((q**2).sum(axis=0))
    steepness = np.sqrt(((q * shrink) ** 2).sum(axis=0))
    return level * (level - 1) / np.maximum(steepness, 1e-6)


def rounded(x: Array, y: Array, a: float, b: float, power: float) -> Array:
    """Distance along the ray from the centre to a superellipse (a rectangle with round sides as ``power`` grows)."""
    level = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power)
    return np.hypot(x, y) * (1 - 1 / np.maximum(level, 1e-3))


def tube(p: Array, line: Sequence[Sequence[float]], radii: Sequence[float]) -> Array:
    """Polyline with a radius at every point (2D or 3D)."""
    best = np.full(p.shape[1:], np.inf, np.float32)
    points = np.asarray(line, np.float32)
    for a, b, r0, r1 in zip(points, points[1:], radii, radii[1:]):
        q, along = p - a[:, None, None], b - a
        t = np.clip(np.tensordot(along / (along @ along), q, axes=1), 0, 1)
        q -= t * along[:, None, None]
        distance = np.sqrt((q**2).sum(axis=0)) - (r0 + t * (r1 - r0))
        best = np.minimum(best, distance)
    return best


def column(p: Array, heights: Sequence[float], xs: Sequence[float], ys: Sequence[float], radii: Sequence[float]) -> Array:
    """A vertical tube whose centre and radius follow the height."""
    z = p[2]
    x, y = p[0] - np.interp(z, heights, xs), p[1] - np.interp(z, heights, ys)
    return np.hypot(x, y) - np.interp(z, heights, radii)


def join(a: Array, b: Array, blend: float) -> Array:
    """Smooth union (polynomial smooth minimum) that fills the groove ``blend`` mm wide."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return b + h * (a - b) - blend * h * (1 - h)


def cut(a: Array, b: Array, blend: float) -> Array:
    """``a`` without ``b``, the rim rounded."""
    return -join(-a, b, blend)
