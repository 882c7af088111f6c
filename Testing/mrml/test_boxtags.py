"""A segment carries the boxes that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from nodes import addSegmentation, addTransform, addVolume, grid
from qmedsam import QMedSAMError
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib import boxes, boxtags
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld
from QMedSAMSegmentLib.grids import onSegmentationGrid
from QMedSAMSegmentLib.segments import EditorWriter, ijkToSegmentation, labelArray, orientedImage

PLAIN = np.zeros((24, 36, 46), np.int16)
GRID = grid(origin=(-25.0, -22.0, -25.0))
PLACES = (((10, 11, 12), rotation(10, 20, 30) * np.array([3.0, 4.0, 5.0])), ((-10, 0, 2), np.diag([5.0, 6.0, 7.0])))


def _tag(scene, matrix=GRID, shape=PLAIN.shape):
    """A segmentation under a transform, whose segment has two boxes in its tag, filled, and no ROI; and where the boxes were."""
    volume = addVolume(scene, np.zeros(shape, np.int16), matrix)
    segmentation = addSegmentation(scene, volume, ["liver"])
    turned = addTransform(scene, grid((1, 1, 1), (0, 25, 0), (4, 4, 4)))
    segmentation.SetAndObserveTransformNodeID(turned.GetID())
    rois = [boxes.createRoi(scene, segmentation, "liver") for _ in PLACES]
    for roi, place in zip(rois, PLACES):
        boxes.setRoi(roi, *place)
    toNode = ijkToSegmentation(ijkToWorld(volume), segmentation)
    applied = [boxes.boxFromRoi(roi, volume) for roi in rois]
    i, j, k = np.meshgrid(*(np.arange(n) for n in shape[::-1]), indexing="ij")
    voxels = np.stack([i, j, k], -1)
    mask = np.zeros(voxels.shape[:3], bool)
    for box in applied:
        local = (voxels - box.center_ijk) @ np.linalg.inv(box.half_axes_ijk).T
        mask |= (np.abs(local) <= 1).all(-1) & (local.sum(-1) < 1)  # one corner is missing: nothing is symmetric
    mask = mask.transpose(2, 1, 0)
    assert mask.sum() > 200
    image = onSegmentationGrid(orientedImage(mask, tuple(slice(0, n) for n in shape), toNode), segmentation)
    EditorWriter(scene).modify(segmentation, "liver", image, False)
    boxtags.storeInTag(segmentation, "liver", applied, toNode)
    assert boxtags.restorableSegments(segmentation) == []
    places = _places(rois)
    for roi in rois:
        scene.RemoveNode(roi)
    return segmentation, places


@pytest.fixture
def tagged(scene):
    """See :func:`_tag`."""
    return _tag(scene)


def _specifyGeometry(segmentation, oversampling: float, source=None) -> None:
    """What the editor's button beside the source volume does, by Slicer's own logic."""
    geometry = slicer.vtkSlicerSegmentationGeometryLogic()
    geometry.SetInputSegmentationNode(segmentation)
    geometry.SetSourceGeometryNode(source or segmentation.GetScene().GetFirstNodeByName("CT"))
    geometry.SetOversamplingFactor(oversampling)
    assert geometry.CalculateOutputGeometry() == ""
    geometry.SetReferenceImageGeometryInSegmentationNode()
    assert geometry.ResampleLabelmapsInSegmentationNode()


def _places(rois) -> np.ndarray:
    """Eight corners each, in the world: an ROI's axes may change their order."""
    signs = 2 * np.array(list(np.ndindex(2, 2, 2))) - 1
    found = []
    for roi in rois:
        matrix = arrayFromMatrix(roi.GetObjectToWorldMatrix())
        corners = matrix[:3, 3] + (signs * np.array(roi.GetSize()) / 2) @ matrix[:3, :3].T
        found.append(sorted(map(tuple, corners.round(2))))
    return np.array(found)


def test_boxes_travel_in_the_segments_tag(tagged) -> None:
    segmentation, places = tagged
    assert boxtags.restorableSegments(segmentation) == ["liver"]
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), places, atol=0.02)
    assert boxtags.restorableSegments(segmentation) == []


