"""Prompts on their way through the slices, on phantoms whose truth is known, with the numpy network."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.geometry import View
from qmedsam.network.fake import FakeNetwork
from qmedsam.strategies import STRATEGIES
from qmedsam.strategies.items import TAPER, Item
from qmedsam.strategies.slicewise import LEAST_SHARE, grown_within
from shapes import ball, dsc, phantom, rotation, tight


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("frame", ["roi", "slice"])
def test_a_ball_is_found(strategy, frame) -> None:
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth), [tight(truth)], strategy=strategy, frame=frame)
    assert dsc(result.labels_kji == 1, truth) > 0.97
    assert result.objects[0].slices == 17 and result.objects[0].voxels == (result.labels_kji == 1).sum()


@given(st.tuples(*[st.floats(-1.5, 1.5)] * 3), st.sampled_from(sorted(STRATEGIES)), st.sampled_from(["roi", "slice"]))
@settings(max_examples=15, deadline=None)
def test_no_voxel_leaves_a_rotated_roi(angles, strategy, frame) -> None:
    rng = np.random.default_rng(0)
    volume = Volume(rng.uniform(0, 100, (24, 30, 34)), modality="MR")
    box = Box(np.array([17.0, 15.0, 12.0]), rotation(angles) @ np.diag([8.0, 5.0, 6.0]))
    result = Segmenter(network=FakeNetwork(48)).segment(volume, [box], strategy=strategy, frame=frame)
    k, j, i = np.nonzero(result.labels_kji)
    assert len(k) > 20
    local = (np.stack([i, j, k], axis=1) - box.center_ijk) @ np.linalg.inv(box.half_axes_ijk).T
    assert np.abs(local).max() <= 1 + 1e-5


@given(st.sampled_from([(0, 1), (0, 2), (1, 2)]), st.sampled_from([0, 1, 2]))
@settings(max_examples=9, deadline=None)
def test_flips_and_transposed_planes_change_nothing(plane, flip) -> None:
    """A ball off the middle, the array flipped or its rows and columns swapped with the box."""
    truth = ball((17, 41, 41), (18, 23, 8), (10, 7, 6))
    volume = phantom(truth)
    expected = Segmenter(network=FakeNetwork(64)).segment(volume, [tight(truth)], strategy="fixed").labels_kji
    flipped = np.flip(truth, flip)
    got = Segmenter(network=FakeNetwork(64)).segment(phantom(flipped), [tight(flipped)], strategy="fixed").labels_kji
    assert (np.flip(got, flip) != expected).mean() < 1e-3
    if plane == (1, 2):
        swapped = np.swapaxes(truth, 1, 2)
        got = Segmenter(network=FakeNetwork(64)).segment(phantom(swapped), [tight(swapped)], strategy="fixed").labels_kji
        assert (np.swapaxes(got, 1, 2) != expected).mean() < 1e-3


def test_propagation_ends_where_the_object_ends() -> None:
    """A second object higher up in the same box, off to the side, is not picked up once the first has ended."""
    truth = ball((30, 40, 40), (20, 20, 10), (9, 9, 6))
    volume = phantom(truth)
    box = Box.from_voxels((8, 8, 2), (32, 32, 27))  # the box goes on for 11 slices after the object
    result = Segmenter(network=FakeNetwork(64)).segment(volume, [box], strategy="propagate")
    assert dsc(result.labels_kji == 1, truth) > 0.95
    assert result.objects[0].slices < 26, "it should have stopped prompting"


def test_propagation_survives_a_gap() -> None:
    """One dark slice in the middle (an artefact) does not end the object; the slice itself stays empty."""
    truth = np.zeros((20, 40, 40), bool)
    truth[2:18, 12:28, 12:28] = True
    array = (truth * 100).astype(np.int16)
    array[13] = 0
    result = Segmenter(network=FakeNetwork(64)).segment(Volume(array, modality="MR"), [tight(truth)], strategy="propagate")
    assert (result.labels_kji[14] == 1).sum() > 180 and (result.labels_kji[17] == 1).any()
    assert not result.labels_kji[13].any()


def test_the_next_prompt_stays_inside_and_above_the_least_size() -> None:
    roi = (0.0, 0.0, 100.0, 50.0)
    x0, y0, x1, y1 = grown_within((40, 20, 60, 30), roi)
    assert (x0, x1) == (37, 63) and (y0, y1) == (18, 32)
    x0, y0, x1, y1 = grown_within((99, 49, 100, 50), roi)
    assert x1 == 100 and y1 == 50 and x1 - x0 >= LEAST_SHARE * 100
    assert grown_within((-30, -30, 200, 200), roi) == roi


def test_a_slice_is_encoded_once_for_all_boxes_of_a_frame() -> None:
    truth = ball((12, 60, 60), (30, 30, 6), (25, 25, 5))
    boxes = [Box.from_voxels((5 + n, 5, 1), (40 + n, 50, 10 - n % 3)) for n in range(7)]
    for strategy, most in (("fixed", 10), ("propagate", 10), ("vote", 10 + 46 + 42)):
        network = FakeNetwork(48)
        result = Segmenter(network=network).segment(phantom(truth), boxes, strategy=strategy, frame="slice")
        assert network.encoded == result.cost["encodes"] <= most, strategy
        assert sum(network.decoded) == result.cost["decodes"]
        assert result.cost["single_encodes"] == 10 and result.cost["single_decodes"] == 3 * 10 + 2 * 9 + 2 * 8


def test_boxes_are_decoded_in_blocks_and_overlap_by_size() -> None:
    """241 boxes, the papers' case: blocks of 16, uint8 labels, the smaller box on top."""
    rng = np.random.default_rng(0)
    volume = Volume(rng.uniform(50, 100, (1, 200, 200)), modality="Microscopy")
    boxes: List[Box] = [Box.from_voxels((0, 0, 0), (199, 199, 0))]
    boxes += [Box.from_voxels((x, y, 0), (x + 9, y + 9, 0)) for x in range(0, 192, 12) for y in range(0, 180, 12)]
    network = FakeNetwork(256)
    result = Segmenter(network=network).segment(volume, boxes, frame="slice")
    assert len(boxes) == 241 and network.encoded == 1
    assert network.decoded == [16] * 15 + [1]
    assert result.labels_kji.dtype == np.uint8
    assert all(o.voxels > 0 and (result.labels_kji == o.label).sum() == o.voxels for o in result.objects[1:])


