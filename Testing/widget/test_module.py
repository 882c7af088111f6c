"""The module: registration, first-run installation, self-check, models."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nodes
import pytest
import slicer
from nodes import HandTimer, Pip
from PySide6 import QtWidgets
from qmedsam import ModelStore
from qmedsam.models import shipped_folder
from QMedSAMSegmentLib.installer import Installer, downloadCommand
from QMedSAMSegmentLib.worker import Job


@pytest.fixture
def module(app):
    import QMedSAMSegment

    return QMedSAMSegment


@pytest.fixture
def panel(module, tmp_path):
    """The module's panel with a user folder of its own and jobs without a thread."""
    from QMedSAMSegmentLib.modulepanel import ModulePanel

    ui = slicer.util.loadUI(str(Path(module.__file__).parent / "Resources" / "UI" / "QMedSAMSegment.ui"))
    store = ModelStore([tmp_path / "user", shipped_folder()], user=tmp_path / "user")
    made = ModulePanel(ui, lambda *w: Job(*w, launch=lambda f: f(), timer=HandTimer), store=store)
    yield made
    made.close()


def _visible(widget) -> bool:
    return widget.isVisibleTo(widget.parentWidget())


def test_nothing_happens_before_the_application_has_started(app, module) -> None:
    import qSlicerSegmentationsEditorEffectsPythonQt as effects
    import SampleData

    effects.qSlicerSegmentEditorScriptedEffect.registered.clear()
    SampleData.SampleDataLogic.sources.clear()
    made = module.QMedSAMSegment(SimpleNamespace())
    assert made.parent.title == "QMedSAM" and made.parent.dependencies == ["Segmentations"]
    assert effects.qSlicerSegmentEditorScriptedEffect.registered == [] and SampleData.SampleDataLogic.sources == []
    (started,) = app.started
    started()
    (effect,) = effects.qSlicerSegmentEditorScriptedEffect.registered
    assert effect.name == "QMedSAM" and effect.perSegment and not effect.requireSegments
    (source,) = SampleData.SampleDataLogic.sources
    assert all(uri.startswith("file:") and Path(uri[7:]).is_file() for uri in source["uris"])
    lists = [source[key] for key in ("uris", "checksums", "fileNames", "nodeNames", "loadFileType")]
    assert {len(one) for one in lists} == {2} and Path(source["thumbnailFileName"]).is_file()


def test_the_package_survives_the_registration(app, module) -> None:
    """The trap: C++ executes the effect's file in the place of a package that was not imported before."""
    module.registerEditorEffect()
    package = sys.modules["QMedSAMSegmentLib"]
    assert package.__path__ and isinstance(package.SegmentEditorEffect, type)
    from QMedSAMSegmentLib import runs

    assert runs.Run


def test_without_openvino_the_page_offers_to_install_it_and_the_user_may_decline(panel, answers) -> None:
    pip = Pip([], 0)
    panel.installer = Installer(pip, lambda: bool(pip.calls))
    panel.update()
    assert "One step is left" in panel.ui.engineLabel.text and downloadCommand() in panel.ui.engineLabel.text
    assert _visible(panel.ui.installButton) and _visible(panel.ui.installFolderButton) and not panel.ui.checkButton.enabled
    answers.answer = False
    panel.ui.installButton.click()
    assert len(answers.asked) == 1 and not pip.calls
    answers.answer = True
    panel.ui.installButton.click()
    assert "Installing" in panel.ui.engineLabel.text and _visible(panel.ui.progressBar) and _visible(panel.ui.cancelButton)
    HandTimer.last.callback()
    assert "is ready" in panel.ui.engineLabel.text and not _visible(panel.ui.installButton) and panel.ui.checkButton.enabled


def test_in_testing_mode_nothing_is_installed(app, panel, answers) -> None:
    """Slicer answers its own questions with yes then."""
    pip = Pip([], 0)
    panel.installer = Installer(pip, lambda: False)
    app.testing = True
    panel.ui.installButton.click()
    assert not pip.calls and not answers.asked


