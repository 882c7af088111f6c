"""What must hold for every strategy, whatever the object, the box and the way the volume is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.files import read_boxes, read_volume
from qmedsam.geometry import View
from qmedsam.models import shipped_folder
from qmedsam.network.fake import FakeNetwork
from qmedsam.strategies import STRATEGIES, Options, SliceMask, voting
from shapes import ball, dsc, geometry, phantom, rotation, tight

VARIANTS = [
    ("fixed", Options()),
    ("propagate", Options()),
    ("propagate", Options(every=3)),
    ("propagate", Options(every=4, least_iou=0.8, fill_holes=True)),
    ("vote", Options()),
    ("vote", Options(vote_on="mask", walk="taper")),
    ("vote", Options(vote_on="mask", walk="fixed", view_weights=(2, 1, 1))),
    ("vote", Options(view_weights=(1, 0, 1))),
]
variants = pytest.mark.parametrize("strategy,options", VARIANTS, ids=lambda v: v if isinstance(v, str) else "")


def find(volume: Volume, boxes, strategy: str, options: Options = Options(), size: int = 64, **settings) -> np.ndarray:
    return Segmenter(network=FakeNetwork(size)).segment(volume, boxes, strategy=strategy, options=options, **settings).labels_kji


def egg(shape=(26, 40, 44)) -> np.ndarray:
    """An object without any symmetry to hide behind."""
    return ball(shape, (20, 19, 12), (11, 8, 7)) | ball(shape, (25, 23, 15), (8, 7, 6))


@variants
@given(st.tuples(*[st.floats(-1.5, 1.5)] * 3), st.sampled_from(["roi", "slice"]), st.integers(0, 9))
@settings(max_examples=6, deadline=None)
def test_no_voxel_leaves_a_rotated_roi(strategy, options, angles, frame, seed) -> None:
    volume = Volume(np.random.default_rng(seed).uniform(0, 100, (24, 30, 34)), modality="MR")
    box = Box(np.array([17.0, 15.0, 12.0]), rotation(angles) @ np.diag([8.0, 5.0, 6.0]))
    labels = find(volume, [box], strategy, options, 48, frame=frame)
    k, j, i = np.nonzero(labels)
    local = (np.stack([i, j, k], axis=1) - box.center_ijk) @ np.linalg.inv(box.half_axes_ijk).T
    assert np.abs(local).max(initial=0) <= 1 + 1e-5


@variants
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_volume_gives_the_flipped_mask(strategy, options, axis) -> None:
    truth = egg()
    expected = find(phantom(truth), [tight(truth)], strategy, options)
    flipped = np.flip(truth, axis)
    got = np.flip(find(phantom(flipped), [tight(flipped)], strategy, options), axis)
    assert dsc(expected == 1, truth) > 0.85
    # skipped slices lie on a grid of the whole volume, which a flip moves
    assert dsc(got == 1, expected == 1) > (0.97 if options.every == 1 else 0.93)


@variants
def test_swapped_rows_and_columns_change_nothing(strategy, options) -> None:
    if options.view_weights != (1, 1, 1):
        options = Options(walk=options.walk, vote_on=options.vote_on)  # what is coronal and what sagittal swaps as well
    truth = egg()
    expected = find(phantom(truth), [tight(truth)], strategy, options)
    swapped = np.swapaxes(truth, 1, 2)
    got = np.swapaxes(find(phantom(swapped), [tight(swapped)], strategy, options), 1, 2)
    assert dsc(got == 1, expected == 1) > 0.98


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("options", [Options(), Options(vote_on="mask", walk="taper", view_weights=(3, 1, 1))])
def test_a_vote_does_not_depend_on_how_the_volume_is_stored(order, options) -> None:
    """The array's axes in any order, with the matrix that says so: the same patient, the same views, the same mask."""
    truth = egg()
    expected = find(phantom(truth), [tight(truth)], "vote", options)
    stored = np.transpose(truth, order)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, [2 - order[2 - n] for n in range(3)]]  # column n: the patient's axis that ijk axis n runs along
    got = np.transpose(find(phantom(stored, matrix), [tight(stored)], "vote", options), np.argsort(order))
    assert dsc(got == 1, expected == 1) > 0.98


