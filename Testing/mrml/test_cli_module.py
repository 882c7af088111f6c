"""The command line module, run by Slicer's own execution model: its parser, its command line, its files in and out."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
import vtk
from execution import ExecutionModel
from nodes import addRoi, addSegmentation, addVolume, grid, segmentArray
from qmedsam import Box, Segmenter, Volume
from qmedsam.files import read_boxes, read_labels, read_volume
from qmedsam.models import shipped_folder
from vtk.util import numpy_support

pytest.importorskip("openvino")

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = shipped_folder().parent / "SampleData"
ORGANS = ("right kidney", "left kidney")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    made = ExecutionModel(ROOT / "QMedSAMBatch" / "QMedSAMBatch.py", folder)
    assert made.errors == 0
    yield made
    made.close()


@pytest.fixture(scope="module")
def phantom() -> Volume:
    volume = read_volume(SAMPLE / "QMedSAMPhantom.nrrd")
    return Volume(volume.array_kji, volume.ijk_to_ras, "CT", volume.name)


@pytest.fixture
def phantomNode(model, phantom):
    return addVolume(model.scene, phantom.array_kji, phantom.ijk_to_ras, "CT 5: abdomen")


def _organs(phantom: Volume) -> list:
    boxes = read_boxes(SAMPLE / "QMedSAMPhantom-boxes.mrk.json", phantom)
    return [Box(b.center_ijk, b.half_axes_ijk, n, b.name, b.color) for n, b in enumerate(boxes, 1) if b.name in ORGANS]


def _saved(boxes: list, volume: Volume, path: Path) -> str:
    from qmedsam.files import write_boxes

    write_boxes(path, boxes, volume)
    return str(path)


def _labels(node) -> np.ndarray:
    image = node.GetImageData()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def test_boxes_from_a_file_give_the_engines_voxels_and_named_segments(model, phantom, phantomNode, tmp_path) -> None:
    boxes = _organs(phantom)
    truth = Segmenter().segment(phantom, boxes, strategy="propagate")
    output = model.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "out")
    node = model.run(
        inputVolume=phantomNode,
        boxesFile=_saved(boxes, phantom, tmp_path / "two boxes.mrk.json"),
        outputSegmentation=output,
        modality="CT",
        strategy="propagate",
    )
    assert node.GetStatusString() == "Completed" and node.GetErrorText() == ""
    segmentation = output.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    for n, (box, found) in enumerate(zip(boxes, truth.objects)):
        segment = segmentation.GetNthSegment(n)
        assert segment.GetName() == box.name and np.allclose(segment.GetColor(), box.color, atol=1e-5)
        array = segmentArray(output, segmentation.GetNthSegmentID(n), phantomNode)
        assert np.array_equal(array, truth.labels_kji == found.label) and array.sum() > 1000
    assert int(node.GetParameterAsString("voxels")) == np.count_nonzero(truth.labels_kji)
    assert float(node.GetParameterAsString("volumeMl")) == pytest.approx(sum(o.volume_ml for o in truth.objects), rel=1e-5)
    assert int(node.GetParameterAsString("objects")) == 2
    assert "right kidney" in node.GetOutputText() and "<filter" not in node.GetOutputText()
    assert [name for name in model.left() if not name.endswith(".params")] == []


def test_one_bad_box_costs_the_others_nothing_and_is_named(model, phantom, phantomNode, tmp_path) -> None:
    """Slicer would not load the good ones after an exit code; a terminal gets one (see test_slicer_cli)."""
    kidney = _organs(phantom)[1]
    away = Box(kidney.center_ijk + (5000, 0, 0), kidney.half_axes_ijk, name="away")
    output = model.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "out")
    node = model.run(
        inputVolume=phantomNode,
        boxesFile=_saved([away, kidney], phantom, tmp_path / "boxes.mrk.json"),
        outputSegmentation=output,
        modality="CT",
        strategy="fixed",
    )
    assert node.GetStatusString() == "Completed" and "'away' lies outside" in node.GetErrorText()
    assert node.GetParameterAsString("failed") == "1" and node.GetParameterAsString("objects") == "1"
    segmentation = output.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())] == [kidney.name]
    truth = Segmenter().segment(phantom, [kidney], strategy="fixed").labels_kji > 0
    assert np.array_equal(segmentArray(output, segmentation.GetNthSegmentID(0), phantomNode), truth) and truth.any()


def test_a_rotated_roi_and_a_label_map_node(model, phantom, phantomNode) -> None:
    """The ROI travels as text of six digits, with a centre left of the patient's middle: the value starts with a minus."""
    kidney = _organs(phantom)[1]
    center = phantom.ijk_to_ras[:3, :3] @ kidney.center_ijk + phantom.ijk_to_ras[:3, 3]
    size = 2 * np.linalg.norm(phantom.ijk_to_ras[:3, :3] @ kidney.half_axes_ijk, axis=0)
    turn = vtk.vtkTransform()
    turn.Translate(*center)
    turn.RotateZ(20)
    turn.RotateX(-15)
    roi = model.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "kidney")
    roi.SetSize(*size)
    roi.SetAndObserveObjectToNodeMatrix(turn.GetMatrix())
    written: list = []
    roi.WriteCLI(written, "--roi", slicer.vtkMRMLStorageNode.CoordinateSystemRAS, 1)
    numbers = [float(v) for v in written[1].split(",")]
    assert len(numbers) == 15 and numbers[0] < 0
    box = Box.from_ras(numbers[:3], np.array(numbers[6:]).reshape(3, 3) * numbers[3:6], phantom.ijk_to_ras)
    exact = turn.GetMatrix()
    exact = np.array([[exact.GetElement(r, c) for c in range(3)] for r in range(3)])
    exact = Box.from_ras(center, exact * (size / 2), phantom.ijk_to_ras)
    assert np.abs(box.corners_ijk - exact.corners_ijk).max() < 1e-3
    output = model.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "out")
    node = model.run(inputVolume=phantomNode, roi=roi, outputSegmentation=output, modality="CT", strategy="fixed", fillHoles=True)
    assert node.GetStatusString() == "Completed", node.GetErrorText()
    from qmedsam.strategies import Options

    truth = Segmenter().segment(phantom, [box], strategy="fixed", options=Options(fill_holes=True)).labels_kji
    assert np.array_equal(_labels(output), truth) and truth.any()
    matrix = vtk.vtkMatrix4x4()
    output.GetIJKToRASMatrix(matrix)
    assert np.allclose([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)], phantom.ijk_to_ras, atol=1e-6)


