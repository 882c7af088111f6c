"""The widgets of *Correct*: a row of its own, in place of what belongs to boxes; and what is said of a correction."""

from __future__ import annotations

from typing import Any

from qmedsam.correction import Correction
from slicer.i18n import tr as _

from .correction import CorrectionRun
from .signals import connected
from .speed import durationText


class CorrectPanel:
    """Part of the options frame.

    Args:
        ui: the frame's widgets by name.
        effect: whose correcting the buttons steer.
    """

    def __init__(self, ui: Any, effect: Any) -> None:
        self._ui, self._effect = ui, effect
        ui.correctFrame.setVisible(False)
        connected(ui.correctButton, "toggled(bool)", effect.correcting.turn)
        connected(ui.anotherButton, "clicked()", effect.correcting.another)
        connected(ui.goOnButton, "clicked()", effect.correcting.goOn)
        connected(ui.keepPaintedCheck, "toggled(bool)", self._keepPainted)

    def update(self) -> None:
        """What is on and what can be pressed; strokes need the room that boxes have else."""
        ui, correcting = self._ui, self._effect.correcting
        for button, on in (
            (ui.correctButton, correcting.on),
            (ui.keepPaintedCheck, self._effect.scriptedEffect.integerParameter("keepPainted") != 0),
        ):
            wasBlocked = button.blockSignals(True)
            button.checked = on
            button.blockSignals(wasBlocked)
        ui.correctFrame.setVisible(correcting.on)
        for button in (ui.fitButton, ui.flatButton, ui.duplicateButton, ui.deleteButton, ui.restoreButton):
            button.setVisible(not correcting.on)
        if correcting.on:
            ui.roiFrame.setVisible(False)
        ui.boxesTable.setVisible(not correcting.on and ui.boxesTable.rowCount > 0)
        ui.correctButton.setEnabled(correcting.on or not self._effect.session.running)
        ui.anotherButton.setEnabled(bool(correcting.strokes) and not correcting.running)
        ui.goOnButton.setEnabled(not correcting.running)

    def _keepPainted(self, on: bool) -> None:
        self._effect.scriptedEffect.setParameter("keepPainted", 1 if on else 0)


def told(run: CorrectionRun, result: Correction, changed: bool, answers: int) -> str:
    """What has become of a correction, in a line or a few.

    Args:
        run: that was written.
        result: of it.
        changed: whether the segment was.
        answers: how many the network has.
    """
    seconds = result.seconds["total"]
    if changed:
        changes = [(_("{size} added"), run.added), (_("{size} removed"), run.removed)]
        sizes = [text.format(size=run.sizeText(voxels)) for text, voxels in changes if voxels]
        sizes.append(_("confidence {confidence:.2f}").format(confidence=result.confidence))
        time = durationText(seconds) if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
        head = _("Corrected in {time}: {sizes}.").format(time=time, sizes=", ".join(sizes))
    else:
        head = _("Nothing had to be changed.")
    if run.task.candidate:
        head += " " + _("Answer {n} of {count}.").format(n=run.task.candidate + 1, count=answers)
    lines = [head, *run.notes, *result.messages]
    if run.kept:
        lines.append(_("Slices kept as painted by hand: {count}.").format(count=len(run.kept)))
    return "\n".join(lines)
