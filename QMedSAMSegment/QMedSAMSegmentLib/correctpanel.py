"""The widgets of *Correct*: a row of its own, in place of what belongs to boxes."""

from __future__ import annotations

from typing import Any

from .signals import connected


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
        ui.boxesTable.setVisible(not correcting.on and ui.boxesTable.rowCount > 0)
        ui.correctButton.setEnabled(correcting.on or not self._effect.session.running)
        ui.anotherButton.setEnabled(not correcting.running)
        ui.goOnButton.setEnabled(not correcting.running)

    def _keepPainted(self, on: bool) -> None:
        self._effect.scriptedEffect.setParameter("keepPainted", 1 if on else 0)