def test_a_colour_picture(model) -> None:
    picture = np.zeros((1, 60, 80, 3), np.uint8)
    picture[0, 20:40, 30:60] = (200, 90, 60)
    matrix = grid()
    volume = addVolume(model.scene, picture, matrix, "polyp")
    roi = model.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "polyp")
    center = matrix @ (44.5, 29.5, 0, 1)
    roi.SetXYZ(*center[:3])
    roi.SetSize(32, 33, 2)
    output = model.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "out")
    node = model.run(inputVolume=volume, roi=roi, outputSegmentation=output, modality="Endoscopy")
    assert node.GetStatusString() == "Completed", node.GetErrorText()
    assert "pixels, confidence" in node.GetOutputText() and " ml" not in node.GetOutputText()
    assert float(node.GetParameterAsString("volumeMl")) == 0 and int(node.GetParameterAsString("voxels")) > 100
    found, truth = _labels(output) > 0, picture[..., 0] > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_an_error_is_one_sentence_and_leaves_the_scene_alone(model, phantomNode) -> None:
    output = model.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "out")
    node = model.run(inputVolume=phantomNode, outputSegmentation=output, modality="CT")
    assert node.GetStatusString() == "Completed with errors"
    assert node.GetErrorText().splitlines() == ["There is no box. Choose an ROI, a boxes file or an existing segmentation."]
    assert output.GetImageData() is None


