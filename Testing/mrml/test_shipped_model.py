"""The shipped model on the shipped phantom, from a script as a user would write it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import slicer
from nodes import labelmaps, segmentArray
from qmedsam.strategies import STRATEGIES
from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic

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


def test_the_code_of_the_tutorial_runs(scene, sample, capsys) -> None:
    text = (ROOT / "Docs" / "GetStarted" / "Tutorial.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    volume, rois, _ = sample
    exec(code, {"volumeNode": volume, "firstRoi": rois[ORGANS[0]], "secondRoi": rois[ORGANS[1]]})
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"(.+) ([\d.]+) ml, confidence [\d.]+", line) for line in lines]
    assert [one and one[1] for one in found] == list(ORGANS)
    assert all(100 < float(one[2]) < 300 for one in found if one)  # millilitres of a kidney
