"""The first minute: what is there, installing, the sample in four clicks, a frame in which nothing is below the fold."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import slicer
from runner import NotRun, Steps

STEPS = Steps()
#: Of the sample with the shipped model, automatic settings; the aorta measured 0.82.
LEAST_DSC = 0.75


@STEPS("versions of everything")
def versions(person: Any) -> None:
    import numpy
    import qt
    import vtk

    app = slicer.app
    person.note(
        f"Slicer {app.applicationVersion} revision {app.repositoryRevision} on {platform.platform()}, {os.cpu_count()} cores"
    )
    qtVersion = qt.QLibraryInfo.version().toString() if hasattr(qt.QLibraryInfo, "version") else qt.qVersion()
    person.note(
        f"Python {sys.version.split()[0]}, numpy {numpy.__version__}, VTK {vtk.vtkVersion().GetVTKVersion()}, Qt {qtVersion}"
    )
    person.note(f"main window {slicer.util.mainWindow().width} x {slicer.util.mainWindow().height} px")
    person.note(f"sys.executable {sys.executable}, language {app.settings().value('language')}, style {app.style().objectName}")
    if hasattr(os, "getpriority"):
        from qmedsam.batch.priority import lowered

        person.note(f"nice {os.getpriority(os.PRIO_PROCESS, 0)}, and that cannot be changed: {lowered()}")


@STEPS("the module and the effect are registered, once")
def registered(person: Any) -> None:
    slicer.util.selectModule("SegmentEditor")
    person.settle()
    names = list(person.editor.availableEffectNames())
    assert names.count("QMedSAM") == 1, names


@STEPS("OpenVINO is installed, or gets installed from the module's page")
def installs(person: Any) -> None:
    from QMedSAMSegmentLib import installer

    slicer.util.selectModule("QMedSAMSegment")
    person.settle()
    panel = slicer.util.getModuleWidget("QMedSAMSegment").panel
    if not installer.installed():
        person.picture("before the installation")
        person.answer(True)
        person.press(panel.ui.installButton)
        person.wait(lambda: panel._job is None, "the installation is over", 600)
        assert installer.installed(), panel.ui.engineLabel.text
    panel.update()
    assert "is ready" in panel.ui.engineLabel.text, panel.ui.engineLabel.text
    from importlib import metadata

    person.note(f"OpenVINO {metadata.version('openvino')}")
    person.picture("module")


@STEPS("OpenVINO is tried in a process of its own before it is loaded")
def tried(person: Any) -> None:
    from QMedSAMSegmentLib import trial

    if trial.pythonSlicer() is None:
        raise NotRun("no PythonSlicer on PATH")
    if "openvino" not in sys.modules:
        from qmedsam.network import runtime

        runtime.guard()  # what the first load does
    known = (trial.user_folder().parent / "OpenVINO-works.txt").read_text(encoding="utf-8")
    assert trial.stateOfThis() in known.splitlines(), known


@STEPS("sample data, effect, Use all ROIs, Apply all: six organs in four clicks")
def fourClicks(person: Any) -> None:
    person.sample()  # 1 and 2
    assert len(person.rois()) == 6 and person.editor.sourceVolumeNode().GetID() == person.volume.GetID()
    person.note(f"the panel says: {person.status()}")
    person.picture("effect with the sample")
    person.press(person.ui.useAllButton)  # 3
    names = [name for _id, name in person.segments]
    assert len(names) == 6, names
    person.press(person.ui.applyAllButton)  # 4
    person.finished()
    assert "Applied" in person.status(), person.status()
    scores = {name: person.dsc(segmentId, name) for segmentId, name in person.segments}
    person.note("DSC " + ", ".join(f"{name} {dsc:.3f}" for name, dsc in scores.items()))
    person.picture("four clicks")
    assert min(scores.values()) >= LEAST_DSC, scores


@STEPS("the sample's boxes are outlines without names")
def outlines(person: Any) -> None:
    person.sample()
    for roi in person.rois():
        display = roi.GetDisplayNode()
        assert not display.GetFillVisibility() and not display.GetPropertiesLabelVisibility(), roi.GetName()


@STEPS("with two boxes the frame is at most 220 px high and its first row is seen without scrolling")
def frame(person: Any) -> None:
    person.sample()
    person.only("right kidney", "left kidney")
    person.press(person.ui.useAllButton)
    widget = person.effect.panel.widget
    needed = widget.layout().heightForWidth(widget.width) if widget.layout().hasHeightForWidth() else widget.sizeHint.height()
    person.note(f"{widget.width} px wide, needs {needed} px")
    person.picture("frame with two boxes")
    assert needed <= 220, needed
    for name in ("addButton", "previewButton", "applyButton", "applyAllButton", "cancelButton"):
        assert not getattr(person.ui, name).visibleRegion().isEmpty(), f"{name} is below the fold"


@STEPS("undo takes all six back at once, redo brings them back")
def undoes(person: Any) -> None:
    person.sample()
    person.only("right kidney", "left kidney")
    person.press(person.ui.useAllButton)
    person.press(person.ui.applyAllButton)
    person.finished()
    before = [person.mask(segmentId) for segmentId, _name in person.segments]
    assert all(one.any() for one in before)
    person.undo()
    assert not any(person.mask(segmentId).any() for segmentId, _name in person.segments)
    person.redo()
    assert all((person.mask(segmentId) == one).all() for (segmentId, _name), one in zip(person.segments, before))