@pytest.mark.parametrize("throughFile", [False, True], ids=["", "file"])
def test_boxes_follow_a_transform_that_was_hardened_on_their_segmentation(tagged, throughFile, tmp_path) -> None:
    segmentation, places = tagged
    scene = segmentation.GetScene()
    segmentation.HardenTransform()  # its place in the world is as before, its coordinates are not
    if throughFile:
        segmentation.AddDefaultStorageNode()
        segmentation.GetStorageNode().SetFileName(str(tmp_path / "s.seg.nrrd"))
        assert segmentation.GetStorageNode().WriteData(segmentation) and segmentation.GetStorageNode().ReadData(segmentation)
    rois = boxtags.restoreFromTag(segmentation, "liver")
    assert np.allclose(_places(rois), places, atol=0.02)
    for roi in rois:
        scene.RemoveNode(roi)
    move = grid((1, 1, 1), (0, 0, 90), (100, 0, 0))
    segmentation.SetAndObserveTransformNodeID(addTransform(scene, move).GetID())
    segmentation.HardenTransform()
    moved = [sorted(map(tuple, (box @ move[:3, :3].T + move[:3, 3]).round(2))) for box in places]
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), moved, atol=0.02)


@pytest.mark.parametrize("oversampling", [2, 3, 0.5])
@pytest.mark.parametrize("moved", ["", "before", "transformed"])
def test_boxes_stay_where_they_are_when_the_labelmaps_are_resampled(tagged, oversampling, moved) -> None:
    """*Specify geometry* halves the voxels: that is no motion, though the grid's matrix changes as much."""
    segmentation, places = tagged
    if moved == "before":
        segmentation.HardenTransform()
    if moved == "transformed":  # by a node, which is no part of the grid
        move = grid((1, 1, 1), (0, 0, 90), (30, 0, 0))
        outer = addTransform(segmentation.GetScene(), move)
        segmentation.GetParentTransformNode().SetAndObserveTransformNodeID(outer.GetID())
        places = np.array([sorted(map(tuple, (box @ move[:3, :3].T + move[:3, 3]).round(2))) for box in places])
    _specifyGeometry(segmentation, oversampling)
    if moved == "before":  # moved and resampled: neither alone explains it, and a wrong box is worse than none
        with pytest.raises(QMedSAMError, match="'liver' is on another grid"):
            boxtags.restoreFromTag(segmentation, "liver")
        return
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), places, atol=0.02)


@pytest.mark.parametrize("turn", [(0, 0, 0), (0, 0, 30), (0, 0, 90)])
def test_boxes_stay_where_they_are_when_another_volume_gives_the_geometry(tagged, turn) -> None:
    """Voxel size as before, cropped by whole voxels or turned: a grid that looks like one that was moved."""
    segmentation, places = tagged
    matrix = grid(turn=turn, origin=(-22.0, -19.0, -22.5) if not any(turn) else (25, -40, -25))
    other = addVolume(segmentation.GetScene(), np.zeros((24, 50, 60), np.int16), matrix, "other")
    other.SetAndObserveTransformNodeID(segmentation.GetTransformNodeID())
    _specifyGeometry(segmentation, 1, other)
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), places, atol=0.02)


def test_boxes_of_an_edited_segment_follow_it_too(tagged) -> None:
    segmentation, places = tagged
    labels = labelArray(segmentation, "liver")[0]
    labels[:, ::3] = 0  # a third is erased
    move = grid((1, 1, 1), (0, 0, 60), (20, 0, 0))
    segmentation.SetAndObserveTransformNodeID(addTransform(segmentation.GetScene(), move).GetID())
    segmentation.HardenTransform()
    turned = grid((1, 1, 1), (0, 25, 0), (4, 4, 4))
    followed = move @ np.linalg.inv(turned)
    moved = [sorted(map(tuple, (box @ followed[:3, :3].T + followed[:3, 3]).round(2))) for box in places]
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), moved, atol=0.03)


def test_one_segment_whose_boxes_cannot_be_told_costs_the_others_nothing(scene) -> None:
    segmentation, places = _tag(scene)
    segmentation.GetSegmentation().AddEmptySegment("lost", "lost")
    segmentation.GetSegmentation().GetSegment("lost").SetTag(boxtags.BOXES_TAG, "1 2 3")
    rois, problems = boxtags.restoreBoxes(segmentation)
    assert np.allclose(_places(rois), places, atol=0.02)
    assert len(problems) == 1 and "'lost' cannot be read" in problems[0]


