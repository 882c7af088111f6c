"""The section Batch of the module: run, table, cancel, report; with the real module in a real process, too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slicer
from nodes import LAUNCHER, HandTimer
from PySide6 import QtGui, QtWidgets
from qmedsam import Box, ModelStore, QMedSAMError
from qmedsam.files import read_boxes, read_labels, read_volume, write_boxes
from qmedsam.models import shipped_folder
from QMedSAMSegmentLib import batchprocess
from QMedSAMSegmentLib.batchprocess import BatchProcess, launchModule, moduleFile
from QMedSAMSegmentLib.worker import Job

MODULE = Path(batchprocess.__file__).parents[1]
SAMPLE = shipped_folder().parent / "SampleData"


def panelWith(launch, jobs):
    from QMedSAMSegmentLib.modulepanel import ModulePanel

    ui = slicer.util.loadUI(str(MODULE / "Resources" / "UI" / "QMedSAMSegment.ui"))
    made = ModulePanel(ui, jobs, store=ModelStore([shipped_folder()]))
    made.batch._launch = launch
    made.installer.present = lambda: True
    made.update()
    return made


class Told:
    """A process that says what a test tells it to."""

    def __init__(self, *lines, code=0):
        self.stdout, self.code, self.calls, self.signals = iter(lines), code, [], []

    def __call__(self, arguments):
        self.calls.append(list(arguments))
        return self

    def wait(self):
        return self.code

    def kill(self):
        self.signals.append("kill")


@pytest.fixture
def told(app):
    """A panel over a process that tells; its job runs when it is started, its timer by hand."""

    def make(*lines, code=0):
        process = Told(*lines, code=code)
        panel = panelWith(process, lambda *w: Job(*w, launch=lambda f: f(), timer=HandTimer))
        made.append(panel)
        return panel.batch, process

    made: list = []
    yield make
    for panel in made:
        panel.close()


def _visible(widget) -> bool:
    return widget.isVisibleTo(widget.parentWidget())


def _table(batch) -> list:
    table = batch.ui.batchTable
    return [[table.item(row, column).text() for column in range(5)] for row in range(table.rowCount)]


def _case(name: str, state: str, **about) -> str:
    return json.dumps({"event": "case", "case": name, "state": state, "seconds": 1.25, "volume_ml": 3.0, "message": "", **about})


def test_it_runs_only_when_both_places_are_chosen_and_the_engine_is_there(told, monkeypatch, tmp_path) -> None:
    batch, process = told()
    assert not batch.ui.batchRunButton.enabled and not batch.ui.batchReportButton.enabled
    assert not _visible(batch.ui.batchCancelButton) and not _visible(batch.ui.batchProgressBar)
    monkeypatch.setattr(QtWidgets.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    batch.ui.batchFolderButton.click()
    assert batch.ui.batchCasesEdit.text == str(tmp_path) and not batch.ui.batchRunButton.enabled
    batch.ui.batchOutputButton.click()
    assert batch.ui.batchOutputEdit.text == str(tmp_path) and batch.ui.batchRunButton.enabled
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    batch.ui.batchListButton.click()
    assert batch.ui.batchCasesEdit.text == str(tmp_path)  # the dialog was left
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "a.csv"), ""))
    batch.ui.batchListButton.click()
    assert batch.ui.batchCasesEdit.text.endswith("a.csv")
    batch._ready = lambda: False
    batch.updateButtons()
    assert not batch.ui.batchRunButton.enabled and process.calls == []


def _start(batch, cases, out) -> None:
    batch.ui.batchCasesEdit.setText(str(cases))
    batch.ui.batchOutputEdit.setText(str(out))
    batch.ui.batchRunButton.click()


def test_one_case_is_one_case(told, tmp_path) -> None:
    batch, _process = told(_case("a", "done") + "\n", code=0)
    _start(batch, tmp_path, tmp_path)
    HandTimer.last.callback()
    assert batch.ui.batchLabel.text == "1 case is done."


def test_a_run_fills_the_table_and_offers_its_report(told, tmp_path, monkeypatch) -> None:
    lines = ('{"event": "start", "total": 3, "folder": "x"}', "<filter-start>", "<filter-progress>0.40</filter-progress>")
    cases = (_case("a", "done"), _case("b", "failed", message="'b' is empty.", volume_ml=None), _case("c", "unchanged"))
    batch, process = told(*(f"{line}\n" for line in (*lines, *cases, "1 of 3 cases failed; the report says why.")), code=1)
    batch.ui.batchModalityBox.setCurrentText("MR")
    batch.ui.batchStrategyBox.setCurrentText("fixed")
    batch.ui.batchWorkersBox.setValue(2)
    batch.ui.batchAgainBox.setChecked(True)
    _start(batch, tmp_path, tmp_path)
    assert process.calls == [
        [
            *("--cases", str(tmp_path), "--output_folder", str(tmp_path), "--modality", "MR", "--strategy", "fixed"),
            *("--workers", "2", "--again", "--json"),
        ]
    ]
    assert batch.running and not batch.ui.batchRunButton.enabled and _visible(batch.ui.batchCancelButton)
    HandTimer.last.callback()
    assert batch.ui.batchProgressBar.value == 40 and batch.ui.batchProgressBar.maximum == 100
    assert _table(batch) == [
        ["a", "done", "1.2", "3.0", ""],
        ["b", "failed", "1.2", "-", "'b' is empty."],
        ["c", "unchanged", "1.2", "3.0", ""],
    ]
    assert batch.ui.batchLabel.text == "2 cases are done, 1 failed: the table says why." and not batch.running
    assert batch.ui.batchRunButton.enabled and not batch.ui.batchReportButton.enabled  # there is no page
    (tmp_path / "index.html").touch()
    batch.updateButtons()
    opened: list = []
    monkeypatch.setattr(QtGui.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    batch.ui.batchReportButton.click()
    assert opened == [str(tmp_path / "index.html")]


def test_the_command_line_is_one_that_the_module_takes(tmp_path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("QMedSAMBatch", moduleFile())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = module.parse(batchprocess.moduleArguments(tmp_path / "l.csv", tmp_path, "CT", "vote", 3, True))
    assert values.casesFile == tmp_path / "l.csv" and values.casesFolder is None and values.outputFolder == tmp_path
    assert (values.modality, values.strategy, values.workers, values.again, values.json) == ("CT", "vote", 3, True, True)


def test_what_the_module_says_last_is_shown_when_nothing_could_be_done(told, tmp_path) -> None:
    batch, _process = told("<filter-start>\n", "There is no case in it. Choose another folder.\n", "</filter-end>\n", code=2)
    _start(batch, tmp_path, tmp_path)
    HandTimer.last.callback()
    assert batch.ui.batchLabel.text == "There is no case in it. Choose another folder." and not batch.running
    error = json.dumps({"event": "error", "message": "'játra' is not there."}) + "\n"
    batch, _process = told("'j\\xe1tra' is not there.\n", error, code=2)
    _start(batch, tmp_path, tmp_path)
    HandTimer.last.callback()
    assert batch.ui.batchLabel.text == "'játra' is not there."
    batch, _process = told(code=3)
    _start(batch, tmp_path, tmp_path)
    HandTimer.last.callback()
    assert "exit code 3" in batch.ui.batchLabel.text


def test_a_process_that_cannot_be_started_is_said(told, tmp_path, monkeypatch) -> None:
    batch, _process = told()
    batch._launch = launchModule
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    _start(batch, tmp_path, tmp_path)
    assert "Slicer's Python cannot be found" in batch.ui.batchLabel.text and not batch.running
    assert batch.ui.batchRunButton.enabled


def test_slicers_python_runs_the_module(monkeypatch, app) -> None:
    started: list = []
    monkeypatch.setattr(shutil, "which", lambda name: f"/slicer/bin/{name}")
    monkeypatch.setattr(slicer.util, "launchConsoleProcess", lambda arguments, **how: started.append((arguments, how)))
    launchModule(["--json"])
    assert started == [(["/slicer/bin/PythonSlicer", str(moduleFile()), "--json"], {"useStartupEnvironment": False})]


@pytest.mark.parametrize("folder", ["cli-modules", "cli-modules/Release", "QMedSAMBatch"])
def test_the_module_is_found_from_where_the_library_lies(tmp_path, folder: str) -> None:
    library = tmp_path / "qt-scripted-modules" / "QMedSAMSegmentLib" / "batchprocess.py"
    with pytest.raises(QMedSAMError, match="not there"):
        moduleFile(library)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "QMedSAMBatch.py").touch()
    assert moduleFile(library) == (tmp_path / folder / "QMedSAMBatch.py").resolve()


@pytest.fixture
def signalled(monkeypatch) -> list:
    """Signals that would have been sent: process id and number."""
    sent: list = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
PID = json.dumps({"event": "process", "pid": 12345}) + "\n"


def test_cancelling_ends_the_python_behind_the_launcher(signalled) -> None:
    process = Told()
    run = BatchProcess([], process)

    def lines():
        yield PID
        sent.append(list(signalled))
        run.stop()
        sent.append([*signalled, *process.signals])

    sent: list = []
    process.stdout = lines()
    run.stop()
    assert signalled == [] and process.signals == []  # the launcher alone would leave its Python running
    run.read(lambda *_: None, lambda: False)
    assert sent == [[(12345, signal.SIGTERM)], [(12345, signal.SIGTERM), (12345, KILL), "kill"]]
    run.stop()
    assert len(signalled) == 2  # its number may be another process's by now


def test_cancelling_twice_ends_it_at_once_and_leaving_ends_it_too(told, signalled) -> None:
    batch, process = told(PID, code=1)  # what Windows gives
    _start(batch, "x", "y")
    batch.ui.batchCancelButton.click()
    assert "Stopping" in batch.ui.batchLabel.text
    batch._job.poll()
    assert batch.ui.batchLabel.text.startswith("Stopped: 0 cases") and not batch.running
    _start(batch, "x", "y")
    process.signals.clear()
    batch.ui.batchCancelButton.click()
    assert process.signals == []
    batch.close()
    assert process.signals == ["kill"] and not batch.running


# With the real module


@pytest.fixture
def real(app):
    """A panel over the real module, run by this Python, its job on a thread."""
    pytest.importorskip("openvino")

    def launch(arguments):
        command = [*LAUNCHER, sys.executable, str(moduleFile()), *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return processes[-1]

    processes: list = []
    panel = panelWith(launch, lambda *w: Job(*w, timer=HandTimer))
    panel.batch.processes = processes
    yield panel.batch
    panel.close()
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def cohort(tmp_path) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    volume = read_volume(SAMPLE / "QMedSAMPhantom.nrrd")
    boxes = [Box(b.center_ijk, b.half_axes_ijk, 0, b.name) for b in read_boxes(SAMPLE / "QMedSAMPhantom-boxes.mrk.json", volume)]
    for name, chosen in (("big", boxes), ("kidney", boxes[2:3])):
        shutil.copy(SAMPLE / "QMedSAMPhantom.nrrd", folder / f"{name}.nrrd")
        write_boxes(folder / f"{name}.mrk.json", chosen, volume)
    return folder


def _until(condition, seconds: float = 600) -> None:
    """Far beyond what it takes on a busy machine: only a hang runs into it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        HandTimer.last.callback()  # what the application's timer does; between the calls it is free
        time.sleep(0.05)  # and leaves the processor to the cohort


