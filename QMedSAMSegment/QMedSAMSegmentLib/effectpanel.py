"""The effect's options frame: fills it, reads it, and says what is going on."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Any, Iterator, Optional

import qt
import slicer
from qmedsam import QMedSAMError, Segmentation
from slicer.i18n import tr as _

from .boxtable import BoxTable
from .boxtags import restorableSegments
from .correctpanel import CorrectPanel
from .drawn import freeLines
from .foreign import candidates
from .questions import confirmed
from .runs import Run
from .settings import FRAMES, MODES, canVote, modalityChoices, modelChoices, strategyChoices, windowChoices
from .signals import connected
from .speed import durationText, estimateText, rememberedMsPerSlice, rememberMsPerSlice
from .volumes import showsAnother
from .worker import Job

_log = logging.getLogger("QMedSAM")

#: What is shown for a value of a setting; a value without an entry is shown as it is.
LABELS = {
    "auto": "Automatic",
    "displayed": "As displayed",
    "fixed": "Fixed: the box on every slice",
    "propagate": "Propagate: follow the object",
    "vote": "Vote: three directions",
    "roi": "Box with a margin",
    "slice": "Whole slice",
    "replace": "Replace the segment",
    "add": "Add to the segment",
}
#: Lines of a message that are seen at once; more are scrolled, so that the table and the buttons stay where they are seen.
LINES = 4


class EffectPanel:
    """Widgets of the options frame.

    Args:
        widget: loaded from ``QMedSAMEffect.ui``.
        effect: whose methods the buttons call.
    """

    def __init__(self, widget: Any, effect: Any) -> None:
        self.widget, self.effect = widget, effect
        self.ui = slicer.util.childWidgetVariables(widget)
        self._installJob: Optional[Job] = None
        self._finished = ""  # what was said of the run that is shown
        self._combos = {
            "modality": self.ui.modalityCombo,
            "window": self.ui.windowCombo,
            "strategy": self.ui.strategyCombo,
            "model": self.ui.modelCombo,
            "frame": self.ui.frameCombo,
            "mode": self.ui.modeCombo,
        }
        choices = {
            "modality": modalityChoices(),
            "window": windowChoices(),
            "strategy": strategyChoices(),
            "model": ["auto"],
            "frame": list(FRAMES),
            "mode": list(MODES),
        }
        for name, values in choices.items():
            _fill(self._combos[name], values)
        self.ui.progressBar.setVisible(False)
        self.say("")
        self.ui.agreementCheck.setVisible(canVote())
        # A box that is being pulled changes many times a second. The widget's child: without an owner it outlives the editor,
        # and with it the effect that it calls.
        self._soon = qt.QTimer(widget)
        self._soon.setSingleShot(True)
        self._soon.setInterval(200)
        self._correct = CorrectPanel(self.ui, effect)
        self._connect()

    def _connect(self) -> None:
        effect, ui = self.effect, self.ui
        for button, method in (
            (ui.addButton, effect.boxes.add),
            (ui.fitButton, effect.boxes.fit),
            (ui.flatButton, effect.boxes.flatten),
            (ui.duplicateButton, effect.boxes.duplicate),
            (ui.deleteButton, effect.boxes.delete),
            (ui.restoreButton, effect.boxes.restore),
            (ui.useAllButton, effect.boxes.useAllRois),
            (ui.previewButton, effect.onPreview),
            (ui.cancelButton, effect.onCancel),
            (ui.applyButton, effect.onApplyClicked),
            (ui.applyAllButton, effect.onApplyAllClicked),
            (ui.installButton, self.onInstall),
        ):
            connected(button, "clicked()", method)
        connected(ui.roiCombo, "activated(int)", self.onRoiChosen)
        connected(ui.handlesCheck, "toggled(bool)", effect.boxes.showHandles)
        connected(ui.autoUpdateCheck, "toggled(bool)", self.onParameterChanged)
        connected(ui.agreementCheck, "toggled(bool)", self.onParameterChanged)
        for combo in self._combos.values():
            connected(combo, "currentIndexChanged(int)", self.onParameterChanged)
        connected(self._soon, "timeout()", effect.rested)

    # Parameters

    def fillModels(self) -> None:
        """List the models at hand now; done when the effect is activated, for it reads files."""
        _fill(self._combos["model"], modelChoices())

    def onRoiChosen(self, index: int) -> None:
        if index > 0:  # the first is the heading
            self.effect.boxes.useRoi(self.ui.roiCombo.itemData(index))

    def _fillRois(self) -> int:
        """Offer the free ROIs of the scene, with a word on those that are not meant as boxes; how many others there are."""
        combo, free = self.ui.roiCombo, candidates(slicer.mrmlScene, self.effect.volumeNode)
        lines = freeLines(slicer.mrmlScene)
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(_("Use one ({count})...").format(count=len(free) + len(lines)), "")
        for one in free:
            combo.addItem(one.text, one.roiNode.GetID())
        for line in lines:
            combo.addItem(_("{name} (line)").format(name=line.GetName()), line.GetID())
        combo.blockSignals(wasBlocked)
        self.ui.roiFrame.setVisible(bool(free or lines))
        usable = sum(not one.objection for one in free)
        self.ui.useAllButton.setEnabled(usable > 0)
        return usable

    def onParameterChanged(self, *unused: Any) -> None:
        self.effect.updateMRMLFromGUI()

    def writeParameters(self) -> None:
        """Widgets to the parameter node."""
        for name, combo in self._combos.items():
            self.effect.scriptedEffect.setParameter(name, str(combo.itemData(combo.currentIndex)))
        self.effect.scriptedEffect.setParameter("agreement", "yes" if self.ui.agreementCheck.checked else "no")
        self.effect.scriptedEffect.setParameter("autoUpdate", 1 if self.ui.autoUpdateCheck.checked else 0)

    def update(self, table: BoxTable, segmentationNode: Any, volumeNode: Any, segmentId: str) -> None:
        """Parameter node and scene to widgets."""
        for name, combo in self._combos.items():
            value = self.effect.scriptedEffect.parameter(name)
            wasBlocked = combo.blockSignals(True)
            if combo.findData(value) < 0:  # a model of another computer, a strategy of a newer version
                combo.addItem(value, value)
            combo.setCurrentIndex(combo.findData(value))
            combo.blockSignals(wasBlocked)
        for check, on in (
            (self.ui.autoUpdateCheck, self.effect.scriptedEffect.integerParameter("autoUpdate") != 0),
            (self.ui.agreementCheck, self.effect.scriptedEffect.parameter("agreement") == "yes"),
        ):
            wasBlocked = check.blockSignals(True)
            check.checked = on
            check.blockSignals(wasBlocked)
        free = self._fillRois()
        self.ui.installFrame.setVisible(not self.effect.installer.present())
        self.ui.restoreButton.setEnabled(bool(restorableSegments(segmentationNode)))
        self.ui.hintLabel.setText(self._hint(table, segmentationNode, volumeNode, free))
        self.updateButtons()

    def updateSoon(self) -> None:
        """Update after a short rest."""
        self._soon.start()

    def updateButtons(self) -> None:
        effect, running = self.effect, self.effect.session.running or self.effect.correcting.running
        chosen = effect.table.current is not None
        for button in (self.ui.flatButton, self.ui.duplicateButton, self.ui.deleteButton):
            button.setEnabled(chosen)
        self.ui.previewButton.setEnabled(not running)
        self.ui.applyButton.setEnabled(not running)
        self.ui.applyAllButton.setEnabled(not running and bool(effect.table.rois))
        self.ui.cancelButton.setEnabled(running or effect.session.shown is not None)
        self._correct.update()

    def _hint(self, table: BoxTable, segmentationNode: Any, volumeNode: Any, free: int) -> str:
        """What to do next, in one line."""
        if segmentationNode is None or volumeNode is None:
            return _("Choose a segmentation and a source volume above.")
        if self.effect.correcting.on:
            return _("Click or drag on a slice: Ctrl does the opposite of what is chosen, Shift and the wheel change the brush.")
        if table.rois:
            return _("Preview, then Apply:") + " " + self._estimate(table, volumeNode)
        if free:
            return _("Use all ROIs makes a segment for each box of the scene.")
        return _("Add box, then click two opposite corners of the object.")

    def _estimate(self, table: BoxTable, volumeNode: Any) -> str:
        slices = table.slices
        text = _("{count} slices in all boxes").format(count=slices) + _sourceText(volumeNode)
        perSlice = rememberedMsPerSlice()
        return f"{text}, {estimateText(slices * perSlice / 1000)}." if perSlice and slices else f"{text}."

    def close(self) -> None:
        """The widgets are going away: nothing calls back afterwards."""
        self._soon.stop()
        if self._installJob is not None:
            self._installJob.abandon()

    # What is going on

    def say(self, text: str) -> None:
        """Say what is going on; without a text the line says what to do next."""
        label, area = self.ui.statusLabel, self.ui.statusArea
        label.setText(text)
        area.setVisible(bool(text))
        self.ui.hintLabel.setVisible(not text)
        needed = label.heightForWidth(max(self.widget.width - 20, 100))  # less a scroll bar
        area.setFixedHeight(max(0, min(needed, LINES * label.fontMetrics().lineSpacing())))

    def started(self, slices: int) -> None:
        self.ui.progressBar.setRange(0, slices)
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.setVisible(True)
        self.say(_("Loading the model..."))
        self.updateButtons()

    def progress(self, done: int, total: int, secondsLeft: Optional[float]) -> None:
        self.ui.progressBar.setRange(0, total)
        self.ui.progressBar.setValue(done)
        if not self.effect.session.cancelling and done:
            left = "" if secondsLeft is None else ", " + _("about {time} left").format(time=durationText(secondsLeft))
            self.say(_("{done} of {total} slices").format(done=done, total=total) + left)

    def finished(self, run: Run, result: Segmentation, applied: bool) -> None:
        """Say what was found, how sure the network is, and how long it took."""
        self.ui.progressBar.setVisible(False)
        if not result.cancelled and run.slices:
            rememberMsPerSlice(1000 * result.seconds["total"] / run.slices)
        found = [
            f"{one.name}: {run.sizeText(one.voxels, one.volume_ml)}{run.lengthText(one)}, {_('confidence')} {one.confidence:.2f}"
            for one in result.objects
            if not one.error
        ]
        nothing = not any(one.voxels for one in result.objects)
        if result.cancelled and nothing:
            head, found = _("Stopped before anything was found; nothing was changed."), []
        elif nothing:
            head = _("Nothing was found in the boxes.")
        elif result.cancelled:
            head = _("Stopped. Apply adds what is shown to its segments, Cancel drops it.")
        elif applied:
            head = _("Applied in {time}.").format(time=durationText(result.seconds["total"]))
        else:
            head = _("Preview, {time}. Apply writes it, Cancel drops it.").format(time=durationText(result.seconds["total"]))
        source = _sourceText(run.volumeNode)
        if source:
            head += " " + _("Voxels{source}.").format(source=source)
        # What a hundred objects have must not push out of sight what has to be known of one.
        lines = [*found, *result.messages] if len(found) < LINES else [*result.messages, *found]
        self._finished = "\n".join([head, *lines])
        self.say(self._finished)
        self.effect.updateGUIFromMRML()  # the estimate is better now

    def outdated(self, outdated: bool) -> None:
        """What is shown is not what an Apply would write any more, or it is again."""
        self.say(_("The preview is out of date: Apply computes anew, Preview shows it.") if outdated else self._finished)

    def idle(self) -> None:
        """Nothing runs and nothing is shown any more."""
        self.ui.progressBar.setVisible(False)
        self.say("")
        self.updateButtons()

    def fail(self, error: Exception) -> None:
        """A sentence in the panel for what the user can mend; a dialog with the log only for what nobody foresaw."""
        self.ui.progressBar.setVisible(False)
        self.say(str(error))
        self.updateButtons()
        if not isinstance(error, QMedSAMError):
            _log.error("unexpected", exc_info=error)
            slicer.util.errorDisplay(_("QMedSAM could not finish: {error}").format(error=error))

    @contextmanager
    def mendable(self) -> Iterator[None]:
        """Say what goes wrong inside in the panel; an error of any kind must reach the user."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    # Installation

    @property
    def installing(self) -> bool:
        """Whether pip runs."""
        return self._installJob is not None

    def onInstall(self) -> None:
        """The button: the user asks for it, so an earlier refusal does not count; while pip runs, it stops pip."""
        if self._installJob is not None:
            self._installJob.cancel()
            return
        self.effect.installer.declined = False
        if self.effect.installer.agreed(confirmed):
            self.install()

    def install(self) -> None:
        """Run pip beside the window; the button stops it."""
        installer = self.effect.installer
        self._installJob = self.effect.jobs(
            lambda progress, cancelled: installer.install(cancelled=cancelled), self._installed, self._installFailed
        )
        self.ui.installButton.setText(_("Stop the installation"))
        self.say(_("Installing OpenVINO..."))
        self._installJob.start()

    def _installed(self, finished: bool) -> None:
        self._installEnded()
        self.say(_("OpenVINO is installed. Go on with Preview.") if finished else _("The installation was stopped."))
        self.effect.updateGUIFromMRML()

    def _installFailed(self, error: Exception) -> None:
        self._installEnded()
        self.fail(error)

    def _installEnded(self) -> None:
        self._installJob = None
        self.ui.installButton.setText(_("Install OpenVINO..."))


def _sourceText(volumeNode: Any) -> str:
    """Which volume is segmented, where the slice views show another one as well, as PET over CT."""
    if not showsAnother(volumeNode):
        return ""
    return " " + _("of the source volume '{name}'").format(name=volumeNode.GetName())


def _fill(combo: Any, values: Any) -> None:
    wasBlocked = combo.blockSignals(True)
    combo.clear()
    for value in values:
        combo.addItem(_(LABELS[value]) if value in LABELS else value, value)
    combo.blockSignals(wasBlocked)
