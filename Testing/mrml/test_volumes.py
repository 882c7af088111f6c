"""Volume nodes of every kind become engine volumes, or are refused with a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from nodes import addBendingTransform, addTransform, addVolume, grid
from qmedsam import QMedSAMError
from QMedSAMSegmentLib import volumes
from QMedSAMSegmentLib.volumes import modalityOf, volumeFromNode, windowOf

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(-100, 100, (5, 6, 7)).astype(np.int16)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.uint16])
def test_voxels_and_place_are_kept(scene, dtype) -> None:
    matrix = grid((-0.7, 1.1, 3.0), (5, 10, 15))
    array = np.abs(GREY).astype(dtype)
    volume = volumeFromNode(addVolume(scene, array, matrix))
    assert volume.array_kji.dtype == dtype and np.array_equal(volume.array_kji, array)
    assert np.allclose(volume.ijk_to_ras, matrix)


def test_a_linear_transform_moves_and_scales_the_volume(scene) -> None:
    node = addVolume(scene, GREY, grid())
    outer = addTransform(scene, grid((2, 2, 2), (0, 90, 0), (1, 2, 3)))
    inner = addTransform(scene, grid((1, 1, 1), (30, 0, 0), (5, 0, 0)))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    expected = grid((2, 2, 2), (0, 90, 0), (1, 2, 3)) @ grid((1, 1, 1), (30, 0, 0), (5, 0, 0)) @ grid()
    assert np.allclose(volumeFromNode(node).ijk_to_ras, expected)


def test_a_bending_transform_is_refused_with_a_sentence(scene) -> None:
    node = addVolume(scene, GREY, grid())
    node.SetAndObserveTransformNodeID(addBendingTransform(scene).GetID())
    with pytest.raises(QMedSAMError, match="not linear"):
        volumeFromNode(node)


def test_rgb_and_rgba_of_8_bits_are_read_and_other_vectors_refused(scene) -> None:
    rgba = RANDOM.integers(0, 255, (1, 6, 7, 4)).astype(np.uint8)
    assert np.array_equal(volumeFromNode(addVolume(scene, rgba, grid())).array_kji, rgba[..., :3])
    assert np.array_equal(volumeFromNode(addVolume(scene, rgba[..., :3], grid())).array_kji, rgba[..., :3])
    assert volumeFromNode(addVolume(scene, rgba[..., :1], grid())).array_kji.shape == (1, 6, 7)
    for wrong in (rgba[..., :2], rgba[..., :3].astype(np.uint16)):
        with pytest.raises(QMedSAMError, match="components"):
            volumeFromNode(addVolume(scene, wrong, grid()))


def test_a_sequences_current_frame_is_taken(scene) -> None:
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    for frame in range(3):
        shot = addVolume(scene, np.full((2, 3, 4), frame, np.int16), grid())
        sequence.SetDataNodeAtValue(shot, str(frame))
        scene.RemoveNode(shot)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    for frame in (2, 1):
        browser.SetSelectedItemNumber(frame)
        logic.UpdateProxyNodesFromSequences(browser)
        assert (volumeFromNode(browser.GetProxyNode(sequence)).array_kji == frame).all()


def test_nothing_to_segment_is_refused_with_a_sentence(scene) -> None:
    with pytest.raises(QMedSAMError, match="no volume"):
        volumeFromNode(None)
    with pytest.raises(QMedSAMError, match="holds no image"):
        volumeFromNode(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))


def test_modality_comes_from_the_hierarchy_the_database_or_the_unit(scene, monkeypatch) -> None:
    node = addVolume(scene, GREY, grid())
    assert modalityOf(node) == ""
    units = slicer.vtkCodedEntry()
    units.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    node.SetVoxelValueUnits(units)
    assert modalityOf(node) == "CT"
    for code in ("{SUVbw}g/ml", "{SUVlbm}g/ml", "{SUVbsa}cm2/ml", "Bq/ml", "BQML"):
        units.SetValueSchemeMeaning(code, "UCUM", "as Slicer's DICOM plugins for PET write it")
        node.SetVoxelValueUnits(units)
        assert modalityOf(node) == ("" if code == "BQML" else "PET")
    units.SetValueSchemeMeaning("mm2/s", "UCUM", "diffusion")
    node.SetVoxelValueUnits(units)
    assert modalityOf(node) == ""

    class Database:
        isOpen = True

        def fileForInstance(self, uid):
            return {"1.2": "file"}.get(uid, "")

        def fileValue(self, file, tag):
            return {("file", "0008,0060"): "PT"}.get((file, tag), "")

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    node.SetAttribute("DICOM.instanceUIDs", "1.2 1.3")
    assert modalityOf(node) == "PT"
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert volumeFromNode(node).modality == "MR"


def test_the_displayed_window_is_read(scene) -> None:
    node = addVolume(scene, GREY, grid())
    with pytest.raises(QMedSAMError, match="not shown"):
        windowOf(node)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevel(1500, -600)
    assert windowOf(node) == (1500, -600)


def test_voxels_are_copied_in_pieces(scene, monkeypatch) -> None:
    monkeypatch.setattr(volumes, "PIECE", 2 * GREY[0].nbytes)  # two of five slices
    for array in (GREY, RANDOM.integers(0, 255, (5, 6, 7, 4)).astype(np.uint8)):
        node = addVolume(scene, array, grid())
        copying = volumes.VoxelCopy(node)
        monkeypatch.setattr(volumes, "PIECE", 2 * copying.volume.array_kji[0].nbytes)
        copying = volumes.VoxelCopy(node)
        assert [copying.step() for _ in range(3)] == [False, False, True]
        shared = volumeFromNode(node)
        assert np.allclose(copying.volume.ijk_to_ras, shared.ijk_to_ras)
        slicer.util.arrayFromVolume(node)[:] = 7
        assert (shared.array_kji == 7).all()  # the scene's own, the copy is not
        assert np.array_equal(copying.volume.array_kji, array[..., :3] if array.ndim == 4 else array)


@pytest.mark.parametrize("change", ["voxels", "image", "gone"])
def test_an_image_that_changes_between_two_pieces_is_refused(scene, monkeypatch, change) -> None:
    monkeypatch.setattr(volumes, "PIECE", 2 * GREY[0].nbytes)
    node = addVolume(scene, GREY, grid())
    copying = volumes.VoxelCopy(node)
    assert not copying.step()
    if change == "voxels":
        slicer.util.arrayFromVolume(node)[:] = 7
        node.GetImageData().GetPointData().GetScalars().Modified()
    elif change == "image":
        node.SetAndObserveImageData(addVolume(scene, GREY[:2], grid()).GetImageData())
    else:
        scene.RemoveNode(node)
    with pytest.raises(QMedSAMError, match="image changed"):
        copying.step()
