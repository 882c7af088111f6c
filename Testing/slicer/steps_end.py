"""The last step: the application is left in the middle of a run. What comes of it is its exit code, and that it ends at all."""

from __future__ import annotations

from typing import Any

from runner import Steps
from steps_runs import kidney

STEPS = Steps()


@STEPS("a run is computing when the application ends (it must end, with this driver's exit code)")
def leavesARun(person: Any) -> None:
    kidney(person)
    person.choose(person.ui.strategyCombo, "vote")
    person.press(person.ui.applyButton)
    assert person.effect.session.running, person.status()
