"""The effect as a user meets it: boxes, preview, apply, cancel, undo, settings, no main window."""

from __future__ import annotations

import time

import numpy as np
import pytest
import slicer
from clicks import ClickedView
from nodes import HandTimer, addRoi, addSegmentation, addVolume, brightSegmenter, labelmaps, logicOf
from PySide6 import QtCore, QtGui, QtWidgets
from qmedsam import QMedSAMError, Segmenter
from qmedsam.network.fake import FakeNetwork
from qmedsam.strategies import STRATEGIES
from QMedSAMSegmentLib.boxes import bind, boundRois, boxFromRoi, createRoi
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.runs import Run
from QMedSAMSegmentLib.segments import orientedImage
from QMedSAMSegmentLib.worker import Job


def test_the_options_frame_names_and_explains_every_control(editor) -> None:
    controls = [
        child
        for child in editor.scripted.options.findChildren(QtWidgets.QWidget)
        if isinstance(child, (QtWidgets.QPushButton, QtWidgets.QComboBox, QtWidgets.QCheckBox, QtWidgets.QTableWidget))
        and not child.name.startswith("qt_")
    ]
    assert len(controls) > 15
    for control in controls:
        assert control.name and control.toolTip.endswith((".", ")")), control.name
    assert editor.effect.helpText().startswith("<html>") and not editor.effect.icon().isNull()


def test_the_table_lists_boxes_with_name_size_and_slices(editor) -> None:
    table = editor.ui.boxesTable
    texts = [[table.item(row, column).text() for column in range(3)] for row in range(2)]
    assert [row[0] for row in texts] == ["first", "second"]
    assert texts[0][1] == "15 x 17 x 19"
    expected = len(boxFromRoi(editor.rois[0], editor.volume).slices(2, 16))
    assert texts[0][2] == str(expected) and expected > 5
    assert editor.effect.table.current is editor.rois[0]
    table.setCurrentCell(1, 0)
    assert editor.node.GetSelectedSegmentID() == "second"
    table.item(1, 0).setCheckState(QtCore.Qt.Unchecked)
    assert editor.rois[1].GetDisplayNode().GetVisibility() == 0 and editor.rois[0].GetDisplayNode().GetVisibility() == 1


def test_a_preview_changes_no_segment_and_apply_writes_what_it_showed(editor) -> None:
    before = labelmaps(editor.segmentation)
    editor.ui.previewButton.click()
    assert editor.ui.progressBar.isVisibleTo(editor.ui.progressBar.parentWidget()) and not editor.ui.previewButton.enabled
    editor.finish()
    assert labelmaps(editor.segmentation) == before and editor.scripted.undoSaves == 0
    shown = editor.effect.session.preview.node.GetSegmentation()
    assert list(shown.GetSegmentIDs()) == ["first"] and "Preview" in editor.status and "confidence" in editor.status
    encoded = editor.effect.logic.segmenter()._given.encoded
    editor.ui.applyButton.click()
    assert np.array_equal(editor.mask("first"), editor.truths[0]) and not editor.mask("second").any()
    assert editor.effect.logic.segmenter()._given.encoded == encoded  # not computed again
    assert not editor.effect.session.preview.shown and "Applied" in editor.status
    assert editor.scripted.undoSaves == 1


def test_apply_all_is_one_action_that_one_undo_takes_back(editor) -> None:
    before = labelmaps(editor.segmentation)
    editor.ui.applyAllButton.click()
    editor.finish()
    assert all(np.array_equal(editor.mask(s), t) for s, t in zip(("first", "second"), editor.truths))
    assert editor.scripted.undoSaves == 1
    after = labelmaps(editor.segmentation)
    editor.logic.Undo()
    assert labelmaps(editor.segmentation) == before and not editor.logic.CanUndo()
    editor.logic.Redo()
    assert labelmaps(editor.segmentation) == after


def test_a_moved_box_makes_the_preview_stale(editor) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    roi = editor.rois[0]
    roi.SetCenterWorld(*(np.array(roi.GetCenterWorld()) + (3, 0, 0)))
    editor.ui.applyButton.click()
    editor.finish()
    found = editor.mask("first")
    assert found.any() and not np.array_equal(found, editor.truths[0]) and not (found & ~editor.truths[0]).any()


@pytest.mark.parametrize("change", ["origin", "window"])
def test_a_preview_of_another_place_or_window_is_not_applied(editor, change) -> None:
    editor.volume.CreateDefaultDisplayNodes()
    display = editor.volume.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(255, 127)
    editor.scripted.setParameter("window", "displayed")
    editor.ui.previewButton.click()
    editor.finish()
    if change == "origin":
        editor.volume.SetOrigin(*(np.array(editor.volume.GetOrigin()) + (6, 0, 0)))
    else:
        display.SetWindowLevel(100, 50)
    editor.ui.applyButton.click()
    assert editor.effect.session.running and not editor.mask("first").any()


def _stopAt(editor, reached) -> None:
    """Runs in which the user presses Cancel once ``reached(done, total)``."""

    def stopped(*work):
        job = Job(*work, launch=lambda f: f(), timer=HandTimer)
        original = job._report
        job._report = lambda done, total: (original(done, total), reached(done, total) and editor.effect.onCancel())
        return job

    editor.effect.jobs = stopped