@pytest.mark.parametrize("frame", ["roi", "slice"])
def test_a_box_too_thin_for_the_network_is_named_when_nothing_is_found(frame) -> None:
    strip = Volume((np.indices((1, 8, 3000))[2] % 200).astype(np.uint8), modality="US")
    nothing = Box.from_voxels((0, 0, 0), (2999, 7, 0), name="strip")
    network = FakeNetwork(256)
    network.decode = lambda _, boxes, *said: (np.full((len(boxes), 1, 256, 256), -1.0, np.float32), np.zeros((len(boxes), 1)))
    (message,) = Segmenter(network=network).segment(strip, [nothing], frame=frame).messages
    assert "'strip'" in message and ("0.4 pixels" if frame == "roi" else "0.7 pixels") in message
    square = Box.from_voxels((0, 0, 0), (7, 7, 0))
    assert not Segmenter(network=network).segment(strip, [square], frame="roi").messages


def test_more_than_255_boxes_get_wider_labels() -> None:
    volume = Volume(np.random.default_rng(0).uniform(0, 1, (1, 300, 20)), modality="US")
    boxes = [Box.from_voxels((2, y, 0), (9, y, 0)) for y in range(300)]
    result = Segmenter(network=FakeNetwork(320)).segment(volume, boxes, frame="slice")
    assert result.labels_kji.dtype == np.uint16 and result.labels_kji.max() == 300


@pytest.mark.parametrize("stop", [1, 4, 13])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cancelling_stops_within_one_slice_and_keeps_what_was_done(strategy, stop) -> None:
    truth = ball((30, 40, 40), (20, 20, 15), (12, 12, 13))
    network = FakeNetwork(32)
    seen = [(0, 0)]
    result = Segmenter(network=network).segment(
        phantom(truth),
        [tight(truth)],
        strategy=strategy,
        progress=lambda done, total: seen.append((done, total)),
        cancelled=lambda: network.encoded >= stop,
    )
    assert result.cancelled and network.encoded == stop
    done, total = seen[-1]
    assert done <= stop and total == (27 + 25 + 25 if strategy == "vote" else 27)
    kept = len(np.unique(np.nonzero(result.labels_kji)[0]))
    assert kept == (0 if strategy == "vote" else done), "a vote that was not finished is no mask"


