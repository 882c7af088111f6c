"""What is said beside a box: on the network's grid, by the walks, and what becomes of candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box, Segmenter, Volume
from qmedsam.frames import Frame
from qmedsam.geometry import View
from qmedsam.intensity import Intensity
from qmedsam.network import HINTS, KINDS
from qmedsam.network.fake import FakeNetwork
from qmedsam.predictor import Clock, Prompt, Region, SlicePredictor
from qmedsam.strategies import Options
from shapes import ball, dsc, phantom, tight

SIDE = 32


class Listening(FakeNetwork):
    """Writes down what it is told. Its masks are half as fine as its input; the surest of its candidates is the object.

    Args:
        surest: which candidate that is; the others are empty and unsure.
    """

    def __init__(self, size: int = 2 * SIDE, surest: int = 0, candidates: int = 2, depth_px: float = 0.0) -> None:
        super().__init__(size)
        self.hinted, self.depth_px = True, depth_px
        self.surest, self.candidates = surest, candidates
        self.told: List[Tuple[np.ndarray, Optional[np.ndarray], Optional[np.ndarray], np.ndarray]] = []
        self.images: List[np.ndarray] = []

    def encode(self, image: np.ndarray) -> np.ndarray:
        self.images.append(image.copy())
        return super().encode(image)

    def decode(self, embedding: np.ndarray, boxes_uv: np.ndarray, hints: Any = None, kinds: Any = None) -> Any:
        found, sure = super().decode(embedding, boxes_uv)
        half = found.reshape(len(found), 1, SIDE, 2, SIDE, 2).mean((3, 5))
        logits = np.full((len(found), self.candidates, SIDE, SIDE), -3.0, np.float32)
        confidence = np.full((len(found), self.candidates), 0.05)
        logits[:, self.surest], confidence[:, self.surest] = half[:, 0], sure[:, 0]
        for n in range(len(found)):
            self.told.append((boxes_uv[n], hints[n], kinds[n], half[n, 0] > 0))
        return logits, confidence

    def kinds(self) -> List[str]:
        return [KINDS[int(kinds.argmax())] if kinds.any() else "" for _, _, kinds, _ in self.told]


def predictor_of(network: FakeNetwork, volume: Volume, axis: int = 2, center=(20.0, 18.0), side_mm=40.0) -> SlicePredictor:
    view = View.of(volume, axis)
    frame = Frame.square(center, side_mm, view.pixel_mm, network.input_size)
    plain = {"kind": "fixed", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return SlicePredictor(network, volume, view, frame, Intensity(0, 100), plain, Clock())


@given(
    st.tuples(st.integers(2, 30), st.integers(2, 24)),
    st.tuples(st.integers(3, 20), st.integers(3, 20)),
    st.tuples(st.floats(0.5, 4), st.floats(0.5, 4)),
    st.floats(20, 120),
)
@settings(max_examples=60, deadline=None)
def test_a_mask_lies_on_the_grid_where_it_lies_on_the_slice(first, size, pixel_mm, side_mm) -> None:
    """A pixel of the grid whose whole extent lies in the rectangle is true, one that lies outside is not; frames may be finer
    or coarser than the slice, reach beyond it, and have pixels of any shape."""
    (x0, y0), (nx, ny) = first, size
    frame = Frame.square((20, 18), side_mm, pixel_mm, 2 * SIDE)
    mask = np.zeros((60, 60), bool)
    mask[y0 : y0 + ny, x0 : x0 + nx] = True
    found = frame.on_grid(mask, (0, 0, 60, 60), SIDE)
    assert found.dtype == bool and found.shape == (SIDE, SIDE)
    for window in ((x0, y0, x0 + nx, y0 + ny), (x0 - 2, y0 - 1, x0 + nx + 3, y0 + ny + 2)):
        left, top, right, bottom = window
        part = np.zeros((bottom - top, right - left), bool)
        part[y0 - top : y0 - top + ny, x0 - left : x0 - left + nx] = True
        assert (frame.on_grid(part, window, SIDE) == found).all(), "what lies beside the pixels that are given is false"
    u0, v0, u1, v1 = ((edge + 0.5) / 2 for edge in frame.to_network((x0 - 0.5, y0 - 0.5, x0 + nx - 0.5, y0 + ny - 0.5)))
    # Edges of the grid's pixels; a pixel of the slice is as far as linear interpolation blurs them.
    blur_u, blur_v = max(frame.scale_x / 2, 1), max(frame.scale_y / 2, 1)
    start = np.arange(SIDE)
    inner = lambda low, high, blur: (start >= low + blur) & (start + 1 <= high - blur)  # noqa: E731
    outer = lambda low, high, blur: (start + 1 >= low - blur) & (start <= high + blur)  # noqa: E731
    assert found[inner(v0, v1, blur_v)][:, inner(u0, u1, blur_u)].all()
    assert not found[~outer(v0, v1, blur_v)].any() and not found[:, ~outer(u0, u1, blur_u)].any()


def test_what_a_prompt_says_is_where_the_network_expects_it() -> None:
    network = Listening()
    predictor = predictor_of(network, phantom(ball((12, 36, 40), (20, 18, 6), (9, 8, 4))))
    here = np.zeros((36, 40), bool)
    here[10:26, 12:28] = True
    stroke = np.ones((3, 12), bool)
    whole = Region(here, (0, 0, 40, 36))
    line = Region(stroke, (14, 17, 26, 20))
    box = (8.0, 8.0, 30.0, 28.0)
    prompts = [
        Prompt(box),
        Prompt(box, "tight", add=line),
        Prompt(box, "propagated", neighbour=whole, present=whole, remove=line),
    ]
    assert len(list(predictor.predict(6, prompts))) == 3
    (_, hints, kinds, _), (_, drawn, tight_kind, _), (_, all_hints, kind, _) = network.told
    assert hints.shape == (len(HINTS), SIDE, SIDE) and not hints.any() and not kinds.any(), "silence is zeros"
    assert tight_kind.tolist() == [1, 0, 0] and kind.tolist() == [0, 0, 1]
    on_grid, marked = predictor.frame.on_grid(here, whole.pixels, SIDE), predictor.frame.on_grid(stroke, line.pixels, SIDE)
    assert on_grid.any() and not on_grid.all() and marked.any()
    assert (drawn[2] == marked).all() and not drawn[[0, 1, 3]].any()
    assert (all_hints[0] == np.where(on_grid, 1, -1)).all() and (all_hints[1] == all_hints[0]).all()
    assert not all_hints[2].any() and (all_hints[3] == marked).all()


def test_a_network_that_does_not_listen_is_told_nothing() -> None:
    network = FakeNetwork(64)
    decode, heard = network.decode, []
    network.decode = lambda embedding, boxes, *said: heard.append(said) or decode(embedding, boxes)
    truth = ball((12, 36, 40), (20, 18, 6), (9, 8, 4))
    Segmenter(network=network).segment(phantom(truth), [tight(truth)], strategy="propagate")
    assert heard and all(said == (None, None) for said in heard)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_before_and_behind_are_the_first_and_last_channel(axis) -> None:
    """At the distance that the network wants, in its pixels; the last slice stands for those that there are not."""
    shape = (30, 34, 38)
    ramp = np.broadcast_to(np.arange(shape[2 - axis]).reshape([-1 if n == 2 - axis else 1 for n in range(3)]), shape)
    matrix = np.diag([1.0, 1.3, 2.0, 1.0])
    network = Listening(depth_px=6.0)
    predictor = predictor_of(network, Volume(ramp.astype(np.float32), matrix, modality="MR"), axis)
    per_px = predictor.view.pixel_mm[0] / predictor.frame.scale_x
    apart = max(round(6.0 * per_px / predictor.view.spacing_mm[axis]), 1)
    last = predictor.view.count - 1
    for index in (0, 1, last // 2, last):
        predictor.embedding(index)
        seen = network.images[-1].max((1, 2)) * 100
        assert seen == pytest.approx([max(index - apart, 0), index, min(index + apart, last)], abs=0.01)


@pytest.mark.parametrize("volume", [Volume(np.zeros((9, 20, 20, 3), np.uint8)), Volume(np.eye(20)[None])])
def test_colours_and_pictures_have_no_slices_before_and_behind(volume) -> None:
    network = Listening(depth_px=6.0)
    predictor = predictor_of(network, volume, center=(10, 10), side_mm=20)
    predictor.embedding(0)
    assert predictor._apart == 0 and network.images[0].shape == (3, 2 * SIDE, 2 * SIDE)


def test_a_walk_hands_on_the_neighbours_mask() -> None:
    """First the whole rectangle as a 3D box's cut, then every slice with what was found on the one before."""
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    network = Listening()
    result = Segmenter(network=network).segment(phantom(truth), [tight(truth)], strategy="propagate", frame="roi")
    assert dsc(result.labels_kji == 1, truth) > 0.93
    kinds = network.kinds()
    first = next(n for n, kind in enumerate(kinds) if kind == "propagated")
    assert set(kinds[:first]) == {"volume"} and set(kinds[first:]) <= {"volume", "propagated"}
    whole = (2 * SIDE) / 1.6  # the ROI frame has a margin of 0.3 of the longer side
    for box, hints, _, _ in network.told[:first]:
        assert box[2] - box[0] == pytest.approx(whole, abs=0.01) and not hints.any()
    handed = [(hints[0] > 0, hints) for (_, hints, _, _), kind in zip(network.told, kinds) if kind == "propagated"]
    seen = [mask for *_, mask in network.told]
    for mask, hints in handed:
        assert not hints[1:].any() and set(np.unique(hints[0])) <= {-1.0, 1.0}
        assert max(dsc(mask, other) for other in seen) > 0.9, "a mask that it gave itself"
    assert len(handed) >= 15


