"""Corners: other geometries, other modules' boxes, what moves under a preview, two editors, what stays behind, what is large."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import numpy as np
import slicer
from runner import NotRun, Steps
from steps_runs import kidney

STEPS = Steps()
#: Longest time without the event loop, on a machine that does nothing else.
LONGEST_GAP_S = 0.3
#: Segments of TotalSegmentator.
MANY = 117


def _applied(person: Any) -> str:
    segmentId = kidney(person)
    person.press(person.ui.applyButton)
    person.finished()
    assert person.mask(segmentId).any(), person.status()
    return segmentId


def _previewed(person: Any) -> str:
    segmentId = kidney(person)
    person.press(person.ui.previewButton)
    person.finished()
    assert person.effect.session.preview.shown and "Apply writes it" in person.status(), person.status()
    return segmentId


def _newTransform(shift: float) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, shift)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved by the driver")
    node.SetMatrixTransformToParent(matrix)
    return node


def _crop(person: Any, columns: int) -> Any:
    """A volume of the first columns of the sample, on the same grid."""
    whole = slicer.util.arrayFromVolume(person.volume)
    part = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "part")
    part.CopyOrientation(person.volume)
    slicer.util.updateVolumeFromArray(part, whole[:, :, :columns].copy())
    return part


# Geometry of the segmentation


@STEPS("Specify geometry with resampled labelmaps: restored boxes are where they were")
def specifyGeometry(person: Any) -> None:
    if not hasattr(slicer, "vtkSlicerSegmentationGeometryLogic"):
        raise NotRun("this Slicer has no vtkSlicerSegmentationGeometryLogic")
    _applied(person)
    box = person.boxIjk(person.rois()[0])
    geometry = slicer.vtkSlicerSegmentationGeometryLogic()  # what the editor's button uses
    geometry.SetInputSegmentationNode(person.segmentation)
    geometry.SetSourceGeometryNode(person.volume)
    geometry.SetOversamplingFactor(2.0)
    problem = geometry.CalculateOutputGeometry()
    assert not problem, problem
    geometry.SetReferenceImageGeometryInSegmentationNode()
    assert geometry.ResampleLabelmapsInSegmentationNode()
    person.without()
    person.settle(1)
    person.press(person.ui.restoreButton)
    back = person.boxIjk(person.rois()[0])
    person.note(f"before {box.round(2).tolist()}, after {back.round(2).tolist()} voxels")
    person.picture("restore after geometry")
    assert np.allclose(back, box, atol=0.02), (box, back)


@STEPS("a geometry that is cropped cuts the mask, and the panel says how much")
def cropped(person: Any) -> None:
    segmentId = _applied(person)
    whole = person.mask(segmentId)
    middle = int(np.flatnonzero(whole.any(axis=(0, 1))).mean())
    person.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(_crop(person, middle))
    person.settle(1)
    person.press(person.ui.applyButton)
    person.finished()
    found = person.mask(segmentId)
    ml = float(np.prod(person.volume.GetSpacing())) / 1000
    person.note(f"{whole.sum() * ml:.1f} ml before, {found.sum() * ml:.1f} ml in the cropped geometry; {person.status()!r}")
    assert "lie outside the geometry" in person.status(), person.status()
    assert f"right kidney: {found.sum() * ml:.1f} ml" in person.status(), person.status()
    assert not found[:, :, middle:].any() and np.array_equal(found[:, :, :middle], whole[:, :, :middle])


# Boxes that are not ours, or not usable


@STEPS("Use all ROIs leaves other modules' boxes, hidden ones and another study's alone")
def foreignRois(person: Any) -> None:
    person.sample()
    person.only("right kidney")
    (mine,) = person.rois()

    def roi(name: str, center: List[float]) -> Any:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        node.CreateDefaultDisplayNodes()
        node.SetCenterWorld(*center)
        node.SetSize(40, 40, 40)
        return node

    place = list(mine.GetCenterWorld())
    crop, hidden, away = roi("Crop Volume ROI", place), roi("hidden", place), roi("another study", [5000.0, 0.0, 0.0])
    parameters = slicer.mrmlScene.AddNode(slicer.vtkMRMLCropVolumeParametersNode())
    parameters.SetROINodeID(crop.GetID())
    hidden.GetDisplayNode().SetVisibility(False)
    foreign = [crop, hidden, away]
    if hasattr(slicer.modules, "volumerendering"):
        logic = slicer.modules.volumerendering.logic()
        display = logic.CreateDefaultVolumeRenderingNodes(person.volume)
        rendered = roi("Volume rendering ROI", place)
        display.SetAndObserveROINodeID(rendered.GetID())
        foreign.append(rendered)
    looks = [(one.GetDisplayNode().GetSelectedColor(), one.GetDisplayNode().GetHandlesInteractive()) for one in foreign]
    person.settle(1)
    listed = [person.ui.roiCombo.itemText(n) for n in range(person.ui.roiCombo.count)]
    person.note(f"the list: {listed[1:]}")
    person.press(person.ui.useAllButton)
    assert [name for _id, name in person.segments] == ["right kidney"], person.segments
    assert looks == [(one.GetDisplayNode().GetSelectedColor(), one.GetDisplayNode().GetHandlesInteractive()) for one in foreign]
    person.picture("all rois")


@STEPS("a box outside the image is named, and the others are applied")
def outside(person: Any) -> None:
    person.sample()
    person.only("right kidney", "left kidney")
    person.press(person.ui.useAllButton)
    slicer.util.getNode("left kidney").SetCenterWorld(5000.0, 0.0, 0.0)
    person.settle(1)
    person.press(person.ui.applyAllButton)
    person.finished()
    scores = {name: person.mask(segmentId).any() for segmentId, name in person.segments}
    assert scores == {"right kidney": True, "left kidney": False}, scores
    assert "'left kidney' lies outside the image" in person.status(), person.status()


@STEPS("a scene with boxes whose segmentation is not in it: they are offered and used")
def boxesAlone(person: Any) -> None:
    person.sample()
    person.only("right kidney", "left kidney")
    person.press(person.ui.useAllButton)
    person.editor.setActiveEffectByName("")
    person.settle()
    gone = person.segmentation
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "new")
    other.CreateDefaultDisplayNodes()
    person.editor.setSegmentationNode(other)
    slicer.mrmlScene.RemoveNode(gone)
    person.editor.setActiveEffectByName("QMedSAM")
    person.settle(1)
    assert person.ui.boxesTable.rowCount == 0 and not person.segments
    person.press(person.ui.useAllButton)
    assert {name for _id, name in person.segments} == {"right kidney", "left kidney"}, person.segments
    assert all(roi.GetDisplayNode().GetVisibility() for roi in person.rois())


# What changes under a preview, or during a run


@STEPS("a transform of the volume, of the segmentation or a change of the box makes a preview out of date")
def moves(person: Any) -> None:
    changes = {
        "volume": lambda: person.volume.SetAndObserveTransformNodeID(_newTransform(6.0).GetID()),
        "segmentation": lambda: person.segmentation.SetAndObserveTransformNodeID(_newTransform(6.0).GetID()),
        "box": lambda: person.rois()[0].SetSize(*(length * 0.9 for length in person.rois()[0].GetSize())),
    }
    for what, change in changes.items():
        _previewed(person)
        change()
        person.settle(1)
        assert "out of date" in person.status(), (what, person.status())
        person.picture(f"out of date by the {what}")
        person.press(person.ui.applyButton)
        person.finished()
        assert "Applied" in person.status(), (what, person.status())


@STEPS("with Preview on release a change of numbers starts a preview too")
def numbers(person: Any) -> None:
    kidney(person)
    person.ui.autoUpdateCheck.checked = True
    person.settle()
    (roi,) = person.rois()
    roi.SetSize(*(length * 0.95 for length in roi.GetSize()))  # what the spin boxes of the Markups module do
    person.wait(lambda: person.effect.session.running or person.effect.session.shown, "a preview starts", 10)
    person.finished()
    assert person.effect.session.preview.shown


@STEPS("a volume that is deleted during a preview run is said to be gone")
def volumeGone(person: Any) -> None:
    kidney(person)
    effect = person.effect
    person.choose(person.ui.strategyCombo, "vote")
    person.press(person.ui.previewButton)
    assert effect.session.running
    slicer.mrmlScene.RemoveNode(person.volume)
    person.settle(1)
    assert not effect.session.running
    text = str(effect.panel.ui.statusLabel.text)
    assert "gone" in text, text
    # Else the network would still be loading when a driver of this step alone ends its process.
    person.wait(lambda: not any(one.name == "QMedSAM" for one in threading.enumerate()), "the run's thread ends", 120)


@STEPS("a setting that nobody knows is said, and changes no segment")
def typo(person: Any) -> None:
    segmentId = _applied(person)
    before = person.mask(segmentId)
    person.effect.scriptedEffect.setParameter("mode", "Add")
    person.settle(1)
    person.press(person.ui.applyButton)
    person.settle()
    assert "no mode 'Add'" in person.status(), person.status()
    assert (person.mask(segmentId) == before).all()
    person.effect.scriptedEffect.setParameter("mode", "replace")


# Views


@STEPS("boxes leave the views with the effect, and come back with it")
def leavesViews(person: Any) -> None:
    kidney(person)
    (roi,) = person.rois()
    for leave, back in (
        (lambda: person.editor.setActiveEffectByName(""), lambda: person.editor.setActiveEffectByName("QMedSAM")),
        (lambda: person.editor.setActiveEffectByName("Paint"), lambda: person.editor.setActiveEffectByName("QMedSAM")),
    ):
        assert roi.GetDisplayNode().GetVisibility()
        leave()
        person.settle()
        person.picture("boxes after the effect")
        assert not roi.GetDisplayNode().GetVisibility()
        back()
        person.settle()
    assert roi.GetDisplayNode().GetVisibility()


@STEPS("the volume that is segmented is named where another one is shown over it")
def fused(person: Any) -> None:
    kidney(person)
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "PET")
    other.CopyOrientation(person.volume)
    slicer.util.updateVolumeFromArray(other, np.zeros(slicer.util.arrayFromVolume(person.volume).shape, np.float32))
    slicer.util.setSliceViewerLayers(background=person.volume, foreground=other, foregroundOpacity=0.4)
    person.effect.updateGUIFromMRML()
    text = str(person.ui.hintLabel.text)
    assert f"source volume '{person.volume.GetName()}'" in text, text
    slicer.util.setSliceViewerLayers(foreground=None, foregroundOpacity=0.0)


@STEPS("in a layout without slice views the preview is in 3D, and Add box says what is missing")
def only3D(person: Any) -> None:
    kidney(person)
    manager = slicer.app.layoutManager()
    before = manager.layout
    try:
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView)
        person.settle(1)
        person.press(person.ui.addButton)
        assert "no slice view" in person.status(), person.status()
        person.effect.boxes.endPlacing()
        person.press(person.ui.previewButton)
        person.finished()
        assert person.effect.session.preview.node.GetDisplayNode().GetVisibility3D()
        person.picture("preview in 3D only")
        manager.setLayout(before)
        person.settle(1)
        assert not person.effect.session.preview.node.GetDisplayNode().GetVisibility3D()
    finally:
        manager.setLayout(before)


@STEPS("keys work while two Segment Editors have the effect")
def twoEditors(person: Any) -> None:
    kidney(person)
    other = slicer.qMRMLSegmentEditorWidget()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode", "second editor")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "second")
    segmentation.CreateDefaultDisplayNodes()
    try:
        other.setMRMLScene(slicer.mrmlScene)
        other.setMRMLSegmentEditorNode(node)
        other.setSegmentationNode(segmentation)
        other.setSourceVolumeNode(person.volume)
        other.setActiveEffectByName("QMedSAM")  # in a window that is not seen, as a module's page that was left
        person.settle()
        assert other.activeEffect() is not None and other.activeEffect().name == "QMedSAM"
        person.key("Shift+P")
        assert not other.activeEffect().self().session.running
        person.finished()
        assert person.effect.session.preview.shown, person.status()
    finally:
        other.setActiveEffectByName("")
        other.setMRMLScene(None)
        other.deleteLater()
        slicer.mrmlScene.RemoveNode(node)


@STEPS("a broken model has a row and can be removed")
def brokenModel(person: Any) -> None:
    slicer.util.selectModule("QMedSAMSegment")
    person.settle()
    panel = slicer.util.getModuleWidget("QMedSAMSegment").panel
    folder = panel.store.user / "broken-by-the-driver"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    try:
        panel.update()
        table = panel.ui.modelsTable
        names = [table.item(row, 0).text() for row in range(table.rowCount)]
        table.setCurrentCell(names.index(f"{folder.name} (broken)"), 0)
        person.picture("broken model")
        person.answer(True)
        person.press(panel.ui.removeModelButton)
        assert not folder.exists() and "Removed" in str(panel.ui.modelLabel.text), panel.ui.modelLabel.text
    finally:
        if folder.exists():
            (folder / "manifest.json").unlink()
            folder.rmdir()


# Large


def _memoryMiB() -> float:
    """Resident memory of the application; 0 where it cannot be told without a package."""
    try:
        with open("/proc/self/status", encoding="ascii") as stream:
            return next(int(line.split()[1]) / 1024 for line in stream if line.startswith("VmRSS"))
    except OSError:
        return 0.0


@STEPS("a volume of 512 x 512 x 600: the window stays alive, and a shown preview holds nothing of it")
def large(person: Any) -> None:
    slicer.mrmlScene.Clear(0)
    person.settle()
    array = np.full((600, 512, 512), -900, np.int16)
    array[290:310, 220:300, 200:280] = 100
    person.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "large")
    person.volume.SetSpacing(0.7, 0.7, 0.7)
    slicer.util.updateVolumeFromArray(person.volume, array)
    del array
    person.openEffect()
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "cube")
    roi.CreateDefaultDisplayNodes()
    roi.SetCenterWorld(*person.ras([239.5, 259.5, 299.5]))
    roi.SetSize(62, 62, 16)
    person.settle(1)
    person.press(person.ui.useAllButton)
    person.choose(person.ui.strategyCombo, "propagate")
    before, peak = _memoryMiB(), [0.0]

    def run() -> None:
        person.press(person.ui.previewButton)
        while person.effect.session.running:
            peak[0] = max(peak[0], _memoryMiB())
            person.settle(0.02)

    gap = person.longestGap(run)
    person.settle(1)
    held = _memoryMiB() - before
    person.note(f"longest gap of the event loop {1000 * gap:.0f} ms")
    person.note(f"memory {before:.0f} MiB, in the run {peak[0] - before:+.0f}, with the preview shown {held:+.0f} MiB")
    assert person.effect.session.preview.shown, person.status()
    assert held < 150 or not before, f"{held:.0f} MiB are held: half of the volume, which nothing needs"
    assert gap < LONGEST_GAP_S, f"{gap:.2f} s (on a machine that does nothing else?)"


@STEPS("117 segments: the table follows, Apply all and undo work")
def many(person: Any) -> None:
    person.sample()
    person.without()
    size = np.array(person.volume.GetImageData().GetDimensions())
    cells = [(i, j) for j in range(9) for i in range(13)][:MANY]
    for n, (i, j) in enumerate(cells):
        roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", f"part {n}")
        roi.CreateDefaultDisplayNodes()
        center = [20 + i * (size[0] - 40) / 12, 20 + j * (size[1] - 40) / 8, 5 + n % (size[2] - 10)]
        roi.SetCenterWorld(*person.ras(center))
        roi.SetSize(*(8.0 * spacing for spacing in person.volume.GetSpacing()[:2]), person.volume.GetSpacing()[2])
    person.settle(1)
    person.press(person.ui.useAllButton)
    assert len(person.segments) == MANY and person.ui.boxesTable.rowCount == MANY
    start = time.monotonic()
    person.effect.updateGUIFromMRML()
    person.note(f"an update of table and lists takes {1000 * (time.monotonic() - start):.0f} ms")

    def run() -> None:
        person.press(person.ui.applyAllButton)
        person.finished(1200)

    gap = person.longestGap(run)
    filled = sum(person.mask(segmentId).any() for segmentId, _name in person.segments)
    person.note(f"{filled} of {MANY} segments hold something; longest gap, with the writing, {gap:.2f} s")
    person.picture("117 segments")
    assert "Applied" in person.status() and filled > 0, person.status()
    person.undo()
    assert not any(person.mask(segmentId).any() for segmentId, _name in person.segments)
