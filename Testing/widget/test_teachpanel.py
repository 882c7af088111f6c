"""The section Teach of the module: cases out of the scene, a process that teaches, the table, and the model in use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from nodes import HandTimer, addVolume, grid
from PySide6 import QtCore, QtWidgets
from qmedsam import ModelStore
from qmedsam.models import shipped_folder
from qmedsam_training.teaching.settings import LEAST
from QMedSAMSegmentLib import teachfolder
from QMedSAMSegmentLib.segments import EditorWriter, orientedImage
from QMedSAMSegmentLib.worker import Job

UI = Path(teachfolder.__file__).parents[1] / "Resources" / "UI" / "QMedSAMSegment.ui"
TABLE = {
    "event": "table",
    "head": ["target", "before", "taught"],
    "rows": [["kidney", "0.800", "0.850"]],
    "sentences": ["On cases that were not learned from it is better than before: +5.0 points (+2.0 to +8.0)."],
    "gained": True,
}


class Told:
    """A Python that says what a test tells it to."""

    def __init__(self) -> None:
        self.lines: list = []
        self.code, self.calls, self.pythons, self.killed = 0, [], [], False

    def __call__(self, python: str) -> Any:
        self.pythons.append(python)

        def launch(arguments: Any) -> Any:
            self.calls.append(list(arguments))
            return self

        return launch

    @property
    def stdout(self) -> Any:
        return iter(line if isinstance(line, str) else json.dumps(line) for line in self.lines)

    def wait(self) -> int:
        return self.code

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def teaching(app, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A panel over such a Python, and a scene with a case; its job runs when it is started, its timer by hand."""
    from QMedSAMSegmentLib import modulepanel

    matrix = grid()
    volumeNode = addVolume(slicer.mrmlScene, np.arange(8 * 20 * 20, dtype=np.int16).reshape(8, 20, 20), matrix, "CT of Jane")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    writer = EditorWriter(slicer.mrmlScene)
    writer.aim(node, volumeNode)
    for n, name in enumerate(("kidney", "liver")):
        segmentId = node.GetSegmentation().AddEmptySegment(name, name)
        crop = (slice(1, 6), slice(2 + 8 * n, 9 + 8 * n), slice(3, 12))
        writer.modify(node, segmentId, orientedImage(np.ones((5, 7, 9), bool), crop, matrix), False)
    process = Told()
    store = ModelStore([tmp_path / "user", shipped_folder()], user=tmp_path / "user")
    ui = slicer.util.loadUI(str(UI))
    jobs = lambda *work: Job(*work, launch=lambda f: f(), timer=HandTimer)  # noqa: E731
    panel = modulepanel.ModulePanel(ui, jobs, store=store)
    teach = panel.teach
    teach._launch, teach._find, teach._check = process, lambda: "/opt/python", lambda python: True
    monkeypatch.setattr("QMedSAMSegmentLib.teachpanel.confirmed", lambda question: True)
    teach.updateScene()
    yield teach, process, tmp_path / "cases"
    panel.close()


def _visible(widget: Any) -> bool:
    return widget.isVisibleTo(widget.parentWidget())


def _cases(teach: Any, folder: Path, count: int) -> None:
    teach.ui.teachFolderEdit.setText(str(folder))
    for _ in range(count):
        teach.ui.teachAddButton.click()
    teach.ui.teachNameEdit.setText("my-kidney")


def _rows(table: Any) -> list:
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def test_cases_are_added_listed_counted_and_removed(teaching) -> None:
    teach, _, folder = teaching
    ui = teach.ui
    assert ui.teachVolumeBox.currentText == "CT of Jane" and ui.teachSegmentsList.count == 2
    assert not ui.teachAddButton.enabled and not ui.teachRunButton.enabled and not ui.teachUseButton.enabled
    ui.teachFolderEdit.setText(str(folder))
    assert ui.teachAddButton.enabled
    ui.teachAddButton.click()
    assert "Added as case 1" in ui.teachLabel.text
    ui.teachSegmentsList.item(1).setCheckState(QtCore.Qt.Unchecked)
    ui.teachAddButton.click()
    assert _rows(ui.teachCasesTable) == [["1", "", "kidney, liver"], ["2", "", "kidney"]]
    assert ui.teachCountsLabel.text == "kidney in 2 cases; liver in 1 case"
    ui.teachNameEdit.setText("my-kidney")
    assert not ui.teachRunButton.enabled, "two cases cannot teach"
    for _ in range(LEAST - 2):
        ui.teachAddButton.click()
    assert ui.teachRunButton.enabled
    ui.teachCasesTable.setCurrentCell(1, 0)
    assert ui.teachRemoveButton.enabled
    ui.teachRemoveButton.click()
    assert [row[0] for row in _rows(ui.teachCasesTable)] == ["1", "3", "4", "5"]
    assert not ui.teachRunButton.enabled
    ui.teachSegmentsList.item(0).setCheckState(QtCore.Qt.Unchecked)
    ui.teachAddButton.click()
    assert "no case to add" in ui.teachLabel.text