def test_a_real_cohort(real, cohort, tmp_path) -> None:
    real.ui.batchModalityBox.setCurrentText("CT")
    real.ui.batchStrategyBox.setCurrentText("fixed")
    _start(real, cohort, tmp_path / "out")
    assert real.running and real.processes[0].poll() is None  # the click came back at once
    _until(lambda: not real.running)
    assert real.ui.batchLabel.text == "2 cases are done." and real.ui.batchReportButton.enabled
    assert [row[:2] for row in sorted(_table(real))] == [["big", "done"], ["kidney", "done"]]
    assert read_labels(tmp_path / "out" / "kidney.seg.nrrd").any()
    _start(real, cohort, tmp_path / "out")
    _until(lambda: not real.running)
    assert [row[1] for row in _table(real)] == ["unchanged", "unchanged"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_cancelling_a_real_cohort_keeps_what_is_done(real, cohort, tmp_path) -> None:
    for n in range(4):
        shutil.copy(cohort / "big.nrrd", cohort / f"more{n}.nrrd")
        shutil.copy(cohort / "big.mrk.json", cohort / f"more{n}.mrk.json")
    real.ui.batchModalityBox.setCurrentText("CT")
    real.ui.batchStrategyBox.setCurrentText("vote")
    _start(real, cohort, tmp_path / "out")
    _until(lambda: real.ui.batchTable.rowCount > 0)
    real.ui.batchCancelButton.click()
    _until(lambda: not real.running)
    assert real.ui.batchLabel.text.startswith("Stopped: ") and real.processes[0].returncode == 130
    done = [row for row in _table(real) if row[1] == "done"]
    assert 0 < len(done) < 6 and len(list((tmp_path / "out").glob("*.seg.nrrd"))) == len(done)
    hidden = [path.name for path in (tmp_path / "out").glob(".*")]
    assert hidden == [".qmedsam-batch.lock"] and (tmp_path / "out" / "summary.csv").is_file()