def test_a_loose_box_is_not_made_smaller_for_a_network_that_listens() -> None:
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    box = Box.from_voxels((10, 8, 1), (50, 42, 18))
    listening, deaf = Listening(), FakeNetwork(2 * SIDE)
    rectangles = []
    decode = deaf.decode
    deaf.decode = lambda embedding, boxes, *said: rectangles.extend(boxes.tolist()) or decode(embedding, boxes)
    for network in (listening, deaf):
        network.encode = lambda image: image[0] * 0  # nothing there: the walk looks for its key at the ends as well
        Segmenter(network=network).segment(phantom(truth), [box], strategy="propagate")
    widths = [round(float(b[2] - b[0]), 2) for b, *_ in listening.told]
    assert len(set(widths)) == 1 and listening.kinds() == ["volume"] * len(widths)
    assert min(b[2] - b[0] for b in rectangles) < 0.98 * widths[0]


@pytest.mark.parametrize("strategy", ["fixed", "propagate", "vote"])
@pytest.mark.parametrize("walk", ["propagate", "taper", "fixed"])
def test_a_box_on_one_slice_is_tight(strategy, walk) -> None:
    """It was drawn around the object on this very slice, be it of a volume or a picture."""
    truth = ball((12, 36, 40), (20, 18, 6), (9, 8, 4))
    flat = Box.from_voxels((11, 10, 6), (29, 26, 6))
    picture = Volume((truth[6:7] * 100).astype(np.uint8), modality="US")
    for volume, box in ((phantom(truth), flat), (picture, Box.from_voxels((11, 10, 0), (29, 26, 0)))):
        network = Listening()
        Segmenter(network=network).segment(volume, [box], strategy=strategy, options=Options(walk=walk))
        assert network.told and set(network.kinds()) == {"tight"}


