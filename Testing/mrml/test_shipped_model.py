"""The shipped model on the shipped phantom, from a script as a user would write it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import slicer
from nodes import addSegmentation, labelmaps, segmentArray
from qmedsam import Segmenter
from qmedsam.marks import Stroke
from qmedsam.strategies import STRATEGIES
from QMedSAMSegmentLib.correction import CorrectionRun
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic
from QMedSAMSegmentLib.segments import EditorWriter, ijkToSegmentation, orientedImage
from QMedSAMSegmentLib.settings import Settings
from QMedSAMSegmentLib.stroketags import strokesOf
from QMedSAMSegmentLib.volumes import volumeFromNode

pytest.importorskip("openvino")
ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "Resources" / "SampleData"
ORGANS = ("right kidney", "left kidney")  # their boxes lie obliquely in the voxel grid


def _load(scene, kind, storage, file, name):
    node = scene.AddNewNodeByClass(kind, name)
    reader = scene.AddNewNodeByClass(storage)
    reader.SetFileName(str(SAMPLE / file))
    assert reader.ReadData(node)
    return node


@pytest.fixture
def sample(scene):
    """The phantom, its ROIs by name, and the truth by name: all read by Slicer's own readers."""
    volume = _load(scene, "vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode", "QMedSAMPhantom.nrrd", "phantom")
    truth = _load(scene, "vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", "QMedSAMPhantom-truth.seg.nrrd", "truth")
    logic = slicer.vtkSlicerMarkupsLogic()
    logic.SetMRMLScene(scene)
    assert logic.LoadMarkups(str(SAMPLE / "QMedSAMPhantom-boxes.mrk.json"), "boxes")
    count = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")
    rois = [scene.GetNthNodeByClass(n, "vtkMRMLMarkupsROINode") for n in range(count)]
    named = {roi.GetName(): roi for roi in rois}
    segmentation = truth.GetSegmentation()
    masks = {segmentation.GetSegment(i).GetName(): segmentArray(truth, i, volume) for i in segmentation.GetSegmentIDs()}
    return volume, named, masks


def test_ten_lines_segment_two_turned_boxes_and_undo_takes_them_back(scene, sample) -> None:
    volume, rois, truth = sample
    logic = QMedSAMSegmentLogic()
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    before = labelmaps(segmentation)
    _, result = logic.segment(volume, [rois[name] for name in ORGANS], segmentation, modality="CT")
    for segmentId, name in zip(segmentation.GetSegmentation().GetSegmentIDs(), ORGANS):
        found = segmentArray(segmentation, segmentId, volume)
        dice = 2 * (found & truth[name]).sum() / (found.sum() + truth[name].sum())
        assert dice >= 0.9, name
    after = labelmaps(segmentation)
    assert logic.undo() and labelmaps(segmentation) == before
    assert logic.redo() and labelmaps(segmentation) == after
    assert result.model and result.strategy in STRATEGIES and not result.cancelled


def test_strokes_mend_a_segment_from_elsewhere_and_hold(scene, sample) -> None:
    """A kidney of somebody else's, with a part missing and a part too many on its middle slices; two clicks."""
    volume, _rois, truth = sample
    kidney = truth["right kidney"]
    segmentation = addSegmentation(scene, volume, ["a"])
    toNode = ijkToSegmentation(ijkToWorld(volume), segmentation)
    k, j, i = (int(np.median(axis)) for axis in np.nonzero(kidney))
    wrong = kidney.copy()
    wrong[k - 2 : k + 3, j:, :] = False
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    writer.modify(segmentation, "a", orientedImage(wrong, tuple(slice(0, n) for n in wrong.shape), toNode), False)
    engine, image = Segmenter(), volumeFromNode(volume)
    inside = np.argwhere(kidney[k, j:])
    at = np.median(inside, axis=0).astype(int) + (j, 0)
    states = [segmentArray(segmentation, "a", volume)]
    for stroke in (Stroke(np.array([[at[1], at[0], k]]), 2, True, 2.0), Stroke(np.array([[i, j - 40, k]]), 2, False, 2.0)):
        run = CorrectionRun(volume, segmentation, "a", image, Settings(modality="CT"), stroke)
        answers = []
        result = run.task.compute(engine, answers.append)
        assert len(answers) == 1 and result.model and not result.cancelled and len(result.candidates) == 3
        run.write(result, writer)
        states.append(segmentArray(segmentation, "a", volume))

    def dsc(mask):
        return 2 * (mask[k] & kidney[k]).sum() / (mask[k].sum() + kidney[k].sum())

    assert states[1][k, at[0], at[1]] and not states[2][k, j - 40, i]
    assert dsc(states[0]) < 0.75 and dsc(states[1]) > dsc(states[0]) + 0.1, [dsc(one) for one in states]
    assert len(strokesOf(segmentation, "a", toNode)) == 2
    for state in states[1::-1]:
        assert writer.undo() and np.array_equal(segmentArray(segmentation, "a", volume), state)


def test_the_code_of_the_tutorial_runs(scene, sample, capsys) -> None:
    text = (ROOT / "Docs" / "GetStarted" / "Tutorial.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    volume, rois, _ = sample
    exec(code, {"volumeNode": volume, "firstRoi": rois[ORGANS[0]], "secondRoi": rois[ORGANS[1]]})
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"(.+) ([\d.]+) ml, confidence [\d.]+", line) for line in lines]
    assert [one and one[1] for one in found] == list(ORGANS)
    assert all(100 < float(one[2]) < 300 for one in found if one)  # millilitres of a kidney