def test_the_users_arrays_are_not_touched_and_masks_can_be_kept() -> None:
    truth = ball((10, 30, 30), (15, 15, 5), (8, 8, 4))
    volume = phantom(truth)
    before = volume.array_kji.copy()
    volume.array_kji.flags.writeable = False
    result = Segmenter(network=FakeNetwork(64)).segment(volume, [tight(truth), tight(truth, 1.0)], keep_masks=True)
    assert (volume.array_kji == before).all()
    for found in result.objects:
        assert found.mask_kji_crop.sum() == found.voxels + found.covered
        assert dsc(found.mask_kji_crop, truth[found.crop]) > 0.95


def test_the_same_object_in_a_rotated_volume() -> None:
    """The box is drawn in RAS; the volume's grid is turned about its k axis: the same millilitres are found."""
    volumes = []
    for angle in (0.0, 0.5):
        matrix = np.eye(4)
        matrix[:3, :3] = rotation((0, 0, angle)) @ np.diag([1.0, 1.0, 2.5])
        matrix[:3, 3] = -matrix[:3, :3] @ np.array([32, 32, 10])  # the volume's middle at RAS 0
        k, j, i = np.mgrid[:21, :65, :65]
        ras = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ matrix.T
        truth = (ras[..., 0] / 18) ** 2 + (ras[..., 1] / 12) ** 2 + (ras[..., 2] / 15) ** 2 <= 1
        box = Box.from_ras(np.zeros(3), np.diag([18.5, 12.5, 15.5]), matrix)
        result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth, matrix), [box])
        assert dsc(result.labels_kji == 1, truth) > 0.95
        volumes.append(result.objects[0].volume_ml)
    assert volumes[1] == pytest.approx(volumes[0], rel=0.03)


@pytest.mark.parametrize(
    "box,word",
    [
        (Box.from_voxels((100, 5, 2), (110, 9, 4)), "outside"),
        (Box.from_edges((5, 5, 2.2), (9, 9, 2.4)), "thinner"),
        (Box.from_edges((5, 5, 40), (9, 9, 60)), "outside"),
        (Box.from_voxels((5, 5, 10), (9, 9, 12)), "outside"),  # counted from 1
        (Box.from_voxels((5, 5, 2), (9, 9, 4), label=70000), "65535"),
    ],
)
def test_boxes_that_cannot_be_segmented_say_so(box, word) -> None:
    volume = phantom(ball((10, 30, 30), (15, 15, 5), (8, 8, 4)))
    with pytest.raises(QMedSAMError, match=word):
        Segmenter(network=FakeNetwork(32)).segment(volume, [box])


def test_a_box_partly_outside_is_cut_with_a_message() -> None:
    truth = ball((10, 30, 30), (26, 15, 5), (8, 8, 4))
    result = Segmenter(network=FakeNetwork(64)).segment(phantom(truth), [Box.from_voxels((17, 6, 0), (40, 24, 12))])
    assert dsc(result.labels_kji == 1, truth) > 0.9
    (message,) = (m for m in result.messages if "cut at its border" in m)
    assert "along i (17 to 40, not 0 to 29)" in message and "Most" not in message


def test_a_box_mostly_outside_is_called_that() -> None:
    truth = ball((10, 30, 30), (15, 15, 5), (8, 8, 4))
    result = Segmenter(network=FakeNetwork(64)).segment(phantom(truth), [Box.from_voxels((0, 6, 6), (9, 24, 24))])  # k, j, i
    assert any("along k (6 to 24, not 0 to 9)" in m and "Most of it lies outside" in m for m in result.messages)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_how_far_a_box_reaches_beyond_the_image_does_not_matter(strategy) -> None:
    """'To the end', typed as k1 = 999, or an ROI that sticks out: the object ends where the image does."""
    truth = ball((12, 40, 40), (28, 20, 11), (14, 9, 8))  # cut off by the last slice and the last column
    masks = []
    for last in (13, 40, 999):
        box = Box.from_voxels((14, 11, 3), (last + 30, 29, last))
        result = Segmenter(network=FakeNetwork(64)).segment(phantom(truth), [box], strategy=strategy)
        masks.append(result.labels_kji == 1)
        assert dsc(masks[-1], truth) > 0.9
    assert (masks[1] == masks[2]).all()