def test_cancel_keeps_the_partial_result_for_the_user_to_decide(editor) -> None:
    _stopAt(editor, lambda done, total: done == 3)
    editor.ui.applyButton.click()
    editor.finish()
    assert "Stopped" in editor.status and not editor.mask("first").any()
    node = editor.effect.session.preview.node
    assert node is not None
    editor.ui.applyButton.click()  # keeps it
    found = editor.mask("first")
    slices = np.flatnonzero(found.any(axis=(1, 2)))
    assert 0 < len(slices) <= 3 and np.array_equal(found[slices], editor.truths[0][slices])
    editor.logic.Undo()
    editor.ui.applyButton.click()
    editor.finish()
    editor.ui.cancelButton.click()  # drops it
    assert not editor.effect.session.preview.shown and not editor.mask("first").any()


def test_a_stopped_apply_all_is_kept_by_apply_and_takes_nothing_away(editor) -> None:
    editor.select("second")
    editor.ui.applyButton.click()
    editor.finish()
    editor.select("first")
    before = labelmaps(editor.segmentation)
    _stopAt(editor, lambda done, total: done == total - 2)
    editor.ui.applyAllButton.click()
    editor.finish()
    shown = editor.effect.session.shown
    assert shown.result.cancelled and set(shown.masks()) == {"first", "second"}
    assert any(0 < mask.sum() < truth.sum() for (mask, _), truth in zip(shown.masks().values(), editor.truths))
    saves = editor.scripted.undoSaves
    editor.ui.applyButton.click()
    assert not editor.effect.session.running and editor.scripted.undoSaves == saves + 1
    assert editor.mask("first").any() and np.array_equal(editor.mask("second"), editor.truths[1])
    editor.logic.Undo()
    assert labelmaps(editor.segmentation) == before


def test_a_stopped_apply_all_is_not_kept_once_a_box_has_moved(editor) -> None:
    _stopAt(editor, lambda done, total: done == 3)
    editor.ui.applyAllButton.click()
    editor.finish()
    editor.rois[1].SetCenterWorld(*(np.array(editor.rois[1].GetCenterWorld()) + (3, 0, 0)))
    editor.ui.applyButton.click()
    assert editor.effect.session.running and editor.scripted.undoSaves == 0


def test_a_box_is_placed_released_and_previewed(editor) -> None:
    editor.ui.autoUpdateCheck.checked = True
    editor.select("second")
    editor.ui.addButton.click()
    roi = editor.effect.boxes.placing
    assert slicer.modules.markups.logic().GetActiveListID() == roi.GetID()
    interaction = editor.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    editor.effect.interactionNodeModified(interaction)  # placing does not end the effect
    assert "Click two" in editor.status and not editor.effect.session.running
    roi.SetCenter(*editor.rois[1].GetCenterWorld())
    roi.SetSize(12, 12, 12)
    roi.InvokeEvent(roi.PointPositionDefinedEvent)
    assert editor.effect.boxes.placing is None and editor.effect.session.running
    editor.finish()
    assert list(editor.effect.session.preview.node.GetSegmentation().GetSegmentIDs()) == ["second"]
    assert np.allclose(roi.GetDisplayNode().GetSelectedColor(), (0.3, 0.7, 0.9), atol=0.01)
    first = editor.effect.session.preview.node
    roi.SetSize(8, 8, 8)
    roi.InvokeEvent(roi.PointEndInteractionEvent)
    editor.finish()
    assert editor.effect.session.preview.node is not first


def _visible(widget) -> bool:
    return widget.isVisibleTo(widget.parentWidget())


def _sizeIjk(roi, volume) -> np.ndarray:
    return np.ptp(boxFromRoi(roi, volume).corners_ijk, axis=0)


def test_add_box_places_a_box_where_two_clicks_are(editor) -> None:
    """Slicer's own selection node and markups manager: they place what the selection node names, whatever is active."""
    selection = editor.scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    selection.SetActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
    view = ClickedView(editor.volume, 7)
    editor.ui.addButton.click()
    roi = editor.effect.boxes.placing
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsROINode"
    view.click((5, 6))
    assert editor.effect.boxes.placing is roi
    view.click((25, 20))
    assert editor.effect.boxes.placing is None and editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    corners = boxFromRoi(roi, editor.volume).corners_ijk
    # the volume is turned against R, A and S: what was drawn is a rectangle along its rows, as deep as it is high
    assert np.allclose(corners[:, :2].min(0), (5, 6), atol=1e-3) and np.allclose(corners[:, :2].max(0), (25, 20), atol=1e-3)
    assert np.allclose(sorted(roi.GetSize()), (14, 14, 20), atol=1e-3)
    assert np.allclose(_sizeIjk(roi, editor.volume), (20, 14, 14 / 2.5), atol=1e-3)
    assert "Pull the box's handles" in editor.status and roi in editor.effect.table.rois