def test_the_last_view_of_a_vote_is_asked_around_what_the_others_found() -> None:
    truth = ball((24, 40, 44), (22, 20, 12), (12, 10, 8)) & ~ball((24, 40, 44), (28, 20, 12), (5, 9, 6))
    network = Listening()
    Segmenter(network=network).segment(phantom(truth), [tight(truth, 2.0)], strategy="vote")
    kinds = network.kinds()
    assert {"volume", "propagated", "tight"} == set(kinds)
    silent = [not hints.any() for (_, hints, _, _), kind in zip(network.told, kinds) if kind == "propagated"]
    assert any(silent) and not all(silent)


@pytest.mark.parametrize("strategy", ["fixed", "propagate", "vote"])
@pytest.mark.parametrize("surest", [0, 1, 2])
def test_of_candidates_the_surest_is_taken(strategy, surest) -> None:
    truth = ball((20, 50, 60), (30, 25, 10), (14, 12, 8))
    network = Listening(surest=surest, candidates=3)
    result = Segmenter(network=network).segment(phantom(truth), [tight(truth)], strategy=strategy)
    assert dsc(result.labels_kji == 1, truth) > 0.93


@pytest.mark.parametrize("strategy", ["fixed", "propagate", "vote"])
def test_another_answer_is_taken_where_only_the_box_is_known(strategy: str) -> None:
    """The surest by default, the second where the box says so, the last where it asks for more than there are; and what was found
    by it is followed with the surest answers, not with the second again."""
    truth = ball((9, 34, 36), (18, 17, 4), (11, 10, 3))
    volume, box = phantom(truth), tight(truth, 0.05)
    found = {}
    for candidate in (0, 1, 5):
        network = Listening(surest=1, candidates=2)
        (one,) = Segmenter(network=network).segment(volume, [replace(box, candidate=candidate)], "MR", strategy).objects
        found[candidate] = one.voxels
    assert found[0] > 0.8 * truth.sum()
    if strategy == "fixed":
        assert found[1] == found[5] == 0, "the second answer is empty on every slice"
    else:
        assert found[1] == found[5] < found[0]
