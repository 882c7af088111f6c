"""Correct: clicks and strokes in slice views, their brush, undo by the editor's own buttons, and what they leave alone."""

from __future__ import annotations

import time
from typing import Any, List

import numpy as np
import slicer
from runner import NotRun, Steps
from steps_runs import kidney

STEPS = Steps()


def applied(person: Any) -> str:
    """A kidney that has been found, the views on its middle, *Correct* pressed."""
    segmentId = kidney(person)
    person.press(person.ui.applyButton)
    person.finished()
    person.show(person.ras(middle(person, segmentId)))
    person.press(person.ui.correctButton)
    assert person.ui.correctFrame.visible and not person.ui.boxesTable.visible
    return segmentId


def middle(person: Any, segmentId: str) -> List[int]:
    """A voxel (ijk) in the middle of the segment's middle slice."""
    mask = person.mask(segmentId)
    k = int(np.median(np.flatnonzero(mask.any(axis=(1, 2)))))
    j, i = np.median(np.argwhere(mask[k]), axis=0).astype(int)
    return [int(i), int(j), k]


def corrected(person: Any) -> None:
    person.wait(lambda: not person.effect.correcting.running, "the correction is over", 120)
    person.settle()


def strokes(person: Any) -> int:
    person.effect.updateGUIFromMRML()
    return len(person.effect.correcting.strokes)


@STEPS("Correct: a click with Ctrl removes, a click adds, Undo takes strokes back one by one")
def clicks(person: Any) -> None:
    segmentId = applied(person)
    i, j, k = middle(person, segmentId)
    before = person.mask(segmentId)
    person.click("Red", person.ras([i, j, k]), ctrl=True)
    corrected(person)
    removed = person.mask(segmentId)
    assert not removed[k, j, i] and removed.sum() < before.sum(), person.status()
    person.note(f"removed {int(before.sum() - removed.sum())} voxels: {person.status()!r}")
    person.picture("removed with Ctrl")
    person.click("Red", person.ras([i, j, k]))
    corrected(person)
    assert person.mask(segmentId)[k, j, i] and strokes(person) == 2, person.status()
    person.undo()
    assert np.array_equal(person.mask(segmentId), removed) and strokes(person) == 1
    person.undo()
    assert np.array_equal(person.mask(segmentId), before) and strokes(person) == 0
    person.redo()
    assert np.array_equal(person.mask(segmentId), removed) and strokes(person) == 1


@STEPS("Correct: Remove is chosen by its button, and Another answer follows a stroke")
def toggles(person: Any) -> None:
    segmentId = applied(person)
    assert not person.ui.anotherButton.enabled
    i, j, k = middle(person, segmentId)
    person.press(person.ui.removeStrokesButton)
    person.click("Red", person.ras([i, j, k]))
    corrected(person)
    first = person.mask(segmentId)
    assert not first[k, j, i]
    person.settle(0.4)
    person.press(person.ui.anotherButton)
    corrected(person)
    assert "Answer 2" in person.status() and strokes(person) == 1, person.status()
    assert not person.mask(segmentId)[k, j, i]  # a stroke holds whatever the answer
    person.undo()
    assert np.array_equal(person.mask(segmentId), first)


@STEPS("Correct: a stroke that is pulled is seen at once on its slice, with its brush")
def pullsAStroke(person: Any) -> None:
    segmentId = applied(person)
    i, j, k = middle(person, segmentId)
    person.click("Red", person.ras([i, j, k]), ctrl=True)  # loads the model, encodes the slice
    corrected(person)
    start = time.monotonic()
    person.drag("Red", person.ras([i - 3, j, k]), person.ras([i + 3, j, k]))
    drawn = time.monotonic()
    person.wait(lambda: person.effect.correcting.preview.shown or not person.effect.correcting.running, "the shown slice", 20)
    person.note(f"drawn in {drawn - start:.2f} s, the slice {time.monotonic() - drawn:.2f} s later")
    corrected(person)
    (_, stroke) = person.effect.correcting.strokes
    assert len(stroke.points_ijk) > 3 and stroke.axis == 2 and stroke.index == k, stroke
    assert person.mask(segmentId)[k, j, i]
    person.picture("brush and strokes")


@STEPS("Correct: Shift and the wheel change the brush; with the effect the brush leaves the views")
def brush(person: Any) -> None:
    applied(person)
    marks = person.effect.correcting.marks
    widget = slicer.app.layoutManager().sliceWidget("Red") if hasattr(slicer.app, "layoutManager") else None
    if widget is None:
        raise NotRun("no slice widgets here")
    person.click("Red", person.ras(middle(person, person.segments[0][0])), ctrl=True)
    corrected(person)
    share, effect = person.effect.correcting.tool.share, person.effect
    person.wheel("Red", shift=True)
    assert effect.correcting.tool.share > share, effect.correcting.tool.share
    actors = [one for drawn in marks._views.values() for one in drawn.values()]
    renderer = widget.sliceView().renderWindow().GetRenderers().GetFirstRenderer()
    assert actors and any(renderer.HasViewProp(one) for one in actors)
    person.editor.setActiveEffectByName("Paint")
    person.settle()
    assert not any(renderer.HasViewProp(one) for one in actors) and not effect.correcting.on
    person.editor.setActiveEffectByName("QMedSAM")


@STEPS("Correct: strokes come back with a .seg.nrrd, on the segment of somebody else")
def comesBack(person: Any) -> None:
    segmentId = applied(person)
    person.click("Red", person.ras(middle(person, segmentId)), ctrl=True)
    corrected(person)
    voxels = int(person.mask(segmentId).sum())
    file = str(person.folder / "corrected.seg.nrrd")
    assert slicer.util.saveNode(person.segmentation, file)
    slicer.mrmlScene.RemoveNode(person.segmentation)
    person.without()
    person.editor.setSegmentationNode(slicer.util.loadSegmentation(file))
    person.editor.setSourceVolumeNode(person.volume)
    person.editor.setActiveEffectByName("QMedSAM")
    person.settle()
    person.press(person.ui.correctButton)
    assert strokes(person) == 1
    (segment, _name) = person.segments[0]
    i, j, k = middle(person, segment)
    person.click("Red", person.ras([i, j, k]))
    corrected(person)
    person.note(f"{voxels} voxels before, {int(person.mask(segment).sum())} after a stroke without a box")
    assert person.mask(segment)[k, j, i] and strokes(person) == 2


@STEPS("Correct: from a slice that was painted by hand the others are found anew")
def goesOn(person: Any) -> None:
    segmentId = applied(person)
    k = middle(person, segmentId)[2]
    mask = person.mask(segmentId)
    painted = np.zeros_like(mask)
    painted[k] = mask[k]
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted.astype(np.uint8), person.segmentation, segmentId, person.volume)
    person.settle()
    person.press(person.ui.goOnButton)
    corrected(person)
    found = person.mask(segmentId)
    person.note(f"DSC with the right kidney {person.dsc(segmentId, 'right kidney'):.3f}, {person.status()!r}")
    assert np.array_equal(found[k], painted[k]) and found.any(axis=(1, 2)).sum() > 5, person.status()