def test_installing_from_a_folder_of_wheels(panel, monkeypatch, tmp_path) -> None:
    pip = Pip(["ERROR: openvino.whl is not a supported wheel on this platform."], 1)
    panel.installer = Installer(pip, lambda: False)
    monkeypatch.setattr(QtWidgets.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    panel.ui.installFolderButton.click()
    HandTimer.last.callback()
    assert "no OpenVINO wheel" in panel.ui.engineLabel.text and not pip.calls
    (tmp_path / "openvino-1-py3-none-any.whl").touch()
    panel.ui.installFolderButton.click()
    HandTimer.last.callback()
    assert "--no-index" in pip.calls[0] and "It must be one for" in panel.ui.engineLabel.text
    monkeypatch.setattr(QtWidgets.QFileDialog, "getExistingDirectory", lambda *_: "")
    panel.ui.installFolderButton.click()
    assert len(pip.calls) == 1


def test_the_self_check_says_how_fast_and_how_well(panel) -> None:
    pytest.importorskip("openvino")
    panel.ui.checkButton.click()
    HandTimer.last.callback()
    text = panel.ui.checkLabel.text
    assert "ms per slice" in text and float(text.split("DSC ")[1].split(" ")[0]) >= 0.9
    from QMedSAMSegmentLib.speed import rememberedMsPerSlice

    assert 0.1 < rememberedMsPerSlice() < 2000


def test_the_models_are_listed_with_licence_scores_and_size(panel) -> None:
    table = panel.ui.modelsTable
    rows = [[table.item(row, column).text() for column in range(5)] for row in range(table.rowCount)]
    manifest = json.loads((shipped_folder() / "qmedsam-compact" / "manifest.json").read_text(encoding="utf-8"))
    (row,) = [row for row in rows if row[0] == manifest["title"]]
    scores = " / ".join(f"{manifest['scores'][kind]['dsc']:.2f}" for kind in ("slice", "volume"))
    assert row[1] == manifest["license"] and row[3] == scores and row[4].endswith(" MiB")
    assert not panel.ui.removeModelButton.enabled  # shipped
    panel.ui.verifyButton.click()
    assert "equals its checksum" in panel.ui.modelLabel.text


def test_a_models_name_is_read_in_a_narrow_panel(panel) -> None:
    panel.widget.resize(395, 800)
    panel.widget.show()
    for _ in range(3):
        QtWidgets.QApplication.processEvents()
    table = panel.ui.modelsTable
    needed = table.fontMetrics().horizontalAdvance(table.item(0, 0).text())
    assert table.columnViewportPosition(0) == 0 and needed < table.columnWidth(0) <= table.viewport().width
    assert table.height < 5 * table.rowHeight(0)
    panel.widget.hide()


@pytest.mark.parametrize("volumes", [1, 2])
def test_the_segment_editor_opens_with_the_effect_and_the_only_volume(panel, monkeypatch, volumes) -> None:
    import numpy as np

    made = [nodes.addVolume(slicer.mrmlScene, np.zeros((2, 3, 4), np.uint8), np.eye(4)) for _ in range(volumes)]
    called: list = []
    editor = SimpleNamespace(
        sourceVolumeNode=lambda: None,
        setSourceVolumeNode=lambda node: called.append(node),
        setActiveEffectByName=lambda name: called.append(name),
    )
    monkeypatch.setattr(slicer.util, "selectModule", called.append)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: SimpleNamespace(editor=editor))
    panel.ui.openEditorButton.click()
    assert called == ["SegmentEditor", made[0] if volumes == 1 else None, "QMedSAM"]


def test_a_model_is_added_verified_and_removed(panel, tmp_path, monkeypatch, answers) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shipped_folder() / "qmedsam-compact", copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest.update(name="mine", title="Mine")
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", copy)
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (archive, "Zip"))
    panel.ui.addModelButton.click()
    assert "Added mine" in panel.ui.modelLabel.text
    titles = [panel.ui.modelsTable.item(row, 0).text() for row in range(panel.ui.modelsTable.rowCount)]
    panel.ui.modelsTable.setCurrentCell(titles.index("Mine"), 0)
    assert panel.ui.removeModelButton.enabled
    (tmp_path / "user" / "mine" / "encoder.bin").write_bytes(b"damaged")
    panel.ui.verifyButton.click()
    assert "differs from its checksum" in panel.ui.modelLabel.text
    answers.answer = False
    panel.ui.removeModelButton.click()
    assert (tmp_path / "user" / "mine").is_dir()
    answers.answer = True
    panel.ui.removeModelButton.click()
    assert not (tmp_path / "user" / "mine").exists() and "Removed mine" in panel.ui.modelLabel.text
    panel.ui.addModelButton.click()
    archive = str(tmp_path / "nothing.zip")
    panel.ui.addModelButton.click()
    assert "nothing at" in panel.ui.modelLabel.text


def _names(panel) -> list:
    return [panel.ui.modelsTable.item(row, 0).text() for row in range(panel.ui.modelsTable.rowCount)]


