"""A vote's majority, looked at once more with tight rectangles around what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Tuple

import numpy as np
import pytest
from qmedsam import Box, Segmenter, Volume
from qmedsam.geometry import View
from qmedsam.marks import SliceRectangle
from qmedsam.network import KINDS
from qmedsam.network.fake import FakeNetwork
from qmedsam.strategies import Options
from qmedsam.strategies.items import Item, SliceMask
from qmedsam.strategies.second_look import SHARE, SecondLook
from shapes import ball, dsc, phantom, rotation, tight

TIGHT = KINDS.index("tight")


class Inflating(FakeNetwork):
    """Fills every rectangle, a little unsure of what is dark in it; only a tight one shows it the object's border."""

    def __init__(self, size: int = 64) -> None:
        super().__init__(size)
        self.hinted = True
        self.tight: List[Tuple[np.ndarray, bool]] = []  # rectangles, and whether the neighbour's mask came with them

    def decode(self, embedding: np.ndarray, boxes_uv: np.ndarray, hints: Any = None, kinds: Any = None) -> Any:
        found, sure = super().decode(embedding, boxes_uv)
        axis = np.arange(self.input_size)
        for n, (u0, v0, u1, v1) in enumerate(boxes_uv):
            if kinds[n, TIGHT]:
                self.tight.append((boxes_uv[n].copy(), bool((hints[n, 0] > 0).any())))
                found[n] = np.where(found[n] > 0, 8, -8)
                continue
            inside = (axis >= u0)[None] & (axis <= u1)[None] & (axis >= v0)[:, None] & (axis <= v1)[:, None]
            found[n] = np.where(found[n, 0] > 0, 8, np.where(inside, 0.3, -8))
        return found, sure


TRUTH = ball((24, 40, 44), (22, 20, 12), (12, 10, 8))


def segment(network: FakeNetwork, options: Options = Options(), **more: Any) -> Any:
    return Segmenter(network=network).segment(phantom(TRUTH), [tight(TRUTH, 3.0)], strategy="vote", options=options, **more)


def test_what_the_views_inflate_is_mended() -> None:
    """The share of one answer outvotes three unsure views, on the slices between those that were asked, too."""
    network = Inflating()
    found = segment(network).labels_kji == 1
    without = segment(Inflating(), Options(vote_on="mask")).labels_kji == 1
    assert dsc(without, TRUTH) < 0.6 and dsc(found, TRUTH) > 0.93
    assert all(dsc(found[k], TRUTH[k]) > 0.88 for k in range(7, 18)), "asked or between"


def test_every_second_slice_is_asked_with_the_neighbours_mask() -> None:
    network = Inflating()
    result = segment(network)
    slices = np.count_nonzero(TRUTH.any(axis=(1, 2)))
    assert slices / 2 - 1 <= len(network.tight) <= slices / 2 + 2
    assert sum(told for _, told in network.tight) >= len(network.tight) - 2, "only beside an object's end there is no mask"
    assert result.cost["encodes"] <= 1.3 * (result.cost["encodes"] - len(network.tight))


@pytest.mark.parametrize("options", [Options(vote_on="mask"), Options(walk="taper"), Options(walk="fixed")])
def test_votes_that_are_counted_as_in_the_paper_are_left_alone(options: Options) -> None:
    network = Inflating()
    segment(network, options)
    assert not network.tight


def test_a_network_that_is_not_told_what_a_rectangle_is_is_not_asked_again() -> None:
    """The same voxels and encodings as without hints ever were: three views of it."""
    network = FakeNetwork(64)
    result = segment(network)
    assert dsc(result.labels_kji == 1, TRUTH) > 0.9 and result.cost["encodes"] <= 3 * 31


@pytest.mark.parametrize("network", [Inflating, FakeNetwork])
def test_progress_ends_at_its_total(network: Any) -> None:
    seen: List[Tuple[int, int]] = []
    segment(network(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and all(done <= total for done, total in seen)


def test_cancelled_on_the_second_look_holds_nothing_half_done() -> None:
    network = Inflating()
    result = segment(network, cancelled=lambda: len(network.tight) >= 3)
    assert result.cancelled and not result.labels_kji.any()


def test_the_users_own_rectangle_is_asked_again_where_there_is_one() -> None:
    network, box = Inflating(), tight(TRUTH, 3.0)
    own = SliceRectangle(2, 12, (9.5, 9.5, 34.5, 30.5))
    Segmenter(network=network).segment(phantom(TRUTH), [replace(box, rectangles=(own,))], strategy="vote")
    plain = Inflating()
    Segmenter(network=plain).segment(phantom(TRUTH), [box], strategy="vote")
    wide = [asked for asked, _ in network.tight if not any(np.allclose(asked, other, atol=0.5) for other, _ in plain.tight)]
    shape = [(u1 - u0) / (v1 - v0) for u0, v0, u1, v1 in wide]
    assert shape and np.allclose(shape, 25 / 21, atol=0.02), "its sides, on its slice alone"


def look(votes_kji: np.ndarray, box: Box) -> SecondLook:
    view = View.of(Volume(votes_kji), 2)
    item = Item(box, view, lambda found: None)
    whole = tuple(slice(0, n) for n in votes_kji.shape)
    return SecondLook(item, view, whole, votes_kji, np.full(votes_kji.shape, 255, np.uint8))


def test_between_two_answers_the_change_is_interpolated() -> None:
    votes = np.zeros((5, 8, 8), np.uint8)
    votes[:, 2:6, 2:6] = 200
    second = look(votes, Box.from_voxels((0, 0, 0), (7, 7, 4)))
    item = second.ask()
    assert list(item.wanted) == [0, 2, 4]
    for index, value in zip(item.wanted, (-20.0, 20.0, 20.0)):
        logits = np.full((8, 8), value, np.float32)
        item.emit(SliceMask(index, (0, 0, 8, 8), logits > 0, 0.9, logits))
    second.blend()
    inside = votes[:, 3, 3].astype(float)
    expected = [200 * (1 - SHARE), 0, 200 + SHARE * 55, 200 + SHARE * 55, 200 + SHARE * 55]
    expected[1] = (expected[0] + expected[2]) / 2
    assert np.abs(inside - expected).max() <= 1
    assert votes[0, 0, 0] == 0 and abs(votes[2, 0, 0] - SHARE * 255) <= 1


def test_a_gap_between_two_parts_stays_empty_and_a_turned_box_is_not_left() -> None:
    votes = np.zeros((12, 20, 20), np.uint8)
    votes[[0, 1, 2, 9, 10, 11], 8:12, 8:12] = 255
    box = Box(np.array([9.5, 9.5, 5.5]), rotation((0.5, 0.3, 0.4)) @ np.diag([6.0, 6.0, 9.0]))
    second = look(votes, box)
    item = second.ask()
    for index in item.wanted:
        logits = np.full((20, 20), 20, np.float32)
        item.emit(SliceMask(index, (0, 0, 20, 20), box.inside(item.view, index, (0, 0, 20, 20)), 0.9, logits))
    second.blend()
    assert not votes[4:8].any()
    for k in range(12):
        assert not votes[k][~box.inside(item.view, k, (0, 0, 20, 20))].any()