def test_cancelling_ends_the_process_and_leaves_no_file(model, phantom, phantomNode, tmp_path) -> None:
    output = model.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "out")
    boxes = _saved(read_boxes(SAMPLE / "QMedSAMPhantom-boxes.mrk.json", phantom), phantom, tmp_path / "boxes.mrk.json")
    node = model.start(inputVolume=phantomNode, boxesFile=boxes, outputSegmentation=output, modality="CT", strategy="vote")
    assert model.wait(node, "Running") == "Running"
    while node.GetProgress() < 5 and node.GetStatusString() == "Running":
        model.wait(node, "Completed", seconds=0.05)
    assert 0 < node.GetProgress() < 100  # per cent, told while it runs: the tags are flushed
    node.Cancel()
    assert model.wait(node, "Cancelled", seconds=20) == "Cancelled"
    assert output.GetImageData() is None
    assert [name for name in model.left() if not name.endswith(".params")] == []


RECIPE = ROOT / "Docs" / "HowTo" / "segment_folder.py"


@pytest.fixture
def headless(model, monkeypatch):
    """Runs the recipe as ``Slicer --python-script`` does, its module by the execution model; the exit code."""
    ended: list = []
    monkeypatch.setattr(slicer, "cli", SimpleNamespace(runSync=lambda _module, _node, values: model.run(**values)), raising=False)
    monkeypatch.setattr(slicer, "modules", SimpleNamespace(qmedsambatch=object()), raising=False)
    monkeypatch.setattr(slicer.util, "exit", ended.append)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [str(RECIPE), "--", *map(str, arguments)])
        runpy.run_path(str(RECIPE), run_name="__main__")
        return ended.pop()

    return run


def test_the_recipe_for_a_folder_without_a_window(headless, phantom, tmp_path, capfd) -> None:
    cases, out = tmp_path / "cases", tmp_path / "out"
    cases.mkdir()
    shutil.copy(SAMPLE / "QMedSAMPhantom.nrrd", cases / "one.nrrd")
    _saved(_organs(phantom), phantom, cases / "one.mrk.json")
    assert headless(cases, out, "--modality", "CT", "--strategy", "fixed") == 0
    truth = Segmenter().segment(phantom, _organs(phantom), strategy="fixed").labels_kji
    assert np.array_equal(read_labels(out / "one.seg.nrrd"), truth) and (out / "summary.csv").is_file()
    assert headless(cases, out, "--modality", "CT", "--strategy", "fixed") == 0 and "unchanged" in capfd.readouterr().out
    (cases / "two.nrrd").write_bytes(b"NRRD0004\nhalf")
    shutil.copy(cases / "one.mrk.json", cases / "two.mrk.json")
    assert headless(cases, out, "--modality", "CT", "--strategy", "fixed") == 1
    assert headless(tmp_path / "nothing", out) == 2 and headless("--workers") == 2


def _paint(segmentation, segmentId: str, mask: np.ndarray, volumeNode) -> None:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    image = slicer.vtkOrientedImageData()
    image.DeepCopy(logic.CreateOrientedImageDataFromVolumeNode(volumeNode))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask.ravel()
    assert logic.SetBinaryLabelmapToSegment(image, segmentation, segmentId)


