"""The real effect and module code on PySide6 and slicer-core; without them this ring is not collected."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path[:0] = [str(Path(__file__).parent / "shim"), str(Path(__file__).parents[1] / "mrml"), str(Path(__file__).parent)]

if any(importlib.util.find_spec(name) is None for name in ("slicer", "PySide6")):
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_header() -> str:
        return "Testing/widget: not run, slicer-core or PySide6-Essentials is not installed"


@pytest.fixture(scope="session")
def qtApplication(tmp_path_factory):
    """One QApplication with settings of its own and no main window."""
    import pythonqt
    from PySide6 import QtCore, QtWidgets

    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, str(tmp_path_factory.mktemp("settings")))
    made = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    made.setOrganizationName("QMedSAMTest")
    made.setApplicationName("QMedSAMTest")
    pythonqt.install()
    return made


@pytest.fixture
def app(qtApplication, tmp_path, monkeypatch):
    """``slicer.app`` and a fresh scene as ``slicer.mrmlScene``."""
    import application
    import nodes
    import pythonqt
    from PySide6 import QtCore

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # models that the user has added are not the tests' business
    made = application.install(qtApplication)
    QtCore.QSettings().clear()
    scene = nodes.newScene()
    application.useScene(scene, nodes.logicOf("vtkSlicerMarkupsLogic"))
    pythonqt.slotErrors.clear()
    yield made
    assert not pythonqt.slotErrors, "a slot raised what only the log tells"
    scene.Clear(True)


@pytest.fixture
def editor(app):
    """A Segment Editor around the effect, with the phantom of two turned blobs: see :mod:`editing`."""
    import editing
    import slicer

    made = editing.blobEditor(slicer.mrmlScene)
    yield made
    made.effect.deactivate()


@pytest.fixture
def answers(monkeypatch):
    """What the user answers to questions, and which were asked."""
    import slicer

    talk = SimpleNamespace(asked=[], answer=True, errors=[])
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **_: talk.asked.append(text) or talk.answer)
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: talk.errors.append(text))
    return talk
