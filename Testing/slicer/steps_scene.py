"""Scenes: saved and loaded, closed during a run, and what leaving the effect leaves behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from runner import Steps
from steps_runs import kidney

STEPS = Steps()


@STEPS("a scene that is saved and loaded has its segments and bound boxes")
def savesScene(person: Any) -> None:
    segmentId = kidney(person)
    person.press(person.ui.applyButton)
    person.finished()
    voxels, box = int(person.mask(segmentId).sum()), person.boxIjk(person.rois()[0])
    file = str(person.folder / "scene.mrb")
    assert slicer.util.saveScene(file)
    slicer.mrmlScene.Clear(0)
    person.settle()
    slicer.util.loadScene(file)
    person.settle()
    person.volume = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0]
    person.openEffect()
    assert person.ui.boxesTable.rowCount == 1, "the box is not bound any more"
    assert int(person.mask(segmentId).sum()) == voxels and np.allclose(person.boxIjk(person.rois()[0]), box, atol=1e-3)


@STEPS("boxes come back from a .seg.nrrd")
def restores(person: Any) -> None:
    kidney(person)
    person.press(person.ui.applyButton)
    person.finished()
    box = person.boxIjk(person.rois()[0])
    file = str(person.folder / "kidney.seg.nrrd")
    assert slicer.util.saveNode(person.segmentation, file)
    slicer.mrmlScene.RemoveNode(person.segmentation)
    person.without()
    loaded = slicer.util.loadSegmentation(file)
    person.editor.setSegmentationNode(loaded)
    person.editor.setSourceVolumeNode(person.volume)
    person.editor.setActiveEffectByName("QMedSAM")
    person.settle()
    person.press(person.ui.restoreButton)
    assert np.allclose(person.boxIjk(person.rois()[0]), box, atol=0.01), (box, person.boxIjk(person.rois()[0]))


@STEPS("leaving the effect, and the module, drops the preview")
def leaves(person: Any) -> None:
    kidney(person)
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    person.press(person.ui.previewButton)
    person.finished()
    person.editor.setActiveEffectByName("")
    person.settle()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before
    person.editor.setActiveEffectByName("QMedSAM")
    person.press(person.ui.previewButton)
    person.finished()
    slicer.util.selectModule("Data")
    person.settle()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before
    slicer.util.selectModule("SegmentEditor")


@STEPS("a scene that is closed during a run ends the run")
def closes(person: Any) -> None:
    kidney(person)
    effect = person.effect
    person.choose(person.ui.strategyCombo, "vote")
    person.press(person.ui.applyButton)
    assert effect.session.running
    slicer.mrmlScene.Clear(0)
    person.settle(2)
    assert not effect.session.running and not effect.session.preview.shown and not person.rois()


@STEPS("another segmentation, and a segment that is removed, end what is about them")
def follows(person: Any) -> None:
    segmentId = kidney(person)
    effect = person.effect
    person.press(person.ui.previewButton)
    person.finished()
    person.segmentation.GetSegmentation().RemoveSegment(segmentId)
    person.settle(1)
    assert not effect.session.preview.shown
    person.editor.setSegmentationNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    person.settle(1)
    assert not effect.session.running
