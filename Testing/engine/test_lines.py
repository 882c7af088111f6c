"""Lines: what was found is measured by them, and asked for by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import Box, QMedSAMError, Segmenter, Volume
from qmedsam.commands import app
from qmedsam.files import read_boxes, write_diameters, write_image
from qmedsam.lines import box_of_line
from qmedsam.measures import diameters
from qmedsam.network.fake import FakeNetwork
from shapes import ball, geometry, phantom, tight

EMPTY = Volume(np.zeros((20, 60, 50), np.int16), geometry((0.3, -0.2, 0.5), (0.8, 0.8, 2.5), True))


def _in_mm(points_ijk: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points_ijk @ matrix[:3, :3].T


@settings(max_examples=60, deadline=None)
@given(
    st.floats(4, 16),
    st.floats(0.3, 1),
    st.floats(0, np.pi),
    st.floats(0.5, 2),
    st.tuples(*[st.floats(-1, 1)] * 3),
    st.booleans(),
)
def test_an_ellipse_measures_what_it_is(half: float, share: float, angle: float, pixel: float, turn: tuple, flip: bool) -> None:
    """Turned in its slice, on a turned, flipped volume: both axes to within a pixel, at right angles, on the slice it lies on."""
    matrix = geometry(turn, (pixel, pixel, 3.0), flip)
    y, x = np.mgrid[:40, :40] - 19.5
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    mask = np.zeros((5, 40, 40), bool)
    mask[3] = (along / half) ** 2 + (across / (half * share)) ** 2 <= 1
    mask[1] = mask[3] & (np.hypot(x, y) < half / 2)
    found = diameters(mask, matrix, start_kji=(7, 2, 4))
    assert found is not None and found.index == 10
    assert found.long_mm == pytest.approx(2 * half * pixel, abs=1.5 * pixel)
    assert found.short_mm == pytest.approx(2 * half * share * pixel, abs=1.5 * pixel)
    long, short = (np.diff(_in_mm(ends, matrix), axis=0)[0] for ends in (found.long_ijk, found.short_ijk))
    assert np.linalg.norm(long) == pytest.approx(found.long_mm) and np.linalg.norm(short) == pytest.approx(found.short_mm)
    assert abs(long @ short) < 1e-6 * found.long_mm * found.short_mm
    assert (found.long_ijk[:, 2] == 10).all() and (found.short_ijk[:, 2] == 10).all()
    assert np.allclose(found.long_ijk.mean(axis=0), [23.5, 21.5, 10], atol=1), "the crop's place counts"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_no_two_places_of_an_object_are_farther_apart(seed: int, count: int) -> None:
    """Scattered voxels: the longest pair of pixels, to within the pixel that the outline adds; across is never longer."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((4, 12, 15), np.uint8)
    labels.ravel()[rng.choice(labels.size, count, replace=False)] = 3
    matrix = np.diag([0.7, 1.1, 2, 1])
    found = diameters(labels, matrix, label=3)
    assert found is not None and diameters(labels, matrix, label=2) is None
    longest = 0.0
    for plane in labels:
        points = np.argwhere(plane)[:, ::-1] * (0.7, 1.1)
        if len(points):
            longest = max(longest, np.linalg.norm(points[:, None] - points[None], axis=2).max())
    assert longest < found.long_mm <= longest + np.hypot(0.7, 1.1) and 0 < found.short_mm <= found.long_mm + 1e-9


@given(st.floats(8, 30), st.floats(0, np.pi), st.floats(0.3, 1), st.integers(2, 17))
def test_a_line_and_a_second_one_give_the_rectangle_around_their_ellipse(
    length: float, angle: float, share: float, k: int
) -> None:
    volume = Volume(np.zeros((20, 60, 50), np.int16), np.diag([0.8, 0.8, 2.5, 1]))
    center, along = np.array([24.0, 29.0, k]), np.array([np.cos(angle), np.sin(angle), 0]) * length / 2
    across = np.array([-along[1], along[0], 0]) * share
    box = box_of_line(np.stack([center - along, center + along]), np.stack([center - across, center + across]), volume)
    (drawn,) = box.rectangles
    x0, y0, x1, y1 = drawn.rectangle
    t = np.linspace(0, 2 * np.pi, 1000)[:, None]
    ellipse = center + np.cos(t) * along + np.sin(t) * across
    assert np.allclose([x0, y0, x1, y1], [*ellipse.min(axis=0)[:2], *ellipse.max(axis=0)[:2]], atol=1e-3)
    assert (drawn.axis, drawn.index) == (2, k) and k in box.slices(2, 20)
    low, high = box.corners_ijk.min(axis=0), box.corners_ijk.max(axis=0)
    assert (low[:2] <= (x0, y0)).all() and (high[:2] >= (x1, y1)).all()
    assert (low >= -0.5 - 1e-9).all() and (high <= np.array(volume.shape_ijk) - 0.5 + 1e-9).all()


