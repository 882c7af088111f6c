"""The module's panel: engine, self-check, models, and the section for cohorts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Optional

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
from .trial import guardThisApplication
from .volumes import onlyVolume
from .worker import Job

#: Models that are seen at once.
MODELS = 5


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
        self._models: List[Model] = []
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
            (self.ui.removeModelButton, self.onRemoveModel),
        ):
            connected(button, "clicked()", method)
        connected(self.ui.modelsTable, "itemSelectionChanged()", self.updateButtons)
        self.batch = BatchPanel(widget, self.ui, lambda: self.installer.present(), jobs)
        self.update()

    def close(self) -> None:
        """Stop what is running; nothing calls back afterwards."""
        if self._job is not None:
            self._job.abandon()
        self._job = None
        self.batch.close()

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
        model = self._model
        for button in (self.ui.verifyButton, self.ui.cardButton):
            button.setEnabled(model is not None)
        self.ui.removeModelButton.setEnabled(model is not None and model.folder.parent == self.store.user)

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
    def _model(self) -> Optional[Model]:
        row = self.ui.modelsTable.currentRow()
        return self._models[row] if 0 <= row < len(self._models) else None

    def _fillModels(self) -> None:
        table = self.ui.modelsTable
        chosen = self._model.name if self._model else ""
        self._models = self.store.models()
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._models))
        for row, model in enumerate(self._models):
            manifest = model.manifest
            modalities = _("any") if "*" in manifest.modalities else ", ".join(manifest.modalities)
            cells = (manifest.title, manifest.license, modalities, scoresText(model), f"{model.bytes / 2**20:.1f} MiB")
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(f"{manifest.name} {manifest.version}: {manifest.description}\n{model.folder}")
                table.setItem(row, column, item)
        names = [model.name for model in self._models]
        if names:
            table.setCurrentCell(names.index(chosen) if chosen in names else 0, 0)
        table.blockSignals(wasBlocked)
        table.resizeColumnsToContents()  # the name first: in a narrow panel the size is what has to be scrolled to
        fitHeight(table, MODELS)
        broken = self.store.broken()
        if broken:
            self.ui.modelLabel.setText("\n".join(f"{folder.name}: {why}" for folder, why in broken))

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
        file = qt.QFileDialog.getOpenFileName(self.widget, _("Zip file of an exported model"), "", "Zip (*.zip)")
        if file:
            self._say(lambda: _("Added {name}.").format(name=self.store.add(str(file)).name))

    def onRemoveModel(self) -> None:
        name = self._model.name
        question = _("Delete the model {name} from this computer?").format(name=name)

        def remove() -> str:
            self.store.remove(name)
            return _("Removed {name}.").format(name=name)

        if confirmed(question):
            self._say(remove)

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