@pytest.mark.parametrize(
    ("box", "ways"),  # by slice, from where nothing tapers (0) to the box's end (1)
    [
        (Box.from_edges((0, 0, 3.5), (9, 9, 15.5)), {4: 5.5 / 6, 9: 0.5 / 6, 15: 5.5 / 6}),
        # sloppily drawn past both ends of the stack: both are still in sight
        (Box.from_edges((0, 0, -0.55), (9, 9, 19.55)), {0: 9.5 / 10.05, 19: 9.5 / 10.05}),
        # a corner of a tilted box leaves the image, its end faces do not
        (Box((10, 10, 9.5), ((8, 0, -3), (0, 8, 0), (3, 0, 9))), {0: 9.5 / 12, 19: 9.5 / 12}),
        # an object that goes on out there tapers only towards the end in sight, as if nothing were cut off
        (Box.from_edges((0, 0, 9.5), (9, 9, 27.5)), {10: 8.5 / 9, 18: 0.5 / 9, 19: 0}),
        (Box.from_edges((0, 0, 9.5), (9, 9, 999)), {10: 9.5 / 10, 15: 4.5 / 10, 19: 0.5 / 10}),
        (Box.from_edges((0, 0, -99), (9, 9, 999)), {0: 0, 10: 0, 19: 0}),
    ],
)
def test_an_object_is_expected_to_taper_towards_the_ends_in_sight(box, ways) -> None:
    volume = phantom(ball((20, 30, 30), (15, 15, 9), (8, 8, 8)))
    item = Item(box, View.of(volume, 2), lambda mask: None)
    expected = {index: (1 - way**TAPER) ** (1 / TAPER) for index, way in ways.items()}
    assert {index: item.expected_share(index) for index in ways} == pytest.approx(expected, abs=1e-6)


def test_a_box_of_one_voxel() -> None:
    volume = phantom(ball((10, 30, 30), (15, 15, 5), (8, 8, 4)))
    result = Segmenter(network=FakeNetwork(32)).segment(volume, [Box.from_voxels((15, 15, 5), (15, 15, 5))])
    assert result.labels_kji.sum() <= 1 and result.objects[0].slices <= 1


def test_wrong_words_are_refused() -> None:
    volume, box = phantom(ball((5, 20, 20), (10, 10, 2), (5, 5, 2))), Box.from_voxels((4, 4, 0), (15, 15, 4))
    segmenter = Segmenter(network=FakeNetwork(32))
    for arguments, word in (
        ({"strategy": "magic"}, "magic"),
        ({"frame": "hexagon"}, "hexagon"),
        ({"modality": "sonar"}, "sonar"),
        ({"window": (0, 10)}, "width"),
    ):
        with pytest.raises(QMedSAMError, match=word):
            segmenter.segment(volume, [box], **arguments)
    with pytest.raises(QMedSAMError, match="no box"):
        segmenter.segment(volume, [])
    with pytest.raises(QMedSAMError, match="same label"):
        segmenter.segment(volume, [Box.from_voxels((4, 4, 0), (15, 15, 4), label=3)] * 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, bool])
def test_types_of_voxels(dtype) -> None:
    truth = ball((8, 30, 30), (15, 15, 4), (8, 8, 3))
    volume = Volume(truth.astype(dtype) * (1 if dtype is bool else dtype(90)), modality="MR")
    result = Segmenter(network=FakeNetwork(64)).segment(volume, [tight(truth)])
    assert dsc(result.labels_kji == 1, truth) > 0.95


def test_an_unknown_modality_is_named_in_a_message() -> None:
    truth = ball((8, 30, 30), (15, 15, 4), (8, 8, 3))
    box = tight(truth)
    hu = Volume((truth * 100 - 1000 * (~truth)).astype(np.int16))
    result = Segmenter(network=FakeNetwork(64)).segment(hu, [box])
    assert result.modality == "CT" and "look like CT" in result.messages[0]
    result = Segmenter(network=FakeNetwork(64)).segment(Volume((truth * 100).astype(np.int16)), [box])
    assert result.modality == "" and "percentile" in result.messages[0]


def test_a_window_changes_what_is_seen_and_not_what_is_assumed() -> None:
    truth = ball((8, 30, 30), (15, 15, 4), (8, 8, 3))
    segmenter = Segmenter(network=FakeNetwork(64))
    for array, modality, strategy, said in (
        (truth * 100 - 1000 * (~truth), "CT", "vote", "look like CT"),
        (truth * 100, "", "propagate", "unknown modality"),
    ):
        volume = Volume(array.astype(np.int16))
        for window in (None, (400, 40)):
            result = segmenter.segment(volume, [tight(truth)], window=window)
            assert (result.modality, result.strategy) == (modality, strategy)
        (message,) = result.messages
        assert said in message and "abdomen" not in message and "percentile" not in message


def test_voxels_and_millilitres_are_those_of_the_label_array() -> None:
    truth = ball((10, 40, 40), (20, 20, 5), (14, 14, 4))
    boxes = [tight(truth), Box.from_voxels((14, 14, 3), (26, 26, 7))]
    result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth), boxes)
    outer, inner = result.objects
    assert outer.voxels == (result.labels_kji == 1).sum() and outer.covered == inner.voxels > 0
    assert outer.volume_ml == pytest.approx(outer.voxels / 1000)


