"""Scores against values worked out by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box
from qmedsam.evaluation.scores import bootstrap_interval, dsc, ellipse_mask, ellipsoid_mask, nsd
from qmedsam.geometry import View


def square(shape, first, last) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(first, last))] = True
    return mask


def test_dsc_by_hand() -> None:
    a, b = square((10, 10), (0, 0), (4, 4)), square((10, 10), (0, 2), (4, 6))
    assert dsc(a, b) == 2 * 8 / 32
    assert dsc(a, a) == 1
    assert dsc(a, ~a) == 0


def test_empty_masks_are_defined() -> None:
    a, empty = square((10, 10), (2, 2), (6, 6)), np.zeros((10, 10), bool)
    assert dsc(a, empty) == dsc(empty, a) == 0
    assert nsd(a, empty, (1, 1), 2) == nsd(empty, a, (1, 1), 2) == 0
    assert math.isnan(dsc(empty, empty))
    assert math.isnan(nsd(empty, empty, (1, 1), 2))


def test_nsd_of_a_shifted_square() -> None:
    a = square((600, 600), (100, 100), (300, 300))
    assert nsd(a, a, (1, 1), 20) == 1
    assert nsd(a, np.roll(a, 20, 0), (1, 1), 20) == pytest.approx(1)
    # Shifted by 40: of each outline's 800, the two sides along the shift keep 180 of 200 and the end inside the other
    # square 20 at each corner, the other end nothing.
    assert nsd(a, np.roll(a, 40, 0), (1, 1), 20) == pytest.approx((2 * 180 + 2 * 20) / 800, abs=0.005)
    assert nsd(a, np.roll(a, 240, 0), (1, 1), 20) == 0


def test_nsd_takes_the_spacing_in_the_order_of_the_array() -> None:
    a = square((20, 30, 30), (5, 8, 8), (15, 22, 22))
    across_slices, in_plane = np.roll(a, 1, 0), np.roll(a, 1, 2)
    assert nsd(a, across_slices, (4, 1, 1), 2) < 0.9  # 4 mm off
    assert nsd(a, in_plane, (4, 1, 1), 2) == pytest.approx(1)  # 1 mm off
    assert nsd(a, across_slices, (1, 1, 4), 2) == pytest.approx(1)


def test_nsd_works_on_thin_and_cut_masks_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nsd(np.ones((1, 5, 5), bool), np.ones((1, 5, 5), bool), (1, 1, 1), 2) == 1
        assert nsd(square((5, 5), (0, 0), (1, 1)), square((5, 5), (0, 0), (1, 1)), (1, 1), 2) == 1


@given(st.floats(0, 40), st.floats(0, 40), st.floats(2, 30), st.floats(2, 30))
@settings(max_examples=40, deadline=None)
def test_the_ellipse_fills_pi_over_4_of_its_rectangle_and_stays_inside(x0, y0, width, height) -> None:
    mask = ellipse_mask((x0, y0, x0 + width, y0 + height), (0, 0, 80, 80))
    y, x = np.nonzero(mask)
    assert len(x)
    assert x.min() >= x0 - 1e-9 and x.max() <= x0 + width + 1e-9
    assert y.min() >= y0 - 1e-9 and y.max() <= y0 + height + 1e-9
    if min(width, height) > 10:
        assert mask.sum() == pytest.approx(np.pi / 4 * width * height, rel=0.12)


def test_the_ellipsoid_of_a_flat_box_is_the_ellipse() -> None:
    box = Box.from_edges((3.5, 2.0, 6.5), (14.5, 11.2, 7.5))
    mask, crop = ellipsoid_mask(box, (20, 30, 30))
    assert crop == (slice(7, 8), slice(2, 12), slice(4, 15))
    np.testing.assert_array_equal(mask[0], ellipse_mask((3.5, 2.0, 14.5, 11.2), (4, 2, 15, 12)))


def test_the_ellipsoid_of_a_turned_box_has_its_volume_and_stays_in_it() -> None:
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    box = Box((20, 18, 16), turn * (14, 9, 6))
    mask, crop = ellipsoid_mask(box, (34, 36, 40))
    assert mask.sum() == pytest.approx(4 / 3 * np.pi * 14 * 9 * 6, rel=0.02)
    view = View(2, (40, 36, 34), (1, 1, 1))
    for n, k in enumerate(range(crop[0].start, crop[0].stop)):
        inside = box.inside(view, k, (crop[2].start, crop[1].start, crop[2].stop, crop[1].stop))
        assert not (mask[n] & ~inside).any()


def test_the_ellipsoid_is_cut_at_the_volumes_border() -> None:
    whole, _ = ellipsoid_mask(Box.from_edges((4.5, 4.5, 4.5), (14.5, 14.5, 14.5)), (30, 30, 30))
    cut, crop = ellipsoid_mask(Box.from_edges((-5.5, 4.5, 4.5), (4.5, 14.5, 14.5)), (30, 30, 30))
    assert crop[2] == slice(0, 5)
    np.testing.assert_array_equal(cut, whole[:, :, 5:])
    outside, _ = ellipsoid_mask(Box.from_edges((40, 4, 4), (50, 14, 14)), (30, 30, 30))
    assert outside.size == 0


def alone(values) -> list:
    """Every value of another patient."""
    return [[value] for value in values]


def test_the_bootstrap_is_repeatable_and_as_wide_as_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(0.8, 0.1, 400)
    low, high = bootstrap_interval(alone(values), seed=1)
    assert (low, high) == bootstrap_interval(alone(values), seed=1) != bootstrap_interval(alone(values), seed=2)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_the_bootstrap_draws_patients_with_all_their_values() -> None:
    # Ten patients whose forty values are alike: as uncertain as ten values, not as four hundred.
    means = np.random.default_rng(3).normal(0.8, 0.1, 10)
    low, high = bootstrap_interval(alone(means))
    assert bootstrap_interval([[m] * 40 for m in means]) == pytest.approx((low, high))
    low, high = bootstrap_interval([[0.0] * 30, [1.0] * 10])  # the mean is over values: 0, 1/4 or 1
    assert (low, high) == (0, 1)


def test_the_bootstrap_of_several_sources_keeps_them_apart() -> None:
    # No spread within the sources: no spread of the mean of their means, however far apart they are.
    assert bootstrap_interval(alone([0.2, 0.2, 0.2]), alone([0.8, 0.8])) == pytest.approx((0.5, 0.5))
    low, high = bootstrap_interval(alone([0.2, 0.4] * 20), [[0.9, 0.9]])
    assert 0.55 < low < 0.6 < high < 0.65


@pytest.mark.parametrize("samples", [(), ([],), ([[float("nan")]],), ([[0.5, 0.6]],), ([[0.5], [float("nan")]],)])
def test_the_bootstrap_says_nothing_about_less_than_two_patients(samples) -> None:
    assert all(map(math.isnan, bootstrap_interval(*samples)))
