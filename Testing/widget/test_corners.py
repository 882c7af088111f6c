"""The corners of the application: other modules' boxes, previews that grow old, two editors, boxes not used, large scenes."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import slicer
from editing import Editor, blobs
from nodes import HandTimer, addRoi, addSegmentation, addTransform, addVolume, brightSegmenter, grid, labelmaps
from PySide6 import QtCore, QtGui, QtTest, QtWidgets
from QMedSAMSegmentLib import boxes, grids, keys, volumes
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.preview import FRESH, STALE
from QMedSAMSegmentLib.worker import Job


def _preview(editor) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    assert editor.effect.session.preview.shown and "Apply writes it" in editor.status and not _dimmed(editor)


def _dimmed(editor) -> bool:
    display = editor.effect.session.preview.node.GetDisplayNode()
    look = display.GetOpacity2DFill(), display.GetOpacity2DOutline()
    assert look in (FRESH, STALE)
    return look == STALE


# Other modules' boxes


def test_all_of_them_leaves_other_modules_boxes_alone(editor) -> None:
    scene, inner = editor.scene, editor.segmentation.GetSegmentation()
    place = editor.rois[0].GetCenterWorld()
    crop = addRoi(scene, place, np.eye(3) * 12, name="Crop Volume ROI")
    parameters = scene.AddNode(slicer.vtkMRMLCropVolumeParametersNode())
    parameters.SetROINodeID(crop.GetID())
    hidden = addRoi(scene, place, np.eye(3) * 5, name="hidden")
    hidden.GetDisplayNode().SetVisibility(False)
    away = addRoi(scene, (900, 0, 0), np.eye(3) * 5, name="other study")
    mine = addRoi(scene, place, np.eye(3) * 7, name="mine")
    foreign = (crop, hidden, away)
    before = [(one.GetDisplayNode().GetSelectedColor(), one.GetDisplayNode().GetHandlesInteractive()) for one in foreign]
    editor.rest()
    editor.effect.updateGUIFromMRML()
    combo = editor.ui.roiCombo
    listed = [combo.itemText(n) for n in range(combo.count)][1:]
    assert [text for text in listed if "(" not in text] == ["mine"] and len(listed) == 4
    editor.ui.useAllButton.click()
    assert inner.GetNumberOfSegments() == 3 and inner.GetNthSegment(2).GetName() == "mine"
    assert boxes.boundRois(editor.segmentation, inner.GetNthSegmentID(2)) == [mine]
    assert not editor.ui.useAllButton.enabled
    after = [(one.GetDisplayNode().GetSelectedColor(), one.GetDisplayNode().GetHandlesInteractive()) for one in foreign]
    assert before == after and not any(one.GetAttribute(boxes.SEGMENT_ATTRIBUTE) for one in foreign)


def test_undo_gives_an_rois_own_look_back(editor) -> None:
    roi = addRoi(editor.scene, editor.rois[0].GetCenterWorld(), np.eye(3) * 7, name="mine")
    display = roi.GetDisplayNode()
    display.SetColor(0.75, 0.5, 0.25)
    display.SetHandlesInteractive(False)
    before = display.GetSelectedColor(), display.GetColor(), display.GetHandlesInteractive()
    editor.rest()
    editor.ui.useAllButton.click()
    assert display.GetHandlesInteractive() and display.GetColor() == display.GetSelectedColor()
    editor.logic.Undo()
    editor.rest()
    assert (display.GetSelectedColor(), display.GetColor(), display.GetHandlesInteractive()) == before


# What is lost


def test_a_segment_deleted_during_apply_all_costs_the_others_nothing(editor) -> None:
    pending: list = []
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    editor.ui.applyAllButton.click()
    editor.segmentation.GetSegmentation().RemoveSegment("first")
    pending[0]()
    editor.finish()
    assert np.array_equal(editor.mask("second"), editor.truths[1])
    assert "'first' is gone" in editor.status and "Applied" in editor.status


def test_a_box_outside_the_image_is_named_and_the_others_are_applied(editor) -> None:
    editor.rois[0].SetCenterWorld(5000, 0, 0)
    editor.ui.applyAllButton.click()
    editor.finish()
    assert np.array_equal(editor.mask("second"), editor.truths[1])
    assert "'roi 0' lies outside the image" in editor.status and "Applied" in editor.status
    editor.ui.applyButton.click()
    editor.finish()
    assert "lies outside the image" in editor.status and "Applied" not in editor.status


def test_the_panel_says_what_was_cut_and_counts_what_is_left(editor) -> None:
    shape = np.array(editor.truths[0].shape)
    shape[2] = 12
    part = addVolume(editor.scene, np.zeros(shape, np.uint8), ijkToWorld(editor.volume), "part")
    editor.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(part)
    inside = editor.truths[0].copy()
    inside[:, :, 12:] = False
    assert 100 < inside.sum() < editor.truths[0].sum() - 100
    for button in (editor.ui.previewButton, editor.ui.applyButton):
        button.click()
        if editor.effect.session.running:
            editor.finish()
        assert f"roi 0: {inside.sum() * 2.5 / 1000:.1f} ml" in editor.status
        assert f"{(editor.truths[0] & ~inside).sum() * 2.5 / 1000:.1f} ml of 'roi 0' lie outside" in editor.status
    assert np.array_equal(editor.mask("first"), inside)


def test_a_picture_has_pixels_not_millilitres(app) -> None:
    array = np.full((1, 40, 50, 3), 20, np.uint8)
    array[0, 10:20, 15:35] = 220
    volume = addVolume(slicer.mrmlScene, array, np.eye(4), "photo")
    roi = addRoi(slicer.mrmlScene, (25, 15, 0), np.diag([14, 8, 3.0]), name="lesion")
    editor = Editor(slicer.mrmlScene, volume, [roi], {"a": (1, 0, 0)})
    editor.effect.logic._segmenters = brightSegmenter
    editor.ui.applyButton.click()
    editor.finish()
    assert "lesion: 200 pixels" in editor.status and " ml" not in editor.status
    editor.effect.deactivate()


# Previews that grow old


def _moveVolume(editor):
    editor.volume.SetAndObserveTransformNodeID(addTransform(editor.scene, grid((1, 1, 1), (0, 0, 0), (4, 0, 0))).GetID())


def _moveSegmentation(editor):
    editor.segmentation.SetAndObserveTransformNodeID(addTransform(editor.scene, grid((1, 1, 1), (0, 0, 0), (4, 0, 0))).GetID())


def _moveBox(editor):
    editor.rois[0].SetCenterWorld(*(np.array(editor.rois[0].GetCenterWorld()) + (3, 0, 0)))


def _moveBoxByTransform(editor):
    editor.rois[0].SetAndObserveTransformNodeID(addTransform(editor.scene, grid((1, 1, 1), (0, 0, 0), (3, 0, 0))).GetID())


def _secondBox(editor):
    boxes.bind(addRoi(editor.scene, editor.rois[0].GetCenterWorld(), np.eye(3) * 5), editor.segmentation, "first")


def _anotherGeometry(editor):
    part = addVolume(editor.scene, np.zeros((16, 40, 12), np.uint8), ijkToWorld(editor.volume), "part")
    editor.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(part)
    editor.effect.referenceGeometryChanged()  # as the editor tells it


def _anotherSetting(editor):
    editor.ui.strategyCombo.setCurrentIndex(editor.ui.strategyCombo.findData("propagate"))


def _anotherSegment(editor):
    editor.logic.SetCurrentSegmentID("second")


CHANGES = (
    _moveVolume,
    _moveSegmentation,
    _moveBox,
    _moveBoxByTransform,
    _secondBox,
    _anotherGeometry,
    _anotherSetting,
    _anotherSegment,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_preview_that_is_out_of_date_says_so(editor, change) -> None:
    _preview(editor)
    change(editor)
    editor.rest()
    assert _dimmed(editor) and "out of date" in editor.status and "Apply writes it" not in editor.status
    editor.ui.applyButton.click()
    assert editor.effect.session.running  # computed anew, not written unseen
    editor.finish()
    assert not editor.effect.session.preview.shown


def test_a_preview_as_displayed_is_out_of_date_with_another_window(editor) -> None:
    editor.volume.CreateDefaultDisplayNodes()
    display = editor.volume.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(255, 127)
    editor.effect.updateGUIFromMRML()
    for window, stale in (("auto", False), ("displayed", True)):
        display.SetWindowLevel(255, 127)
        editor.scripted.setParameter("window", window)
        editor.rest()
        _preview(editor)
        display.SetWindowLevel(100, 50)
        editor.rest()
        assert _dimmed(editor) == stale and ("out of date" in editor.status) == stale


def test_a_preview_is_up_to_date_again_when_the_change_is_taken_back(editor) -> None:
    _preview(editor)
    said, place = editor.status, np.array(editor.rois[0].GetCenterWorld())
    editor.rois[0].SetCenterWorld(*(place + (3, 0, 0)))
    editor.rest()
    assert _dimmed(editor)
    editor.rois[0].SetCenterWorld(*place)
    editor.rest()
    assert not _dimmed(editor) and editor.status == said
    editor.ui.applyButton.click()
    assert not editor.effect.session.running and np.array_equal(editor.mask("first"), editor.truths[0])


def test_a_preview_stays_up_to_date_when_everything_is_moved_together(editor) -> None:
    _preview(editor)
    move = addTransform(editor.scene, grid((1, 1, 1), (5, 60, -20), (3, 4, 5)))
    for node in (editor.volume, editor.segmentation, *editor.rois):
        node.SetAndObserveTransformNodeID(move.GetID())
    editor.rest()
    assert not _dimmed(editor)
    editor.ui.applyButton.click()
    assert not editor.effect.session.running
    for node in (editor.volume, editor.segmentation):
        node.SetAndObserveTransformNodeID(None)
    assert np.array_equal(editor.mask("first"), editor.truths[0])


def test_voxels_edited_in_place_drop_the_preview(editor) -> None:
    _preview(editor)
    slicer.util.arrayFromVolume(editor.volume)[2:4] = 7
    slicer.util.arrayFromVolumeModified(editor.volume)
    assert not editor.effect.session.preview.shown and "image has changed" in editor.status


def test_preview_on_release_follows_numbers_and_scripts_too(editor) -> None:
    editor.ui.autoUpdateCheck.checked = True
    editor.rest()
    assert not editor.effect.session.running
    editor.rois[1].SetSize(12, 12, 12)  # as the Markups module's spin boxes do
    editor.rest()
    assert editor.effect.session.running
    editor.finish()
    assert list(editor.effect.session.preview.node.GetSegmentation().GetSegmentIDs()) == ["second"] and not _dimmed(editor)
    shown = editor.effect.session.shown
    editor.rois[1].SetName("renamed")  # nothing has moved
    editor.rest()
    assert editor.effect.session.shown is shown
    editor.rois[1].InvokeEvent(editor.rois[1].PointStartInteractionEvent)  # a handle is held, and rests for a while
    editor.rois[1].SetSize(14, 14, 14)
    editor.rest()
    assert not editor.effect.session.running
    editor.rois[1].InvokeEvent(editor.rois[1].PointEndInteractionEvent)
    assert editor.effect.session.running


# Two editors, and boxes that are not used


@pytest.fixture
def two(editor):
    """The editor, and a second one on another segmentation of the same volume."""
    volume, rois, _ = blobs(editor.scene)
    other = Editor(editor.scene, volume, rois, {"a": (1, 0, 0), "b": (0, 1, 0)})
    other.effect.logic._segmenters = brightSegmenter
    yield editor, other
    other.effect.deactivate()


def test_keys_work_while_two_editors_have_the_effect(two) -> None:
    first, second = two
    window = QtWidgets.QMainWindow()
    window.setObjectName("qSlicerMainWindow")
    central = QtWidgets.QStackedWidget()  # of two modules one is seen
    window.setCentralWidget(central)
    try:
        for editor in two:
            editor.effect.deactivate()
            central.addWidget(editor.scripted.options)
            editor.effect.activate()
        assert len(window.findChildren(QtGui.QShortcut)) == len(keys.KEYS)
        window.show()
        window.activateWindow()
        assert QtTest.QTest.qWaitForWindowActive(window)
        for seen, other in ((first, second), (second, first), (first, second)):
            central.setCurrentWidget(seen.scripted.options)
            QtTest.QTest.keyClick(window, QtCore.Qt.Key_P, QtCore.Qt.ShiftModifier)
            assert seen.effect.session.running and not other.effect.session.running
            seen.effect.session.close()
        first.effect.deactivate()
        QtTest.QTest.keyClick(window, QtCore.Qt.Key_P, QtCore.Qt.ShiftModifier)
        assert second.effect.session.running
    finally:
        for editor in two:
            editor.effect.deactivate()
            editor.scripted.options.setParent(None)
        assert window.findChildren(QtGui.QShortcut) == []
        window.setObjectName("")


def _visible(rois) -> list:
    return [bool(roi.GetDisplayNode().GetVisibility()) for roi in rois]


def test_boxes_leave_the_views_with_the_effect_and_come_back(editor) -> None:
    editor.rois[1].GetDisplayNode().SetVisibility(False)  # by the user
    for _ in range(2):
        editor.effect.deactivate()
        assert _visible(editor.rois) == [False, False]
        editor.effect.activate()
        assert _visible(editor.rois) == [True, False]


def test_boxes_of_another_segmentation_are_out_of_the_views(editor) -> None:
    other = addSegmentation(editor.scene, editor.volume, ["third"])
    editor.logic.SetSegmentationNode(other)
    editor.rest()
    assert _visible(editor.rois) == [False, False]
    editor.logic.SetSegmentationNode(editor.segmentation)
    editor.rest()
    assert _visible(editor.rois) == [True, True]


def test_boxes_stay_in_the_views_while_another_editor_uses_them(two) -> None:
    first, second = two
    second.logic.SetSegmentationNode(first.segmentation)
    second.rest()
    first.effect.deactivate()
    assert _visible(first.rois) == [True, True] and _visible(second.rois) == [False, False]
    second.effect.deactivate()
    assert _visible(first.rois) == [False, False]


# Small


@pytest.mark.parametrize("order", ["editor first", "scene first"])
def test_a_volume_deleted_during_a_preview_run_is_said(editor, order) -> None:
    """The editor tells the effect that its source volume is another one before or after the scene tells that it is gone."""
    pending: list = []
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    editor.ui.previewButton.click()
    if order == "editor first":
        editor.scene.AddObserver(editor.scene.NodeAboutToBeRemovedEvent, lambda *_: None)
        editor.effect.observations.removeObserver(editor.scene, editor.scene.NodeRemovedEvent, editor.effect.events.nodeRemoved)
    editor.scene.RemoveNode(editor.volume)
    editor.effect.sourceVolumeNodeChanged()
    pending[0]()
    editor.finish()
    editor.rest()
    assert "gone" in editor.status and not editor.effect.session.running and editor.ui.progressBar.isHidden()


def _sliceView(scene, mapped: bool):
    node = slicer.vtkMRMLSliceNode()
    node.SetName("Red")
    node.SetLayoutName("Red")
    node = scene.AddNode(node)
    node.SetMappedInLayout(mapped)
    return node


def test_in_a_layout_without_slice_views_the_preview_is_in_3d_and_the_hint_is_true(editor) -> None:
    view = _sliceView(editor.scene, mapped=False)
    editor.ui.addButton.click()
    assert "no slice view" in editor.status
    editor.effect.boxes.endPlacing()
    _preview(editor)
    node = editor.effect.session.preview.node
    assert (
        node.GetDisplayNode().GetVisibility3D() and node.GetClosedSurfaceInternalRepresentation("first").GetNumberOfPoints() > 50
    )
    view.SetMappedInLayout(True)
    editor.effect.layoutChanged()
    assert not node.GetDisplayNode().GetVisibility3D()
    editor.ui.addButton.click()
    assert "Click two" in editor.status


def test_a_setting_that_nobody_knows_is_said_and_nothing_runs(editor) -> None:
    before = labelmaps(editor.segmentation)
    editor.scripted.setParameter("mode", "Add")  # by a script
    editor.effect.updateGUIFromMRML()
    for button in (editor.ui.previewButton, editor.ui.applyButton):
        button.click()
        assert "no mode 'Add'" in editor.status and not editor.effect.session.running
    editor.scripted.setParameter("mode", "")
    editor.ui.applyButton.click()
    editor.finish()
    assert labelmaps(editor.segmentation) != before and np.array_equal(editor.mask("first"), editor.truths[0])


def test_a_window_by_the_engines_name_is_used_and_shown(editor) -> None:
    seen = []

    class Recorder:
        def segment(self, volume, boxes, window=None, **options):
            seen.append(window)
            return brightSegmenter().segment(volume, boxes, window=window, **options)

    editor.effect.logic._segmenters = lambda model: Recorder()
    combo = editor.ui.windowCombo
    combo.setCurrentIndex(combo.findData("bone"))
    _preview(editor)
    assert seen == [(1800, 400)] and editor.effect.settings.window == "bone"


def test_the_volume_that_is_segmented_is_named_where_another_is_shown(editor) -> None:
    """PET over CT: what is in the foreground or the background is not what counts."""
    assert "source volume" not in editor.ui.hintLabel.text
    view = _sliceView(editor.scene, mapped=True)
    other = addVolume(editor.scene, np.zeros((4, 5, 6), np.uint8), grid(), "PET")
    composite = slicer.vtkMRMLSliceCompositeNode()
    composite.SetLayoutName(view.GetLayoutName())
    composite = editor.scene.AddNode(composite)
    composite.SetBackgroundVolumeID(editor.volume.GetID())
    editor.effect.updateGUIFromMRML()
    assert "source volume" not in editor.ui.hintLabel.text
    composite.SetForegroundVolumeID(other.GetID())
    composite.SetForegroundOpacity(0.5)
    editor.effect.updateGUIFromMRML()
    assert f"source volume '{editor.volume.GetName()}'" in editor.ui.hintLabel.text
    _preview(editor)
    assert f"source volume '{editor.volume.GetName()}'" in editor.status
    composite.SetForegroundOpacity(0)
    composite.SetBackgroundVolumeID(other.GetID())
    editor.effect.updateGUIFromMRML()
    assert f"source volume '{editor.volume.GetName()}'" in editor.ui.hintLabel.text


# Large


def test_a_large_volume_is_copied_in_pieces_and_let_go(editor, monkeypatch) -> None:
    pending: list = []
    monkeypatch.setattr(volumes, "PIECE", 3 * editor.truths[0][0].nbytes)  # three slices
    monkeypatch.setattr(Job, "PREPARE_S", 0.0)
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    editor.ui.previewButton.click()
    run = editor.effect.session._run
    known = weakref.ref(run.task.volume.array_kji)
    steps = 0
    while not pending:
        HandTimer.last.callback()
        steps += 1
    assert steps == 5  # and the first at once: 16 slices
    assert np.array_equal(run.task.volume.array_kji, slicer.util.arrayFromVolume(editor.volume))
    pending.pop()()
    editor.finish()
    assert editor.effect.session.shown is run and known() is None and run.result.labels_kji.size == 0
    editor.ui.applyButton.click()
    assert np.array_equal(editor.mask("first"), editor.truths[0])


def test_an_image_that_changes_while_it_is_copied_is_not_segmented(editor, monkeypatch) -> None:
    pending: list = []
    monkeypatch.setattr(volumes, "PIECE", 3 * editor.truths[0][0].nbytes)
    monkeypatch.setattr(Job, "PREPARE_S", 0.0)
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    editor.ui.applyButton.click()
    slicer.util.arrayFromVolume(editor.volume)[:] = 9
    slicer.util.arrayFromVolume(editor.volume).base  # noqa: B018
    editor.volume.GetImageData().GetPointData().GetScalars().Modified()  # nobody is told
    HandTimer.last.callback()
    assert not pending and "image changed" in editor.status and not editor.effect.session.running


def test_the_scene_is_walked_as_often_for_forty_boxes_as_for_two(editor, monkeypatch) -> None:
    """A hundred segments stay usable: no list of the panel looks through the scene once for each of them."""
    walks: list = []
    original = boxes._rois
    monkeypatch.setattr(boxes, "_rois", lambda scene: walks.append(1) or original(scene))

    def update() -> int:
        walks.clear()
        editor.effect.updateGUIFromMRML()
        return len(walks)

    few, inner = update(), editor.segmentation.GetSegmentation()
    for n in range(40):
        inner.AddEmptySegment(f"s{n}", f"s{n}")
        inner.GetSegment(f"s{n}").SetTag("QMedSAM.Boxes", "0 0 0 1 0 0 0 1 0 0 0 1")
        boxes.bind(addRoi(editor.scene, editor.rois[0].GetCenterWorld(), np.eye(3) * 4), editor.segmentation, f"s{n}")
    assert update() == few and editor.ui.boxesTable.rowCount == 42


def test_without_masking_a_write_does_not_look_at_the_rest_of_the_labelmap(editor, monkeypatch) -> None:
    """A hundred segments share one labelmap as large as the image: to cover it for each of them takes minutes."""
    looked: list = []
    original = grids.coveringSegment
    monkeypatch.setattr("QMedSAMSegmentLib.runs.coveringSegment", lambda *a: looked.append(1) or original(*a))
    editor.ui.applyAllButton.click()
    editor.finish()
    assert not looked and all(np.array_equal(editor.mask(s), t) for s, t in zip(("first", "second"), editor.truths))
    editor.node.SetSourceVolumeIntensityMask(True)
    editor.node.SetSourceVolumeIntensityMaskRange(0, 255)
    editor.ui.applyAllButton.click()
    editor.finish()
    assert len(looked) == 2


def test_of_many_objects_what_has_to_be_known_comes_first(editor) -> None:
    for n in range(6):
        editor.segmentation.GetSegmentation().AddEmptySegment(f"s{n}", f"s{n}")
        boxes.bind(addRoi(editor.scene, editor.rois[0].GetCenterWorld(), np.eye(3) * 4, f"box {n}"), editor.segmentation, f"s{n}")
    editor.rois[1].SetCenterWorld(5000, 0, 0)
    editor.ui.applyAllButton.click()
    editor.finish()
    lines = editor.status.split("\n")
    named = next(n for n, line in enumerate(lines) if "'roi 1' lies outside" in line)
    found = [n for n, line in enumerate(lines) if "confidence" in line]
    assert "Applied" in lines[0] and len(found) == 7 and 0 < named < min(found)