def test_a_line_of_a_file_lies_where_it_does_in_the_patient(tmp_path: Path) -> None:
    """Voxels, RAS and a Slicer file in LPS, one axis or two: the same boxes; their order and names stay."""
    long, short = np.array([[10.0, 20, 6], [30, 24, 6]]), np.array([[19.0, 27, 6], [21, 17, 6]])
    in_ras = [(line @ EMPTY.ijk_to_ras[:3, :3].T + EMPTY.ijk_to_ras[:3, 3]).tolist() for line in (long, short)]
    entries = [
        {"line": long.tolist(), "name": "lesion"},
        {"line": {"ras": in_ras[0]}, "across": {"ijk": short.tolist()}, "label": 7},
    ]
    plain, slicer = tmp_path / "plain.json", tmp_path / "lines.mrk.json"
    plain.write_text(json.dumps({"boxes": entries}))
    one, both = read_boxes(plain, EMPTY)
    assert (one.name, both.label) == ("lesion", 7) and len(one.rectangles) == len(both.rectangles) == 1
    flip = np.array([-1, -1, 1])
    markups = [
        {"type": "Line", "name": name, "controlPoints": [{"position": (flip * end).tolist()} for end in line]}
        for name, line in (("first", in_ras[0]), ("across", in_ras[1]), ("second", in_ras[0]))
    ]
    slicer.write_text(json.dumps({"markups": markups}))
    crossed, alone = read_boxes(slicer, EMPTY)
    assert (crossed.name, alone.name) == ("first", "second")
    for found, expected in ((crossed, both), (alone, one)):
        assert np.allclose(found.corners_ijk, expected.corners_ijk, atol=1e-6)
        assert np.allclose(found.rectangles[0].rectangle, expected.rectangles[0].rectangle, atol=1e-6)


@pytest.mark.parametrize(
    "line, says",
    [
        ([[1, 2, 3]], "is not two points"),
        ([[1, 2, 3], [1, 2]], "list of 3 numbers"),
        ([[1, 2, 3], [1, 2, 3]], "has no length"),
        ([[10, 20, 3], [30, 40, 9]], "not on one slice"),
        ([[110, 20, 3], [130, 40, 3]], "outside the image"),
        ({"ras": [[1, 2, 3], [4, 5, 6]], "ijk": [[1, 2, 3], [4, 5, 3]]}, "or both"),
        ([[1, 2, 3], [1, 2, 1e300]], "list of 3 numbers"),
    ],
)
def test_what_is_no_line_is_a_sentence(tmp_path: Path, line: object, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"boxes": [{"line": line}]}))
    with pytest.raises(QMedSAMError, match=says):
        read_boxes(path, EMPTY)


def test_a_line_with_one_end_in_a_slicer_file_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.mrk.json"
    path.write_text(json.dumps({"markups": [{"type": "Line", "name": "L", "controlPoints": [{"position": [1, 2, 3]}]}]}))
    with pytest.raises(QMedSAMError, match="does not have two ends"):
        read_boxes(path, EMPTY)


def test_diameters_that_were_written_are_prompts_for_the_same_object(tmp_path: Path) -> None:
    """Both axes of a ball, read back: one box, around the ball, its rectangle tight on the largest slice."""
    truth = ball((20, 60, 50), (24, 29, 9), (10, 14, 5))
    found = diameters(truth, EMPTY.ijk_to_ras)
    assert found is not None
    path = tmp_path / "d.mrk.json"
    write_diameters(path, {4: found}, {4: "ball"}, EMPTY)
    (box,) = read_boxes(path, EMPTY)
    extent = tight(truth)
    low, high = extent.corners_ijk.min(axis=0), extent.corners_ijk.max(axis=0)
    assert box.rectangles[0].index == 9
    assert np.allclose(box.rectangles[0].rectangle, [low[0], low[1], high[0], high[1]], atol=1.2)
    assert json.loads(path.read_text())["markups"][0]["name"].startswith("ball long ")


def test_every_object_of_a_run_is_measured() -> None:
    """Of what carries its label, not of what a smaller box's object covers; nothing is measured where lengths are unknown."""
    truth = ball((12, 40, 44), (20, 20, 6), (12, 8, 4))
    volume = phantom(truth, np.diag([0.5, 0.5, 2, 1]))
    result = Segmenter(network=FakeNetwork()).segment(volume, [tight(truth, 0.05)], "MR", "fixed")
    (one,) = result.objects
    expected = diameters(result.labels_kji == 1, volume.ijk_to_ras)
    assert one.diameters is not None and expected is not None
    assert one.diameters.long_mm == expected.long_mm and np.allclose(one.diameters.long_ijk, expected.long_ijk)
    assert one.facts(flat=False)["long_mm"] == pytest.approx(one.diameters.long_mm, abs=1e-3)
    unknown = Volume(volume.array_kji, volume.ijk_to_ras, "MR", measured=False)
    (one,) = Segmenter(network=FakeNetwork()).segment(unknown, [tight(truth, 0.05)], "MR", "fixed").objects
    assert one.voxels and one.diameters is None and one.facts(flat=True)["long_mm"] is None


@pytest.mark.slow
def test_a_line_in_place_of_a_box_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = ball((16, 60, 70), (36, 30, 8), (16, 12, 6))
    image = (np.random.default_rng(0).normal(20, 8, truth.shape) + 100 * truth).astype(np.int16)
    scan, out, report = tmp_path / "scan.nii.gz", tmp_path / "m.nii.gz", tmp_path / "r.json"
    write_image(scan, image, Volume(image, np.diag([1, 1, 2.5, 1.0])))
    arguments = ["segment", scan, "--line", "20,30,8,52,30,8", "--modality", "MR", "-o", out, "--report", report]
    lines = tmp_path / "axes.mrk.json"
    monkeypatch.setattr("sys.argv", ["qmedsam", *map(str, [*arguments, "--diameters", lines])])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert not end.value.code
    (one,) = json.loads(report.read_text())["objects"]
    assert one["long_mm"] == pytest.approx(33, abs=4) and 20 < one["short_mm"] < 30
    (again,) = read_boxes(lines, Volume(image, np.diag([1, 1, 2.5, 1.0])))
    assert isinstance(again, Box) and again.rectangles[0].index in range(6, 11)