def test_a_box_remembers_the_slice_that_it_was_drawn_on(editor) -> None:
    view = ClickedView(editor.volume, 7)
    editor.ui.addButton.click()
    roi = editor.effect.boxes.placing
    view.click((5, 6))
    view.click((25, 20))
    (drawn,) = boxFromRoi(roi, editor.volume).rectangles
    assert (drawn.axis, drawn.index) == (2, 7) and np.allclose(drawn.rectangle, (5, 6, 25, 20), atol=1e-3)
    size = roi.GetSize()
    roi.SetSize(size[0], size[1] * 1.2, size[2])
    roi.InvokeEvent(roi.PointEndInteractionEvent)  # the view still shows that slice
    cut = boxFromRoi(roi, editor.volume)
    assert np.allclose(cut.rectangles[0].rectangle[1::2], (cut.corners_ijk[:, 1].min(), cut.corners_ijk[:, 1].max()), atol=1e-3)


def test_a_line_of_the_scene_becomes_a_box(editor) -> None:
    line, toWorld = editor.scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "lesion"), ijkToWorld(editor.volume)
    for end in ((10, 15, 8), (30, 18, 8)):
        line.AddControlPointWorld(*(toWorld @ [*end, 1.0])[:3])
    editor.effect.updateGUIFromMRML()
    combo, before = editor.ui.roiCombo, len(editor.effect.table.rois)
    index = combo.findText("lesion (line)")
    assert index > 0
    combo.setCurrentIndex(index)
    combo.activated.emit(index)
    assert len(editor.effect.table.rois) == before + 1
    (drawn,) = boxFromRoi(editor.effect.table.rois[-1], editor.volume).rectangles
    assert drawn.index == 8 and drawn.rectangle[0] <= 10 and drawn.rectangle[2] >= 30
    editor.scene.RemoveNode(line)
    editor.effect.updateGUIFromMRML()
    assert combo.findText("lesion (line)") < 0


def test_a_box_is_not_deeper_than_the_image(editor) -> None:
    view = ClickedView(editor.volume, 7)
    editor.ui.addButton.click()
    roi = editor.effect.boxes.placing
    view.click((1, 1))
    view.click((47, 39))
    assert np.allclose(_sizeIjk(roi, editor.volume), (46, 38, 38 / 2.5), atol=1e-3)
    editor.volume.SetSpacing(1, 1, 0.5)
    editor.ui.addButton.click()
    roi = editor.effect.boxes.placing
    view = ClickedView(editor.volume, 7)
    view.click((1, 1))
    view.click((47, 39))
    assert np.allclose(_sizeIjk(roi, editor.volume), (46, 38, 16), atol=1e-3)


def test_without_a_segment_add_box_makes_one_and_undo_takes_it_back(editor) -> None:
    inner = editor.segmentation.GetSegmentation()
    for roi in editor.rois:
        editor.scene.RemoveNode(roi)
    inner.RemoveAllSegments()
    editor.node.SetSelectedSegmentID("")
    editor.node.SetAndObserveSourceVolumeNode(None)  # nor is a source volume chosen: there is only one
    editor.ui.addButton.click()
    assert inner.GetNumberOfSegments() == 1 and editor.node.GetSelectedSegmentID() == inner.GetNthSegmentID(0)
    assert editor.effect.boxes.placing is not None and editor.node.GetSourceVolumeNode() is editor.volume
    editor.effect.boxes.endPlacing()
    editor.logic.Undo()
    assert inner.GetNumberOfSegments() == 0


def test_of_two_volumes_none_is_chosen_for_the_user(editor) -> None:
    addVolume(editor.scene, np.zeros((2, 3, 4), np.uint8), np.eye(4))
    editor.node.SetAndObserveSourceVolumeNode(None)
    editor.ui.previewButton.click()
    assert editor.node.GetSourceVolumeNode() is None and "source volume" in editor.status


@pytest.mark.parametrize("persistent", [0, 1])  # as the user left the toolbar's place mode
def test_going_back_to_the_arrow_gives_the_box_up(editor, persistent) -> None:
    nodes = editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")
    interaction = editor.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetPlaceModePersistence(persistent)
    interaction.AddObserver("ModifiedEvent", lambda caller, event: editor.effect.interactionNodeModified(caller))
    editor.ui.addButton.click()
    assert editor.effect.boxes.placing is not None
    ClickedView(editor.volume, 7).click((5, 6))
    interaction.SwitchToViewTransformMode()
    assert editor.effect.boxes.placing is None and "No box was placed" in editor.status
    assert editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == nodes


def test_a_box_never_placed_goes_with_the_effect(editor) -> None:
    nodes = editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")
    editor.ui.addButton.click()
    editor.effect.deactivate()
    assert editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == nodes


def test_preview_on_release_is_of_the_box_that_was_released(editor) -> None:
    editor.ui.autoUpdateCheck.checked = True
    editor.rois[1].InvokeEvent(editor.rois[1].PointEndInteractionEvent)
    editor.finish()
    assert list(editor.effect.session.preview.node.GetSegmentation().GetSegmentIDs()) == ["second"]
    editor.rest()
    assert editor.node.GetSelectedSegmentID() == "second" and editor.effect.table.current is editor.rois[1]
    shown = editor.effect.session.shown
    editor.rois[0].RemoveAttribute("QMedSAM.SegmentID")  # belongs to no segment any more
    editor.rois[0].InvokeEvent(editor.rois[0].PointEndInteractionEvent)
    assert editor.effect.session.shown is shown and editor.node.GetSelectedSegmentID() == "second"