def test_a_teaching_shows_plan_progress_and_table_and_its_model_is_used(teaching, monkeypatch) -> None:
    teach, process, folder = teaching
    _cases(teach, folder, LEAST)
    written = folder / "models" / "my-kidney"
    shutil.copytree(shipped_folder() / "qmedsam-volume", written)
    manifest = json.loads((written / "manifest.json").read_text())
    manifest.update(name="my-kidney", title="Taught: kidney", targets=[{"name": "kidney"}])
    (written / "manifest.json").write_text(json.dumps(manifest))
    process.lines = [
        {"event": "process", "pid": 2**22 + 1},
        {"event": "plan", "rows": [["cases", "3 volumes"], ["time", "about 4 min"]], "notes": []},
        {"event": "progress", "share": 0.4, "text": "Fold 1 of 3"},
        TABLE,
        {"event": "written", "folder": str(written), "targets": ["kidney"]},
    ]
    teach.ui.teachRunButton.click()
    assert process.pythons == ["/opt/python"] and teach.ui.teachPythonEdit.text == "/opt/python"
    arguments = ["-m", "qmedsam_training", "teach", str(folder / "cases.csv"), "-o", str(written), "--json"]
    assert process.calls == [arguments]
    assert _visible(teach.ui.teachCancelButton) and not teach.ui.teachRunButton.enabled
    HandTimer.last.callback()
    assert "better than before" in teach.ui.teachLabel.text and not _visible(teach.ui.teachCancelButton)
    assert _rows(teach.ui.teachResultTable) == TABLE["rows"] and teach.ui.teachUseButton.enabled
    teach.ui.teachUseButton.click()
    assert "my-kidney answers for kidney now" in teach.ui.teachLabel.text
    assert teach.store.route("CT", name="Kidney").name == "my-kidney" and teach.store.route("CT").name != "my-kidney"
    models = teach.ui.modelsTable
    assert "Taught: kidney" in [models.item(row, 0).text() for row in range(models.rowCount)]
    teach.ui.teachUseButton.click()  # an earlier one of its name is replaced, when the user says so
    assert "answers for kidney" in teach.ui.teachLabel.text
    monkeypatch.setattr("QMedSAMSegmentLib.teachpanel.confirmed", lambda question: False)
    teach.ui.teachUseButton.click()
    assert teach.ui.teachLabel.text == "Nothing was changed."


def test_what_gained_nothing_is_written_when_the_user_wants_it(teaching, monkeypatch) -> None:
    teach, process, folder = teaching
    _cases(teach, folder, LEAST)
    process.lines = [{**TABLE, "gained": False, "sentences": ["Nothing was gained."]}, {"event": "text", "message": "No model."}]
    process.code = 1
    asked: list = []

    def answered(question: str) -> bool:
        asked.append(question)
        process.code, process.lines = 0, [TABLE, {"event": "written", "folder": str(folder / "models" / "m"), "targets": []}]
        return True

    monkeypatch.setattr("QMedSAMSegmentLib.teachpanel.confirmed", answered)
    teach.ui.teachRunButton.click()
    HandTimer.last.callback()
    assert "Nothing was gained." in asked[0]
    assert process.calls[1] == [*process.calls[0], "--write-anyway"]
    HandTimer.last.callback()
    assert teach.ui.teachUseButton.enabled


def test_without_a_python_the_commands_are_shown(teaching, monkeypatch, tmp_path: Path) -> None:
    teach, process, folder = teaching
    _cases(teach, folder, LEAST)
    teach._find, teach._check = lambda: None, lambda python: python.endswith("good")
    teach.ui.teachRunButton.click()
    text = teach.ui.teachLabel.text
    assert "pip install torch" in text and f'qmedsam-train teach "{folder / "cases.csv"}"' in text and not process.calls
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "bad"), ""))
    teach.ui.teachPythonButton.click()
    assert "no torch" in teach.ui.teachLabel.text and teach.ui.teachPythonEdit.text == ""
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "good"), ""))
    teach.ui.teachPythonButton.click()
    assert teach.ui.teachPythonEdit.text == str(tmp_path / "good")
    assert QtCore.QSettings().value("QMedSAM/TeachPython") == str(tmp_path / "good")


def test_an_error_and_a_stop_are_told(teaching) -> None:
    teach, process, folder = teaching
    _cases(teach, folder, LEAST)
    process.lines, process.code = [{"event": "error", "message": "The disk is full."}], 2
    teach.ui.teachRunButton.click()
    HandTimer.last.callback()
    assert teach.ui.teachLabel.text == "The disk is full."
    process.lines, process.code = ["Traceback: killed"], -9
    teach.ui.teachRunButton.click()
    teach.ui.teachCancelButton.click()
    assert "Stopping" in teach.ui.teachLabel.text
    teach.ui.teachCancelButton.click()
    assert process.killed
    HandTimer.last.callback()
    assert "Teach again to go on" in teach.ui.teachLabel.text


def test_a_folder_of_something_else_is_told(teaching, tmp_path: Path) -> None:
    teach, _, _ = teaching
    (tmp_path / "cases.csv").write_text("a,b\n1,2\n")
    teach.ui.teachFolderEdit.setText(str(tmp_path))
    assert "not a list of this section" in teach.ui.teachCountsLabel.text
