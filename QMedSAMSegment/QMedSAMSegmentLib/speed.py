"""How fast this machine was last time, kept in the application's settings, and times as text."""

from __future__ import annotations

_KEY = "QMedSAM/MillisecondsPerSlice"


def rememberedMsPerSlice() -> float:
    """Milliseconds per slice of the last run; 0 when there was none."""
    import qt

    try:
        return float(qt.QSettings().value(_KEY, 0) or 0)
    except (TypeError, ValueError):
        return 0.0


def rememberMsPerSlice(milliseconds: float) -> None:
    import qt

    qt.QSettings().setValue(_KEY, f"{milliseconds:.3f}")


def estimateText(seconds: float) -> str:
    """``about 12 s``; ``at least 12 s`` for a process that others come before and that may not change it."""
    from qmedsam.batch.priority import lowered
    from slicer.i18n import tr as _

    return (_("at least") if lowered() else _("about")) + f" {durationText(seconds)}"


def durationText(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
