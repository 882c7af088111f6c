"""The first minute with the effect: few clicks, a line that says what is next, and nothing that is needed below the fold."""

from __future__ import annotations

import numpy as np
import pytest
from editing import Editor, blobs
from nodes import HandTimer, addRoi, brightSegmenter
from PySide6 import QtCore, QtGui, QtWidgets
from QMedSAMSegmentLib.worker import Job

#: Widths of the module panel in which the frame was seen too high.
WIDTHS = (395, 520)
HEIGHT = 220


@pytest.fixture
def fresh(app):
    """The application after the sample was loaded: ROIs of nobody, a segmentation without segments."""
    import slicer

    volume, rois, truths = blobs(slicer.mrmlScene)
    made = Editor(slicer.mrmlScene, volume, rois, {})
    made.truths = truths
    made.effect.logic._segmenters = brightSegmenter
    made.scripted.setParameter("strategy", "fixed")
    yield made
    made.effect.deactivate()


def _height(editor, width: int) -> int:
    """What the frame needs when it is so wide, measured as it is laid out."""
    frame, options = editor.effect.panel.widget, editor.scripted.options
    margins = options.layout().contentsMargins
    options.resize(width + margins.left() + margins.right(), 50)
    options.show()
    for _ in range(3):
        QtWidgets.QApplication.processEvents()
    assert frame.width == width, "it cannot be made so narrow"
    needed = frame.layout().heightForWidth(width)
    options.hide()
    return needed


def _seen(widget) -> bool:
    return widget.isVisibleTo(widget.parentWidget())


def test_from_the_sample_to_segments_in_four_clicks(fresh) -> None:
    assert fresh.enabled  # 1: the sample was loaded; 2: the effect's button, which needs a volume, but no segment
    assert "Use all ROIs" in fresh.ui.hintLabel.text
    fresh.ui.useAllButton.click()  # 3
    assert fresh.node.GetSelectedSegmentID() and "Apply" in fresh.ui.hintLabel.text
    fresh.ui.applyAllButton.click()  # 4
    fresh.finish()
    inner = fresh.segmentation.GetSegmentation()
    assert inner.GetNumberOfSegments() == 2
    assert all(np.array_equal(fresh.mask(inner.GetNthSegmentID(n)), fresh.truths[n]) for n in range(2))


def test_one_line_says_what_is_next(fresh) -> None:
    hint, said = fresh.ui.hintLabel, fresh.ui.statusArea
    for roi in fresh.rois:
        fresh.scene.RemoveNode(roi)
    assert _seen(hint) and not _seen(said) and hint.text.startswith("Add box")
    fresh.ui.addButton.click()
    assert _seen(said) and "two opposite corners" in fresh.status and not _seen(hint)
    fresh.effect.boxes.endPlacing()
    fresh.effect.panel.say("")
    fresh.node.SetAndObserveSourceVolumeNode(None)
    fresh.effect.updateGUIFromMRML()
    assert "source volume" in hint.text
    assert _height(fresh, WIDTHS[0]) < 100  # no table yet


def test_a_fresh_box_says_how_to_go_on(editor) -> None:
    hint = editor.ui.hintLabel
    assert _seen(hint) and "Preview, then Apply" in hint.text and "slices in all boxes" in hint.text


@pytest.mark.parametrize(("lowered", "word"), [(False, "about"), (True, "at least")])
def test_the_estimate_promises_no_more_than_the_priority_can_hold(editor, monkeypatch, lowered, word) -> None:
    monkeypatch.setattr("qmedsam.batch.priority.lowered", lambda: lowered)
    editor.ui.previewButton.click()
    editor.finish()
    assert f", {word} " in editor.ui.hintLabel.text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_frame_with_two_boxes_fits_above_the_fold(editor, width) -> None:
    assert editor.ui.settingsButton.collapsed
    assert _height(editor, width) <= HEIGHT
    editor.ui.previewButton.click()
    assert _seen(editor.ui.progressBar) and _height(editor, width) <= HEIGHT
    editor.finish()
    editor.ui.applyAllButton.click()
    editor.finish()
    assert editor.status.count("confidence") == 2 and _height(editor, width) <= HEIGHT


def test_what_is_used_most_comes_first(editor) -> None:
    """Down the frame, and within the first row from left to right."""
    panel = editor.effect.panel
    _height(editor, 520)
    names = [
        "addButton",
        "previewButton",
        "applyButton",
        "applyAllButton",
        "cancelButton",
        "boxesTable",
        "fitButton",
        "settingsButton",
    ]
    at = [getattr(panel.ui, name).mapTo(panel.widget, QtCore.QPoint(0, 0)) for name in names]
    assert len({point.y() for point in at[:5]}) == 1 and [point.x() for point in at[:5]] == sorted(point.x() for point in at[:5])
    assert [point.y() for point in at[4:]] == sorted(point.y() for point in at[4:])
    for name in ("fitButton", "flatButton", "duplicateButton", "deleteButton", "restoreButton"):
        assert isinstance(getattr(panel.ui, name), QtWidgets.QToolButton)


def test_the_table_is_as_high_as_its_rows_and_scrolls_after_three(editor) -> None:
    table, heights = editor.ui.boxesTable, []
    for n in range(4):
        heights.append(table.maximumHeight)
        roi = addRoi(editor.scene, (0, 0, 0), np.eye(3) * 5, name=f"more {n}")
        editor.effect.boxes.useRoi(roi.GetID())
    assert table.rowCount == 6 and heights[1] - heights[0] == table.rowHeight(0)
    assert heights[1] == heights[2] == heights[3] == table.maximumHeight
    for roi in list(editor.effect.table.rois):
        editor.scene.RemoveNode(roi)
    assert not _seen(table)


def test_the_colour_of_a_box_is_not_tinted_in_the_chosen_row(editor) -> None:
    icon, color = editor.ui.boxesTable.item(0, 0).icon(), QtGui.QColor(*(round(255 * c) for c in (0.9, 0.6, 0.2)))
    for mode in (QtGui.QIcon.Normal, QtGui.QIcon.Selected):
        assert icon.pixmap(QtCore.QSize(12, 12), mode).toImage().pixelColor(6, 6) == color


def test_a_run_that_is_stopped_before_it_found_anything_says_so(editor) -> None:
    pending: list = []
    editor.effect.jobs = lambda *work: Job(*work, launch=pending.append, timer=HandTimer)
    editor.ui.applyButton.click()
    editor.ui.cancelButton.click()
    pending[0]()
    editor.finish()
    assert "Stopped" in editor.status and "found in the boxes" not in editor.status
    assert not editor.mask("first").any() and editor.ui.applyButton.enabled
