"""The module's panel for teaching: cases out of the scene into a folder, and a model out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import qt
import slicer
from qmedsam import ModelStore, QMedSAMError
from slicer.i18n import tr as _

from .batchprocess import Ended
from .processpanel import ProcessPanel
from .questions import confirmed
from .signals import connected
from .teachfolder import TaughtCase, TeachFolder, presentCase
from .teachprocess import (
    NOTHING_GAINED,
    SET_UP,
    foundPython,
    launcher,
    rememberPython,
    shownCommand,
    teachArguments,
    teaches,
)
from .worker import Job

#: Fewest cases that can be learned from, as the command has it.
LEAST_CASES = 5
#: Of the folder: where its models lie.
MODELS = "models"


class TeachPanel(ProcessPanel):
    """Widgets of the section *Teach*; learning is done in a process of its own, by another Python.

    Args:
        widget: loaded from ``QMedSAMSegment.ui``.
        ui: its children by name.
        store: gets the model.
        used: called when a model was added.
        jobs: makes a job; a test makes one without a thread.
        launch: makes what starts a command line of a Python.
        find, check: look for a Python, and whether one can teach.
    """

    def __init__(
        self,
        widget: Any,
        ui: Any,
        store: ModelStore,
        used: Callable[[], None] = lambda: None,
        jobs: Callable[..., Job] = Job,
        launch: Callable[[str], Callable[[Sequence[str]], Any]] = launcher,
        find: Callable[[], Optional[str]] = foundPython,
        check: Callable[[str], bool] = teaches,
    ) -> None:
        super().__init__(jobs, ui.teachProgressBar, ui.teachLabel)
        self.widget, self.ui, self.store, self._used = widget, ui, store, used
        self._launch, self._find, self._check = launch, find, check
        self._cases: List[TaughtCase] = []
        self._nodes: Dict[str, List[str]] = {}
        self._table: Dict[str, Any] = {}
        self._written: Optional[Path] = None
        for button, method in (
            (self.ui.teachFolderButton, self.onFolder),
            (self.ui.teachSceneButton, self.updateScene),
            (self.ui.teachAddButton, self.onAdd),
            (self.ui.teachRemoveButton, self.onRemove),
            (self.ui.teachPythonButton, self.onPython),
            (self.ui.teachRunButton, self.onRun),
            (self.ui.teachCancelButton, self.onCancel),
            (self.ui.teachUseButton, self.onUse),
        ):
            connected(button, "clicked()", method)
        connected(self.ui.teachFolderEdit, "textChanged(QString)", self.onTyped)
        connected(self.ui.teachNameEdit, "textChanged(QString)", self.onTyped)
        connected(self.ui.teachSegmentationBox, "currentIndexChanged(int)", self.onSegmentation)
        connected(self.ui.teachCasesTable, "itemSelectionChanged()", self.updateButtons)
        self.updateScene()
        self.updateCases()

    @property
    def folder(self) -> Optional[TeachFolder]:
        text = str(self.ui.teachFolderEdit.text).strip()
        return TeachFolder(Path(text)) if text else None

    @property
    def model(self) -> Optional[Path]:
        """Where the taught model is written."""
        name = str(self.ui.teachNameEdit.text).strip()
        return self.folder.path / MODELS / name if self.folder is not None and name else None

    # The scene

    def updateScene(self) -> None:
        """List what the scene holds now."""
        for box, kind in (
            (self.ui.teachVolumeBox, "vtkMRMLScalarVolumeNode"),
            (self.ui.teachSegmentationBox, "vtkMRMLSegmentationNode"),
        ):
            scene = slicer.mrmlScene
            nodes = [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]
            nodes = [node for node in nodes if not node.GetHideFromEditors() and not node.IsA("vtkMRMLLabelMapVolumeNode")]
            self._nodes[kind] = [node.GetID() for node in nodes]
            wasBlocked = box.blockSignals(True)
            box.clear()
            box.addItems([node.GetName() for node in nodes])
            box.blockSignals(wasBlocked)
        self.onSegmentation(0)

    def onSegmentation(self, _index: int) -> None:
        """List the segments of the chosen segmentation, all of them chosen."""
        segments = self.ui.teachSegmentsList
        segments.clear()
        node = self._chosen("vtkMRMLSegmentationNode", self.ui.teachSegmentationBox)
        count = node.GetSegmentation().GetNumberOfSegments() if node is not None else 0
        for n in range(count):
            segments.addItem(node.GetSegmentation().GetNthSegment(n).GetName())
            segments.item(n).setCheckState(qt.Qt.Checked)
        self.updateButtons()

    def _chosen(self, kind: str, box: Any) -> Any:
        ids, index = self._nodes.get(kind, []), box.currentIndex
        return slicer.mrmlScene.GetNodeByID(ids[index]) if 0 <= index < len(ids) else None

    # The cases

    def onFolder(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(self.widget, _("Folder of cases to teach with"))
        if chosen:
            self.ui.teachFolderEdit.setText(str(chosen))

    def onTyped(self, _text: str) -> None:
        self.updateCases()

    def updateCases(self) -> None:
        """List what the folder holds now."""
        table, said = self.ui.teachCasesTable, ""
        try:
            self._cases = self.folder.cases() if self.folder is not None else []
            counts = self.folder.counts() if self.folder is not None else {}
        except QMedSAMError as error:
            self._cases, counts, said = [], {}, str(error)
        table.setRowCount(len(self._cases))
        for row, case in enumerate(self._cases):
            for column, text in enumerate((str(case.number), case.modality, ", ".join(case.segments))):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        texts = [
            _("{name} in 1 case").format(name=name) if count == 1 else _("{name} in {count} cases").format(name=name, count=count)
            for name, count in counts.items()
        ]
        self.ui.teachCountsLabel.setText(said or "; ".join(texts))
        self.updateButtons()

    def onAdd(self) -> None:
        def add() -> str:
            node = self._chosen("vtkMRMLSegmentationNode", self.ui.teachSegmentationBox)
            segments = self.ui.teachSegmentsList
            wanted = [n for n in range(segments.count) if segments.item(n).checkState() == qt.Qt.Checked]
            ids = [node.GetSegmentation().GetNthSegmentID(n) for n in wanted] if node is not None else []
            volume, structures = presentCase(self._chosen("vtkMRMLScalarVolumeNode", self.ui.teachVolumeBox), node, ids)
            assert self.folder is not None, "the button is enabled where there is one"
            case = self.folder.add(volume, structures)
            return _("Added as case {number}: voxels, place and names of segments, nothing else.").format(number=case.number)

        self._say(add)

    def onRemove(self) -> None:
        row = self.ui.teachCasesTable.currentRow()
        if not 0 <= row < len(self._cases) or self.folder is None:
            return
        folder, number = self.folder, self._cases[row].number

        def remove() -> str:
            folder.remove(number)
            return _("Deleted case {number}.").format(number=number)

        if confirmed(_("Delete case {number} from the folder?").format(number=number)):
            self._say(remove)

    def _say(self, action: Callable[[], str]) -> None:
        try:
            text = action()
        except QMedSAMError as error:
            text = str(error)
        self.updateCases()
        self.ui.teachLabel.setText(text)

    def updateButtons(self) -> None:
        idle = not self.running
        segments = self.ui.teachSegmentsList.count > 0 and self.ui.teachVolumeBox.count > 0
        self.ui.teachAddButton.setEnabled(idle and segments and self.folder is not None)
        self.ui.teachRemoveButton.setEnabled(idle and 0 <= self.ui.teachCasesTable.currentRow() < len(self._cases))
        self.ui.teachRunButton.setEnabled(idle and len(self._cases) >= LEAST_CASES and self.model is not None)
        self.ui.teachCancelButton.setVisible(not idle)
        self.ui.teachProgressBar.setVisible(not idle)
        self.ui.teachResultTable.setVisible(bool(self._table))
        self.ui.teachUseButton.setEnabled(idle and self._written is not None)

    # Teaching

    def onPython(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(self.widget, _("Python with torch and qmedsam-training"), "", "")
        if not chosen:
            return
        if self._check(str(chosen)):
            rememberPython(str(chosen))
            self.ui.teachPythonEdit.setText(str(chosen))
            self.ui.teachLabel.setText("")
        else:
            self.ui.teachLabel.setText(
                _("This Python has no torch or no qmedsam-training. One that has is made by:") + f"\n{SET_UP}"
            )

    def onRun(self) -> None:
        self._run(anyway=False)

    def _run(self, anyway: bool) -> None:
        folder, model = self.folder, self.model
        assert folder is not None and model is not None, "the button is enabled where there are both"
        python = str(self.ui.teachPythonEdit.text).strip() or self._find()
        if not python:
            self.ui.teachLabel.setText(
                _("No Python with torch was found. Choose one, or make one in a terminal:")
                + f"\n{SET_UP}\n"
                + _("The folder can also be carried to another computer:")
                + f"\n{shownCommand(folder.list, model)}"
            )
            return
        self.ui.teachPythonEdit.setText(python)
        self._table, self._written = {}, None
        self._start(teachArguments(folder.list, model, anyway), self._launch(python), _("Starting..."))

    def onCancel(self) -> None:
        self._stop(_("Stopping; what is done is kept. Press Cancel again to stop at once."))

    def onUse(self) -> None:
        """Put the taught model among the user's, in the place of an earlier one of its name."""
        written = self._written
        if written is None:
            return

        def use() -> str:
            if (self.store.user / written.name).exists():
                if not confirmed(_("Replace the model {name} that is there already?").format(name=written.name)):
                    return _("Nothing was changed.")
                self.store.remove(self.store.user / written.name)
            model = self.store.add(written)
            names = ", ".join(target["name"] for target in model.manifest.targets)
            return _("{name} answers for {names} now, where the model is automatic. Remove it under Models to go back.").format(
                name=model.name, names=names
            )

        self._say(use)
        self._used()

    # A run

    def _finished(self, ended: Ended) -> None:
        self._show()
        sentences = "\n".join(self._table.get("sentences", ()))
        if self._written is not None:
            text = sentences + "\n" + _("'Use this model' puts it among your models.")
        elif self._process is not None and self._process.stopped:
            text = _("Stopped. Teach again to go on.")
        elif ended.code == NOTHING_GAINED and self._table:
            text = sentences
            if confirmed(sentences + "\n" + _("Write the model anyway?")):
                self._job = self._process = None
                self._run(anyway=True)
                return
        else:
            text = ended.message or _("Teaching failed with the exit code {code}.").format(code=ended.code)
        self._ended(text)

    def _show(self) -> None:
        """What the process told."""
        for event in self._process.events() if self._process is not None else ():
            if event["event"] == "progress":
                self.ui.teachLabel.setText(str(event["text"]))
            elif event["event"] == "plan":
                self.ui.teachLabel.setText("\n".join(": ".join(map(str, row)) for row in event["rows"]))
            elif event["event"] == "table":
                self._table = event
                self._fillResults()
            elif event["event"] == "written":
                self._written = Path(str(event["folder"]))

    def _fillResults(self) -> None:
        table, rows = self.ui.teachResultTable, self._table["rows"]
        table.setColumnCount(len(self._table["head"]))
        table.setHorizontalHeaderLabels([str(name) for name in self._table["head"]])
        table.setRowCount(len(rows))
        for n, row in enumerate(rows):
            for column, text in enumerate(row):
                table.setItem(n, column, qt.QTableWidgetItem(str(text)))
        table.resizeColumnsToContents()
        table.setVisible(True)
