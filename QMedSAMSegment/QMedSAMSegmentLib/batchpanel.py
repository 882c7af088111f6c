"""The module's panel for cohorts: where the cases are, where the results go, and what became of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import qt
from qmedsam.intensity import MODALITIES
from qmedsam.strategies import STRATEGIES
from slicer.i18n import tr as _

from .batchprocess import FINISHED, SOME_FAILED, Ended, launchModule, moduleArguments
from .processpanel import ProcessPanel
from .signals import connected
from .worker import Job


class BatchPanel(ProcessPanel):
    """Widgets of the section *Batch*; the cases are done in a process of their own.

    Args:
        widget: loaded from ``QMedSAMSegment.ui``.
        ui: its children by name.
        ready: whether the engine is installed.
        jobs: makes a job; a test makes one without a thread.
        launch: starts the command line module.
    """

    def __init__(
        self,
        widget: Any,
        ui: Any,
        ready: Callable[[], bool],
        jobs: Callable[..., Job] = Job,
        launch: Callable[[Sequence[str]], Any] = launchModule,
    ) -> None:
        super().__init__(jobs, ui.batchProgressBar, ui.batchLabel)
        self.widget, self.ui, self._ready, self._launch = widget, ui, ready, launch
        self._rows: Dict[str, int] = {}
        self._states: Dict[str, str] = {}
        self._report: Optional[Path] = None
        self.ui.batchModalityBox.addItems(["auto", *dict.fromkeys(MODALITIES.values())])
        self.ui.batchStrategyBox.addItems(["auto", *STRATEGIES])
        self.ui.batchTable.verticalHeader().hide()
        header = self.ui.batchTable.horizontalHeader()
        header.setStretchLastSection(True)
        for column in (1, 2, 3):  # state, seconds, ml
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        for button, method in (
            (self.ui.batchFolderButton, self.onFolder),
            (self.ui.batchListButton, self.onList),
            (self.ui.batchOutputButton, self.onOutput),
            (self.ui.batchRunButton, self.onRun),
            (self.ui.batchCancelButton, self.onCancel),
            (self.ui.batchReportButton, self.onReport),
        ):
            connected(button, "clicked()", method)
        for edit in (self.ui.batchCasesEdit, self.ui.batchOutputEdit):
            connected(edit, "textChanged(QString)", self.onTyped)
        self.updateButtons()

    def updateButtons(self) -> None:
        chosen = bool(self._path(self.ui.batchCasesEdit) and self._path(self.ui.batchOutputEdit))
        self.ui.batchRunButton.setEnabled(chosen and not self.running and self._ready())
        self.ui.batchCancelButton.setVisible(self.running)
        self.ui.batchProgressBar.setVisible(self.running)
        self.ui.batchReportButton.setEnabled(self._report is not None and self._report.is_file())

    def onTyped(self, _text: str) -> None:
        self.updateButtons()

    def onFolder(self) -> None:
        self._choose(self.ui.batchCasesEdit, qt.QFileDialog.getExistingDirectory(self.widget, _("Folder of cases")))

    def onList(self) -> None:
        kinds = _("Lists of cases") + " (*.csv *.tsv *.jsonl)"
        self._choose(self.ui.batchCasesEdit, qt.QFileDialog.getOpenFileName(self.widget, _("List of cases"), "", kinds))

    def onOutput(self) -> None:
        self._choose(self.ui.batchOutputEdit, qt.QFileDialog.getExistingDirectory(self.widget, _("Folder for the results")))

    def onRun(self) -> None:
        cases, folder = self._path(self.ui.batchCasesEdit), self._path(self.ui.batchOutputEdit)
        arguments = moduleArguments(
            Path(cases),
            Path(folder),
            self.ui.batchModalityBox.currentText,
            self.ui.batchStrategyBox.currentText,
            self.ui.batchWorkersBox.value,
            self.ui.batchAgainBox.checked,
        )
        self._rows, self._states, self._report = {}, {}, Path(folder) / "index.html"
        self.ui.batchTable.setRowCount(0)
        self._start(arguments, self._launch, _("Looking for cases..."))

    def onCancel(self) -> None:
        self._stop(_("Stopping... press Cancel again to stop at once."))

    def onReport(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._report)))

    # A run

    def _finished(self, ended: Ended) -> None:
        self._show()
        states = list(self._states.values())
        done, failed = sum(state in ("done", "unchanged") for state in states), states.count("failed")
        stopped = self._process is not None and self._process.stopped
        if ended.code == FINISHED:
            text = _countText(done) + "."
        elif stopped:  # its exit code differs between systems then
            text = _("Stopped: {cases}. Run again to go on with the others.").format(cases=_countText(done))
        elif ended.code == SOME_FAILED:
            text = _("{cases}, {failed} failed: the table says why.").format(cases=_countText(done), failed=failed)
        else:
            text = ended.message or _("The run failed with the exit code {code}.").format(code=ended.code)
        self._ended(text)

    def _show(self) -> None:
        """Put what the process told into the table."""
        for event in self._process.events() if self._process is not None else ():
            if event["event"] == "start":
                self.ui.batchLabel.setText(_("{total} cases").format(total=event["total"]))
            elif event["event"] == "case":
                self._showCase(event)

    def _showCase(self, event: Dict[str, Any]) -> None:
        table, name = self.ui.batchTable, str(event["case"])
        if name not in self._rows:
            self._rows[name] = table.rowCount
            table.setRowCount(table.rowCount + 1)
        self._states[name] = str(event["state"])
        volume = event["volume_ml"]
        texts: List[str] = [name, event["state"], f"{event['seconds']:.1f}", "-" if volume is None else f"{volume:.1f}"]
        for column, text in enumerate([*texts, event["message"]]):
            item = qt.QTableWidgetItem(str(text))
            item.setToolTip(str(text))
            table.setItem(self._rows[name], column, item)
        table.scrollToBottom()

    @staticmethod
    def _path(edit: Any) -> str:
        return str(edit.text).strip()

    @staticmethod
    def _choose(edit: Any, path: Any) -> None:
        if path:
            edit.setText(str(path))


def _countText(done: int) -> str:
    return _("1 case is done") if done == 1 else _("{done} cases are done").format(done=done)