def test_add_box_pressed_again_leaves_one_box_that_waits(editor) -> None:
    nodes = editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")
    editor.ui.addButton.click()
    given_up = editor.effect.boxes.placing
    editor.ui.addButton.click()
    roi = editor.effect.boxes.placing
    assert editor.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == nodes + 1
    assert given_up.GetScene() is None and slicer.modules.markups.logic().GetActiveListID() == roi.GetID()
    interaction = editor.scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.Place


def test_a_box_that_was_never_placed_does_not_stand_in_the_way(editor) -> None:
    createRoi(editor.scene, editor.segmentation, "first")  # as it comes with a scene saved in the middle of placing
    editor.ui.applyButton.click()
    editor.finish()
    assert np.array_equal(editor.mask("first"), editor.truths[0])


def test_duplicate_fit_flatten_and_delete(editor) -> None:
    editor.ui.duplicateButton.click()
    assert editor.ui.boxesTable.rowCount == 3 and len(boundRois(editor.segmentation, "first")) == 2
    editor.ui.deleteButton.click()
    assert editor.ui.boxesTable.rowCount == 2 and boundRois(editor.segmentation, "first") == [editor.rois[0]]
    editor.ui.applyButton.click()
    editor.finish()
    editor.ui.fitButton.click()
    corners = boxFromRoi(editor.rois[0], editor.volume).corners_ijk
    voxels = np.argwhere(editor.truths[0])[:, ::-1]
    size = np.ptp(voxels, axis=0) + 1
    assert np.allclose(corners.min(axis=0), voxels.min(axis=0) - 0.5 - 0.05 * size, atol=1e-4)
    assert np.allclose(corners.max(axis=0), voxels.max(axis=0) + 0.5 + 0.05 * size, atol=1e-4)
    editor.ui.flatButton.click()
    assert len(boxFromRoi(editor.rois[0], editor.volume).slices(2, 16)) == 1
    editor.ui.applyButton.click()
    editor.finish()
    assert np.flatnonzero(editor.mask("first").any(axis=(1, 2))).tolist() == [7]


def test_what_is_selected_in_the_editor_is_what_the_buttons_act_on(editor) -> None:
    editor.logic.SetCurrentSegmentID("second")
    editor.ui.deleteButton.click()  # before the table has followed: nothing is deleted that was not seen
    assert boundRois(editor.segmentation) == editor.rois and "another segment" in editor.status
    assert editor.effect.table.current is editor.rois[1]
    editor.select("first")
    assert editor.effect.table.current is editor.rois[0]
    editor.select("second")
    editor.ui.deleteButton.click()
    assert boundRois(editor.segmentation) == [editor.rois[0]]


def test_the_table_follows_names_undo_and_segments_that_go(editor) -> None:
    inner, table = editor.segmentation.GetSegmentation(), editor.ui.boxesTable
    inner.GetSegment("second").SetName("spleen")
    editor.rest()
    assert table.item(1, 0).text() == "spleen"
    editor.logic.SaveStateForUndo()
    inner.RemoveSegment("second")
    editor.rest()
    assert table.rowCount == 1 and _visible(editor.ui.roiFrame)
    editor.logic.Undo()
    editor.rest()
    assert table.rowCount == 2 and not _visible(editor.ui.roiFrame)


def test_an_roi_that_is_loaded_meanwhile_can_be_used(editor) -> None:
    addRoi(editor.scene, editor.rois[0].GetCenterWorld(), np.eye(3) * 5, name="loaded")
    editor.rest()
    assert _visible(editor.ui.roiFrame) and editor.ui.roiCombo.itemText(1) == "loaded"


def test_another_segmentation_is_followed_too(editor) -> None:
    other = addSegmentation(editor.scene, editor.volume, ["third"])
    editor.logic.SetSegmentationNode(other)
    editor.rest()
    assert editor.ui.boxesTable.rowCount == 0
    bind(editor.rois[0], other, "third")
    other.GetSegmentation().GetSegment("third").SetName("of the other")
    editor.rest()
    assert editor.ui.boxesTable.item(0, 0).text() == "of the other"


@pytest.mark.parametrize("gone", ["volume", "segmentation"])
def test_a_preview_goes_with_its_volume_or_segmentation(editor, gone) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    node = editor.effect.session.preview.node
    editor.scene.RemoveNode(getattr(editor, gone))
    assert node.GetScene() is None and not editor.effect.session.preview.shown and "gone" in editor.status


def test_a_preview_goes_with_its_segment_and_stays_when_another_goes(editor) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    node, inner = editor.effect.session.preview.node, editor.segmentation.GetSegmentation()
    inner.RemoveSegment("second")
    assert editor.effect.session.preview.shown
    inner.RemoveSegment("first")
    assert node.GetScene() is None and not editor.effect.session.preview.shown and "gone" in editor.status
    editor.rest()
    assert "gone" in editor.status and not editor.ui.cancelButton.enabled


