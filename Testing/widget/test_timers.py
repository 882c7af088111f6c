"""Timers of the application end with what they serve: a connection keeps what it calls alive, unseen by Python's collector."""

from __future__ import annotations

import gc
import time
import weakref
from pathlib import Path

import pytest
import slicer
from PySide6 import QtCore, QtWidgets
from QMedSAMSegmentLib import worker
from QMedSAMSegmentLib.worker import Job

UI = Path(worker.__file__).parents[1] / "Resources" / "UI" / "QMedSAMEffect.ui"


def _delete() -> None:
    """What the event loop does with ``deleteLater``."""
    QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
    gc.collect()


@pytest.mark.parametrize("abandoned", [False, True])
def test_a_job_that_is_over_is_freed(app, abandoned: bool) -> None:
    results: list = []
    job = Job(lambda progress, cancelled: "mask", results.append, results.append)
    known = weakref.ref(job)
    job.start()
    if abandoned:
        job.abandon()
    del job
    end = time.monotonic() + 20
    while not results and not abandoned and time.monotonic() < end:
        QtWidgets.QApplication.processEvents()
    _delete()
    assert results == ([] if abandoned else ["mask"]) and known() is None


def test_the_panels_timer_goes_with_its_widgets(editor) -> None:
    from QMedSAMSegmentLib.effectpanel import EffectPanel

    panel, gone = EffectPanel(slicer.util.loadUI(str(UI)), editor.effect), []
    panel._soon.destroyed.connect(lambda: gone.append(True))
    panel.widget.deleteLater()
    _delete()
    assert gone
