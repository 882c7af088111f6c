"""The shim behaves as the application was seen to: the table in shim/README.md, where it can be shown here."""

from __future__ import annotations

import sys

import pytest
import slicer
from PySide6 import QtWidgets
from QMedSAMSegmentLib.signals import connected


@pytest.fixture
def frame(app):
    """Loaded as every frame of the extension is."""
    from pathlib import Path

    from QMedSAMSegmentLib import signals

    return slicer.util.loadUI(str(Path(signals.__file__).parents[1] / "Resources" / "UI" / "QMedSAMEffect.ui"))


def test_a_slot_gets_what_the_signature_says_and_may_take_less(frame) -> None:
    button, check = frame.findChild(QtWidgets.QPushButton, "addButton"), frame.findChild(QtWidgets.QCheckBox, "handlesCheck")
    heard: list = []
    assert button.connect("clicked()", lambda *values: heard.append(values))
    assert button.connect("clicked(bool)", lambda *values: heard.append(values))
    assert check.connect("toggled(bool)", lambda: heard.append("nothing"))
    button.click()
    check.click()
    assert heard == [(), (False,), "nothing"]


def test_an_unknown_signal_is_false_and_fails_at_once_where_the_extension_connects(frame) -> None:
    button = frame.findChild(QtWidgets.QPushButton, "addButton")
    assert button.connect("clicket()", print) is False and button.connect("clicked(QString)", print) is False
    with pytest.raises(ValueError, match="clicket"):
        connected(button, "clicket()", print)
    assert connected(button, "clicked()", print) is None


def test_an_exception_in_a_slot_does_not_reach_the_caller(frame) -> None:
    import pythonqt

    button = frame.findChild(QtWidgets.QPushButton, "addButton")

    def fails() -> None:
        raise ZeroDivisionError

    button.connect("clicked()", fails)
    button.click()
    (error,) = pythonqt.slotErrors
    assert isinstance(error, ZeroDivisionError)
    pythonqt.slotErrors.clear()


def test_only_properties_are_set_on_widgets(app) -> None:
    """An unknown attribute of a C++ object is an AttributeError in the application; PySide6 keeps it without a word."""
    import ast
    from pathlib import Path

    from QMedSAMSegmentLib import signals

    library, known, found = Path(signals.__file__).parent, set(), []
    for file in (library.parent / "Resources" / "UI").glob("*.ui"):
        for widget in slicer.util.loadUI(str(file)).findChildren(QtWidgets.QWidget):
            meta = widget.metaObject()
            known |= {meta.property(n).name() for n in range(meta.propertyCount())}
    for name in ("effectpanel", "modulepanel", "batchpanel", "boxtable"):
        for node in ast.walk(ast.parse((library / f"{name}.py").read_text(encoding="utf-8"))):
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id != "self":
                    found.append(target.attr)
                    assert target.attr in known, f"{name}.py: {ast.unparse(target)}"
    assert "checked" in found  # there is something to look at


def test_a_widget_found_twice_is_one_object(frame) -> None:
    button = frame.findChild(QtWidgets.QPushButton, "addButton")
    assert frame.findChild(QtWidgets.QPushButton, "addButton") is button
    button.enabled = False
    assert not button.isEnabled()


def test_properties_are_properties_and_methods_are_methods(frame) -> None:
    table, combo = frame.findChild(QtWidgets.QTableWidget, "boxesTable"), frame.findChild(QtWidgets.QComboBox, "modelCombo")
    combo.addItem("one", "1")
    assert (combo.count, combo.currentIndex, combo.currentText, table.rowCount) == (1, 0, "one", 0)
    label, check = frame.findChild(QtWidgets.QLabel, "statusLabel"), frame.findChild(QtWidgets.QCheckBox, "handlesCheck")
    assert label.text == "" and check.checked is True and check.visible is False and check.cursor is not None
    import qt

    item = qt.QTableWidgetItem("cell")
    table.setRowCount(1)
    table.setItem(0, 0, item)
    assert table.currentRow() == -1 and table.item(0, 0).text() == "cell" and item.checkState() == qt.Qt.Unchecked


def test_parameters_are_strings_and_missing_ones_are_empty(editor) -> None:
    scripted = editor.scripted
    assert scripted.parameter("nothing") == "" and scripted.integerParameter("nothing") == 0
    scripted.setParameter("flag", True)
    assert scripted.parameter("flag") == "True"
    assert scripted.confirmCurrentSegmentVisible() == 1
    assert slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeAdd == slicer.vtkSlicerSegmentEditorLogic.ModificationModeAdd


def test_set_python_source_appends_effect_and_leaves_the_instance_in_slicer(app, tmp_path) -> None:
    from application import ScriptedEffect

    folder = tmp_path / "SomeLib"
    folder.mkdir()
    (folder / "Wand.py").write_text("class WandEffect:\n    def __init__(self, scripted): ...\n", encoding="utf-8")
    scripted = ScriptedEffect()
    scripted.setPythonSource(str(folder / "Wand.py"))
    assert type(scripted.self()).__name__ == "WandEffect" and slicer.SomeLib is scripted.self()
    del slicer.SomeLib, sys.modules["SomeLib"]


def test_start_place_mode_places_control_points_whatever_is_active(app) -> None:
    """Slicer's own logic and selection node; who did not know placed a point in the place of a box."""
    scene, markups = slicer.mrmlScene, slicer.modules.markups.logic()
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    markups.SetActiveList(roi)
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsROINode"
    markups.StartPlaceMode(False)
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsFiducialNode"


def test_the_editor_leaves_the_effect_when_its_segmentation_or_last_segment_goes(editor) -> None:
    """As ``qMRMLSegmentEditorWidget`` does; on return nobody activates it again."""
    from nodes import addSegmentation

    assert editor.enabled and editor.effect.active
    editor.switchTo(addSegmentation(editor.scene, editor.volume, ["third"]))
    assert not editor.effect.active
    editor.effect.activate()
    editor.removeSegment("third")
    assert not editor.effect.active


def test_without_a_source_volume_the_options_frame_is_disabled(editor) -> None:
    editor.node.SetAndObserveSourceVolumeNode(None)
    editor.follow()
    assert not editor.enabled and not editor.scripted.options.enabled
    editor.node.SetAndObserveSourceVolumeNode(editor.volume)
    editor.follow()
    assert editor.enabled and editor.scripted.options.enabled