@pytest.mark.parametrize("strategy", ["auto", *STRATEGIES])
def test_a_box_that_cannot_be_segmented_is_named_and_costs_the_others_nothing(strategy) -> None:
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    good = tight(truth)
    outside = Box(np.array([300.0, 25, 10]), np.diag([5.0, 5, 5]), name="away")
    thin = Box(np.array([30.0, 25, 10.5]), np.diag([5.0, 5, 0.2]), name="thin")
    alone = Segmenter(network=FakeNetwork(96)).segment(phantom(truth), [good], strategy=strategy)
    result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth), [outside, good, thin], strategy=strategy, keep_masks=True)
    assert np.array_equal(result.labels_kji == 2, alone.labels_kji == 1) and not ((result.labels_kji != 2) & truth).any()
    away, found, flat = result.objects
    assert "'away' lies outside" in away.error and "'thin' is thinner" in flat.error and not found.error
    assert result.errors == [away.error, flat.error] and found.voxels == alone.objects[0].voxels
    assert not away.voxels and away.mask_kji_crop.size == 0 and result.labels_kji[away.crop].size == 0
    assert sum("The others were segmented" in message for message in result.messages) == 2
    with pytest.raises(QMedSAMError, match="'away' lies outside"):
        Segmenter(network=FakeNetwork(96)).segment(phantom(truth), [outside, thin], strategy=strategy)


def test_a_result_shows_itself_without_its_arrays() -> None:
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth), [tight(truth)], strategy="fixed", keep_masks=True)
    assert "array" not in repr(result) and len(repr(result)) < 400 and " ml)" in repr(result)


@pytest.mark.parametrize(("colour", "modality"), [(True, ""), (True, "US"), (True, "ES"), (False, "XA"), (False, "US")])
def test_every_frame_of_a_cine_is_segmented_as_if_it_were_alone(colour, modality) -> None:
    """Twelve equal frames: nothing may get smaller towards the ends. Grey ultrasound may be a volume, and is followed."""
    disc = ball((1, 40, 50), (25, 20, 0), (14, 11, 0.5))
    truth = np.repeat(disc, 12, axis=0)
    grey = (40 + 160 * truth).astype(np.uint8)
    array = np.repeat(grey[..., None], 3, axis=3) if colour else grey
    half = np.array([15.0, 12.0, 6.0])
    cine = Segmenter(network=FakeNetwork(96)).segment(
        Volume(array, modality=modality), [Box(np.array([25.0, 20.0, 5.5]), np.diag(half))]
    )
    alone = Segmenter(network=FakeNetwork(96)).segment(
        Volume(array[:1], modality=modality), [Box(np.array([25.0, 20.0, 0]), np.diag([15.0, 12.0, 0.5]))]
    )
    assert alone.labels_kji.any()
    if modality == "US" and not colour:
        assert cine.strategy == "propagate"
        return
    assert cine.strategy == "fixed" and any("frames in time" in message for message in cine.messages)
    assert all(np.array_equal(frame, alone.labels_kji[0]) for frame in cine.labels_kji)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_lets_go_of_the_volume_at_once(strategy) -> None:
    """Not when Python's collector comes by: in an application that may be a long time, and a volume half a gigabyte."""
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    volume, box = phantom(truth), tight(truth)
    known = weakref.ref(volume.array_kji)
    gc.collect()
    gc.disable()
    try:
        result = Segmenter(network=FakeNetwork(96)).segment(volume, [box], strategy=strategy, keep_masks=True)
        del volume
        assert known() is None and result.objects[0].voxels > 0
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_run_takes_no_array_of_the_volumes_size_beside_the_labels(dtype) -> None:
    truth = ball((8, 16, 16), (8, 8, 4), (5, 5, 3))
    array = np.zeros((512, 128, 128), dtype)
    array[200:208, 40:56, 40:56] = np.where(truth, 100, 10)
    volume, box = Volume(array), Box(np.array([48.0, 48.0, 204.0]), np.diag([6.0, 6.0, 4.0]))
    tracemalloc.start()
    Segmenter(network=FakeNetwork(32)).segment(volume, [box], strategy="fixed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    labels, sample = array.size, 4 * 2_000_000 * array.itemsize  # the values that percentiles are taken of, sorted and picked
    assert peak < 1.5 * labels + sample
