"""Runs: preview, apply, cancel, votes, the editor's masks, and a window that stays alive meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from runner import Steps

STEPS = Steps()


def kidney(person: Any) -> str:
    """The sample with the right kidney's box alone; its segment."""
    person.sample()
    person.only("right kidney")
    person.press(person.ui.useAllButton)
    ((segmentId, _name),) = person.segments
    return str(segmentId)


@STEPS("a preview changes no segment, writes no error, and Apply writes what it showed")
def previews(person: Any) -> None:
    segmentId = kidney(person)
    person.press(person.ui.previewButton)
    person.finished()
    preview = person.effect.session.preview
    assert preview.shown and preview.node.GetHideFromEditors() and not person.mask(segmentId).any()
    critical = person.criticalLines()
    assert not critical, critical[:3]
    person.picture("preview")
    shown = slicer.util.arrayFromSegmentBinaryLabelmap(preview.node, segmentId, person.volume) > 0
    person.press(person.ui.applyButton)
    person.settle()
    assert not preview.shown and (person.mask(segmentId) == shown).all()
    dsc = person.dsc(segmentId, "right kidney")
    person.note(f"DSC {dsc:.3f}, {person.status()!r}")
    assert dsc >= 0.9, dsc


@STEPS("the window stays alive during a run")
def alive(person: Any) -> None:
    kidney(person)

    def run() -> None:
        person.press(person.ui.previewButton)
        person.finished()

    gap = person.longestGap(run)
    person.note(f"longest gap of the event loop {1000 * gap:.0f} ms")
    assert gap < 1.0, gap


@STEPS("a run that is cancelled says Stopped and changes nothing")
def cancels(person: Any) -> None:
    segmentId = kidney(person)
    person.choose(person.ui.strategyCombo, "vote")
    person.press(person.ui.applyButton)
    person.press(person.ui.cancelButton)
    person.finished()
    person.note(f"the panel says: {person.status()!r}")
    assert "Stopped" in person.status() and not person.mask(segmentId).any(), person.status()
    person.press(person.ui.cancelButton) if person.ui.cancelButton.enabled else None
    assert not person.effect.session.preview.shown


@STEPS("a vote shows where its directions agree, over the slices and only there")
def votes(person: Any) -> None:
    kidney(person)
    person.choose(person.ui.strategyCombo, "vote")
    person.ui.agreementCheck.checked = True
    person.press(person.ui.previewButton)
    person.finished()
    node = person.effect.session.agreement.node
    assert node is not None and slicer.util.arrayFromVolume(node).max() > 50
    person.picture("agreement")
    person.press(person.ui.cancelButton)
    assert node.GetScene() is None


@STEPS("editable area and intensity range of the editor hold")
def masks(person: Any) -> None:
    segmentId = kidney(person)
    node = person.editor.mrmlSegmentEditorNode()
    try:
        node.SetSourceVolumeIntensityMask(True)
        node.SetSourceVolumeIntensityMaskRange(60, 3000)
        person.press(person.ui.applyButton)
        person.finished()
        values = slicer.util.arrayFromVolume(person.volume)[person.mask(segmentId)]
        assert len(values) and values.min() >= 60, (len(values), values.min() if len(values) else None)
        node.SetSourceVolumeIntensityMask(False)
        person.undo()
        other = person.segmentation.GetSegmentation().AddEmptySegment("", "other")
        whole = np.zeros(slicer.util.arrayFromVolume(person.volume).shape, np.uint8)
        whole[:, :, : whole.shape[2] // 2] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(whole, person.segmentation, other, person.volume)
        node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
        person.editor.setCurrentSegmentID(segmentId)
        person.settle()
        person.press(person.ui.applyButton)
        person.finished()
        assert not (person.mask(segmentId) & (whole > 0)).any()
    finally:
        node.SetSourceVolumeIntensityMask(False)
        node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