def test_fit_makes_a_box_for_a_painted_segment_and_refuses_an_empty_one(editor) -> None:
    editor.ui.applyButton.click()
    editor.finish()
    editor.scene.RemoveNode(editor.rois[0])
    editor.select("first")
    editor.ui.fitButton.click()
    (roi,) = boundRois(editor.segmentation, "first")
    assert max(roi.GetSize()) > 10
    editor.select("second")
    editor.ui.fitButton.click()
    assert "empty" in editor.status


def test_boxes_come_back_from_the_segments_tags(editor) -> None:
    editor.ui.applyAllButton.click()
    editor.finish()
    for roi in editor.rois:
        editor.scene.RemoveNode(roi)
    assert editor.ui.boxesTable.rowCount == 0 and editor.ui.restoreButton.enabled
    editor.ui.restoreButton.click()
    assert editor.ui.boxesTable.rowCount == 2 and not editor.ui.restoreButton.enabled
    assert np.allclose(editor.effect.table.rois[0].GetSize(), (14.56, 16.64, 18.72), atol=1e-3)


def test_settings_live_in_the_parameter_node(editor) -> None:
    ui = editor.ui
    assert [ui.strategyCombo.itemData(n) for n in range(ui.strategyCombo.count)] == ["auto", *STRATEGIES]
    assert "qmedsam-compact" in [ui.modelCombo.itemData(n) for n in range(ui.modelCombo.count)]
    ui.modeCombo.setCurrentIndex(ui.modeCombo.findData("add"))
    ui.modalityCombo.setCurrentIndex(ui.modalityCombo.findData("MR"))
    assert editor.node.GetAttribute("QMedSAM.mode") == "add" and editor.effect.settings.modality == "MR"
    editor.node.SetAttribute("QMedSAM.modality", "PET")
    editor.node.SetAttribute("QMedSAM.model", "of-another-computer")
    editor.effect.updateGUIFromMRML()
    assert ui.modalityCombo.itemData(ui.modalityCombo.currentIndex) == "PET"
    assert ui.modelCombo.itemData(ui.modelCombo.currentIndex) == "of-another-computer"
    editor.effect.logic._segmenters = type(editor.effect.logic)()._segmenters
    ui.previewButton.click()
    editor.finish()
    assert "no model 'of-another-computer'" in editor.status


def test_the_displayed_window_is_used_when_chosen(editor) -> None:
    windows = []

    class Recorder:
        def segment(self, volume, boxes, window=None, **options):
            windows.append(window)
            return brightSegmenter().segment(volume, boxes, window=window, **options)

    editor.effect.logic._segmenters = lambda model: Recorder()
    editor.volume.CreateDefaultDisplayNodes()
    editor.volume.GetDisplayNode().AutoWindowLevelOff()
    editor.volume.GetDisplayNode().SetWindowLevel(120, 60)
    editor.ui.windowCombo.setCurrentIndex(editor.ui.windowCombo.findData("displayed"))
    editor.ui.previewButton.click()
    editor.finish()
    assert windows == [(120, 60)]


def test_a_segmentation_of_surfaces_is_refused_with_a_sentence(editor) -> None:
    editor.segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    editor.ui.applyButton.click()
    assert "stored as Closed surface" in editor.status and not editor.effect.session.running


def test_a_volume_without_an_image_gets_a_sentence(editor, answers) -> None:
    editor.volume.SetAndObserveImageData(None)
    for button in (editor.ui.previewButton, editor.ui.applyAllButton, editor.ui.flatButton):
        editor.effect.panel.say("")
        button.click()
        assert "holds no image" in editor.status and not editor.effect.session.running
    assert not answers.errors  # no dialog: the user can mend it


def test_an_unforeseen_error_of_a_button_is_shown(editor, answers, monkeypatch) -> None:
    def fail(*arguments):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("QMedSAMSegmentLib.boxes.duplicate", fail)
    editor.ui.duplicateButton.click()
    assert "of all things" in editor.status and len(answers.errors) == 1


def test_without_a_box_there_is_a_sentence(editor) -> None:
    editor.scene.RemoveNode(editor.rois[0])
    editor.ui.previewButton.click()
    assert "no box" in editor.status and not editor.effect.session.running


def test_a_hidden_segment_that_the_user_keeps_hidden_is_left_alone(editor) -> None:
    editor.scripted.visibleAnswer = 0
    editor.ui.applyButton.click()
    assert not editor.effect.session.running
    editor.effect.onApply()
    assert not editor.mask("first").any()


def test_for_scripts_on_apply_returns_when_it_is_done(editor) -> None:
    assert slicer.util.mainWindow() is None
    editor.effect.onApply()
    assert np.array_equal(editor.mask("first"), editor.truths[0]) and editor.scripted.undoSaves == 1
    assert "Applied" in editor.status and "roi 0: " in editor.status


def test_masking_of_the_editor_is_respected(editor) -> None:
    editor.ui.applyButton.click()
    editor.finish()
    editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    editor.rois[1].SetNodeReferenceID("QMedSAM.Segmentation", editor.segmentation.GetID())
    editor.rois[0].SetAttribute("QMedSAM.SegmentID", "second")
    editor.select("second")
    editor.ui.applyButton.click()
    editor.finish()
    assert np.array_equal(editor.mask("second"), editor.truths[1])  # the first blob is another segment's