def test_an_existing_segmentation_gives_boxes_names_and_colours(model, phantom, phantomNode) -> None:
    """Slicer writes a segmentation node with a grid cut to its segments and overlapping segments in layers."""
    source = addSegmentation(model.scene, phantomNode, ("upper", "lower"))
    truth: list = []
    for segmentId, name, color, edges in (
        ("upper", "Niere, rechts", (0.2, 0.6, 0.4), ((20, 30, 10), (50, 70, 25))),
        ("lower", "cyst", (0.9, 0.1, 0.3), ((30, 40, 15), (44, 58, 22))),
    ):
        (i0, j0, k0), (i1, j1, k1) = edges
        mask = np.zeros(phantom.array_kji.shape, np.uint8)
        mask[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = 1
        _paint(source, segmentId, mask, phantomNode)
        segment = source.GetSegmentation().GetSegment(segmentId)
        segment.SetName(name)
        segment.SetColor(*color)
        truth.append(Box.from_voxels(*edges))
    output = model.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "out")
    node = model.run(
        inputVolume=phantomNode, inputSegmentation=source, outputSegmentation=output, modality="CT", strategy="fixed"
    )
    assert node.GetStatusString() == "Completed", node.GetErrorText()
    wanted = Segmenter().segment(phantom, truth, strategy="fixed").labels_kji
    found = output.GetSegmentation()
    segments = [found.GetNthSegment(n) for n in range(found.GetNumberOfSegments())]
    assert [segment.GetName() for segment in segments] == ["Niere, rechts", "cyst"]
    assert np.allclose([segment.GetColor() for segment in segments], [(0.2, 0.6, 0.4), (0.9, 0.1, 0.3)], atol=1e-5)
    for n in (0, 1):
        assert np.array_equal(segmentArray(output, found.GetNthSegmentID(n), phantomNode), wanted == n + 1)
    assert source.GetSegmentation().GetNumberOfSegments() == 2  # the input is as it was


def test_the_same_voxels_as_the_modules_logic(model, phantom, phantomNode, tmp_path) -> None:
    """ROI nodes saved by Slicer's own storage node: exact, turned, and of any number."""
    from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic

    files, rois = [], []
    for n, box in enumerate(_organs(phantom)):
        center = (phantom.ijk_to_ras @ np.append(box.center_ijk, 1))[:3]
        half_axes = phantom.ijk_to_ras[:3, :3] @ box.half_axes_ijk
        rois.append(addRoi(model.scene, center, half_axes, f"organ {n}"))
        storage = slicer.vtkMRMLMarkupsROIJsonStorageNode()
        model.scene.AddNode(storage)
        files.append(tmp_path / f"{n}.mrk.json")
        storage.SetFileName(str(files[-1]))
        assert storage.WriteData(rois[-1])
    together = tmp_path / "rois.mrk.json"
    markups = [markup for file in files for markup in json.loads(file.read_text(encoding="utf-8"))["markups"]]
    together.write_text(json.dumps({"markups": markups}), encoding="utf-8")
    scripted, _result = QMedSAMSegmentLogic().segment(phantomNode, rois, modality="CT", strategy="propagate")
    output = model.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "out")
    node = model.run(
        inputVolume=phantomNode, boxesFile=str(together), outputSegmentation=output, modality="CT", strategy="propagate"
    )
    assert node.GetStatusString() == "Completed", node.GetErrorText()
    for n in range(2):
        one, other = (s.GetSegmentation().GetNthSegmentID(n) for s in (scripted, output))
        found = segmentArray(output, other, phantomNode)
        assert np.array_equal(found, segmentArray(scripted, one, phantomNode)) and found.sum() > 1000
        assert output.GetSegmentation().GetNthSegment(n).GetName().startswith("organ")


def test_the_code_of_the_docs_runs(model, phantom, phantomNode, monkeypatch, capsys) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "Docs" / "HowTo" / "SlicerCLI.md").read_text(encoding="utf-8"), re.DOTALL)
    kidney = _organs(phantom)[0]
    center = (phantom.ijk_to_ras @ np.append(kidney.center_ijk, 1))[:3]
    roi = addRoi(model.scene, center, phantom.ijk_to_ras[:3, :3] @ kidney.half_axes_ijk, "kidney")
    monkeypatch.setattr(slicer, "mrmlScene", model.scene, raising=False)
    monkeypatch.setattr(slicer, "cli", SimpleNamespace(runSync=lambda _module, _node, values: model.run(**values)), raising=False)
    monkeypatch.setattr(slicer, "modules", SimpleNamespace(qmedsambatch=object()), raising=False)
    assert len(code) == 1
    exec(code[0], {"slicer": slicer, "volumeNode": phantomNode, "roiNode": roi})
    status, volume = capsys.readouterr().out.strip().splitlines()[-1].split()[:2]
    assert status == "Completed" and 100 < float(volume) < 300
