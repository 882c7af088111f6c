"""The module's panel: engine, self-check, models, and the sections for cohorts and for teaching."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import qt
import slicer
from qmedsam import ModelStore, QMedSAMError, Segmenter
from qmedsam.models import Model
from slicer.i18n import tr as _

from .batchpanel import BatchPanel
from .boxtable import compact, fitHeight
from .installer import Installer, downloadCommand
from .questions import confirmed
from .selfcheck import selfCheck
from .signals import connected
from .speed import rememberMsPerSlice
from .teachpanel import TeachPanel
from .trial import guardThisApplication
from .volumes import onlyVolume
from .worker import Job

#: Models that are seen at once.
MODELS = 5


class ModelRow(NamedTuple):
    """A model in the table; without a ``model`` its manifest cannot be used, and ``problem`` says why."""

    folder: Path
    model: Optional[Model]
    problem: str = ""

    def cells(self) -> Sequence[str]:
        """Name, licence, modalities, scores, size."""
        if self.model is None:
            return (_("{name} (broken)").format(name=self.folder.name), "-", "-", "-", "-")
        manifest = self.model.manifest
        modalities = _("any") if "*" in manifest.modalities else ", ".join(manifest.modalities)
        return (manifest.title, manifest.license, modalities, scoresText(self.model), f"{self.model.bytes / 2**20:.1f} MiB")

    def tip(self) -> str:
        if self.model is None:
            return f"{self.problem}\n{self.folder}"
        manifest = self.model.manifest
        return f"{manifest.name} {manifest.version}: {manifest.description}\n{self.folder}"


class ModulePanel:
    """Widgets of the module.

    Args:
        widget: loaded from ``QMedSAMSegment.ui``.
        jobs: makes a job; a test makes one without a thread.
        installer: installs OpenVINO.
        store: the models.
    """

    def __init__(
        self,
        widget: Any,
        jobs: Callable[..., Job] = Job,
        installer: Optional[Installer] = None,
        store: Optional[ModelStore] = None,
    ) -> None:
        self.widget, self._jobs = widget, jobs
        self.ui = slicer.util.childWidgetVariables(widget)
        self.installer, self.store = installer or Installer(), store or ModelStore()
        guardThisApplication()
        self._job: Optional[Job] = None
        self._rows: List[ModelRow] = []
        self._brokenText = ""
        self.ui.progressBar.setVisible(False)
        compact(self.ui.modelsTable)
        for button, method in (
            (self.ui.installButton, self.onInstall),
            (self.ui.installFolderButton, self.onInstallFromFolder),
            (self.ui.cancelButton, self.onCancel),
            (self.ui.checkButton, self.onCheck),
            (self.ui.openEditorButton, self.onOpenEditor),
            (self.ui.verifyButton, self.onVerify),
            (self.ui.cardButton, self.onCard),
            (self.ui.addModelButton, self.onAddModel),
            (self.ui.addFolderButton, self.onAddModelFolder),
            (self.ui.removeModelButton, self.onRemoveModel),
        ):
            connected(button, "clicked()", method)
        connected(self.ui.modelsTable, "itemSelectionChanged()", self.updateButtons)
        self.batch = BatchPanel(widget, self.ui, lambda: self.installer.present(), jobs)
        self.teach = TeachPanel(widget, self.ui, self.store, self.update, jobs)
        self.update()

    def close(self) -> None:
        """Stop what is running; nothing calls back afterwards."""
        if self._job is not None:
            self._job.abandon()
        self._job = None
        self.batch.close()
        self.teach.close()

    def update(self) -> None:
        """Look again at the engine and the models."""
        present = self.installer.present()
        if self._job is None:
            self.ui.engineLabel.setText(
                _("OpenVINO is installed. The effect QMedSAM in the Segment Editor is ready.")
                if present
                else _("One step is left: QMedSAM runs its networks with OpenVINO, which is not part of Slicer.")
                + "\n"
                + _("Without a network here: fill a folder on a computer of the same system, then 'Install from folder...':")
                + f"\n{downloadCommand()}"
            )
        self._fillModels()
        self.updateButtons()

    def updateButtons(self) -> None:
        running, present = self._job is not None, self.installer.present()
        self.ui.installButton.setVisible(not present)
        self.ui.installFolderButton.setVisible(not present)
        self.ui.installButton.setEnabled(not running)
        self.ui.installFolderButton.setEnabled(not running)
        self.ui.checkButton.setEnabled(present and not running)
        self.ui.cancelButton.setVisible(running)
        self.ui.progressBar.setVisible(running)
        self.batch.updateButtons()
        row = self._row
        for button in (self.ui.verifyButton, self.ui.cardButton):
            button.setEnabled(row is not None and row.model is not None)
        self.ui.removeModelButton.setEnabled(row is not None and row.folder.parent == self.store.user)

    # Engine

    def onInstall(self) -> None:
        self.installer.declined = False  # the user asks for it
        if self.installer.agreed(confirmed):
            self._install(None)

    def onInstallFromFolder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.widget, _("Folder with the wheel of OpenVINO"))
        if folder:
            self._install(Path(str(folder)))

    def _install(self, wheelFolder: Optional[Path]) -> None:
        def done(finished: bool) -> None:
            self._ended()
            if not finished:
                self.ui.engineLabel.setText(_("The installation was stopped."))

        def work(progress: Any, cancelled: Any) -> bool:
            return self.installer.install(wheelFolder, cancelled=cancelled)

        self._start(work, done, self.ui.engineLabel, _("Installing OpenVINO..."))

    def onCheck(self) -> None:
        def done(check: Any) -> None:
            self._ended()
            if check is not None:
                rememberMsPerSlice(check.msPerSlice)
            self.ui.checkLabel.setText(_("The self-check was stopped.") if check is None else str(check))

        def work(progress: Any, cancelled: Any) -> Any:
            return selfCheck(Segmenter(store=self.store), progress, cancelled)

        self._start(work, done, self.ui.checkLabel, _("Checking..."))

    def onCancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def onOpenEditor(self) -> None:
        """Go to the Segment Editor, with the only volume of the scene as its source, and with the effect."""
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.util.getModuleWidget("SegmentEditor").editor
        if editor.sourceVolumeNode() is None:
            editor.setSourceVolumeNode(onlyVolume(slicer.mrmlScene))
        editor.setActiveEffectByName("QMedSAM")

    def _start(self, work: Any, done: Any, label: Any, text: str) -> None:
        def failed(error: Exception) -> None:
            self._ended()
            label.setText(str(error))

        def progress(step: int, total: int, secondsLeft: Optional[float]) -> None:
            self.ui.progressBar.setRange(0, total)
            self.ui.progressBar.setValue(step)

        label.setText(text)
        self.ui.progressBar.setRange(0, 0)
        self._job = self._jobs(work, done, failed, progress)
        self.updateButtons()
        self._job.start()

    def _ended(self) -> None:
        self._job = None
        self.update()

    # Models

    @property
    def _row(self) -> Optional[ModelRow]:
        row = self.ui.modelsTable.currentRow()
        return self._rows[row] if 0 <= row < len(self._rows) else None

    @property
    def _model(self) -> Model:
        assert self._row is not None and self._row.model is not None, "the buttons are enabled for whole models"
        return self._row.model

    def _fillModels(self) -> None:
        table = self.ui.modelsTable
        chosen = self._row.folder if self._row else None
        broken = self.store.broken()
        self._rows = [ModelRow(model.folder, model) for model in self.store.models()]
        self._rows += [ModelRow(folder, None, why) for folder, why in broken]
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._rows))
        for n, row in enumerate(self._rows):
            for column, text in enumerate(row.cells()):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(row.tip())
                table.setItem(n, column, item)
        folders = [row.folder for row in self._rows]
        if folders:
            table.setCurrentCell(folders.index(chosen) if chosen in folders else 0, 0)
        table.blockSignals(wasBlocked)
        table.resizeColumnsToContents()  # the name first: in a narrow panel the size is what has to be scrolled to
        fitHeight(table, MODELS)
        said, self._brokenText = self._brokenText, "\n".join(f"{folder.name}: {why}" for folder, why in broken)
        if self._brokenText or self.ui.modelLabel.text == said:  # what is mended is not spoken of any more
            self.ui.modelLabel.setText(self._brokenText)

    def onVerify(self) -> None:
        def verify() -> str:
            self._model.verify()
            return _("Every file of {name} equals its checksum.").format(name=self._model.name)

        self._say(verify)

    def onCard(self) -> None:
        def show() -> str:
            card = self._model.folder / "MODEL_CARD.md"
            if not card.is_file():
                raise QMedSAMError(_("This model has no card."), _("Ask those who made it for its data and its limits."))
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(card)))
            return str(card)

        self._say(show)

    def onAddModel(self) -> None:
        self._add(qt.QFileDialog.getOpenFileName(self.widget, _("Zip file of an exported model"), "", "Zip (*.zip)"))

    def onAddModelFolder(self) -> None:
        self._add(qt.QFileDialog.getExistingDirectory(self.widget, _("Folder of an exported model")))

    def _add(self, source: Any) -> None:
        def add() -> str:
            before = self.store.routes()
            name = self.store.add(str(source)).name
            return _("Added {name}.").format(name=name) + self._rerouted(before)

        if source:
            self._say(add)

    def onRemoveModel(self) -> None:
        row = self._row
        name = row.model.name if row.model is not None else row.folder.name
        question = _("Delete the model {name} from this computer?").format(name=name)

        def remove() -> str:
            before = self.store.routes()
            self.store.remove(row.folder)
            return _("Removed {name}.").format(name=name) + self._rerouted(before)

        if confirmed(question):
            self._say(remove)

    def _rerouted(self, before: Dict[str, str]) -> str:
        """What *Automatic* means now, where that has changed."""
        after, changed = self.store.routes(), {}
        for modality, name in after.items():
            if before.get(modality) != name:
                changed.setdefault(name, []).append(modality or _("unknown modalities"))
        texts = [
            _("'Automatic' is {name} now for {modalities}.").format(name=name, modalities=", ".join(modalities))
            for name, modalities in changed.items()
        ]
        return "".join(" " + text for text in texts)

    def _say(self, action: Callable[[], str]) -> None:
        """Do something with the models and say how it went."""
        try:
            text = action()
        except QMedSAMError as error:
            text = str(error)
        self.update()
        self.ui.modelLabel.setText(text)


def scoresText(model: Model) -> str:
    """Mean DSC of a model by its manifest: on slices and on volumes."""
    scores = model.manifest.scores
    values = [scores.get(kind, {}).get("dsc") if isinstance(scores.get(kind), dict) else None for kind in ("slice", "volume")]
    return " / ".join("-" if value is None else f"{value:.2f}" for value in values)
