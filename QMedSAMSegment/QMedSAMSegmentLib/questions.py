"""Questions to the user."""

from __future__ import annotations


def confirmed(question: str) -> bool:
    """Ask; in testing mode, where Slicer answers its own questions with yes, the answer is no."""
    import slicer
    from slicer.i18n import tr as _

    return not slicer.app.testingEnabled() and bool(slicer.util.confirmOkCancelDisplay(question, windowTitle=_("QMedSAM")))
