"""The preview's node is made as Slicer's own are: visible to the application's observers while it is filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from nodes import addRoi, addSegmentation, addVolume, brightSegmenter, grid
from QMedSAMSegmentLib.boxes import bind
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.preview import Preview
from QMedSAMSegmentLib.runs import Prompt, Run
from QMedSAMSegmentLib.settings import Settings


def test_it_is_hidden_last_and_unsaved_from_the_start(scene) -> None:
    """Hidden while it is filled, the subject hierarchy had no item for it: seven critical errors in the log per preview."""
    array = np.zeros((8, 20, 20), np.uint8)
    array[2:6, 5:15, 5:15] = 200
    volume = addVolume(scene, array, grid((1, 1, 1), (0, 0, 0), (0, 0, 0)))
    segmentation = addSegmentation(scene, volume, ["first"])
    roi = addRoi(scene, (ijkToWorld(volume) @ [9.5, 9.5, 3.5, 1])[:3], np.diag([6.0, 6.0, 3.0]))
    bind(roi, segmentation, "first")
    run = Run(volume, segmentation, [Prompt(roi, "first")], Settings(strategy="fixed"))
    run.compute(brightSegmenter())
    seen: list = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller: Any, event: Any, node: Any) -> None:
        if node.IsA("vtkMRMLSegmentationNode"):
            seen.append(("node", node.GetHideFromEditors(), node.GetSaveWithScene()))
            node.AddObserver(
                slicer.vtkSegmentation.SegmentAdded, lambda *_: seen.append(("segment", node.GetHideFromEditors(), 0))
            )

    scene.AddObserver(scene.NodeAddedEvent, added)
    node = Preview().show(run)
    assert seen == [("node", False, False), ("segment", False, 0)]
    assert node.GetHideFromEditors() and not node.GetSaveWithScene()
