"""The Segment Editor effect QMedSAM: boxes become segments."""

from __future__ import annotations

import logging
import os
from typing import Any, List, Optional

import qt
import slicer
import vtk
from qmedsam import QMedSAMError, Segmentation
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

from . import boxes
from .boxtable import BoxTable
from .effectpanel import EffectPanel
from .effectwriter import EffectWriter
from .geometry import arrayFromMatrix, nodeToWorld
from .installer import Installer
from .logic import QMedSAMSegmentLogic
from .questions import confirmed
from .runs import DEFAULT_COLOR, Prompt, Run
from .session import Session, fingerprint
from .settings import Settings
from .worker import Job

_log = logging.getLogger("QMedSAM")


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Draw boxes, look at the preview, apply. One instance per Segment Editor widget; nodes are found by reference."""

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "QMedSAM"  # used by scripts and saved scenes, not translated
        scriptedEffect.title = _("QMedSAM")
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.logic = QMedSAMSegmentLogic()
        self.jobs = Job
        self.session = Session(lambda *work: self.jobs(*work))
        self.installer = Installer()
        self.observations = slicer.util.VTKObservationMixin()
        self.shortcuts: List[Any] = []
        self.active = False
        self.panel: Optional[EffectPanel] = None
        self._previewKey: Any = None
        self._placing: Any = None

    def clone(self) -> Any:
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        clonedEffect = effects.qSlicerSegmentEditorScriptedEffect(None)
        clonedEffect.setPythonSource(__file__.replace("\\", "/"))
        return clonedEffect

    def icon(self) -> Any:
        return qt.QIcon(_iconPath())

    def helpText(self) -> str:
        return (
            "<html>"
            + _("Boxes become segments, on this computer's processor.")
            + "<p>"
            + _("Add a box with two clicks in a slice view and pull its handles until it touches the object on all sides.")
            + "<br>"
            + _("Preview shows the result without changing anything; Apply writes it. Cancel stops a run within a slice.")
            + "</html>"
        )

    def setupOptionsFrame(self) -> None:
        ui = slicer.util.loadUI(os.path.join(_resources(), "UI", "QMedSAMEffect.ui"))
        self.scriptedEffect.addOptionsWidget(ui)
        self.panel = EffectPanel(ui, self)
        self.table = BoxTable(self.panel.ui.boxesTable, self.onBoxChosen)

    def createCursor(self, viewWidget: Any) -> Any:
        mainWindow = slicer.util.mainWindow()
        return mainWindow.cursor if mainWindow is not None else qt.QCursor()

    def setMRMLDefaults(self) -> None:
        for name in Settings.names():
            self.scriptedEffect.setParameterDefault(name, getattr(Settings(), name))
        self.scriptedEffect.setParameterDefault("autoUpdate", 0)

    def activate(self) -> None:
        self.active = True
        self.scriptedEffect.showEffectCursorInSliceView = False
        self.observations.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneClosing)
        self.observations.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onSceneNodesChanged)
        self._installShortcuts()
        self.panel.fillModels()
        self.updateGUIFromMRML()

    def deactivate(self) -> None:
        self.active = False
        self.session.close()
        self._endPlacing()
        self.observations.removeObservers()
        for shortcut in self.shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self.shortcuts = []

    def cleanup(self) -> None:
        self.deactivate()
        if self.panel is not None:
            self.panel.close()

    def interactionNodeModified(self, interactionNode: Any) -> None:
        """Placing a box leaves the view mode; the default would end the effect."""

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        return False

    def sourceVolumeNodeChanged(self) -> None:
        self.session.close()
        self.updateGUIFromMRML()

    def updateGUIFromMRML(self) -> None:
        if self.panel is None or slicer.mrmlScene.IsClosing():
            return
        self.table.fill(self.segmentationNode, self.volumeNode, self.segmentId)
        if self.active:
            self._observeBoxes()
        self.panel.update(self.table, self.segmentationNode, self.volumeNode, self.segmentId)

    def updateMRMLFromGUI(self) -> None:
        self.panel.writeParameters()

    # What is edited

    @property
    def segmentationNode(self) -> Any:
        node = self.scriptedEffect.parameterSetNode()
        return node.GetSegmentationNode() if node is not None else None

    @property
    def volumeNode(self) -> Any:
        node = self.scriptedEffect.parameterSetNode()
        return node.GetSourceVolumeNode() if node is not None else None

    @property
    def segmentId(self) -> str:
        node = self.scriptedEffect.parameterSetNode()
        return (node.GetSelectedSegmentID() or "") if node is not None else ""

    @property
    def settings(self) -> Settings:
        return Settings(**{name: self.scriptedEffect.parameter(name) for name in Settings.names()})

    def prompts(self, everything: bool = False) -> List[Prompt]:
        """Boxes of the selected segment, or of all segments."""
        rois = boxes.boundRois(self.segmentationNode, None if everything else self.segmentId)
        return [Prompt(roi, roi.GetAttribute(boxes.SEGMENT_ATTRIBUTE)) for roi in rois if roi is not self._placing]

    # Boxes

    def onAddBox(self) -> None:
        roiNode = self._newBox()
        if roiNode is None:
            return
        self._placing = roiNode
        self.observations.addObserver(roiNode, roiNode.PointPositionDefinedEvent, self.onBoxPlaced)
        markups = slicer.modules.markups.logic()
        markups.SetActiveList(roiNode)
        markups.StartPlaceMode(False)
        self.panel.say(_("Click two opposite corners of the object in a slice view."))

    def onUseRoi(self, roiId: str) -> None:
        """An ROI of the scene becomes the box of the selected segment; ``*``: each gets a new segment of its name and colour."""
        with self.panel.mendable():
            segmentation = self.segmentationNode.GetSegmentation()
            if roiId == "*":
                self.scriptedEffect.saveStateForUndo()
                for roiNode in boxes.freeRois(slicer.mrmlScene):
                    color = roiNode.GetDisplayNode().GetSelectedColor() if roiNode.GetDisplayNode() else DEFAULT_COLOR
                    segmentId = segmentation.AddEmptySegment("", roiNode.GetName(), color)
                    boxes.bind(roiNode, self.segmentationNode, segmentId)
            elif segmentation.GetSegment(self.segmentId) is None:
                raise QMedSAMError(_("No segment is selected."), _("Choose one, or use all boxes with a new segment for each."))
            else:
                boxes.bind(slicer.mrmlScene.GetNodeByID(roiId), self.segmentationNode, self.segmentId)
            self._boxesMade()

    def onFit(self) -> None:
        with self.panel.mendable():
            roiNode = self.table.current
            isNew = roiNode is None or roiNode.GetAttribute(boxes.SEGMENT_ATTRIBUTE) != self.segmentId
            image = self.scriptedEffect.selectedSegmentLabelmap()
            mask, toWorld = _maskOf(image, self.segmentationNode)
            if not mask.any():
                raise QMedSAMError(_("The selected segment is empty."), _("Paint a rough shape first, or draw the box."))
            boxes.fitToMask(self._newBox() if isNew else roiNode, mask, toWorld)
            self._boxesMade()

    def onFlat(self) -> None:
        with self.panel.mendable():
            k = boxes.flattenToSlice(self._chosen(), self.volumeNode)
            self.updateGUIFromMRML()
            self.panel.say(_("The box covers the slice {k}.").format(k=k))

    def onDuplicate(self) -> None:
        with self.panel.mendable():
            twin = boxes.duplicate(self._chosen())
            self._boxesMade()
            self.table.choose(twin)

    def onDelete(self) -> None:
        with self.panel.mendable():
            slicer.mrmlScene.RemoveNode(self._chosen())

    def onRestore(self) -> None:
        with self.panel.mendable():
            for segmentId in boxes.restorableSegments(self.segmentationNode):
                boxes.restoreFromTag(self.segmentationNode, segmentId)
            self._boxesMade()

    def onHandles(self, shown: bool) -> None:
        for roiNode in boxes.boundRois(self.segmentationNode):
            if roiNode.GetDisplayNode() is not None:
                roiNode.GetDisplayNode().SetHandlesInteractive(shown)

    def onBoxChosen(self, roiNode: Any) -> None:
        self.scriptedEffect.parameterSetNode().SetSelectedSegmentID(roiNode.GetAttribute(boxes.SEGMENT_ATTRIBUTE))

    def onBoxPlaced(self, roiNode: Any, event: Any) -> None:
        try:
            boxes.boxFromRoi(roiNode, self.volumeNode)
        except QMedSAMError:
            return  # the first of two clicks
        self._endPlacing()
        if boxes.ensureDepth(roiNode):
            self.panel.say(_("Pull the box's handles in the other views until it holds the whole object."))
        self.updateGUIFromMRML()
        self.onBoxReleased(roiNode, event)

    def onBoxReleased(self, roiNode: Any, event: Any) -> None:
        if self.scriptedEffect.integerParameter("autoUpdate") and roiNode is not self._placing:
            self.onPreview()

    def onBoxModified(self, roiNode: Any, event: Any) -> None:
        self.panel.updateSoon()

    # Runs

    def onPreview(self) -> None:
        """Compute the boxes of the selected segment and show what they find; nothing is changed."""
        self._start(everything=False, apply=False)

    def onApplyClicked(self) -> None:
        self._start(everything=False, apply=True)

    def onApplyAllClicked(self) -> None:
        self._start(everything=True, apply=True)

    def onCancel(self) -> None:
        if self.session.cancel():
            self.panel.say(_("Stopping after this slice..."))
        else:
            self.panel.say("")
        self.panel.updateButtons()

    def onApply(self) -> None:
        """Apply the boxes of the selected segment and return when it is done; for scripts, with or without a main window.

        Raises:
            QMedSAMError: something that the user can mend.
        """
        if not self.scriptedEffect.confirmCurrentSegmentVisible():
            return
        run = Run(self.volumeNode, self.segmentationNode, self.prompts(), self.settings, copy=False)
        run.compute(self.logic.segmenter(self.settings.model))
        run.write(EffectWriter(self.scriptedEffect))

    def _start(self, everything: bool, apply: bool) -> None:
        if not self._ready():
            return
        with self.panel.mendable():
            prompts, settings = self.prompts(everything), self.settings
            if not prompts:
                raise QMedSAMError(_("The selected segment has no box."), _("Press 'Add box' and draw one around the object."))
            key = fingerprint(self.volumeNode, self.segmentationNode, prompts, settings)
            shown = self.session.shown
            if apply and shown is not None and key == self._previewKey:
                self._write(shown)
                return
            run = Run(self.volumeNode, self.segmentationNode, prompts, settings)
            self._previewKey = key
            finish = self._applied if apply else self._previewed
            self.session.start(run, self.logic.segmenter(settings.model), finish, self.panel.fail, self.panel.progress)
            self.panel.started(run.slices)

    def _ready(self) -> bool:
        """Whether a run may start: something to segment, the segment visible, OpenVINO there or to be installed first."""
        if self.segmentationNode is None or self.volumeNode is None:
            self.panel.say(_("Choose a segmentation and a source volume first."))
            return False
        if not self.installer.present():
            if self.installer.agreed(confirmed):
                self.panel.install()
            else:
                self.panel.say(_("OpenVINO is not installed; press 'Install OpenVINO...' when you want to go on."))
            return False
        return bool(self.scriptedEffect.confirmCurrentSegmentVisible())

    def _previewed(self, run: Run, result: Segmentation) -> None:
        self.session.show(run)
        self.panel.finished(run, result, applied=False)

    def _applied(self, run: Run, result: Segmentation) -> None:
        if result.cancelled:  # the user decides: Apply keeps what is shown, Cancel drops it
            self._previewed(run, result)
            return
        self._write(run)

    def _write(self, run: Run) -> None:
        result = run.result
        self.session.close()
        with slicer.util.RenderBlocker():
            written = run.write(EffectWriter(self.scriptedEffect))
        self.panel.finished(run, result, applied=written)

    # Helpers

    def onSceneClosing(self, scene: Any, event: Any) -> None:
        self.session.close()
        self._placing = None

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onSceneNodesChanged(self, scene: Any, event: Any, node: Any) -> None:
        if node is not None and node.IsA("vtkMRMLMarkupsROINode"):
            if node is self._placing:
                self._placing = None
            self.updateGUIFromMRML()

    def _boxesMade(self) -> None:
        self.updateGUIFromMRML()
        self.onHandles(self.panel.ui.handlesCheck.checked)

    def _newBox(self) -> Any:
        if self.segmentationNode is None or not self.segmentId:
            self.panel.say(_("Choose a segment first."))
            return None
        roiNode = boxes.createRoi(slicer.mrmlScene, self.segmentationNode, self.segmentId)
        roiNode.GetDisplayNode().SetHandlesInteractive(self.panel.ui.handlesCheck.checked)
        return roiNode

    def _chosen(self) -> Any:
        if self.table.current is None:
            raise QMedSAMError(_("No box is chosen."), _("Choose one in the table."))
        return self.table.current

    def _observeBoxes(self) -> None:
        for roiNode in self.table.rois:
            for event, method in (
                (roiNode.PointEndInteractionEvent, self.onBoxReleased),
                (vtk.vtkCommand.ModifiedEvent, self.onBoxModified),
            ):
                if not self.observations.hasObserver(roiNode, event, method):
                    self.observations.addObserver(roiNode, event, method)

    def _endPlacing(self) -> None:
        roiNode, self._placing = self._placing, None
        if roiNode is None or roiNode.GetScene() is None:
            return
        self.observations.removeObserver(roiNode, roiNode.PointPositionDefinedEvent, self.onBoxPlaced)
        if max(roiNode.GetSize()) <= 0:  # never placed
            slicer.mrmlScene.RemoveNode(roiNode)
            interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
            if interaction is not None:
                interaction.SwitchToViewTransformMode()

    def _installShortcuts(self) -> None:
        """Keys that neither the editor nor the slice views use; only while the effect is active."""
        mainWindow = slicer.util.mainWindow()
        if mainWindow is None:
            return
        for key, method in (("Shift+B", self.onAddBox), ("Shift+P", self.onPreview), ("Shift+A", self.onApplyClicked)):
            shortcut = qt.QShortcut(mainWindow)
            shortcut.setKey(qt.QKeySequence(key))
            shortcut.connect("activated()", method)
            self.shortcuts.append(shortcut)


def _maskOf(image: Any, segmentationNode: Any) -> Any:
    """A labelmap as boolean ``(k, j, i)`` and the ``4 x 4`` matrix from its voxels to world RAS."""
    import numpy as np
    from vtk.util import numpy_support

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    toWorld = nodeToWorld(segmentationNode) @ arrayFromMatrix(matrix)
    extent, scalars = image.GetExtent(), image.GetPointData().GetScalars()
    if scalars is None or any(extent[2 * axis] > extent[2 * axis + 1] for axis in range(3)):
        return np.zeros((1, 1, 1), bool), toWorld
    mask = numpy_support.vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1]) > 0
    toWorld[:3, 3] += toWorld[:3, :3] @ [extent[0], extent[2], extent[4]]
    return mask, toWorld


def _resources() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(__file__)), "Resources")


def _iconPath() -> str:
    dark = slicer.app.palette().color(qt.QPalette.Window).lightness() < 128
    return os.path.join(_resources(), "Icons", "QMedSAMEffectDark.png" if dark else "QMedSAMEffect.png")
