"""A Segment Editor for the tests: the real editor logic around the real effect."""

from __future__ import annotations

from typing import Any, Dict, Sequence, Tuple

import numpy as np
import slicer
from nodes import HandTimer, addRoi, addSegmentation, addVolume, brightSegmenter, grid, segmentArray
from PySide6 import QtCore
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib.boxes import bind
from QMedSAMSegmentLib.worker import Job

SHAPE = (16, 40, 48)


def blobs(scene: Any) -> Tuple[Any, list, list]:
    """A volume with two bright cuboids turned against its grid, ROIs in the world around them, and their masks."""
    matrix = grid((1.0, 1.0, 2.5), (12, -25, 40))
    i, j, k = np.meshgrid(*(np.arange(n) for n in SHAPE[::-1]), indexing="ij")
    world = (np.stack([i, j, k, np.ones_like(i)], -1) @ matrix.T)[..., :3]
    array, rois, truths = np.zeros(SHAPE, np.uint8), [], []
    for n, (center, turn) in enumerate((((12, 13, 7), (20, 10, 30)), ((36, 28, 8), (-30, 5, 15)))):
        middle = (matrix @ [*center, 1])[:3]
        truth = (np.abs((world - middle) @ rotation(*turn)) <= (7, 8, 9)).all(-1).transpose(2, 1, 0)
        array[truth] = 200
        truths.append(truth)
        rois.append(addRoi(scene, middle, rotation(*turn) * np.array((7, 8, 9)) * 1.04, name=f"roi {n}"))
    return addVolume(scene, array, matrix), rois, truths


class Editor:
    """What the Segment Editor widget does with an effect: parameter node, defaults, options frame, activation."""

    def __init__(self, scene: Any, volume: Any, rois: Sequence[Any], segments: Dict[str, Tuple[float, float, float]]) -> None:
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        import QMedSAMSegment

        self.scene, self.volume, self.rois = scene, volume, list(rois)
        self.segmentation = addSegmentation(scene, volume, list(segments))
        for (segmentId, color), roi in zip(segments.items(), rois):
            self.segmentation.GetSegmentation().GetSegment(segmentId).SetColor(color)
            bind(roi, self.segmentation, segmentId)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(scene)
        self.node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.node.SetOverwriteMode(self.node.OverwriteNone)
        self.logic.SetSegmentEditorNode(self.node)
        self.logic.SetSegmentationNode(self.segmentation)
        self.logic.SetSourceVolumeNode(self.volume)
        self.logic.SetMaximumNumberOfUndoStates(10)
        if segments:
            self.logic.SetCurrentSegmentID(next(iter(segments)))
        effects.qSlicerSegmentEditorScriptedEffect.registered.clear()
        QMedSAMSegment.registerEditorEffect()
        (registered,) = effects.qSlicerSegmentEditorScriptedEffect.registered
        self.scripted = registered.self().clone()  # the editor works on a clone, as in the application
        self.scripted.editor = self.logic
        self.effect = self.scripted.self()
        self.effect.setMRMLDefaults()
        self.effect.setupOptionsFrame()
        self.effect.jobs = lambda *work: Job(*work, launch=lambda f: f(), timer=HandTimer)
        self.effect.activate()
        self.ui = self.effect.panel.ui

    @property
    def enabled(self) -> bool:
        """Whether the effect's button can be pressed, by the rule of ``qMRMLSegmentEditorWidget``."""
        inner, needed = self.segmentation.GetSegmentation(), self.scripted
        there = inner.GetNumberOfSegments() > 0 and (bool(self.node.GetSelectedSegmentID()) or not needed.perSegment)
        return self.node.GetSourceVolumeNode() is not None and (not needed.requireSegments or there)

    def follow(self) -> None:
        """The widget looks at its parameter node: without a source volume the options frame is disabled."""
        self.scripted.options.setEnabled(self.node.GetSourceVolumeNode() is not None)

    def switchTo(self, segmentation: Any) -> None:
        """Another segmentation is chosen: the effect is left first."""
        self.effect.deactivate()
        self.segmentation = segmentation
        self.logic.SetSegmentationNode(segmentation)
        inner = segmentation.GetSegmentation()
        if inner.GetNumberOfSegments():
            self.logic.SetCurrentSegmentID(inner.GetNthSegmentID(0))

    def removeSegment(self, segmentId: str) -> None:
        """The button *Remove*: with the last segment goes the selection, and with it an effect for single segments."""
        inner = self.segmentation.GetSegmentation()
        inner.RemoveSegment(segmentId)
        if inner.GetNumberOfSegments() == 0:
            self.node.SetSelectedSegmentID("")
            if self.scripted.perSegment:
                self.effect.deactivate()

    def select(self, segmentId: str) -> None:
        """As the editor does it: the effect is not told, it has to see it."""
        self.logic.SetCurrentSegmentID(segmentId)
        self.rest()

    def rest(self) -> None:
        """The short rest after which the panel shows what has changed."""
        while self.effect.panel._soon.isActive():
            QtCore.QCoreApplication.processEvents()

    def finish(self) -> None:
        """Let the timer see that the run is over."""
        HandTimer.last.callback()

    def mask(self, segmentId: str) -> np.ndarray:
        return segmentArray(self.segmentation, segmentId, self.volume)

    @property
    def status(self) -> str:
        return self.ui.statusLabel.text


def blobEditor(scene: Any) -> Editor:
    """An editor on the blobs, with a network that takes what is bright; ``truths`` are their masks."""
    volume, rois, truths = blobs(scene)
    editor = Editor(scene, volume, rois, {"first": (0.9, 0.6, 0.2), "second": (0.3, 0.7, 0.9)})
    editor.truths = truths
    editor.effect.logic._segmenters = brightSegmenter
    editor.scripted.setParameter("strategy", "fixed")
    editor.effect.updateGUIFromMRML()
    return editor