@variants
@pytest.mark.parametrize("angle", [0.35, 0.8])
def test_the_same_object_in_a_rotated_volume(strategy, options, angle) -> None:
    """The ROI stays where it is in space, the voxel grid turns under it: the same millilitres."""
    found = []
    for turn in (0.0, angle):
        matrix = geometry((0.1, 0.0, turn), (1.0, 1.0, 2.0), False)
        matrix[:3, 3] = -matrix[:3, :3] @ np.array([30, 30, 14])  # the volume's middle at RAS 0
        k, j, i = np.mgrid[:29, :61, :61]
        ras = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ matrix.T
        truth = (ras[..., 0] / 16) ** 2 + (ras[..., 1] / 12) ** 2 + (ras[..., 2] / 14) ** 2 <= 1
        box = Box.from_ras(np.zeros(3), np.diag([16.5, 12.5, 14.5]), matrix)
        result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth, matrix), [box], strategy=strategy, options=options)
        found.append(result.objects[0].volume_ml)
        assert dsc(result.labels_kji == 1, truth) > 0.9
    assert found[1] == pytest.approx(found[0], rel=0.06)


@variants
@pytest.mark.parametrize("last", [(15, 15, 5), (22, 15, 5), (15, 22, 5), (15, 15, 9), (22, 22, 6)])
def test_boxes_of_one_voxel_a_line_and_two_slices(strategy, options, last) -> None:
    volume = phantom(ball((12, 40, 40), (16, 16, 5), (9, 9, 5)))
    labels = find(volume, [Box.from_voxels((15, 15, 5), last)], strategy, options, 32)
    k, j, i = np.nonzero(labels)
    inside = (i >= 15) & (i <= last[0]) & (j >= 15) & (j <= last[1]) & (k >= 5) & (k <= last[2])
    assert inside.all()


@variants
def test_a_box_with_nothing_in_it(strategy, options) -> None:
    """Constant inside, the object elsewhere: no mask, no error."""
    truth = ball((20, 40, 40), (10, 10, 10), (6, 6, 6))
    result = Segmenter(network=FakeNetwork(32)).segment(
        phantom(truth), [Box.from_voxels((25, 25, 2), (35, 35, 17))], strategy=strategy, options=options
    )
    assert not result.labels_kji.any() and result.objects[0].confidence == 0


@variants
@given(st.integers(1, 12))
@settings(max_examples=6, deadline=None)
def test_cancelling_acts_within_one_slice(strategy, options, stop) -> None:
    truth = egg()
    network = FakeNetwork(32)
    result = Segmenter(network=network).segment(
        phantom(truth), [tight(truth)], strategy=strategy, options=options, cancelled=lambda: network.encoded >= stop
    )
    assert result.cancelled == (network.encoded >= stop)
    assert network.encoded <= stop + options.every, "with skipped slices: those between two that were looked at"