def test_replace_keeps_what_was_painted_where_the_editor_may_not_write(editor) -> None:
    far = np.zeros(editor.truths[0].shape, bool)
    far[0:4, 30:39, 0:10] = True  # by hand, away from the box, on grey values outside the range
    to_ras = ijkToWorld(editor.volume)
    image = orientedImage(far, tuple(slice(0, n) for n in far.shape), to_ras)
    editor.logic.ModifySegmentByLabelmap(editor.segmentation, "first", image, editor.logic.ModificationModeSet, True, False)
    editor.node.SetSourceVolumeIntensityMask(True)
    editor.node.SetSourceVolumeIntensityMaskRange(150, 255)
    editor.ui.applyButton.click()
    editor.finish()
    assert np.array_equal(editor.mask("first"), far | editor.truths[0])


def test_apply_all_leaves_a_segment_alone_whose_box_finds_nothing(editor) -> None:
    editor.ui.applyAllButton.click()
    editor.finish()
    slicer.util.arrayFromVolume(editor.volume)[editor.truths[1]] = 0
    editor.volume.GetImageData().Modified()
    editor.ui.applyAllButton.click()
    editor.finish()
    assert np.array_equal(editor.mask("second"), editor.truths[1])
    assert "Applied" in editor.status and "Nothing was found in the boxes of 'second'" in editor.status


@pytest.mark.parametrize("selected", ["first", "second"])
def test_apply_all_masks_every_segment_by_its_own_editable_area(editor, selected) -> None:
    """Two boxes of one object, outside all segments: the first to be written has it, whichever row is selected."""
    place = editor.rois[0].GetObjectToWorldMatrix()
    editor.rois[1].SetAndObserveObjectToNodeMatrix(place)
    editor.rois[1].SetSize(*editor.rois[0].GetSize())
    editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    for _ in range(2):  # again: what a segment has already is not outside of all others, but its own
        editor.select(selected)
        editor.ui.applyAllButton.click()
        editor.finish()
        assert np.array_equal(editor.mask("first"), editor.truths[0]) and not editor.mask("second").any()
        assert editor.node.GetSelectedSegmentID() == selected
    editor.logic.Undo()
    editor.logic.Undo()
    assert not editor.mask("first").any() and not editor.logic.CanUndo()


def test_a_closed_scene_ends_everything(editor) -> None:
    pending = []
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    editor.ui.previewButton.click()
    assert editor.effect.session.running
    editor.scene.Clear(False)
    assert not editor.effect.session.running
    pending[0]()
    HandTimer.last.callback()
    assert not editor.effect.session.preview.shown


def _waiting(editor) -> list:
    """Runs that start when the test calls them."""
    pending: list = []
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    return pending


def test_a_volume_deleted_during_a_run_is_said_and_frees_the_panel(editor) -> None:
    pending = _waiting(editor)
    editor.ui.previewButton.click()
    assert not editor.ui.progressBar.isHidden()
    editor.scene.RemoveNode(editor.volume)
    pending[0]()
    editor.finish()
    assert editor.ui.progressBar.isHidden() and "gone" in editor.status and not editor.effect.session.running


def test_an_image_moved_during_a_run_gets_nothing_written(editor) -> None:
    pending = _waiting(editor)
    editor.ui.applyButton.click()
    editor.volume.SetOrigin(*(np.array(editor.volume.GetOrigin()) + (6, 0, 0)))
    pending[0]()
    editor.finish()
    assert "changed during the run" in editor.status and editor.scripted.undoSaves == 0 and editor.ui.applyButton.enabled


@pytest.fixture
def frames(editor):
    """A function that shows a frame of the editor's volume and segmentation: the blobs, or a dark image."""
    scene, dark = editor.scene, addVolume(editor.scene, np.zeros(editor.truths[0].shape, np.uint8), ijkToWorld(editor.volume))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    for proxy, other in (
        (editor.volume, dark),
        (editor.segmentation, addSegmentation(scene, editor.volume, ["first", "second"])),
    ):
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
        sequence.SetDataNodeAtValue(proxy, "0")
        sequence.SetDataNodeAtValue(other, "1")
        browser.AddSynchronizedSequenceNodeID(sequence.GetID())
        browser.AddProxyNode(proxy, sequence, False)
        browser.SetSaveChanges(sequence, proxy is editor.segmentation)

    def show(frame: int) -> None:
        browser.SetSelectedItemNumber(frame)
        logicOf("vtkSlicerSequencesLogic").UpdateProxyNodesFromSequences(browser)

    show(0)
    editor.rest()
    return show


def test_what_was_found_in_a_frame_is_not_written_into_another(editor, frames) -> None:
    pending = _waiting(editor)
    editor.ui.applyButton.click()
    frames(1)
    pending[0]()
    editor.finish()
    assert "image has changed" in editor.status and not editor.mask("first").any()
    frames(0)
    editor.ui.applyButton.click()
    pending[1]()
    editor.finish()
    assert np.array_equal(editor.mask("first"), editor.truths[0])


def test_a_preview_goes_with_its_frame(editor, frames) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    assert editor.effect.session.preview.shown
    frames(1)
    assert not editor.effect.session.preview.shown and "image has changed" in editor.status