@pytest.mark.parametrize("shape", [(40, 30, 40), PLAIN.shape])
def test_boxes_stay_where_they_are_when_the_source_geometry_becomes_another(tagged, shape) -> None:
    segmentation, places = tagged
    other = addVolume(segmentation.GetScene(), np.zeros(shape, np.int16), grid((0.5, 0.5, 1.0), (0, 0, 0), (50, 0, 0)), "other")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(other)
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), places, atol=0.02)


def test_a_box_made_oblique_is_refused_and_leaves_nothing(tagged) -> None:
    segmentation, _ = tagged
    segmentation.SetAndObserveTransformNodeID(addTransform(segmentation.GetScene(), np.diag([1.0, 3.0, 1.0, 1.0])).GetID())
    segmentation.HardenTransform()
    with pytest.raises(QMedSAMError, match="not a cuboid"):
        boxtags.restoreFromTag(segmentation, "liver")
    assert boxes.boundRois(segmentation) == [] and boxtags.restorableSegments(segmentation) == ["liver"]


@pytest.mark.parametrize(("tag", "value"), [(boxtags.BOXES_TAG, "1 2 3"), (boxtags.BOXES_TAG, "1 2 x"), (boxtags.GRID_TAG, "x")])
def test_a_tag_that_cannot_be_read_gets_a_sentence(tagged, tag, value) -> None:
    segmentation, _ = tagged
    segmentation.GetSegmentation().GetSegment("liver").SetTag(tag, value)
    with pytest.raises(QMedSAMError, match="cannot be read"):
        boxtags.restoreFromTag(segmentation, "liver")


def test_a_tag_without_a_grid_is_restored_as_it_is(tagged) -> None:
    segmentation, places = tagged
    segmentation.GetSegmentation().GetSegment("liver").RemoveTag(boxtags.GRID_TAG)
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "liver")), places, atol=0.02)


def test_an_empty_tag_offers_nothing(tagged) -> None:
    segmentation, _ = tagged
    segmentation.GetSegmentation().GetSegment("liver").SetTag(boxtags.BOXES_TAG, "")
    assert boxtags.restorableSegments(segmentation) == []


@pytest.mark.parametrize("kind", ["turned", "resampled"])
def test_a_ball_about_whose_centre_everything_turned_follows_a_rigid_motion_alone(scene, kind) -> None:
    """What is in the box looks the same however it is explained: a grid that was turned as a whole was moved."""
    matrix = np.eye(4)
    volume = addVolume(scene, np.zeros((21, 21, 21), np.int16), matrix)
    segmentation = addSegmentation(scene, volume, ["ball"])
    k, j, i = np.meshgrid(*[np.arange(21)] * 3, indexing="ij")
    mask = (i - 10) ** 2 + (j - 10) ** 2 + (k - 10) ** 2 <= 36
    image = orientedImage(mask, (slice(0, 21),) * 3, matrix)
    EditorWriter(scene).modify(segmentation, "ball", image, False)
    roi = boxes.createRoi(scene, segmentation, "ball")
    boxes.setRoi(roi, (10, 10, 10), np.diag([7.0, 8.0, 9.0]))
    boxtags.storeInTag(segmentation, "ball", [boxes.boxFromRoi(roi, volume)], matrix)
    before = _places([roi])
    scene.RemoveNode(roi)
    if kind == "turned":
        move = np.eye(4)
        move[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
        move[:3, 3] = (20, 0, 0)  # about (10, 10): a ball of voxels on itself
        segmentation.SetAndObserveTransformNodeID(addTransform(scene, move).GetID())
        segmentation.HardenTransform()
        before = np.array([sorted(map(tuple, (box @ move[:3, :3].T + move[:3, 3]).round(2))) for box in before])
    else:
        _specifyGeometry(segmentation, 2, volume)
    assert np.allclose(_places(boxtags.restoreFromTag(segmentation, "ball")), before, atol=0.02)
