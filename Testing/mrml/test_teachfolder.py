"""Cases out of the scene into a folder to teach with: geometry kept, names left behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from nodes import addTransform, addVolume, grid
from qmedsam import QMedSAMError
from qmedsam.evaluation.cases import read_manifest
from QMedSAMSegmentLib import teachprocess
from QMedSAMSegmentLib.batchprocess import BatchProcess
from QMedSAMSegmentLib.boxtags import codeOf
from QMedSAMSegmentLib.segments import EditorWriter, orientedImage
from QMedSAMSegmentLib.teachfolder import TeachFolder, presentCase

KIDNEY = "c~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~Anatomic codes~^^~^^"
SHAPE = (10, 24, 30)


def filled(scene: Any, matrix: np.ndarray, volumeNode: Any, **boxes: tuple) -> Any:
    """A segmentation with boxes of voxels ``(k0, k1, j0, j1, i0, i1)``."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Doe, Jane: kidneys")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    writer = EditorWriter(scene)
    writer.aim(node, volumeNode)
    for name, (k0, k1, j0, j1, i0, i1) in boxes.items():
        segmentId = node.GetSegmentation().AddEmptySegment(name, name)
        crop = (slice(k0, k1), slice(j0, j1), slice(i0, i1))
        mask = np.ones([c.stop - c.start for c in crop], bool)
        writer.modify(node, segmentId, orientedImage(mask, crop, matrix), False)
    return node


@pytest.fixture
def case(scene) -> tuple:
    matrix = grid((0.8, -1.1, 2.5), (0.2, -0.1, 0.3))
    array = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    volumeNode = addVolume(scene, array, matrix, "Doe^Jane 1970")
    node = filled(
        scene, matrix, volumeNode, kidney=(2, 8, 4, 16, 5, 20), cyst=(3, 5, 6, 9, 7, 11), bladder=(1, 3, 18, 22, 22, 28)
    )
    return volumeNode, node, array, matrix


def test_a_case_keeps_its_place_and_loses_its_name(case, tmp_path: Path) -> None:
    volumeNode, node, array, matrix = case
    node.GetSegmentation().GetSegment("kidney").SetTag("TerminologyEntry", KIDNEY)
    assert codeOf(node, "kidney") == "SCT:64033007/SCT:7771000" and codeOf(node, "cyst") == "" == codeOf(node, "none")
    folder = TeachFolder(tmp_path / "cases")
    assert folder.cases() == []
    added = folder.add(*presentCase(volumeNode, node, ["kidney", "bladder"]))
    assert added.number == 1 and added.segments == ("kidney", "bladder") and folder.counts() == {"bladder": 1, "kidney": 1}
    (read,) = read_manifest(folder.list)
    volume, labels = read.load()
    assert np.array_equal(volume.array_kji, array) and np.allclose(volume.ijk_to_ras, matrix, atol=1e-5)
    assert labels.names == {1: "kidney", 2: "bladder"}
    assert (labels.layers[0] == 1).sum() == 6 * 12 * 15 and (labels.layers[0][2:8, 4:16, 5:20] == 1).all()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "cases").iterdir())
    assert b"Doe" not in everything and b"Jane" not in everything and KIDNEY.encode() in everything


def test_segments_that_overlap_are_whole(case, tmp_path: Path) -> None:
    volumeNode, node, _, _ = case
    folder = TeachFolder(tmp_path)
    added = folder.add(*presentCase(volumeNode, node, ["kidney", "cyst"]))
    assert added.segments == ("kidney", "cyst") and len(added.files) == 3
    found = [one.load()[1] for one in read_manifest(folder.list)]
    assert [int((labels.layers[0] > 0).sum()) for labels in found] == [6 * 12 * 15, 2 * 3 * 4]
    assert len({one.patient_id for one in read_manifest(folder.list)}) == 1, "held out together"


def test_a_volume_that_was_moved_and_segments_on_another_grid(case, scene, tmp_path: Path) -> None:
    volumeNode, node, array, matrix = case
    moved = np.eye(4)
    moved[:3, 3] = (30, -10, 5)
    transform = addTransform(scene, moved)
    for one in (volumeNode, node):
        one.SetAndObserveTransformNodeID(transform.GetID())
    finer = matrix @ np.diag([0.5, 0.5, 0.5, 1.0])
    large = addVolume(scene, array.repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)
    other = filled(scene, finer, large, fine=(6, 10, 10, 20, 10, 20))
    other.SetAndObserveTransformNodeID(transform.GetID())
    volume, structures = presentCase(volumeNode, other, ["fine"])
    assert np.allclose(volume.ijk_to_ras, moved @ matrix)
    assert abs(int(structures[0].mask_kji.sum()) - 2 * 5 * 5) <= 25 and structures[0].mask_kji.any()
    added = TeachFolder(tmp_path).add(*presentCase(volumeNode, node, ["bladder"]))
    (read,) = read_manifest(tmp_path / "cases.csv")
    assert np.allclose(read.load()[0].ijk_to_ras, moved @ matrix, atol=1e-4) and added.modality == ""