@pytest.mark.parametrize("meanwhile", ["moved", "deleted"])
def test_what_comes_back_is_the_box_that_was_applied(editor, meanwhile) -> None:
    pending, roi = _waiting(editor), editor.rois[0]
    applied = boxFromRoi(roi, editor.volume).corners_ijk
    editor.ui.applyButton.click()
    if meanwhile == "moved":
        roi.SetCenterWorld(*(np.array(roi.GetCenterWorld()) + (30, 0, 0)))
    else:
        editor.scene.RemoveNode(roi)
    pending[0]()
    editor.finish()
    assert np.array_equal(editor.mask("first"), editor.truths[0])
    if meanwhile == "moved":
        editor.scene.RemoveNode(roi)
    editor.ui.restoreButton.click()
    (restored,) = boundRois(editor.segmentation, "first")
    assert np.allclose(boxFromRoi(restored, editor.volume).corners_ijk, applied, atol=1e-3)


def test_leaving_the_effect_in_a_run_frees_the_panel(editor) -> None:
    _waiting(editor)
    editor.ui.previewButton.click()
    editor.effect.deactivate()
    assert editor.ui.progressBar.isHidden() and editor.status == "" and editor.ui.previewButton.isEnabled()


def test_an_apply_that_was_left_is_spoken_of_once_on_return(editor) -> None:
    pending = _waiting(editor)
    editor.ui.applyAllButton.click()
    editor.effect.deactivate()  # another module was looked at
    editor.effect.sourceVolumeNodeChanged()  # as the editor tells it when it is entered again
    pending[0]()
    editor.effect.activate()
    assert "nothing was written" in editor.status and not editor.mask("first").any() and not editor.effect.session.running
    editor.effect.deactivate()
    editor.effect.activate()
    assert editor.status == ""
    editor.ui.applyButton.click()
    editor.effect.sourceVolumeNodeChanged()
    assert "nothing was written" in editor.status


def test_an_error_while_a_result_is_written_reaches_the_user(editor, monkeypatch) -> None:
    pending = _waiting(editor)
    editor.ui.applyButton.click()

    def refuse(*arguments):
        raise QMedSAMError("The grid bends.", "Harden it.")

    monkeypatch.setattr(Run, "write", refuse)
    pending[0]()
    editor.finish()
    assert "The grid bends" in editor.status and editor.ui.progressBar.isHidden() and editor.ui.applyButton.isEnabled()


def test_a_key_or_a_released_handle_does_not_throw_an_apply_away(editor) -> None:
    pending = _waiting(editor)
    editor.ui.applyButton.click()
    editor.effect.onPreview()
    assert len(pending) == 1
    pending[0]()
    editor.finish()
    assert np.array_equal(editor.mask("first"), editor.truths[0])


def test_leaving_the_effect_drops_the_preview_and_its_observers(editor) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    editor.effect.deactivate()
    assert not editor.effect.session.preview.shown
    editor.ui.autoUpdateCheck.checked = True
    editor.rois[0].InvokeEvent(editor.rois[0].PointEndInteractionEvent)
    assert not editor.effect.session.running
    editor.effect.panel._soon.stop()
    editor.logic.SetCurrentSegmentID("second")
    editor.segmentation.GetSegmentation().GetSegment("first").SetName("renamed")
    addRoi(editor.scene, (0, 0, 0), np.eye(3))
    assert not editor.effect.panel._soon.isActive()


def test_an_unforeseen_error_is_shown_and_the_effect_goes_on(editor, answers) -> None:
    class Broken:
        def segment(self, *arguments, **options):
            raise ZeroDivisionError("of all things")

    editor.effect.logic._segmenters = lambda model: Broken()
    editor.ui.previewButton.click()
    editor.finish()
    assert len(answers.errors) == 1 and "of all things" in answers.errors[0]
    assert editor.ui.previewButton.enabled and not editor.effect.session.running


def test_keys_exist_only_while_the_effect_is_active_and_shadow_nothing(editor) -> None:
    window = QtWidgets.QMainWindow()  # without one the effect has no keys
    window.setObjectName("qSlicerMainWindow")
    assert window.findChildren(QtGui.QShortcut) == []
    editor.effect.deactivate()
    editor.effect.activate()
    keys = [shortcut.key.toString() for shortcut in window.findChildren(QtGui.QShortcut)]
    taken = [*"1234567890ZYQWI*,.<>", "Space", "Esc", "Ctrl+Z", "Ctrl+Y", *(f"Shift+{n}" for n in range(10)), *"FBVRGT"]
    assert len(keys) == 4 and not set(keys) & set(taken)
    assert editor.effect.createCursor(None) is not None
    editor.effect.deactivate()
    assert window.findChildren(QtGui.QShortcut) == []
    window.setObjectName("")


def test_an_estimate_follows_the_first_run(editor) -> None:
    assert "slices in all boxes" in editor.ui.hintLabel.text and "about" not in editor.ui.hintLabel.text
    editor.ui.previewButton.click()
    editor.finish()
    assert "about" in editor.ui.hintLabel.text


