"""A segment carries the boxes that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
from nodes import addSegmentation, addTransform, addVolume, grid
from qmedsam import QMedSAMError
from qmedsam.phantom_shapes import rotation
from QMedSAMSegmentLib import boxes, boxtags
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld
from QMedSAMSegmentLib.segments import ijkToSegmentation

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


@pytest.mark.parametrize("value", ["1 2 3", "1 2 x"])
def test_a_tag_that_cannot_be_read_gets_a_sentence(tagged, value) -> None:
    segmentation, _ = tagged
    segmentation.GetSegmentation().GetSegment("liver").SetTag(boxtags.BOXES_TAG, value)
    with pytest.raises(QMedSAMError, match="cannot be read"):
        boxtags.restoreFromTag(segmentation, "liver")


def test_an_empty_tag_offers_nothing(tagged) -> None:
    segmentation, _ = tagged
    segmentation.GetSegmentation().GetSegment("liver").SetTag(boxtags.BOXES_TAG, "")
    assert boxtags.restorableSegments(segmentation) == []
