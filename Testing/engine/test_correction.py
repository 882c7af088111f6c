"""Strokes: they hold whatever the network says, on the slices and in the views that they were drawn in; the rest stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.corrector import drawn, holding
from qmedsam.geometry import View
from qmedsam.marks import Stroke
from qmedsam.network.fake import FakeNetwork
from shapes import ball, dsc, tight
from test_hints import SIDE, Listening

SHAPE = (14, 40, 48)
POINTS = st.tuples(st.integers(0, 47), st.integers(0, 39), st.integers(0, 13))
STROKES = st.builds(
    lambda a, b, axis, adds, radius: Stroke([a, [a[n] if n == axis else b[n] for n in range(3)]], axis, adds, radius),
    POINTS,
    POINTS,
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 2.5]),
)


def scene() -> tuple[Volume, np.ndarray]:
    truth = ball(SHAPE, (24, 20, 6.5), (12, 11, 5))
    array = np.where(truth, 100, 20).astype(np.int16)
    return Volume(array, np.diag([1.0, 1.0, 2.0, 1.0]), "MR"), truth


def covered(strokes: list[Stroke], volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """What strokes add and take away, the later one wins; by nearest voxels and by distance, voxel by voxel."""
    adds, removes = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for stroke in strokes:
        view = View.of(volume, stroke.axis)
        region = drawn(stroke, view)
        if region is None:
            continue
        x0, y0, x1, y1 = region.pixels
        here, there = (adds, removes) if stroke.adds else (removes, adds)
        view.slice_of(here, stroke.index)[y0:y1, x0:x1] |= region.mask
        view.slice_of(there, stroke.index)[y0:y1, x0:x1] &= ~region.mask
    return adds, removes


@given(st.lists(STROKES, min_size=1, max_size=4), st.booleans(), st.integers(0, 13))
@settings(max_examples=40, deadline=None)
def test_every_stroke_holds_and_what_is_kept_stays(strokes: list[Stroke], hinted: bool, kept: int) -> None:
    volume, truth = scene()
    segmenter = Segmenter(network=Listening() if hinted else FakeNetwork())
    present = ball(SHAPE, (20, 18, 6.5), (9, 8, 4))
    box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=tuple(strokes))
    done = segmenter.correct(volume, box, present, kept=[(2, kept)])
    mask = np.zeros(SHAPE, bool)
    mask[done.crop] = done.mask_kji_crop
    adds, removes = covered(strokes, volume)
    assert mask[adds].all() and not mask[removes].any()
    untouched = ~(adds | removes)
    assert np.array_equal(mask[kept][untouched[kept]], present[kept][untouched[kept]])
    outside = ~np.stack([done.box.inside(View.of(volume, 2), k, (0, 0, 48, 40)) for k in range(14)])
    assert np.array_equal(mask[outside & untouched], present[outside & untouched])


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=3),
    st.floats(0, 3),
    st.floats(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_box_grows_to_hold_strokes_and_keeps_what_it_held(points, turn: float, depth: float) -> None:
    axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) * (6, 4, depth)
    box = Box(np.zeros(3), axes)
    grown = holding(box, [Stroke(points)])
    for point in (*points, *(box.corners_ijk * (1 - 1e-9))):
        assert (np.abs(np.linalg.inv(grown.half_axes_ijk) @ (np.array(point) - grown.center_ijk)) <= 1 + 1e-6).all()
    if all((np.abs(np.linalg.inv(axes) @ np.array(point)) <= 1).all() for point in points):
        assert grown is box


def test_the_network_is_told_of_the_mask_and_of_the_strokes_on_their_slice_alone() -> None:
    volume, truth = scene()
    network = Listening()
    segmenter = Segmenter(network=network)
    strokes = (Stroke([24, 20, 6]), Stroke([[30, 12, 6], [34, 12, 6]], adds=False, radius_mm=1.0))
    box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=strokes)
    segmenter.correct(volume, box, np.zeros(SHAPE, bool))
    assert len(network.told) == 2  # one slice, as it is and left for right
    (box_uv, hints, _, found), (mirrored_uv, mirrored, _, mirrored_found) = network.told
    np.testing.assert_array_equal(mirrored, hints[..., ::-1])
    np.testing.assert_allclose(mirrored_uv[[2, 1, 0, 3]], box_uv * [-1, 1, -1, 1] + [2 * SIDE - 1, 0, 2 * SIDE - 1, 0], atol=1e-4)
    np.testing.assert_array_equal(mirrored_found, found[..., ::-1])
    assert (hints[1] == -1).all() and hints[2].any() and hints[3].any() and not (hints[2] * hints[3]).any()
    assert network.kinds() == ["volume"] * 2
    assert 4 <= hints[2].sum() <= 16  # a click is told as wide as it was in training
    # one more stroke is decoder work: the slice is known
    again = Box(box.center_ijk, box.half_axes_ijk, 1, "a", strokes=(*strokes, Stroke([20, 20, 6])))
    encoded = network.encoded
    segmenter.correct(volume, again, np.zeros(SHAPE, bool))
    assert network.encoded == encoded and len(network.told) == 4
    segmenter.forget()
    segmenter.correct(volume, again, np.zeros(SHAPE, bool))
    assert network.encoded == encoded + 2


def test_the_slice_in_view_alone_and_the_other_answers() -> None:
    volume, truth = scene()
    network = Listening(candidates=3)
    segmenter = Segmenter(network=network)
    box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=(Stroke([24, 20, 3]), Stroke([24, 20, 9])))
    present = np.zeros(SHAPE, bool)
    done = segmenter.correct(volume, box, present, shown=(2, 9))
    mask = np.zeros(SHAPE, bool)
    mask[done.crop] = done.mask_kji_crop
    assert len(network.told) == 2 and mask[9].sum() > 100 and mask[3].sum() == 1
    assert done.candidates[0] == done.confidence and len(done.candidates) == 3
    other = segmenter.correct(volume, box, present, shown=(2, 9), candidate=1)
    assert other.mask_kji_crop.sum() == 2 and other.confidence < done.confidence  # empty, but for the strokes


def test_what_no_stroke_lies_on_stays_as_it_is() -> None:
    """A corner is missing and a blob too much; the network would mend both, the user points at one of them."""
    volume, truth = scene()
    present = truth.copy()
    present[6, :, 30:] = False
    present[6, 24:28, 14:18] = False
    for point, mended in (([33, 20, 6], np.s_[6, :, 30:]), ([16, 26, 6], np.s_[6, 24:28, 14:18])):
        box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=(Stroke(point),))
        done = Segmenter(network=Listening()).correct(volume, box, present)
        expected = present.copy()
        expected[mended] = truth[mended]
        mask = np.zeros(SHAPE, bool)
        mask[done.crop] = done.mask_kji_crop
        assert dsc(mask[6], expected[6]) > 0.99 and mask[6][~expected[6]].sum() <= 4
        whole = Segmenter(network=Listening()).correct(
            volume, box, present, candidate=1
        )  # an answer to the slice, not to a stroke
        assert whole.mask_kji_crop.sum() < done.mask_kji_crop.sum()


def test_a_stroke_that_is_obeyed_costs_nothing_unless_it_is_the_last() -> None:
    volume, truth = scene()
    network = Listening()
    box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=(Stroke([24, 20, 3]), Stroke([24, 20, 9])))
    Segmenter(network=network).correct(volume, box, truth)
    assert len(network.told) == 2


def test_neighbouring_slices_follow_and_far_ones_stay() -> None:
    """A part is missing on six slices, in a network that sees the whole: a click on one mends all six, for the other views show
    how far it reaches; a second gap elsewhere stays."""
    volume, truth = scene()
    present = truth.copy()
    present[4:10, :, 28:] = False
    present[4:10, 24:28, 14:18] = False
    box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=(Stroke([32, 20, 6]),))
    done = Segmenter(network=Listening()).correct(volume, box, present)
    mask = np.zeros(SHAPE, bool)
    mask[done.crop] = done.mask_kji_crop
    assert all(dsc(mask[k, :, 28:], truth[k, :, 28:]) > 0.9 for k in range(4, 10))
    assert not mask[4:10, 24:28, 14:17].any()
    assert np.array_equal(mask[:3], present[:3]) and np.array_equal(mask[11:], present[11:])


def test_boxes_with_strokes_are_segmented_and_corrected_in_one_call() -> None:
    volume, truth = scene()
    boxes = [tight(truth, label=1, name="a"), Box.from_voxels([32, 12, 4], [40, 18, 9], label=2, name="b")]
    plain = Segmenter(network=FakeNetwork()).segment(volume, boxes, keep_masks=True)
    stroke = Stroke([[30, 20, 6], [32, 20, 6]], adds=False, radius_mm=1)
    marked = [Box(b.center_ijk, b.half_axes_ijk, b.label, b.name, strokes=(stroke,) * (b.label == 1)) for b in boxes]
    found = Segmenter(network=FakeNetwork()).segment(volume, marked)
    assert (plain.labels_kji[6, 20, 30:33] == 1).all() and not found.labels_kji[6, 20, 30:33].any()
    changed = plain.labels_kji != found.labels_kji
    assert changed.sum() == np.count_nonzero(drawn(stroke, View.of(volume, 2)).mask)  # the smaller box is still on top
    assert [o.voxels for o in found.objects] == [np.count_nonzero(found.labels_kji == n) for n in (1, 2)]
    assert found.objects[0].covered == plain.objects[0].covered > 0 and found.objects[0].mask_kji_crop is None
    assert found.seconds["correct"] > 0


def test_a_picture_is_corrected_by_the_model_that_listens() -> None:
    truth = ball((1, 80, 90), (45, 40, 0), (30, 25, 1))
    volume = Volume(
        np.where(truth, 150, 60).astype(np.uint8) + np.random.default_rng(0).integers(0, 20, truth.shape).astype(np.uint8)
    )
    segmenter = Segmenter()
    box = Box(tight(truth).center_ijk, tight(truth).half_axes_ijk, 1, "a", strokes=(Stroke([30, 40, 0], adds=False),))
    done = segmenter.correct(volume, box)
    assert (
        not done.mask_kji_crop[0, 40 - done.crop[1].start, 30 - done.crop[2].start] and done.confidence > 0 and not done.messages
    )
    with pytest.raises(QMedSAMError, match="has the shape"):
        segmenter.correct(volume, box, np.zeros((1, 2, 3), bool))
    with pytest.raises(QMedSAMError, match="no valid points"):
        Stroke(np.zeros((0, 3)))
    quiet = Segmenter("qmedsam-compact").correct(volume, box)
    assert (
        "does not listen" in quiet.messages[0] and not quiet.mask_kji_crop[0, 40 - quiet.crop[1].start, 30 - quiet.crop[2].start]
    )


def test_another_answer_to_a_picture_comes_from_the_model_that_has_several() -> None:
    """``qmedsam-compact`` has one answer: the next ones are those of ``qmedsam-volume``; the other box keeps its own."""
    truth = ball((1, 80, 90), (45, 40, 0), (30, 25, 1))
    noise = np.random.default_rng(0).integers(0, 20, truth.shape)
    volume = Volume(np.where(truth, 150, 60).astype(np.uint8) + noise.astype(np.uint8))
    box, segmenter = tight(truth), Segmenter()
    first, second, third = (segmenter.segment(volume, [replace(box, candidate=n)]) for n in range(3))
    assert (first.model, second.model, third.model) == ("qmedsam-compact", "qmedsam-volume", "qmedsam-volume")
    named = [Segmenter("qmedsam-volume").segment(volume, [replace(box, candidate=n)]) for n in range(2)]
    assert np.array_equal(second.labels_kji, named[0].labels_kji) and np.array_equal(third.labels_kji, named[1].labels_kji)
    both = segmenter.segment(volume, [replace(box, label=1), replace(box, label=2, candidate=1)], keep_masks=True)
    for found, alone in zip(both.objects, (first, second)):
        mask = np.zeros(truth.shape, bool)
        mask[found.crop] = found.mask_kji_crop
        assert np.array_equal(mask, alone.labels_kji > 0)