def _own(tmp_path, **changes):
    """The folder of a model that the user may have exported."""
    copy = tmp_path / "copy"
    shutil.copytree(shipped_folder() / "qmedsam-compact", copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest.update({"name": "mine", "title": "Mine", **changes})
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def test_a_broken_model_is_named_hides_no_other_and_can_be_removed(panel, tmp_path, answers) -> None:
    (tmp_path / "user" / "broken").mkdir(parents=True)
    (tmp_path / "user" / "broken" / "manifest.json").write_text("{", encoding="utf-8")
    panel.update()
    assert panel.ui.modelsTable.rowCount == len(ModelStore([shipped_folder()]).models()) + 1
    assert panel.ui.modelLabel.text.startswith("broken: ") and "broken (broken)" in _names(panel)
    panel.ui.modelsTable.setCurrentCell(_names(panel).index("broken (broken)"), 0)
    assert panel.ui.removeModelButton.enabled and not panel.ui.verifyButton.enabled and not panel.ui.cardButton.enabled
    panel.ui.removeModelButton.click()
    assert not (tmp_path / "user" / "broken").exists() and "broken (broken)" not in _names(panel)
    assert panel.ui.modelLabel.text == "Removed broken."


def test_a_damaged_model_is_mended_by_adding_it_again(panel, tmp_path, monkeypatch) -> None:
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", _own(tmp_path, priority=-5))
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (archive, "Zip"))
    panel.ui.addModelButton.click()
    for damage in ("manifest.json", "encoder.bin"):
        (tmp_path / "user" / "mine" / damage).write_bytes(b"damaged")
        panel.update()
        panel.ui.addModelButton.click()
        assert panel.ui.modelLabel.text == "Added mine." and "mine (broken)" not in _names(panel) and "Mine" in _names(panel)
        ModelStore([tmp_path / "user"]).get("mine").verify()
    panel.ui.addModelButton.click()
    assert "is there already" in panel.ui.modelLabel.text


def test_a_sentence_about_what_was_mended_elsewhere_goes(panel, tmp_path) -> None:
    folder = tmp_path / "user" / "mine"
    shutil.copytree(_own(tmp_path), folder)
    whole = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(b"{")
    panel.update()
    assert panel.ui.modelLabel.text.startswith("mine: ")
    (folder / "manifest.json").write_bytes(whole)
    panel.update()
    assert panel.ui.modelLabel.text == "" and "Mine" in _names(panel)


def test_a_model_is_added_from_its_folder_and_it_is_said_what_automatic_means_now(panel, tmp_path, monkeypatch, answers) -> None:
    copy = _own(tmp_path, modalities=["*"], priority=999)
    other = _own(tmp_path / "other", modalities=["CT"], priority=999, name="ct-only", title="CT only")
    for folder in (copy, other):
        monkeypatch.setattr(QtWidgets.QFileDialog, "getExistingDirectory", lambda *_, folder=folder: str(folder))
        panel.ui.addFolderButton.click()
        text = panel.ui.modelLabel.text
        if folder is copy:
            assert text.startswith("Added mine. 'Automatic' is mine now for unknown modalities, CT, MR")
        else:
            assert text == "Added ct-only. 'Automatic' is ct-only now for CT."
    panel.ui.modelsTable.setCurrentCell(_names(panel).index("CT only"), 0)
    panel.ui.removeModelButton.click()
    assert panel.ui.modelLabel.text == "Removed ct-only. 'Automatic' is mine now for CT."
    monkeypatch.setattr(QtWidgets.QFileDialog, "getExistingDirectory", lambda *_: "")
    panel.ui.addFolderButton.click()
    assert panel.ui.modelLabel.text.startswith("Removed")


def test_the_widget_is_set_up_entered_and_left_without_a_main_window(module) -> None:
    assert slicer.util.mainWindow() is None
    parent = QtWidgets.QWidget()
    QtWidgets.QVBoxLayout(parent)
    widget = module.QMedSAMSegmentWidget(parent)
    widget.setup()
    widget.enter()
    assert widget.panel.ui.modelsTable.rowCount >= 1
    widget.cleanup()


def test_the_script_part_of_the_self_test_passes(module, monkeypatch) -> None:
    """Its own code and numbers, with slicer-core's readers in the place of the application's."""
    pytest.importorskip("openvino")
    folder = shipped_folder().parent / "SampleData"

    def load(kind: str, storage: str, file: str):
        node = slicer.mrmlScene.AddNewNodeByClass(kind, file)
        reader = slicer.mrmlScene.AddNewNodeByClass(storage)
        reader.SetFileName(file)
        assert reader.ReadData(node)
        return node

    def loadSample():
        assert nodes.logicOf("vtkSlicerMarkupsLogic").LoadMarkups(str(folder / "QMedSAMPhantom-boxes.mrk.json"), "boxes")
        return load("vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode", str(folder / "QMedSAMPhantom.nrrd"))

    def loadTruth(path: str):
        return load("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", path)

    monkeypatch.setattr(module, "loadSampleData", loadSample)
    monkeypatch.setattr(slicer.util, "loadSegmentation", loadTruth)
    segmentations = SimpleNamespace(logic=lambda: nodes.logicOf("vtkSlicerSegmentationsModuleLogic"))
    monkeypatch.setattr(slicer.modules, "segmentations", segmentations, raising=False)
    module.QMedSAMSegmentTest("test_ScriptSegmentsThePhantom").test_ScriptSegmentsThePhantom()