@variants
def test_progress_ends_at_its_total(strategy, options) -> None:
    truth = egg()
    seen = []
    boxes = [tight(truth), tight(truth, -2.0), Box.from_voxels((12, 12, 12), (25, 25, 12))]
    Segmenter(network=FakeNetwork(32)).segment(
        phantom(truth), boxes, strategy=strategy, options=options, progress=lambda *pair: seen.append(pair)
    )
    assert seen[-1][0] == seen[-1][1] and [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_the_views_names_follow_the_patient() -> None:
    array = np.zeros((5, 6, 7))
    assert View.of(Volume(array), 2).anatomical_axes == (2, 1, 0)
    sagittal = np.eye(4)
    sagittal[:3, :3] = np.array([[0, 0, 3.0], [1.0, 0, 0], [0, -1.0, 0]])  # i runs along A, j along -S, k along R
    assert View.of(Volume(array, sagittal), 2).anatomical_axes == (1, 0, 2)
    assert View.of(Volume(array, geometry((0.2, 0.1, 0.3), (1, 1, 5), True)), 2).anatomical_axes == (2, 1, 0)


@pytest.mark.parametrize("weights,needed", [((1, 1, 1), 2), ((1, 1, 0), 2), ((3, 1, 1), 0)])
def test_the_majority_decides(monkeypatch, weights, needed) -> None:
    """Views that say what they are told to: two of three; both of two; the heavy one alone."""
    said = {axis: np.random.default_rng(axis).uniform(size=(9, 10, 11)) > 0.5 for axis in range(3)}

    def told(rounds, items, tick, options) -> bool:
        for item in items:
            for n in item.wanted:
                mask = np.ascontiguousarray(item.view.slice_of(said[item.view.axis], n))
                item.emit(SliceMask(n, (0, 0, mask.shape[1], mask.shape[0]), mask, 0.5))
        return True

    monkeypatch.setitem(voting.WALKS, "fixed", told)
    volume = Volume(np.random.default_rng(5).uniform(size=(9, 10, 11)), modality="PET")
    labels = find(volume, [Box.from_voxels((0, 0, 0), (10, 9, 8))], "vote", Options(walk="fixed", view_weights=weights))
    asked = [said[axis].astype(int) for axis, weight in zip((2, 1, 0), weights) if weight]
    assert np.array_equal(labels == 1, sum(asked) >= needed if needed else said[2])


def test_an_agreement_map_on_demand() -> None:
    truth = egg()
    segmenter = Segmenter(network=FakeNetwork(64))
    result = segmenter.segment(phantom(truth), [tight(truth)], strategy="vote", options=Options(agreement=True, vote_on="mask"))
    votes = result.agreement_kji
    assert votes.shape == truth.shape and votes.dtype == np.uint8
    assert (votes[result.labels_kji == 1] > 50).all() and (votes[result.labels_kji == 0] <= 50).all()
    assert (votes == 100).sum() > 0.7 * truth.sum() and set(np.unique(votes)) <= {0, 33, 50, 66, 100}
    assert segmenter.segment(phantom(truth), [tight(truth)], strategy="vote").agreement_kji is None


@pytest.mark.parametrize("thickness", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_agreement_on_a_thin_box_is_its_only_views(axis, thickness) -> None:
    truth = egg()
    first, last = np.array([9, 12, 6]), np.array([30, 29, 20])
    first[axis] = last[axis] = (first[axis] + last[axis]) // 2
    last[axis] += thickness - 1
    box = Box.from_voxels(first, last)
    options = Options(agreement=True)
    result = Segmenter(network=FakeNetwork(64)).segment(phantom(truth), [box], strategy="vote", options=options)
    assert result.labels_kji.any() and np.array_equal(result.agreement_kji, 100 * result.labels_kji)


@pytest.mark.parametrize(
    "options", [Options(vote_on="mask", walk="taper", agreement=True), Options(vote_on="mask", agreement=True)]
)
def test_agreement_is_a_share_of_the_votes_that_count(options) -> None:
    """Also beside slices on which the last view was not asked: smoothing brings its votes there."""
    truth = ball((20, 60, 60), (30, 30, 10), (20, 18, 8))
    volume = phantom(truth, np.diag([1.0, 1.0, 4.0, 1.0]))
    result = Segmenter(network=FakeNetwork(96)).segment(volume, [tight(truth)], strategy="vote", options=options)
    assert result.agreement_kji.max() == 100 and (result.agreement_kji[truth] == 100).mean() > 0.5


def test_the_last_view_is_asked_only_where_it_counts() -> None:
    """A cube is the same from everywhere: the first two views agree, and the third is never encoded."""
    truth = np.zeros((30, 36, 40), bool)
    truth[6:24, 8:26, 10:28] = True
    network = FakeNetwork(64)
    options = Options(vote_on="mask", walk="fixed")
    result = Segmenter(network=network).segment(phantom(truth), [tight(truth)], strategy="vote", options=options)
    assert dsc(result.labels_kji == 1, truth) > 0.97 and result.cost["encodes"] == 36 and result.cost["single_encodes"] == 18


def test_skipped_slices_are_interpolated_and_blunt_ends_are_found() -> None:
    truth = ball((41, 48, 48), (24, 24, 20), (16, 12, 18))
    truth[30:] = False  # ends bluntly between two encoded slices, ten slices before the box
    box = Box.from_voxels((8, 12, 2), (40, 36, 38))
    every, skipping = (Segmenter(network=FakeNetwork(64)) for _ in range(2))
    full = every.segment(phantom(truth), [box], strategy="propagate")
    fast = skipping.segment(phantom(truth), [box], strategy="propagate", options=Options(every=4))
    assert fast.cost["encodes"] < 0.6 * full.cost["encodes"]
    assert dsc(fast.labels_kji == 1, full.labels_kji == 1) > 0.96
    assert not fast.labels_kji[31:].any()
    careful = Segmenter(network=FakeNetwork(64)).segment(
        phantom(truth), [box], strategy="propagate", options=Options(every=4, least_iou=0.95)
    )
    assert fast.cost["encodes"] < careful.cost["encodes"] <= full.cost["encodes"]


def test_finely_sampled_axes_are_not_asked_on_every_slice() -> None:
    """Slices 4 mm apart, pixels of 1 mm: the views from the side take every fourth slice, and miss nothing."""
    truth = ball((16, 64, 64), (32, 30, 8), (24, 22, 6))
    matrix = np.diag([1.0, 1.0, 4.0, 1.0])
    result = Segmenter(network=FakeNetwork(96)).segment(phantom(truth, matrix), [tight(truth)], strategy="vote")
    assert result.cost["encodes"] < 11 + (43 + 47) / 2
    assert dsc(result.labels_kji == 1, truth) > 0.95


@pytest.mark.parametrize("spacing,radii", [((0.8, 0.8, 5.0), (32, 26, 6)), ((1.0, 1.0, 1.0), (13, 12, 6))])
def test_skipping_slices_of_a_vote_costs_detail_not_the_object(spacing, radii) -> None:
    """0.8 mm pixels and 5 mm slices skip four slices by themselves; every third of them would be one in 10 mm."""
    truth = ball((16, 80, 80), (40, 40, 8), radii)
    volume, box = phantom(truth, np.diag([*spacing, 1.0])), tight(truth)
    for every in (3, 6):
        voted = find(volume, [box], "vote", Options(every=every), 96)
        assert dsc(voted == 1, truth) > 0.9


def test_holes_are_closed_on_demand() -> None:
    truth = ball((20, 40, 40), (20, 20, 10), (14, 14, 8)) & ~ball((20, 40, 40), (20, 20, 10), (4, 4, 4))
    box = tight(truth)
    assert not find(phantom(truth), [box], "propagate")[10, 20, 20]
    assert find(phantom(truth), [box], "propagate", Options(fill_holes=True))[10, 20, 20]


def test_the_key_slice_is_where_the_object_is() -> None:
    """The middle of the box is empty (the object was drawn far too tall): the walk sets out from where there is something."""
    truth = ball((40, 40, 40), (20, 20, 30), (9, 9, 7))
    box = Box.from_voxels((10, 10, 0), (30, 30, 39))
    labels = find(phantom(truth), [box], "propagate")
    assert dsc(labels == 1, truth) > 0.8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rectangle_drawn_on_any_slice_is_segmented_on_that_slice(axis) -> None:
    truth = ball((30, 34, 38), (19, 17, 15), (12, 9, 10))
    volume, center, half = phantom(truth), np.array([19.0, 17.0, 15.0]), np.array([12.4, 9.4, 10.4])
    half[axis] = 0.0
    result = Segmenter(network=FakeNetwork(64)).segment(volume, [Box(center, np.diag(half))])
    where = [slice(None)] * 3
    where[2 - axis] = int(center[axis])
    assert result.strategy == "fixed" and result.cost["encodes"] == 1
    assert dsc(result.labels_kji[tuple(where)] == 1, truth[tuple(where)]) > 0.95


@variants
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_two_slices_thin_along_any_axis_is_segmented_on_those_slices(strategy, options, axis) -> None:
    truth = ball((30, 34, 38), (19, 17, 15), (12, 9, 10))
    where = [slice(None)] * 3
    where[2 - axis] = slice(15, 17)
    slab = np.zeros_like(truth)
    slab[tuple(where)] = truth[tuple(where)]
    result = Segmenter(network=FakeNetwork(64)).segment(phantom(truth), [tight(slab)], strategy=strategy, options=options)
    assert result.cost["encodes"] == 2 and result.objects[0].slices == 2
    assert dsc(result.labels_kji == 1, slab) > 0.9


def test_auto_takes_the_strategy_of_the_modality_and_says_when_it_has_to_guess() -> None:
    truth = egg()
    volume = phantom(truth)
    for modality, strategy in (("PET", "vote"), ("CT", "vote"), ("MR", "vote"), ("US", "propagate")):
        result = Segmenter(network=FakeNetwork(32)).segment(volume, [tight(truth)], modality)
        assert (result.strategy, result.messages) == (strategy, [])
    unknown = Volume(volume.array_kji.astype(np.uint8))
    result = Segmenter(network=FakeNetwork(32)).segment(unknown, [tight(truth)])
    assert result.strategy == "propagate" and "unknown modality" in result.messages[0]
    result = Segmenter(network=FakeNetwork(32)).segment(unknown, [tight(truth)], strategy="fixed")
    assert not result.messages
    picture = Volume(volume.array_kji[12:13], modality="PET")
    result = Segmenter(network=FakeNetwork(32)).segment(picture, [Box.from_voxels((8, 8, 0), (32, 30, 0))])
    assert result.strategy == "fixed" and not result.messages


@pytest.mark.parametrize(
    "arguments,word",
    [
        ({"every": 0}, "0-th"),
        ({"least_iou": 2}, "overlap"),
        ({"view_weights": (1, 0, 0)}, "weights"),
        ({"view_weights": (1, 1)}, "weights"),
        ({"view_weights": (1, -1, 1)}, "weights"),
        ({"vote_on": "hands"}, "hands"),
        ({"walk": "crawl"}, "crawl"),
    ],
)
def test_wrong_options_are_refused(arguments, word) -> None:
    with pytest.raises(QMedSAMError, match=word):
        Options(**arguments)


@pytest.fixture(scope="module")
def shipped() -> Segmenter:
    pytest.importorskip("openvino")
    return Segmenter(str(shipped_folder() / "qmedsam-compact"))


def noisy(truth: np.ndarray, modality: str, low: float, high: float, noise: float) -> Volume:
    random = np.random.default_rng(0)
    matrix = np.diag([1.5, 1.5, 3.0, 1.0])
    return Volume((low + (high - low) * truth + random.normal(0, noise, truth.shape)).astype(np.float32), matrix, modality)


@pytest.mark.slow
def test_a_real_network_stops_where_the_object_stops(shipped) -> None:
    """It paints something on every slice of its box; the walk has to see that it is noise."""
    truth = ball((44, 60, 60), (30, 28, 16), (15, 13, 12))
    volume = noisy(truth, "MR", 40, 130, 20)
    box = Box.from_voxels((14, 14, 4), (46, 42, 40))  # twelve slices above the object
    beyond = {}
    for strategy in ("fixed", "propagate", "vote"):
        labels = shipped.segment(volume, [box], strategy=strategy).labels_kji
        beyond[strategy] = np.count_nonzero(labels[28:])
        assert dsc(labels[:28] == 1, truth[:28]) > (0.8 if strategy == "fixed" else 0.9)
    assert beyond["propagate"] < 0.5 * beyond["fixed"]
    assert beyond["vote"] < 0.2 * beyond["fixed"]


def test_a_real_network_votes_better_than_it_looks_once(shipped) -> None:
    truth = ball((30, 36, 36), (17, 18, 15), (9, 8, 10))
    volume = noisy(truth, "PET", 10, 60, 8)
    box = tight(truth, 0.5)
    once, voted = (shipped.segment(volume, [box], strategy=s).labels_kji == 1 for s in ("fixed", "vote"))
    assert dsc(voted, truth) > dsc(once, truth) and dsc(voted, truth) > 0.88


@variants
def test_a_real_network_never_leaves_a_rotated_roi(shipped, strategy, options) -> None:
    truth = ball((30, 36, 36), (17, 18, 15), (10, 9, 10))
    box = Box(np.array([17.0, 18.0, 15.0]), rotation((0.4, 0.2, 0.7)) @ np.diag([8.0, 7.0, 9.0]))
    labels = shipped.segment(noisy(truth, "CT", 20, 120, 10), [box], strategy=strategy, options=options).labels_kji
    k, j, i = np.nonzero(labels)
    local = (np.stack([i, j, k], axis=1) - box.center_ijk) @ np.linalg.inv(box.half_axes_ijk).T
    assert len(k) > 500 and np.abs(local).max() <= 1 + 1e-5


@pytest.mark.slow
def test_votes_leave_no_comb(shipped) -> None:
    """Views that skip slices must not show: a kidney's edge does not go up and down from row to row (30 times, unsmoothed)."""
    sample = shipped_folder().parent / "SampleData"
    volume = read_volume(sample / "QMedSAMPhantom.nrrd")
    kidney = next(b for b in read_boxes(sample / "QMedSAMPhantom-boxes.mrk.json", volume) if b.name == "right kidney")
    mask = shipped.segment(volume, [kidney], modality="CT", strategy="vote").labels_kji > 0
    turns = 0
    for plane in np.moveaxis(mask, 2, 0):
        covered = np.flatnonzero(plane.any(axis=0))
        if len(covered) > 2:
            steps = np.sign(np.diff(plane[:, covered].argmax(axis=0)))
            turns += int((steps[1:] * steps[:-1] < 0).sum())
    assert mask.any() and turns <= 10, turns


def test_every_strategy_is_among_the_variants() -> None:
    assert {name for name, _ in VARIANTS} == set(STRATEGIES)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices,looks", [(4, 4), (5, 5), (7, None)])
def test_few_thick_slices_are_looked_at_one_by_one(axis, slices, looks) -> None:
    """Whichever axis they lie along: each once, from its own side, with the box's rectangle; more of them are voted on."""
    shape, middle, radii = [44, 44, 44], [22, 22, 22], [12, 12, 12]
    shape[2 - axis], middle[axis], radii[axis] = slices + 6, (slices + 5) / 2, slices / 2
    spacing = np.ones(4)
    spacing[axis] = 5
    truth = ball(shape, middle, radii)
    network = FakeNetwork(64)
    result = Segmenter(network=network).segment(phantom(truth, np.diag(spacing)), [tight(truth)], strategy="vote")
    assert dsc(result.labels_kji == 1, truth) > 0.9
    assert result.cost["encodes"] == looks if looks else result.cost["encodes"] > 2 * slices
    if looks:
        thinner = Segmenter(network=FakeNetwork(64)).segment(phantom(truth), [tight(truth)], strategy="vote")
        assert thinner.cost["encodes"] > looks, "few slices of a small thing are no thick ones"


def test_small_boxes_are_looked_at_on_enough_slices() -> None:
    """Slices 4 mm apart, a box of 20 pixels of 1 mm: every fourth of these would be five slices in a view from the side."""
    truth = ball((16, 48, 48), (24, 24, 8), (10, 10, 5))
    network = FakeNetwork(64)
    result = Segmenter(network=network).segment(
        phantom(truth, np.diag([1.0, 1.0, 4.0, 1.0])), [tight(truth)], strategy="vote", options=Options(vote_on="mask")
    )
    assert result.cost["encodes"] >= 11 + 20 and dsc(result.labels_kji == 1, truth) > 0.9
