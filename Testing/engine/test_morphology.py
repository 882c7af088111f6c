"""What replaces scipy on the way to a mask does what scipy does."""

from __future__ import annotations

import numpy as np
import pytest
from qmedsam import frames
from qmedsam.measures import _hull, _outline
from qmedsam.morphology import averaged, spread, touching
from scipy import ndimage
from scipy.spatial import ConvexHull

RNG = np.random.default_rng(3)


def _masks(count: int) -> list:
    """Noise of every density, and smooth blobs with holes and islands."""
    shapes = [tuple(RNG.integers(1, 30, 2)) for _ in range(count)]
    noise = [RNG.random(shape) < RNG.uniform(0, 1) for shape in shapes]
    return noise + [ndimage.gaussian_filter(RNG.standard_normal(shape), 2) > 0 for shape in shapes]


def test_parts_that_touch_seeds_are_those_of_labelling() -> None:
    kept_some = kept_all = 0
    for mask in _masks(150):
        seeds = RNG.random(mask.shape) < 0.02
        parts, _ = ndimage.label(mask, np.ones((3, 3)))
        expected = np.isin(parts, np.setdiff1d(parts[seeds], [0]))
        assert np.array_equal(touching(mask, seeds), expected)
        kept_some += expected.any() and not np.array_equal(expected, mask)
        kept_all += expected.any() and np.array_equal(expected, mask)
    assert kept_some > 20 and kept_all > 20


def test_seeds_beside_the_mask_keep_nothing() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 1:3] = True
    assert not touching(mask, ~mask).any()


@pytest.mark.parametrize("reach", [0, 1, 5])
def test_spread_is_a_maximum_filter(reach: int) -> None:
    mask = RNG.random((13 + 2 * reach, 21 + 2 * reach)) < 0.03
    inner = ndimage.maximum_filter(mask, size=2 * reach + 1)[reach : reach + 13, reach : reach + 21]
    assert inner.any() and np.array_equal(spread(mask, reach), inner)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_running_means_are_those_of_scipy(axis: int, width: int) -> None:
    for shape in ((7, 9, 11), (1, 2, 3)):
        values = RNG.integers(0, 256, shape).astype(np.uint8)
        expected = ndimage.uniform_filter1d(values, width, axis=axis, mode="nearest")
        averaged(values, width, axis)
        assert np.array_equal(values, expected)


def test_hulls_are_those_of_qhull() -> None:
    for mask in _masks(60):
        points = _outline(mask)
        if len(points):
            expected = points[ConvexHull(points).vertices]
            assert {tuple(p) for p in _hull(points)} == {tuple(p) for p in expected}


@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0, 3.7])
def test_products_with_few_weights_are_products(scale: float) -> None:
    """Both ways of computing them: many weights a sample where a picture shrinks, two where it grows."""
    length = int(50 / min(scale, 1.0))
    taps, first, valid = frames._sampling(-1.3, scale, 48, length)
    assert (len(taps.weight) > frames.FEW_TAPS) == (scale < 0.2)
    dense = np.zeros((48, taps.length + len(taps.weight)))
    for row, (start, weights) in enumerate(zip(taps.first, taps.weight.T)):
        for n in np.flatnonzero(weights):
            dense[row, start + n] = weights[n]
    assert np.allclose(dense.sum(axis=1), valid) and first == 0
    values = RNG.random((taps.length, 700, 3)).astype(np.float32)
    expected = np.tensordot(dense[:, : taps.length], values, 1)
    assert np.allclose(taps.along_rows(values), expected, atol=1e-5)
    assert np.allclose(taps.along_columns(np.swapaxes(values, 0, 1)), np.swapaxes(expected, 0, 1), atol=1e-5)