def test_with_a_real_thread_and_timer_the_window_stays_alive(editor) -> None:
    class Slow(FakeNetwork):
        def encode(self, image):
            time.sleep(0.05)  # releases Python's lock, as OpenVINO does
            return super().encode(image)

    beats, loop, deadline = [], QtCore.QEventLoop(), time.monotonic() + 60

    def beat() -> None:
        beats.append(time.monotonic())
        if not editor.effect.session.running or beats[-1] > deadline:
            loop.quit()

    heart = QtCore.QTimer()
    heart.setInterval(5)
    heart.timeout.connect(beat)
    heart.start()
    editor.effect.logic._segmenters = lambda model: Segmenter(network=Slow(256))
    editor.effect.jobs = Job
    editor.ui.applyButton.click()
    assert editor.effect.session.running and not editor.mask("first").any()
    loop.exec()
    heart.stop()
    assert np.array_equal(editor.mask("first"), editor.truths[0])
    assert len(beats) > 10


@pytest.mark.skipif("vote" not in STRATEGIES, reason="this engine does not vote")
def test_a_vote_shows_its_agreement_with_the_preview(editor) -> None:
    editor.ui.strategyCombo.setCurrentIndex(editor.ui.strategyCombo.findData("vote"))
    editor.ui.agreementCheck.checked = True
    editor.ui.previewButton.click()
    editor.finish()
    node = editor.effect.session.agreement.node
    votes = slicer.util.arrayFromVolume(node)
    assert votes.shape == editor.truths[0].shape and votes.max() > 50 and votes[editor.truths[0]].mean() > 50
    editor.ui.cancelButton.click()
    assert node.GetScene() is None


@pytest.mark.skipif("vote" not in STRATEGIES, reason="this engine does not vote")
def test_a_scene_saved_during_a_preview_holds_nothing_of_it(editor, tmp_path) -> None:
    scene, view = editor.scene, slicer.vtkMRMLSliceCompositeNode()
    view.SetLayoutName("Red")
    view = scene.AddNode(view)
    view.SetForegroundVolumeID(editor.volume.GetID())
    scene.SetURL(str(tmp_path / "s.mrml"))

    def committed() -> str:
        assert scene.Commit()
        return (tmp_path / "s.mrml").read_text()

    before = committed()
    editor.ui.strategyCombo.setCurrentIndex(editor.ui.strategyCombo.findData("vote"))
    editor.ui.agreementCheck.checked = True
    editor.ui.previewButton.click()
    editor.finish()
    during = committed()
    for tag in ("<Segmentation ", "<SegmentationDisplay", "<Volume ", "<VolumeDisplay"):
        assert during.count(tag) == before.count(tag), tag
    scene.InvokeEvent(scene.StartSaveEvent)  # as the application says it before and after
    assert f"foregroundVolume:{editor.volume.GetID()};" in committed()
    scene.InvokeEvent(scene.EndSaveEvent)
    assert editor.effect.session.preview.shown and view.GetForegroundVolumeID() == editor.effect.session.agreement.node.GetID()


def test_without_a_vote_no_agreement_is_offered(editor) -> None:
    check = editor.ui.agreementCheck
    assert check.isVisibleTo(check.parentWidget()) == ("vote" in STRATEGIES)
    editor.ui.agreementCheck.checked = True
    assert editor.effect.settings.agreement == "yes"
    editor.ui.previewButton.click()
    editor.finish()
    assert editor.effect.session.preview.shown and editor.effect.session.agreement.node is None


def test_rois_of_the_scene_are_used_for_a_segment_or_get_new_ones(editor) -> None:
    combo = editor.ui.roiCombo
    assert not _visible(editor.ui.roiFrame)  # both belong to segments
    for roi in editor.rois:
        roi.RemoveAttribute("QMedSAM.SegmentID")
        roi.GetDisplayNode().SetSelectedColor(0.2, 0.4, 0.9)
    editor.effect.updateGUIFromMRML()
    assert editor.ui.boxesTable.rowCount == 0 and not _visible(editor.ui.boxesTable)
    assert [combo.itemData(n) for n in range(combo.count)] == ["", *(roi.GetID() for roi in editor.rois)]
    combo.activated.emit(0)
    assert editor.ui.boxesTable.rowCount == 0
    combo.activated.emit(1)
    assert boundRois(editor.segmentation, "first") == [editor.rois[0]] and combo.count == 2
    editor.rois[0].RemoveAttribute("QMedSAM.SegmentID")
    editor.effect.updateGUIFromMRML()
    editor.ui.useAllButton.click()
    inner = editor.segmentation.GetSegmentation()
    made = [inner.GetNthSegmentID(n) for n in range(inner.GetNumberOfSegments())][2:]
    assert [inner.GetSegment(one).GetName() for one in made] == ["roi 0", "roi 1"]
    assert np.allclose(inner.GetSegment(made[1]).GetColor(), (0.2, 0.4, 0.9), atol=0.01)
    editor.ui.applyAllButton.click()
    editor.finish()
    assert all(np.array_equal(editor.mask(one), truth) for one, truth in zip(made, editor.truths))
    editor.logic.Undo()
    editor.logic.Undo()
    assert inner.GetNumberOfSegments() == 2