def test_cases_are_removed_with_their_files_and_keep_their_numbers(case, tmp_path: Path) -> None:
    volumeNode, node, _, _ = case
    folder = TeachFolder(tmp_path)
    for _ in range(3):
        folder.add(*presentCase(volumeNode, node, ["kidney"]))
    folder.remove(2)
    assert [one.number for one in folder.cases()] == [1, 3] and folder.counts() == {"kidney": 2}
    assert sorted(path.name for path in tmp_path.glob("case-002*")) == []
    assert folder.add(*presentCase(volumeNode, node, ["kidney"])).number == 4
    with pytest.raises(QMedSAMError, match="no case 2"):
        folder.remove(2)


def test_modalities_are_in_the_list_where_all_are_known(case, tmp_path: Path) -> None:
    volumeNode, node, _, _ = case
    units = slicer.vtkCodedEntry()
    units.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    volumeNode.SetVoxelValueUnits(units)
    folder = TeachFolder(tmp_path)
    folder.add(*presentCase(volumeNode, node, ["kidney"]))
    assert [one.modality for one in read_manifest(folder.list)] == ["CT"] and folder.cases()[0].modality == "CT"
    volumeNode.SetVoxelValueUnits(None)
    folder.add(*presentCase(volumeNode, node, ["kidney"]))
    assert [one.modality for one in read_manifest(folder.list)] == ["", ""]
    assert [one.modality for one in folder.cases()] == ["CT", ""]


def test_what_cannot_be_added_ends_in_sentences(case, scene, tmp_path: Path) -> None:
    volumeNode, node, _, _ = case
    folder = TeachFolder(tmp_path / "f")
    with pytest.raises(QMedSAMError, match="no case to add"):
        presentCase(volumeNode, node, [])
    with pytest.raises(QMedSAMError, match="no case to add"):
        presentCase(None, node, ["kidney"])
    empty = node.GetSegmentation().AddEmptySegment("empty", "empty")
    with pytest.raises(QMedSAMError, match="has a voxel"):
        folder.add(*presentCase(volumeNode, node, [empty]))
    node.GetSegmentation().GetSegment("cyst").SetName("kidney")
    with pytest.raises(QMedSAMError, match="same name"):
        folder.add(*presentCase(volumeNode, node, ["kidney", "cyst"]))
    assert not (tmp_path / "f").exists()
    (tmp_path / "cases.csv").write_text("image,mask\n../secret.nrrd,b\n")
    with pytest.raises(QMedSAMError, match="not a list of this section"):
        TeachFolder(tmp_path).cases()
    (tmp_path / "file").write_text("")
    with pytest.raises(QMedSAMError, match="cannot be written"):
        TeachFolder(tmp_path / "file" / "below").add(*presentCase(volumeNode, node, ["kidney"]))


def test_another_python_is_asked_whether_it_can_teach(monkeypatch, tmp_path: Path) -> None:
    assert not teachprocess.teaches(str(tmp_path / "nothing"))
    script = "import sys; sys.exit(3)"
    monkeypatch.setattr(teachprocess, "_ASK", script)
    assert not teachprocess.teaches(sys.executable)
    monkeypatch.setattr(teachprocess, "_ASK", "pass")
    assert teachprocess.teaches(sys.executable)
    arguments = teachprocess.teachArguments(Path("a b/cases.csv"), Path("m"), anyway=True)
    assert arguments == ["-m", "qmedsam_training", "teach", str(Path("a b/cases.csv")), "-o", "m", "--json", "--write-anyway"]
    process = teachprocess.launcher(sys.executable)(["-c", "print('hello')"])
    assert process.stdout.read().strip() == "hello" and process.wait() == 0
    with pytest.raises(QMedSAMError, match="cannot be started"):
        teachprocess.launcher(str(tmp_path / "nothing"))([])


def test_the_real_command_answers_in_lines(case, tmp_path: Path) -> None:
    """What the panel starts, as it starts it: one case is too few, and that is told as an event."""
    pytest.importorskip("brevitas")
    volumeNode, node, _, _ = case
    folder = TeachFolder(tmp_path / "cases")
    folder.add(*presentCase(volumeNode, node, ["kidney"]))
    arguments = teachprocess.teachArguments(folder.list, tmp_path / "model")
    process = BatchProcess(arguments, teachprocess.launcher(sys.executable))
    told: list = []
    ended = process.read(lambda done, total: told.append((done, total)), lambda: False)
    assert ended.code == 2 and "1 patient cannot both teach and show" in ended.message
    assert next(event["event"] for event in process.events()) == "process" and told and not (tmp_path / "model").exists()
