"""A segment carries the boxes that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
from nodes import addSegmentation, addTransform, addVolume, grid
from qmedsam import QMedSAMError
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib import boxes, boxtags
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld
from QMedSAMSegmentLib.segments import EditorWriter, ijkToSegmentation, orientedImage

PLAIN = np.zeros((20, 30, 40), np.int16)
PLACES = (((10, 11, 12), rotation(10, 20, 30) * np.array([3.0, 4.0, 5.0])), ((-10, 0, 2), np.diag([5.0, 6.0, 7.0])))


@pytest.fixture
def tagged(scene):
    """A segmentation under a transform, whose segment has two boxes in its tag, and no ROI; and where the boxes were."""
    volume = addVolume(scene, PLAIN, grid())
    segmentation = addSegmentation(scene, volume, ["liver"])
    segmentation.SetAndObserveTransformNodeID(addTransform(scene, grid((1, 1, 1), (0, 25, 0), (4, 4, 4))).GetID())
    rois = [boxes.createRoi(scene, segmentation, "liver") for _ in PLACES]
    for roi, place in zip(rois, PLACES):
        boxes.setRoi(roi, *place)
    everything = orientedImage(np.ones(PLAIN.shape, bool), (slice(0, 20), slice(0, 30), slice(0, 40)), grid())
    EditorWriter(scene).modify(segmentation, "liver", everything, False)
    applied = [boxes.boxFromRoi(roi, volume) for roi in rois]
    boxtags.storeInTag(segmentation, "liver", applied, ijkToSegmentation(ijkToWorld(volume), segmentation))
    assert boxtags.restorableSegments(segmentation) == []
    places = _places(rois)
    for roi in rois:
        scene.RemoveNode(roi)
    return segmentation, places


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
