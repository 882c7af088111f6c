"""The Segment Editor effect QMedSAM: boxes become segments."""

from __future__ import annotations

import logging
import os
from typing import Any, List, Optional

import qt
import slicer
from qmedsam import QMedSAMError, Segmentation
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

from . import keys
from .boxactions import BoxActions
from .boxes import SEGMENT_ATTRIBUTE, boundRois, updateColors
from .boxtable import BoxTable
from .correcting import Correcting
from .effectpanel import EffectPanel
from .effectwriter import EffectWriter
from .foreign import hideBoxes, showBoxes
from .installer import Installer
from .logic import QMedSAMSegmentLogic
from .questions import confirmed
from .runs import Prompt, Run
from .sceneevents import SceneEvents
from .session import Session, fingerprint
from .settings import Settings
from .volumes import onlyVolume
from .worker import Job

_log = logging.getLogger("QMedSAM")


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Draw boxes, look at the preview, apply. One instance per Segment Editor widget; nodes are found by reference."""

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "QMedSAM"  # used by scripts and saved scenes, not translated
        scriptedEffect.title = _("QMedSAM")
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = False  # its boxes bring their segments along
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.logic = QMedSAMSegmentLogic()
        self.jobs = Job
        self.session = Session(lambda *work: self.jobs(*work))
        self.correcting = Correcting(self)
        self.installer = Installer()
        self.observations = slicer.util.VTKObservationMixin()
        self.events = SceneEvents(self)
        self.active = False
        self.panel: Optional[EffectPanel] = None
        self.boxes: Optional[BoxActions] = None
        self._previewKey: Any = None
        self._fresh = True  # what is shown is what an Apply would write
        self._boxesOf: Any = None  # the segmentation whose boxes are in the views because of this effect
        self._applying = False
        self._lost = False

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
            + "<br>"  # what comes after it is folded away at first
            + _("Add a box with two clicks in a slice view and pull its handles until it touches the object on all sides.")
            + "<br>"
            + _("Preview shows the result without changing anything; Apply writes it. Cancel stops a run within a slice.")
            + "<br>"
            + _("Correct: click or drag in a slice view adds, with Ctrl it removes; Shift and the wheel change the brush.")
            + "</html>"
        )

    def setupOptionsFrame(self) -> None:
        ui = slicer.util.loadUI(os.path.join(_resources(), "UI", "QMedSAMEffect.ui"))
        self.scriptedEffect.addOptionsWidget(ui)
        self.boxes = BoxActions(self)
        self.panel = EffectPanel(ui, self)
        self.table = BoxTable(self.panel.ui.boxesTable, self.boxes.chosen)

    def createCursor(self, viewWidget: Any) -> Any:
        mainWindow = slicer.util.mainWindow()
        return mainWindow.cursor if mainWindow is not None else qt.QCursor()

    def setMRMLDefaults(self) -> None:
        for name in Settings.names():
            self.scriptedEffect.setParameterDefault(name, getattr(Settings(), name))
        self.scriptedEffect.setParameterDefault("autoUpdate", 0)
        self.scriptedEffect.setParameterDefault("keepPainted", 1)

    def activate(self) -> None:
        self.active = True
        self.chooseOnlyVolume()
        self.scriptedEffect.showEffectCursorInSliceView = False
        self.events.observeScene()
        keys.take(self)
        self.panel.fillModels()
        self.updateGUIFromMRML()
        if self._lost:
            self._sayLost()
            self._lost = False

    def deactivate(self) -> None:
        self.active = False
        self.correcting.turn(False)
        self.drop()
        if self.boxes is not None:
            self.boxes.endPlacing()
        self.observations.removeObservers()
        keys.leave(self)
        self._showBoxesOf(None)

    def cleanup(self) -> None:
        self.deactivate()
        if self.panel is not None:
            self.panel.close()

    def interactionNodeModified(self, interactionNode: Any) -> None:
        """Placing a box leaves the view mode; the default would end the effect."""
        if self.boxes is not None:
            self.boxes.modeChanged(interactionNode)

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        placing = self.boxes is None or self.boxes.placing is not None  # the clicks are the box's
        return bool(not placing and self.correcting.tool.process(callerInteractor, eventId, viewWidget))

    def processViewNodeEvents(self, callerViewNode: Any, eventId: int, viewWidget: Any) -> None:
        if self.correcting.on and viewWidget.className() == "qMRMLSliceWidget":
            self.correcting.marks.place(viewWidget)

    def sourceVolumeNodeChanged(self) -> None:
        self.drop()  # says so where the volume has been deleted: the editor tells of that before the scene does
        self.updateGUIFromMRML()

    def referenceGeometryChanged(self) -> None:
        if self.panel is not None and self.active:
            self.panel.updateSoon()

    def layoutChanged(self) -> None:
        self.session.preview.suitLayout()

    def updateGUIFromMRML(self) -> None:
        if self.panel is None or slicer.mrmlScene.IsClosing():
            return
        updateColors(slicer.mrmlScene)
        if self.active:
            self._showBoxesOf(self.segmentationNode)
        self.table.fill(self.segmentationNode, self.volumeNode, self.segmentId)
        if self.active:
            self.boxes.observe(self.table.rois)
            self.events.observeEdited()
            self._checkShown()
        self.correcting.update()
        self.panel.update(self.table, self.segmentationNode, self.volumeNode, self.segmentId)

    def rested(self) -> None:
        """Nothing has changed for a short while."""
        self.updateGUIFromMRML()
        if self.active:
            self.boxes.rested()

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

    def chooseOnlyVolume(self) -> None:
        """Where no source volume is chosen and the scene has a single one, take that."""
        node = self.scriptedEffect.parameterSetNode()
        if node is not None and node.GetSourceVolumeNode() is None:
            node.SetAndObserveSourceVolumeNode(onlyVolume(slicer.mrmlScene))

    @property
    def settings(self) -> Settings:
        return Settings.of({name: self.scriptedEffect.parameter(name) for name in Settings.names()})

    def prompts(self, everything: bool = False) -> List[Prompt]:
        """Boxes of the selected segment, or of all segments, without those that are not placed."""
        rois = boundRois(self.segmentationNode, None if everything else self.segmentId)
        placed = [roi for roi in rois if roi is not self.boxes.placing and max(roi.GetSize()) > 0]
        return [Prompt(roi, roi.GetAttribute(SEGMENT_ATTRIBUTE)) for roi in placed]

    # Runs

    def onAddBox(self) -> None:
        self.boxes.add()

    def onPreview(self) -> None:
        """Compute the boxes of the selected segment and show what they find; nothing is changed."""
        self._start(everything=False, apply=False)

    def onApplyClicked(self) -> None:
        self._start(everything=False, apply=True)

    def onApplyAllClicked(self) -> None:
        self._start(everything=True, apply=True)

    def onCorrectKey(self) -> None:
        self.panel.ui.correctButton.click()

    def onCancel(self) -> None:
        if self.correcting.cancel() or self.session.cancel():
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
        result = run.compute(self.logic.segmenter(self.settings.model))
        written = run.write(EffectWriter(self.scriptedEffect))
        self.panel.finished(run, result, applied=written)

    def _start(self, everything: bool, apply: bool) -> None:
        # Keys and released handles come at any time: they must not throw away what is about to be applied.
        if (self.session.running and self._applying) or self.correcting.running or not self.ready():
            return
        with self.panel.mendable():
            shown = self.session.shown
            if apply and shown is not None and self._shows(shown, everything):
                self._write(shown)
                return
            prompts, settings = self.prompts(everything), self.settings
            if not prompts:
                raise QMedSAMError(_("The selected segment has no box."), _("Press 'Add box' and draw one around the object."))
            key = fingerprint(self.volumeNode, self.segmentationNode, prompts, settings)
            run = Run(self.volumeNode, self.segmentationNode, prompts, settings)
            self._previewKey, self._applying = key, apply
            finish = self._applied if apply else self._previewed
            self.session.start(run, self.logic.segmenter(settings.model), finish, self.panel.fail, self.panel.progress)
            self.panel.started(run.slices)

    def _shows(self, shown: Run, everything: bool) -> bool:
        """Whether what is shown is what an Apply is to write: the same boxes in the same places, the same settings.

        Of a stopped run the user was told that Apply keeps what is shown, also if it was about all boxes.
        """
        scopes = {everything, True} if shown.result.cancelled else {everything}
        keys = [fingerprint(self.volumeNode, self.segmentationNode, self.prompts(one), self.settings) for one in scopes]
        return self._previewKey in keys

    def ready(self) -> bool:
        """Whether a run may start: something to segment, the segment visible, OpenVINO there or to be installed first."""
        self.chooseOnlyVolume()
        if self.segmentationNode is None or self.volumeNode is None:
            self.panel.say(_("Choose a segmentation and a source volume first."))
            return False
        if self.panel.installing:  # what is half there must not be loaded
            self.panel.say(_("OpenVINO is being installed; please wait."))
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
        self._fresh = True
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

    def drop(self, why: str = "") -> None:
        """Whatever runs or is shown is about something that is no longer edited; says why, where nothing better is to be said."""
        running, shown = self.session.running or self.correcting.running, self.session.shown
        gone = self.session.lost or self.correcting.lost
        self.session.close()
        self.correcting.drop()
        if self.panel is None or (self.active and not (running or shown)):
            return  # what the panel says is of something else
        self.panel.idle()
        if why or gone:
            self.panel.say(why or _("The image or the segmentation of this run is gone."))
        elif running and self._applying:
            self._lost = not self.active  # nobody sees the panel now
            self._sayLost()

    def _checkShown(self) -> None:
        """A preview that is not what an Apply would write is dimmed, and said to be out of date, until it is again."""
        shown = self.session.shown
        if shown is None:
            return
        try:
            fresh = self._shows(shown, everything=False)
        except QMedSAMError:  # no image, a transform that bends: an Apply will say it
            fresh = False
        if fresh != self._fresh:
            self._fresh = fresh
            self.session.preview.dim(not fresh)
            self.panel.outdated(not fresh)

    def _showBoxesOf(self, segmentationNode: Any) -> None:
        """Boxes are in the views while they are used: in Paint, in other modules, in another segmentation they would cover it."""
        former, self._boxesOf = self._boxesOf, segmentationNode
        if former is segmentationNode:
            return
        scene = former.GetScene() if former is not None else None
        if scene is not None and not scene.IsClosing() and not keys.inUse(self, former):
            hideBoxes(former)
        if segmentationNode is not None:
            showBoxes(segmentationNode)

    def _sayLost(self) -> None:
        self.panel.say(_("The run was stopped before it was applied; nothing was written. Apply starts it again."))


def _resources() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(__file__)), "Resources")


def _iconPath() -> str:
    dark = slicer.app.palette().color(qt.QPalette.Window).lightness() < 128
    return os.path.join(_resources(), "Icons", "QMedSAMEffectDark.png" if dark else "QMedSAMEffect.png")
