"""Strokes: from a view to the image's grid, in the tags of a segment and back, whatever was turned, moved or saved."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from hypothesis import given, settings
from hypothesis import strategies as st
from nodes import addSegmentation, addTransform, addVolume, grid, newScene
from qmedsam import Box, QMedSAMError
from qmedsam.marks import Stroke
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib.boxtags import storeInTag
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.segments import EditorWriter, ijkToSegmentation, orientedImage
from QMedSAMSegmentLib.strokes import MOST_TURNED, strokeFrom
from QMedSAMSegmentLib.stroketags import slicesOf, storeSlices, storeStrokes, strokesOf

SHAPE = (10, 24, 20)  # k, j, i
MOVED = np.array([[0.0, -1, 0, 30], [1, 0, 0, -4], [0, 0, 1, 9], [0, 0, 0, 1]])


def _viewAlong(toWorld: np.ndarray, axis: int, spin: float = 0.0, tilt: float = 0.0) -> np.ndarray:
    """``SliceToRAS`` of a view of the slices along an axis, turned in its plane and tilted against it, in degrees."""
    normal = np.linalg.inv(toWorld[:3, :3])[axis]
    normal /= np.linalg.norm(normal)
    first = toWorld[:3, (axis + 1) % 3] / np.linalg.norm(toWorld[:3, (axis + 1) % 3])
    frame = np.stack([first, np.cross(normal, first), normal], axis=1)
    view = np.eye(4)
    view[:3, :3] = frame @ rotation(0, 0, spin) @ rotation(tilt, 0, 0)
    return view


angles = st.floats(-180, 180)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(angles, angles, angles),
    st.tuples(*(st.sampled_from([-2.5, -1.0, 0.3, 1.5]) for _ in range(3))),
    st.booleans(),
    st.integers(0, 2),
    angles,
    st.data(),
)
def test_a_stroke_lands_on_the_voxels_over_which_it_was_drawn(turn, spacing, moved, axis, spin, data) -> None:
    scene = newScene()
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), grid(spacing, turn))
    if moved:
        volume.SetAndObserveTransformNodeID(addTransform(scene, MOVED).GetID())
    size = np.array(SHAPE[::-1])
    drawn = np.array([[data.draw(st.integers(0, int(n) - 1)) for n in size] for _ in range(4)], float)
    drawn[:, axis] = drawn[0, axis]
    toWorld = ijkToWorld(volume)
    path = drawn @ toWorld[:3, :3].T + toWorld[:3, 3]
    stroke = strokeFrom(path, _viewAlong(toWorld, axis, spin), volume, False, 1.5)
    assert stroke.axis == axis and stroke.index == drawn[0, axis] and not stroke.adds and stroke.radius_mm == 1.5
    assert np.abs(stroke.points_ijk - drawn).max() < 1e-6


def test_a_view_that_is_turned_a_little_draws_on_one_slice_and_one_turned_far_is_refused(scene) -> None:
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), grid((1, 1, 1), (20, -10, 5)))
    toWorld = ijkToWorld(volume)
    view = _viewAlong(toWorld, 2, tilt=MOST_TURNED - 3)
    view[:3, 3] = (toWorld @ [10, 12, 5, 1])[:3]
    path = [view[:3, 3] + view[:3, :3] @ [x, y, 0] for x, y in ((-3, -3), (0, 0), (3, 3))]
    stroke = strokeFrom(path, view, volume, True, 1.0)
    assert stroke.axis == 2 and set(stroke.points_ijk[:, 2]) == {5.0}
    assert np.allclose(stroke.points_ijk[1], [10, 12, 5])
    with pytest.raises(QMedSAMError, match=r"turned by 23 degrees.*Rotate to volume plane"):
        strokeFrom(path, _viewAlong(toWorld, 2, tilt=MOST_TURNED + 3), volume, True, 1.0)


def test_what_is_drawn_beside_the_image_is_left_out_and_nothing_else_refused(scene) -> None:
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), np.eye(4))
    stroke = strokeFrom([(-5, 3, 4), (2, 3, 4), (90, 3, 4)], np.eye(4), volume, True, 1.0)
    assert stroke.points_ijk.tolist() == [[2, 3, 4]]
    with pytest.raises(QMedSAMError, match="Nothing was drawn on the image"):
        strokeFrom([(-5, 3, 4), (2, 3, 40)], np.eye(4), volume, True, 1.0)


STROKES = (
    Stroke(np.array([[3.25, 4.5, 6], [8, 9, 6]]), 2, True, 2.5),
    Stroke(np.array([[7.0, 12, 3]]), 0, False, 0.0),
)


@pytest.fixture
def corrected(scene):
    """A segment of a turned volume, in a segmentation that has a transform of its own, with its box and two strokes."""
    volume = addVolume(scene, np.zeros(SHAPE, np.int16), grid((1.0, 1.5, 2.5), (25, -15, 40)))
    segmentation = addSegmentation(scene, volume, ["a"])
    volume.SetAndObserveTransformNodeID(addTransform(scene, MOVED).GetID())
    segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    toNode = ijkToSegmentation(ijkToWorld(volume), segmentation)
    mask = np.zeros(SHAPE, bool)
    mask[2:8, 5:17, 4:12] = True
    mask[2, 5:9] = False  # nothing that a turn brings onto itself
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    writer.modify(segmentation, "a", orientedImage(mask, tuple(slice(0, n) for n in SHAPE), toNode), False)
    storeInTag(segmentation, "a", [Box.from_voxels([3, 4, 1], [12, 17, 8])], toNode)
    storeStrokes(segmentation, "a", STROKES, toNode)
    storeSlices(segmentation, "a", mask, toNode, {(2, 6)})
    return volume, segmentation, mask


def _same(found, wanted=STROKES) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert (one.axis, one.adds, one.index) == (other.axis, other.adds, other.index)
        assert np.abs(one.points_ijk - other.points_ijk).max() < 1e-3 and abs(one.radius_mm - other.radius_mm) < 1e-4


def _toNode(volume, segmentation) -> np.ndarray:
    return ijkToSegmentation(ijkToWorld(volume), segmentation)


def test_strokes_travel_in_the_segments_tag(corrected) -> None:
    volume, segmentation, mask = corrected
    _same(strokesOf(segmentation, "a", _toNode(volume, segmentation)))
    found = slicesOf(segmentation, "a", mask, _toNode(volume, segmentation))
    assert not found.painted and found.kept == {(2, 6)}


def test_strokes_come_back_from_a_seg_nrrd_and_from_a_scene(corrected, tmp_path) -> None:
    volume, segmentation, _mask = corrected
    toNode = _toNode(volume, segmentation)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    segmentation.GetScene().AddNode(storage)
    storage.SetFileName(str(tmp_path / "saved.seg.nrrd"))
    assert storage.WriteData(segmentation)
    again = segmentation.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", "again")
    assert storage.ReadData(again)
    again.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
    _same(strokesOf(again, again.GetSegmentation().GetNthSegmentID(0), toNode))
    other = newScene()
    loaded = slicer.vtkMRMLSegmentationStorageNode()
    other.AddNode(loaded)
    loaded.SetFileName(str(tmp_path / "saved.seg.nrrd"))
    fresh = other.AddNewNodeByClass("vtkMRMLSegmentationNode", "fresh")
    assert loaded.ReadData(fresh)
    _same(strokesOf(fresh, fresh.GetSegmentation().GetNthSegmentID(0), toNode))


def test_strokes_follow_a_hardened_transform(corrected) -> None:
    volume, segmentation, _mask = corrected
    parent = segmentation.GetParentTransformNode()
    segmentation.HardenTransform()
    volume.HardenTransform()
    assert segmentation.GetParentTransformNode() is None and parent is not None
    _same(strokesOf(segmentation, "a", _toNode(volume, segmentation)))


def test_new_boxes_end_the_strokes_and_a_tag_of_something_else_is_none(corrected) -> None:
    volume, segmentation, mask = corrected
    toNode = _toNode(volume, segmentation)
    segmentation.GetSegmentation().GetSegment("a").SetTag("QMedSAM.Strokes", "1 2 nonsense")
    segmentation.GetSegmentation().GetSegment("a").SetTag("QMedSAM.Slices", "1;2;3")
    assert strokesOf(segmentation, "a", toNode) == ()
    assert slicesOf(segmentation, "a", mask, toNode) == (frozenset(), frozenset())
    storeStrokes(segmentation, "a", STROKES, toNode)
    storeInTag(segmentation, "a", [Box.from_voxels([3, 4, 1], [12, 17, 8])], toNode)
    assert strokesOf(segmentation, "a", toNode) == ()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2), st.data())
def test_a_slice_that_was_painted_is_known_by_the_view_it_was_painted_in(axis, data) -> None:
    scene = newScene()
    segmentation = addSegmentation(scene, None, ["a"])
    mask = np.zeros(SHAPE, bool)
    mask[1:9, 3:20, 2:18] = True
    storeSlices(segmentation, "a", mask, np.eye(4))
    size = SHAPE[::-1][axis]
    index = data.draw(st.integers(0, size - 1))
    plane = mask[(slice(None),) * (2 - axis) + (index,)]
    low = [data.draw(st.integers(0, n - 3)) for n in plane.shape]
    brush = plane[low[0] : low[0] + 3, low[1] : low[1] + 3]
    brush[1, 1], brush[0, 1] = not brush[1, 1], not brush[0, 1]
    found = slicesOf(segmentation, "a", mask, np.eye(4))
    touched = {(2 - n, int(v)) for n, values in enumerate(_where(axis, index, low)) for v in values}
    assert len(found.painted) == 1 and found.painted <= touched


def _where(axis: int, index: int, low) -> list:
    """Slices along k, j and i that the two voxels of the brush lie on."""
    others = [[low[0], low[0] + 1], [low[1] + 1]]
    others.insert(2 - axis, [index])
    return others


def test_what_changed_everywhere_was_not_painted(scene) -> None:
    segmentation = addSegmentation(scene, None, ["a"])
    mask = np.zeros(SHAPE, bool)
    mask[1:9, 3:20, 2:18] = True
    storeSlices(segmentation, "a", mask, np.eye(4), {(2, 3)})
    found = slicesOf(segmentation, "a", np.roll(mask, (1, 1, 1), axis=(0, 1, 2)), np.eye(4))
    assert not found.painted and found.kept == {(2, 3)}
    elsewhere = np.eye(4)
    elsewhere[0, 3] = 4
    assert slicesOf(segmentation, "a", mask, elsewhere) == (frozenset(), frozenset())
