"""ROIs of other modules stay theirs; a box that is not used is out of the views."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from nodes import addRoi, addSegmentation, addVolume, grid, newScene
from QMedSAMSegmentLib import boxes, foreign

PLAIN = np.zeros((20, 30, 40), np.int16)
INSIDE = (20.0, 0.0, 60.0)


@pytest.fixture
def study(scene):
    """A volume, and one ROI of every kind around or off it; by what it is."""
    volume = addVolume(scene, PLAIN, grid())
    rois = {name: addRoi(scene, INSIDE, np.eye(3) * 6, name=name) for name in ("mine", "crop", "rendering", "hidden", "module's")}
    rois["away"] = addRoi(scene, (500, 0, 0), np.eye(3) * 6, name="away")
    crop = scene.AddNode(slicer.vtkMRMLCropVolumeParametersNode())
    crop.SetName("Crop Volume parameters")
    crop.SetInputVolumeNodeID(volume.GetID())
    crop.SetROINodeID(rois["crop"].GetID())
    rendering = scene.AddNode(slicer.vtkMRMLCPURayCastVolumeRenderingDisplayNode())
    rendering.SetAndObserveROINodeID(rois["rendering"].GetID())
    rois["hidden"].GetDisplayNode().SetVisibility(False)
    rois["module's"].SetHideFromEditors(True)
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    selection.SetActivePlaceNodeID(rois["mine"].GetID())  # was drawn last: that does not make it another module's
    return volume, rois


def test_only_what_is_meant_as_a_box_is_taken_without_being_named(study) -> None:
    volume, _ = study
    found = {one.roiNode.GetName(): one.objection for one in foreign.candidates(volume.GetScene(), volume)}
    assert found == {
        "mine": "",
        "crop": "used by Crop Volume parameters",
        "rendering": found["rendering"],
        "hidden": "not shown",
        "away": "outside the image",
    }
    assert found["rendering"].startswith("used by ")
    assert {one.text for one in foreign.candidates(volume.GetScene(), None)} >= {"mine", "away", "hidden (not shown)"}


def _look(roi):
    display = roi.GetDisplayNode()
    return (
        display.GetSelectedColor(),
        display.GetColor(),
        display.GetHandlesInteractive(),
        roi.GetAttribute(boxes.SEGMENT_ATTRIBUTE),
    )


def test_another_modules_roi_is_copied_and_not_touched(study) -> None:
    volume, rois = study
    segmentation = addSegmentation(volume.GetScene(), volume, ["a"])
    before = _look(rois["crop"])
    box = foreign.adopt(rois["crop"], segmentation, "a")
    assert box is not rois["crop"] and _look(rois["crop"]) == before
    assert boxes.boundRois(segmentation, "a") == [box]
    assert np.allclose(box.GetCenterWorld(), rois["crop"].GetCenterWorld()) and np.allclose(box.GetSize(), rois["crop"].GetSize())
    assert foreign.adopt(rois["mine"], segmentation, "a") is rois["mine"]


def test_a_box_whose_segment_goes_looks_as_before_it_was_bound(study) -> None:
    volume, rois = study
    scene = volume.GetScene()
    segmentation = addSegmentation(scene, volume, ["a"])
    segmentation.GetSegmentation().GetSegment("a").SetColor(0.1, 0.9, 0.2)
    display = rois["mine"].GetDisplayNode()
    display.SetSelectedColor(0.25, 0.5, 0.75)
    display.SetColor(0.75, 0.5, 0.25)
    display.SetHandlesInteractive(False)
    before = _look(rois["mine"])[:3]
    for _ in range(2):  # an undo, a redo, an undo
        boxes.bind(rois["mine"], segmentation, "a")
        display.SetHandlesInteractive(True)
        assert np.allclose(display.GetSelectedColor(), (0.1, 0.9, 0.2))
        segment = segmentation.GetSegmentation().GetSegment("a")
        segmentation.GetSegmentation().RemoveSegment("a")
        boxes.updateColors(scene)
        assert _look(rois["mine"])[:3] == before
        segmentation.GetSegmentation().AddSegment(segment, "a")


def test_boxes_are_hidden_and_come_back_also_through_a_saved_scene(study, tmp_path) -> None:
    volume, rois = study
    scene = volume.GetScene()
    segmentation = addSegmentation(scene, volume, ["a"])
    for name in ("mine", "hidden"):
        boxes.bind(rois[name], segmentation, "a")
    foreign.hideBoxes(segmentation)
    assert not rois["mine"].GetDisplayNode().GetVisibility() and rois["away"].GetDisplayNode().GetVisibility()
    for n, node in enumerate([volume, segmentation, *rois.values()]):
        node.AddDefaultStorageNode()
        ending = {"vtkMRMLScalarVolumeNode": "nrrd", "vtkMRMLSegmentationNode": "seg.nrrd"}.get(node.GetClassName(), "mrk.json")
        node.GetStorageNode().SetFileName(str(tmp_path / f"{n}.{ending}"))
        assert node.GetStorageNode().WriteData(node)
    scene.SetRootDirectory(str(tmp_path))
    assert scene.Commit(str(tmp_path / "s.mrml"))
    other = newScene()
    for kind in (slicer.vtkMRMLCropVolumeParametersNode, slicer.vtkMRMLCPURayCastVolumeRenderingDisplayNode):
        other.RegisterNodeClass(kind())
    other.SetURL(str(tmp_path / "s.mrml"))
    assert other.Connect()
    loaded = other.GetFirstNodeByName("Segmentation")
    for nodes, target in ((rois, segmentation), ({n: other.GetFirstNodeByName(n) for n in rois}, loaded)):
        foreign.showBoxes(target)
        assert nodes["mine"].GetDisplayNode().GetVisibility() and not nodes["hidden"].GetDisplayNode().GetVisibility()


def test_boxes_that_came_without_their_segmentation_are_free_and_taken(study) -> None:
    """A colleague's scene: boxes bound, and hidden, by the effect; their segmentation is not in it."""
    volume, rois = study
    scene = volume.GetScene()
    segmentation = addSegmentation(scene, volume, ["a"])
    boxes.bind(rois["mine"], segmentation, "a")
    foreign.hideBoxes(segmentation)
    scene.RemoveNode(segmentation)
    taken = [one.roiNode for one in foreign.candidates(scene, volume) if not one.objection]
    assert taken == [rois["mine"]]
    other = addSegmentation(scene, volume, ["a"])  # the same segment ID: it is another's all the same
    assert boxes.boundRois(other) == []
    assert foreign.adopt(rois["mine"], other, "a") is rois["mine"] and boxes.boundRois(other, "a") == [rois["mine"]]
    assert rois["mine"].GetDisplayNode().GetVisibility()
