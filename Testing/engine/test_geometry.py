"""Boxes, cuts and frames: round trips on rotated, flipped and anisotropic volumes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box, QMedSAMError, Volume
from qmedsam import frames as frames_module
from qmedsam.frames import Frame
from qmedsam.geometry import View, extent_of
from shapes import geometry, rotation

finite = st.floats(-3, 3, allow_nan=False)
spacing = st.floats(0.3, 6)


@given(st.tuples(finite, finite, finite), st.tuples(finite, finite, finite), st.tuples(spacing, spacing, spacing), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_roi_in_ras_keeps_its_eight_corners(roi_angles, angles, spacings, flip) -> None:
    ijk_to_ras = geometry(angles, spacings, flip)
    center, half = np.array([-10.0, 30.0, 300.0]), rotation(roi_angles) @ np.diag([12.0, 7.0, 20.0])
    box = Box.from_ras(center, half, ijk_to_ras)
    back = box.corners_ijk @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    assert np.allclose(back, center + signs @ half.T, atol=1e-8)


@given(st.integers(0, 2), st.data())
@settings(max_examples=40, deadline=None)
def test_an_axis_aligned_box_covers_exactly_its_voxels(axis, data) -> None:
    shape = (9, 11, 13)  # ijk
    first = [data.draw(st.integers(0, n - 1)) for n in shape]
    last = [data.draw(st.integers(a, n - 1)) for a, n in zip(first, shape)]
    box = Box.from_voxels(first, last)
    view = View(axis, shape, (1.0, 2.0, 3.0))
    covered = np.zeros(shape[::-1], bool)
    for index in box.slices(axis, shape[axis]):
        pixels = view.pixels_of(box.cut(view, index))
        x0, y0, x1, y1 = pixels
        view.slice_of(covered, index)[y0:y1, x0:x1] |= box.inside(view, index, pixels)
    expected = np.zeros_like(covered)
    expected[first[2] : last[2] + 1, first[1] : last[1] + 1, first[0] : last[0] + 1] = True
    assert (covered == expected).all()


@given(st.tuples(finite, finite, finite), st.tuples(st.floats(2, 9), st.floats(2, 9), st.floats(2, 9)), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_a_cut_is_the_tightest_rectangle_around_the_box(angles, half, axis) -> None:
    """Against brute force: dense points of the box near the plane."""
    box = Box(np.array([20.0, 21.0, 19.0]), rotation(angles) @ np.diag(half))
    view = View(axis, (40, 40, 40), (1.0, 1.0, 1.0))
    slices = box.slices(axis, 40)
    along = box.corners_ijk[:, axis]
    assert slices[0] - 1 < along.min() <= slices[0] + 1e-6 and slices[-1] - 1e-6 <= along.max() < slices[-1] + 1
    index = slices[len(slices) // 2]
    u = np.linspace(-1, 1, 61)
    points = np.stack(np.meshgrid(u, u, u), axis=-1).reshape(-1, 3) @ box.half_axes_ijk.T + box.center_ijk
    near = points[np.abs(points[:, axis] - index) < 0.35][:, view.in_plane]
    x0, y0, x1, y1 = box.cut(view, index)
    assert np.allclose([x0, y0], near.min(axis=0), atol=1.6) and np.allclose([x1, y1], near.max(axis=0), atol=1.6)
    pixels = view.pixels_of((x0, y0, x1, y1))
    inside = box.inside(view, index, pixels)
    assert inside.any()
    grown = (pixels[0] - 2, pixels[1] - 2, pixels[2] + 2, pixels[3] + 2)
    assert box.inside(view, index, grown).sum() == inside.sum(), "the rectangle missed voxels of the box"


def test_planes_that_miss_the_box_give_nothing() -> None:
    box = Box.from_voxels((2, 2, 5), (6, 6, 8))
    view = View(2, (10, 10, 20), (1, 1, 1))
    assert box.slices(2, 20) == range(5, 9)
    assert box.cut(view, 4) is None and box.cut(view, 9) is None


def test_a_flat_roi_lies_on_the_slice_it_was_drawn_on() -> None:
    box = Box.from_edges((2, 3, 7.0), (8, 9, 7.0))
    view = View(2, (12, 12, 12), (1, 1, 1))
    assert box.slices(2, 12) == range(7, 8)
    assert box.inside(view, 7, (0, 0, 12, 12)).sum() == 7 * 7


@given(st.floats(-5, 60), st.floats(-5, 60), st.floats(2, 80), spacing, spacing, st.sampled_from([32, 64, 96]))
@settings(max_examples=60, deadline=None)
def test_rectangles_keep_their_place_and_size_in_a_frame(x, y, side, mm_x, mm_y, size) -> None:
    frame = Frame.square((x, y), side, (mm_x, mm_y), size)
    rectangle = (x - 3, y - 2, x + 4, y + 1)
    u0, v0, u1, v1 = frame.to_network(rectangle)
    assert np.allclose(((u0 + u1) / 2, (v0 + v1) / 2), (size - 1) / 2 + 0.5 * np.array([frame.scale_x, -frame.scale_y]))
    assert np.allclose((u1 - u0, v1 - v0), (7 * frame.scale_x, 3 * frame.scale_y))
    assert frame.scale_x / mm_x == pytest.approx(frame.scale_y / mm_y)  # square in mm


@given(st.floats(0.8, 4.0), st.floats(0.8, 4.0), st.integers(20, 90))
@settings(max_examples=30, deadline=None)
def test_a_mask_survives_the_frame(mm_x, mm_y, length) -> None:
    """A disc drawn into the frame and brought back keeps its pixels, to within its border."""
    view = View(2, (length, length, 1), (mm_x, mm_y, 1.0))
    y, x = np.mgrid[:length, :length]
    radius = 0.3 * length
    disc = (x - length / 2) ** 2 + (y - length / 2) ** 2 <= radius**2
    frame = Frame.around(extent_of(disc), view, 128, 0.3)
    drawn, valid = frame.sample(disc.astype(np.float32))
    assert drawn.shape == (128, 128) and valid.any()
    back = frame.restore(drawn - 0.5, (0, 0, length, length)) > 0
    assert (back != disc).sum() <= 0.6 * 2 * np.pi * radius  # half a pixel along the border


def test_sampling_averages_when_it_shrinks_and_is_exact_at_scale_one() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(64, 64)).astype(np.float32)
    same, valid = Frame(-0.5, -0.5, 1.0, 1.0, 64).sample(image)
    assert np.allclose(same, image, atol=1e-6) and valid.all()
    small, _ = Frame(-0.5, -0.5, 0.25, 0.25, 16).sample(image)
    assert small.mean() == pytest.approx(image.mean(), abs=0.01) and small.std() < 0.35 * image.std()


def test_a_gradient_keeps_its_place_in_a_frame() -> None:
    """Half-pixel errors show here: value = position."""
    image = np.tile(np.arange(50, dtype=np.float32), (40, 1))
    frame = Frame(9.5, 4.5, 3.0, 3.0, 60)  # pixels 10..29 of x
    drawn, _ = frame.sample(image)
    u = np.arange(60)
    assert np.allclose(drawn[30], (u + 0.5) / 3 + 9.5, atol=1e-4)
    assert np.allclose(frame.restore(drawn, (12, 6, 28, 20)), image[6:20, 12:28], atol=1e-4)


def test_outside_the_slice_is_zero_and_not_valid() -> None:
    drawn, valid = Frame(-10.5, -0.5, 1.0, 1.0, 32).sample(np.ones((32, 32), np.float32))
    assert not valid[:, :10].any() and valid[:, 10:].all() and drawn[:, :10].max() == 0 and drawn[:, 10:].min() == 1
    with pytest.raises(QMedSAMError, match="outside"):
        Frame(100, 100, 1, 1, 16).sample(np.ones((32, 32), np.float32))


@pytest.mark.parametrize("height", [1, 3, 8])
def test_a_strip_thinner_than_a_network_pixel_is_still_drawn(height) -> None:
    """Between two samples, as in a frame around it, and beside the first one, as in a frame of the whole slice."""
    view = View(2, (3000, height, 1), (1.0, 1.0, 1.0))
    for frame in (Frame.around((-0.5, -0.5, 2999.5, height - 0.5), view, 256, 0.3), Frame.whole_slice(view, 256)):
        drawn, valid = frame.sample(np.full((height, 3000), 7.0, np.float32))
        assert 1 <= valid.any(axis=1).sum() <= 2 and np.allclose(drawn[valid], 7) and not drawn[~valid].any()


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_large_slice_is_prepared_in_strips(channels, monkeypatch) -> None:
    image = np.random.default_rng(0).uniform(size=(90, 130, *channels)).astype(np.float32)
    frame = Frame(-9.5, 3.5, 0.5, 0.6, 48)
    expected, _ = frame.sample(image)
    sizes = []

    def prepare(part: np.ndarray) -> np.ndarray:
        sizes.append(part.size)
        return np.float32(part)

    monkeypatch.setattr(frames_module, "BLOCK_VALUES", 2000)
    drawn, _ = frame.sample(image, prepare)
    assert np.allclose(drawn, expected, atol=1e-6) and len(sizes) > 3 and max(sizes) <= 2000


def test_a_small_box_on_a_huge_picture_costs_what_the_box_costs() -> None:
    view = View(2, (16000, 16000, 1), (1.0, 1.0, 1.0))
    image = np.broadcast_to(np.float32(1), (16000, 16000))
    tracemalloc.start()
    try:
        Frame.around((8000, 9000, 8060, 9060), view, 256, 0.3).sample(image)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # weights for whole rows and columns: 64 MiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("axis,shape_yx", [(2, (4, 5)), (1, (3, 5)), (0, (3, 4))])
def test_views_slice_along_their_axis(axis, shape_yx) -> None:
    array = np.arange(60).reshape(3, 4, 5)  # kji
    view = View.of(Volume(array), axis)
    assert view.shape_yx == shape_yx == view.slice_of(array, 1).shape
    view.slice_of(array, 1)[0, 0] = -7  # a view, not a copy
    assert (array == -7).sum() == 1


@pytest.mark.parametrize(
    "array,word",
    [
        (np.zeros((4, 5)), "shape"),
        (np.zeros((2, 3, 4, 5)), "shape"),
        (np.zeros((0, 4, 5)), "empty"),
        (np.zeros((2, 3, 4), complex), "complex"),
    ],
)
def test_a_volume_refuses_what_it_cannot_be(array, word) -> None:
    with pytest.raises(QMedSAMError, match=word):
        Volume(array)


PARALLEL = np.array([[1.0, 2, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "matrix", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1, 0, 1, 1.0]), PARALLEL, np.diag([5e-5] * 3 + [1]) @ PARALLEL]
)
def test_a_volume_refuses_an_impossible_geometry(matrix) -> None:
    with pytest.raises(QMedSAMError, match="geometry"):
        Volume(np.zeros((2, 3, 4)), matrix)


@pytest.mark.parametrize("millimetres", [5e-5, 1e-9, 1e6])
def test_voxels_may_have_any_size(millimetres) -> None:
    """Electron microscopes have voxels of 50 nm and less."""
    matrix = geometry((0.3, -0.2, 0.1), (millimetres, millimetres, 4 * millimetres), True)
    assert np.allclose(Volume(np.zeros((2, 3, 4)), matrix).spacing_mm, (millimetres, millimetres, 4 * millimetres))


def test_a_box_refuses_nonsense() -> None:
    with pytest.raises(QMedSAMError):
        Box(np.array([1, np.nan, 2]), np.eye(3))
