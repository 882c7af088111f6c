"""Boxes by hand: placed with two clicks, pulled, turned flat, doubled, fitted, given up."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from runner import Steps

STEPS = Steps()
#: A voxel of the sample is 1.6 to 4 mm; a pixel of a slice view about one.
MM = 4.0
#: Low and high corner of what is drawn, in voxels: around the right kidney, on its middle slice.
DRAWN, SLICE = ((40, 69), (68, 97)), 15


def place(person: Any) -> Any:
    """Press Add box, click two corners in the red view."""
    first, second = (person.ras([*corner, SLICE]) for corner in DRAWN)
    person.show(person.ras([*np.mean(DRAWN, axis=0), SLICE]))
    person.press(person.ui.addButton)
    placing = person.effect.boxes.placing
    assert placing is not None, person.status()
    selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    assert selection.GetActivePlaceNodeClassName() == "vtkMRMLMarkupsROINode", selection.GetActivePlaceNodeClassName()
    person.click("Red", first)
    person.click("Red", second)
    return placing


@STEPS("Add box without a segment: two clicks place a box as deep as it is wide")
def places(person: Any) -> None:
    person.sample()
    person.without()
    assert not person.segments
    roi = place(person)
    assert person.effect.boxes.placing is None, person.status()
    assert len(person.segments) == 1 and slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    low, high = person.boxIjk(roi)
    person.note(f"drawn {DRAWN}, box from {low.round(1)} to {high.round(1)} voxels, {np.round(roi.GetSize(), 1)} mm")
    spacing = person.volume.GetSpacing()[0]
    assert np.abs(np.array([low[:2], high[:2]]) - np.array(DRAWN)).max() <= MM / spacing
    size = sorted(roi.GetSize())
    assert abs(size[0] - size[1]) < 0.1, size
    assert "Pull the box's handles" in person.status(), person.status()
    person.picture("two clicks")


@STEPS("a box that was drawn finds its kidney")
def finds(person: Any) -> None:
    person.sample()
    person.without()
    place(person)
    person.press(person.ui.applyButton)
    person.finished()
    ((segmentId, _name),) = person.segments
    person.note(f"DSC with the right kidney {person.dsc(segmentId, 'right kidney'):.3f}, {person.status()!r}")
    assert person.mask(segmentId).any()
    person.picture("drawn kidney")


@STEPS("a box without its second click goes with the arrow, and with Escape")
def givenUp(person: Any) -> None:
    person.sample()
    person.without()
    person.press(person.ui.addButton)
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SwitchToViewTransformMode()
    person.settle()
    assert not person.rois() and person.effect.boxes.placing is None, person.status()
    person.press(person.ui.addButton)
    person.editor.setActiveEffectByName("")  # what Escape does
    person.settle()
    assert not person.rois() and interaction.GetCurrentInteractionMode() == interaction.ViewTransform


@STEPS("a handle that is pulled makes the box larger, and with Preview on release a preview")
def pulls(person: Any) -> None:
    person.sample()
    person.without()
    roi = place(person)
    person.ui.autoUpdateCheck.checked = True
    before = np.array(roi.GetSize())
    middle = (DRAWN[0][1] + DRAWN[1][1]) / 2
    edge, target = (person.ras([DRAWN[1][0] + pulled, middle, SLICE]) for pulled in (0, 8))
    person.drag("Red", edge, target)
    grown = np.array(roi.GetSize()) - before
    person.note(f"pulled by 8 voxels ({8 * person.volume.GetSpacing()[0]:.0f} mm), grew by {grown.round(1)} mm")
    assert grown.max() > 5 and np.count_nonzero(np.abs(grown) > 0.1) == 1, grown
    person.wait(lambda: person.effect.session.running or person.effect.session.shown, "a preview starts", 10)
    person.finished()
    assert person.effect.session.preview.shown and "Preview" in person.status(), person.status()
    person.picture("pulled")


@STEPS("2D, Duplicate, Delete and Fit do what they say")
def tools(person: Any) -> None:
    person.sample()
    person.only("right kidney")
    person.press(person.ui.useAllButton)
    (roi,) = person.rois()
    person.show(roi.GetCenterWorld())
    person.press(person.ui.flatButton)
    low, high = person.boxIjk(roi)
    assert abs(high[2] - low[2] - 1) < 1e-3, (low, high)
    person.press(person.ui.duplicateButton)
    assert person.ui.boxesTable.rowCount == 2
    person.press(person.ui.deleteButton)
    assert person.ui.boxesTable.rowCount == 1
    person.press(person.ui.applyButton)
    person.finished()
    ((segmentId, _name),) = person.segments
    used = np.argwhere(person.mask(segmentId))[:, ::-1]
    person.press(person.ui.fitButton)
    (roi,) = person.rois()
    low, high = person.boxIjk(roi)
    size = np.ptp(used, axis=0) + 1
    assert np.allclose(low, used.min(axis=0) - 0.5 - 0.05 * size, atol=0.01), (low, used.min(axis=0))
    assert np.allclose(high, used.max(axis=0) + 0.5 + 0.05 * size, atol=0.01), (high, used.max(axis=0))


@STEPS("keys of the effect: Shift+B, Shift+P, Shift+A")
def keys(person: Any) -> None:
    person.sample()
    person.only("right kidney")
    person.press(person.ui.useAllButton)
    person.key("Shift+B")
    assert person.effect.boxes.placing is not None
    person.effect.boxes.endPlacing()
    person.key("Shift+P")
    person.finished()
    assert person.effect.session.preview.shown, person.status()
    person.key("Shift+A")
    person.finished()
    ((segmentId, _name),) = person.segments
    assert person.mask(segmentId).any()
