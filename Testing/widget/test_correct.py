"""*Correct* as a user meets it: button, toggle, keys, mouse, brush, waiting strokes, cancel, what goes away meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from corrections import RuleSegmenter
from drawing import EVENTS, DrawnView, visible
from nodes import HandTimer, addSegmentation, labelmaps
from PySide6 import QtWidgets
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld, matrixFromArray
from QMedSAMSegmentLib.segments import ijkToSegmentation, orientedImage
from QMedSAMSegmentLib.strokemarks import ADDS, REMOVES
from QMedSAMSegmentLib.stroketags import strokesOf

WIDTHS, HEIGHT = (395, 520), 220


@pytest.fixture
def correcting(editor):
    """The editor with both segments filled and *Correct* pressed; the engine follows a rule."""
    for segmentId, truth in zip(("first", "second"), editor.truths):
        _put(editor, segmentId, truth)
    editor.engine = RuleSegmenter()
    editor.effect.logic._loaded.clear()
    editor.effect.logic._segmenters = lambda model: editor.engine
    editor.ui.correctButton.click()
    editor.view = DrawnView(editor.effect, editor.volume, 7)
    return editor


def _put(editor, segmentId: str, mask: np.ndarray) -> None:
    toNode = ijkToSegmentation(ijkToWorld(editor.volume), editor.segmentation)
    image = orientedImage(mask, tuple(slice(0, n) for n in mask.shape), toNode)
    mode = editor.logic.ModificationModeSet
    editor.logic.ModifySegmentByLabelmap(editor.segmentation, segmentId, image, mode, False, False)


def _strokes(editor, segmentId: str = "first") -> tuple:
    toNode = ijkToSegmentation(ijkToWorld(editor.volume), editor.segmentation)
    return strokesOf(editor.segmentation, segmentId, toNode)


def _block(editor, i: int, j: int, k: int, reach: int = 2) -> np.ndarray:
    found = np.zeros(editor.truths[0].shape, bool)
    found[max(k - 2, 0) : k + 3, max(j - reach, 0) : j + reach + 1, max(i - reach, 0) : i + reach + 1] = True
    return found


def _shown(widget) -> bool:
    return widget.isVisibleTo(widget.parentWidget())


def test_correct_has_a_row_of_its_own_in_place_of_the_boxes(correcting) -> None:
    ui = correcting.ui
    assert _shown(ui.correctFrame) and not _shown(ui.boxesTable) and not _shown(ui.fitButton)
    assert ui.addStrokesButton.checked and "Click or drag" in ui.hintLabel.text
    ui.correctButton.click()
    assert not _shown(ui.correctFrame) and _shown(ui.boxesTable) and _shown(ui.fitButton)
    assert not correcting.effect.correcting.on


@pytest.mark.parametrize("width", WIDTHS)
def test_with_a_result_the_frame_is_no_higher_than_a_panel_has_room(correcting, width: int) -> None:
    options = correcting.scripted.options
    options.resize(width, 700)
    options.show()
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    correcting.rest()
    for _ in range(3):
        QtWidgets.QApplication.processEvents()
    layout = options.layout()
    height = layout.heightForWidth(width) if layout.hasHeightForWidth() else layout.sizeHint().height()
    assert "Corrected" in correcting.status and height <= HEIGHT, height
    options.hide()


def test_a_click_adds_ctrl_removes_and_the_toggle_turns_it_round(correcting) -> None:
    first, view = correcting.truths[0], correcting.view
    view.draw((22, 13, 7))
    correcting.finish()
    added = first | _block(correcting, 22, 13, 7)
    assert np.array_equal(correcting.mask("first"), added) and " ml added" in correcting.status
    view.draw((10, 13, 7), ctrl=True)
    correcting.finish()
    removed = added & ~_block(correcting, 10, 13, 7)
    assert np.array_equal(correcting.mask("first"), removed)
    correcting.ui.removeStrokesButton.click()
    assert not correcting.ui.addStrokesButton.checked
    view.draw((12, 16, 7))
    correcting.finish()
    view.draw((12, 16, 7), ctrl=True)
    correcting.finish()
    assert [stroke.adds for stroke in _strokes(correcting)] == [True, False, False, True]
    assert np.array_equal(correcting.mask("second"), correcting.truths[1])


def test_strokes_are_undone_and_redone_one_by_one_by_the_editor(correcting) -> None:
    states = [labelmaps(correcting.segmentation)]
    for ijk in ((22, 13, 7), (12, 22, 7)):
        correcting.view.draw(ijk, (ijk[0], ijk[1] + 1, 7))
        correcting.finish()
        states.append(labelmaps(correcting.segmentation))
    assert correcting.scripted.undoSaves == 2 and [len(s.points_ijk) for s in _strokes(correcting)] == [2, 2]
    correcting.logic.Undo()
    correcting.rest()
    assert labelmaps(correcting.segmentation) == states[1] and len(_strokes(correcting)) == 1
    assert len(correcting.effect.correcting.marks._strokes) == 1  # and no more is shown
    correcting.logic.Undo()
    assert labelmaps(correcting.segmentation) == states[0] and _strokes(correcting) == ()
    correcting.logic.Redo()
    assert labelmaps(correcting.segmentation) == states[1] and len(_strokes(correcting)) == 1


def test_the_shown_slice_is_seen_before_the_object_is_computed_and_the_segment_is_written_once(correcting) -> None:
    before, seen = labelmaps(correcting.segmentation), []

    def look() -> None:
        HandTimer.last.callback()
        node = correcting.effect.correcting.preview.node
        image = node.GetSegmentation().GetSegment("first").GetRepresentation("Binary labelmap")
        seen.append((image.GetExtent()[4:], labelmaps(correcting.segmentation) == before, correcting.ui.previewButton.enabled))

    correcting.engine.between = look
    correcting.effect.jobs = lambda *work: _later(correcting, *work)
    correcting.view.draw((22, 13, 7))
    correcting.launch()
    assert seen == [((7, 7), True, False)] and [call.shown for call in correcting.engine.calls] == [(2, 7), None]
    correcting.finish()
    assert not correcting.effect.correcting.preview.shown and correcting.scripted.undoSaves == 1
    assert correcting.engine.calls[0].volume is correcting.engine.calls[1].volume


def _later(correcting, *work: Any) -> Any:
    """A job whose work begins with ``launch()``."""
    from QMedSAMSegmentLib.worker import Job

    return Job(*work, launch=lambda f: setattr(correcting, "launch", f), timer=HandTimer)


def test_strokes_wait_for_each_other_and_the_engine_knows_the_image_again(correcting) -> None:
    correcting.effect.jobs = lambda *work: _later(correcting, *work)
    for ijk in ((22, 13, 7), (12, 22, 7), (10, 10, 7)):
        correcting.view.draw(ijk)
    for n in range(3):
        correcting.launch()
        correcting.finish()
        assert len(_strokes(correcting)) == n + 1
    assert correcting.scripted.undoSaves == 3 and not correcting.effect.correcting.running
    assert len({id(call.volume.array_kji) for call in correcting.engine.calls}) == 1
    correcting.volume.GetImageData().GetPointData().GetScalars().SetTuple1(0, 77)
    correcting.volume.GetImageData().Modified()
    correcting.view.draw((20, 20, 7))
    correcting.launch()
    assert correcting.engine.calls[-1].volume.array_kji[0, 0, 0] == 77


def test_cancel_leaves_the_segment_and_forgets_what_waits(correcting) -> None:
    before = labelmaps(correcting.segmentation)
    correcting.effect.jobs = lambda *work: _later(correcting, *work)
    correcting.view.draw((22, 13, 7))
    correcting.view.draw((12, 22, 7))
    correcting.ui.cancelButton.click()
    assert "Stopping" in correcting.status
    correcting.launch()
    correcting.finish()
    assert labelmaps(correcting.segmentation) == before and "as it was" in correcting.status
    assert not correcting.effect.correcting.running and correcting.ui.previewButton.enabled
    assert correcting.scripted.undoSaves == 0 and len(correcting.engine.calls) == 2


@pytest.mark.parametrize("what", ["segment", "volume", "close", "effect", "undo", "image", "paint", "other volume"])
def test_what_goes_or_changes_meanwhile_leaves_nothing_stale(correcting, what: str) -> None:
    correcting.effect.jobs = lambda *work: _later(correcting, *work)
    if what == "undo":
        correcting.logic.SaveStateForUndo()
        _put(correcting, "first", correcting.truths[0] | _block(correcting, 30, 30, 7))
    correcting.view.draw((22, 13, 7))
    job, run = HandTimer.last, correcting.effect.correcting._run
    after = None
    if what == "segment":
        correcting.removeSegment("first")
    elif what == "volume":
        correcting.scene.RemoveNode(correcting.volume)
    elif what == "close":
        correcting.scene.Clear(False)
    elif what == "effect":
        correcting.effect.deactivate()
    elif what == "undo":
        correcting.logic.Undo()
    elif what == "image":
        correcting.volume.GetImageData().Modified()
        correcting.volume.Modified()
    elif what == "paint":
        _put(correcting, "first", _block(correcting, 20, 20, 7))
    else:
        correcting.node.SetAndObserveSourceVolumeNode(None)
        correcting.effect.sourceVolumeNodeChanged()
    if what not in ("close",):
        after = labelmaps(correcting.segmentation)
    correcting.launch()
    job.callback()
    if after is not None:
        assert labelmaps(correcting.segmentation) == after
    assert correcting.scripted.undoSaves == 0 and run.written is None
    left = correcting.effect.correcting
    assert not left.running and not left.preview.shown and left._waiting == [] and left._run is None
    if what in ("undo", "paint", "segment"):
        assert "Nothing was" in correcting.status, correcting.status
    if what == "volume":
        assert "is gone" in correcting.status
    if what == "effect":
        assert correcting.scripted.actors == [] and not left.on and left._voxels is None


def test_two_segments_in_turn_each_get_their_own_strokes(correcting) -> None:
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    correcting.select("second")
    correcting.view.draw((40, 20, 7))
    correcting.finish()
    correcting.select("first")
    correcting.view.draw((12, 22, 7))
    correcting.finish()
    assert [len(_strokes(correcting, one)) for one in ("first", "second")] == [2, 1]
    assert np.array_equal(correcting.mask("second"), correcting.truths[1] | _block(correcting, 40, 20, 7))
    assert [len(call.box.strokes) for call in correcting.engine.calls[::2]] == [1, 1, 2]


def test_a_stroke_that_waits_is_for_the_segment_it_was_drawn_for(correcting) -> None:
    correcting.effect.jobs = lambda *work: _later(correcting, *work)
    correcting.view.draw((22, 13, 7))
    correcting.view.draw((12, 22, 7))
    correcting.select("second")
    for _ in range(2):
        correcting.launch()
        correcting.finish()
    assert len(_strokes(correcting)) == 2 and _strokes(correcting, "second") == ()
    assert correcting.node.GetSelectedSegmentID() == "second"


def test_a_preview_is_applied_first(editor) -> None:
    editor.ui.previewButton.click()
    editor.finish()
    editor.ui.correctButton.click()
    assert np.array_equal(editor.mask("first"), editor.truths[0]) and editor.scripted.undoSaves == 1
    assert editor.effect.correcting.on and editor.ui.correctButton.checked


def test_a_preview_that_comes_while_correcting_is_applied_by_the_next_stroke(correcting) -> None:
    _put(correcting, "first", _block(correcting, 12, 13, 7))
    correcting.ui.previewButton.click()
    correcting.finish()
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    assert not correcting.effect.session.preview.shown and correcting.scripted.undoSaves == 2
    assert np.array_equal(correcting.mask("first"), correcting.truths[0] | _block(correcting, 22, 13, 7))


def test_two_quick_clicks_are_two_strokes(correcting) -> None:
    view, at = correcting.view, (22, 13, 7)
    view.draw(at)
    assert view.send(EVENTS.LeftButtonDoubleClickEvent, at) and view.send(EVENTS.LeftButtonReleaseEvent, at)
    assert view.send(EVENTS.LeftButtonPressEvent, at) and view.send(EVENTS.LeftButtonDoubleClickEvent, at)  # told as both
    assert view.send(EVENTS.LeftButtonReleaseEvent, at)
    for _ in range(3):
        correcting.finish()
    assert len(_strokes(correcting)) == 3


def test_another_answer_takes_the_place_of_the_last(correcting) -> None:
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    one = correcting.mask("first")
    correcting.ui.anotherButton.click()
    correcting.finish()
    assert "Answer 2 of 3" in correcting.status and correcting.mask("first").sum() > one.sum()
    correcting.ui.anotherButton.click()
    correcting.finish()
    correcting.ui.anotherButton.click()
    correcting.finish()
    assert np.array_equal(correcting.mask("first"), one)  # round again
    assert [call.candidate for call in correcting.engine.calls[::2]] == [0, 1, 2, 0] and len(_strokes(correcting)) == 1
    assert correcting.scripted.undoSaves == 4


def test_another_answer_needs_a_stroke(correcting) -> None:
    correcting.rest()
    assert not correcting.ui.anotherButton.enabled
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    correcting.rest()
    assert correcting.ui.anotherButton.enabled
    correcting.logic.Undo()
    correcting.rest()
    assert not correcting.ui.anotherButton.enabled


def test_from_this_slice_the_others_are_found_anew(correcting) -> None:
    painted = np.zeros_like(correcting.truths[0])
    painted[7] = correcting.truths[0][7]
    painted[7, 12:14, 20:30] = True
    _put(correcting, "first", painted)
    correcting.ui.goOnButton.click()
    correcting.finish()
    found = correcting.mask("first")
    assert np.array_equal(found[7], painted[7]) and "painted by hand: 1" in correcting.status
    truth = correcting.truths[0]
    assert 2 * (found[8] & truth[8]).sum() / (found[8].sum() + truth[8].sum()) > 0.9
    assert correcting.scripted.undoSaves == 1


def test_painted_slices_are_kept_unless_the_user_does_not_want_it(correcting) -> None:
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    painted = correcting.mask("first")
    painted[8, 12:16, 21:25] = False
    _put(correcting, "first", painted)
    assert correcting.ui.keepPaintedCheck.checked
    correcting.view.draw((12, 22, 7))
    assert correcting.engine.calls[-1].kept == {(2, 8)}
    correcting.finish()
    correcting.logic.Undo()
    correcting.ui.keepPaintedCheck.click()
    correcting.view.draw((12, 22, 7))
    assert correcting.engine.calls[-1].kept == set()
    correcting.finish()


def test_slicers_own_gestures_stay_slicers(correcting) -> None:
    """Shift pans and moves the crosshair, Alt turns, the wheel scrolls, the other buttons zoom and pan."""
    view, at = correcting.view, (22, 13, 7)
    assert not view.send(EVENTS.LeftButtonPressEvent, at, shift=True)
    assert not view.send(EVENTS.LeftButtonReleaseEvent, at, shift=True)
    assert not view.send(EVENTS.LeftButtonPressEvent, at, ctrl=True, alt=True)
    for event in (
        EVENTS.MouseMoveEvent,
        EVENTS.MouseWheelForwardEvent,
        EVENTS.RightButtonPressEvent,
        EVENTS.MiddleButtonPressEvent,
    ):
        assert not view.send(event, at)
    assert not view.send(EVENTS.MouseMoveEvent, at, shift=True)
    assert correcting.engine.calls == []
    correcting.effect.boxes.add()
    assert not view.send(EVENTS.LeftButtonPressEvent, at)  # a corner of the box
    correcting.effect.boxes.endPlacing()
    assert view.send(EVENTS.LeftButtonPressEvent, at) and view.send(EVENTS.RightButtonPressEvent, at)  # given up
    assert not view.send(EVENTS.LeftButtonReleaseEvent, at) and correcting.engine.calls == []
    view.className = lambda: "qMRMLThreeDWidget"
    assert not view.send(EVENTS.LeftButtonPressEvent, at)
    del view.className
    correcting.ui.correctButton.click()
    assert not view.send(EVENTS.LeftButtonPressEvent, at) and correcting.scripted.actors == []


def test_the_brush_follows_the_mouse_in_the_colour_of_what_it_does(correcting) -> None:
    view, at = correcting.view, (22, 13, 7)
    view.send(EVENTS.MouseMoveEvent, at)
    actors = dict(zip(("added", "removed", "path", "brush"), (actor for _, actor in correcting.scripted.actors)))
    brush = actors["brush"]
    assert visible(brush) and brush.GetProperty().GetColor() == ADDS and not visible(actors["path"])
    bounds = brush.GetMapper().GetInput().GetBounds()
    assert bounds[1] - bounds[0] == pytest.approx(400 * 0.02, abs=0.1)  # 2 % of what the view shows
    view.send(EVENTS.KeyPressEvent, at, ctrl=True)
    assert brush.GetProperty().GetColor() == REMOVES
    assert view.send(EVENTS.MouseWheelForwardEvent, at, shift=True)
    wider = brush.GetMapper().GetInput().GetBounds()
    assert wider[1] - wider[0] == pytest.approx(1.2 * (bounds[1] - bounds[0]), rel=0.01)
    other = DrawnView(correcting.effect, correcting.volume, 20, axis=0)
    other.send(EVENTS.MouseMoveEvent, (20, 20, 7))
    assert not brush.GetVisibility() and len(correcting.scripted.actors) == 8
    other.send(EVENTS.LeaveEvent, (20, 20, 7))
    assert not correcting.scripted.actors[7][1].GetVisibility()
    view.draw(at, (23, 14, 7))
    assert _near(correcting.engine.calls[-1].box.strokes[0].radius_mm, 200 * 0.02 * 1.2 / 2)
    correcting.finish()
    assert visible(actors["added"]) and not visible(actors["removed"])  # on its slice
    view.show(8)
    assert not visible(actors["added"])
    view.show(7)
    assert visible(actors["added"])
    correcting.select("second")
    assert not visible(actors["added"])


def _near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-3


def test_a_view_across_the_slices_corrects_its_own_slice(correcting) -> None:
    view = DrawnView(correcting.effect, correcting.volume, 14, axis=0)
    view.draw((14, 25, 7), (14, 26, 7))
    (stroke,) = correcting.engine.calls[0].box.strokes
    assert correcting.engine.calls[0].shown == (0, 14) and stroke.axis == 0
    assert np.abs(stroke.points_ijk - [[14, 25, 7], [14, 26, 7]]).max() < 0.3  # pixels of half a millimetre


def test_a_turned_view_and_a_place_beside_the_image_are_refused_with_a_sentence(correcting) -> None:
    view = correcting.view
    view.draw((-30, 13, 7))
    assert "Nothing was drawn on the image" in correcting.status
    turned = arrayFromMatrix(view.node.GetSliceToRAS())
    turned[:3, :3] = turned[:3, :3] @ rotation(40, 0, 0)
    view.node.GetSliceToRAS().DeepCopy(matrixFromArray(turned))
    view.node.UpdateMatrices()
    view.draw((22, 13, 7))
    assert "turned by 40 degrees" in correcting.status and correcting.engine.calls == []
    assert not correcting.effect.correcting.running


def test_without_a_segment_or_with_a_hidden_one_nothing_is_drawn(correcting) -> None:
    correcting.scripted.visibleAnswer = 2  # a dialog came: it took the release
    assert correcting.view.send(EVENTS.LeftButtonPressEvent, (22, 13, 7))
    assert not correcting.view.send(EVENTS.LeftButtonReleaseEvent, (22, 13, 7))
    correcting.scripted.visibleAnswer = 1
    correcting.switchTo(addSegmentation(correcting.scene, correcting.volume))
    correcting.effect.activate()
    correcting.ui.correctButton.click()
    assert correcting.view.send(EVENTS.LeftButtonPressEvent, (22, 13, 7))
    assert "Choose a segment" in correcting.status and correcting.engine.calls == []


def test_what_the_engine_refuses_is_said_and_the_next_stroke_is_drawn(correcting) -> None:
    from qmedsam import QMedSAMError

    def refuse(*_: Any, **__: Any) -> Any:
        raise QMedSAMError("This model takes boxes only.", "Choose another.")

    right = correcting.engine.correct
    correcting.engine.correct = refuse
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    assert "boxes only" in correcting.status and _strokes(correcting) == ()
    correcting.engine.correct = right
    correcting.view.draw((22, 13, 7))
    correcting.finish()
    assert len(_strokes(correcting)) == 1


def test_a_run_of_boxes_and_a_correction_are_not_at_once(correcting) -> None:
    correcting.effect.jobs = lambda *work: _later(correcting, *work)
    correcting.ui.previewButton.click()
    assert correcting.effect.session.running
    correcting.view.draw((22, 13, 7)) if correcting.view.send(EVENTS.MouseMoveEvent, (22, 13, 7)) else None
    assert correcting.view.send(EVENTS.LeftButtonPressEvent, (22, 13, 7))
    assert not correcting.view.send(EVENTS.LeftButtonReleaseEvent, (22, 13, 7)) and not correcting.effect.correcting.running
    correcting.ui.cancelButton.click()
    correcting.launch()
    correcting.finish()
    correcting.effect.onCancel()
    correcting.view.draw((22, 13, 7))
    assert correcting.effect.correcting.running
    correcting.effect.onApplyClicked()
    assert correcting.effect.correcting.running and not correcting.effect.session.running
