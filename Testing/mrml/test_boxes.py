"""ROI nodes land in voxel coordinates where they were drawn."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from nodes import addBendingTransform, addRoi, addSegmentation, addTransform, addVolume, grid, newScene
from qmedsam import QMedSAMError
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib import boxes
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld, matrixFromArray

PLAIN = np.zeros((20, 30, 40), np.int16)
GRIDS = {
    "aligned": grid(),
    "oblique": grid(turn=(12, -25, 40)),
    "flipped": grid(spacing=(-1.0, 1.5, 2.5), turn=(12, 0, 7)),
    "thick": grid(spacing=(0.5, 0.5, 6.0), turn=(0, 30, 0)),
}


def _corners(center, half_axes):
    return {
        tuple(np.round(center + half_axes @ np.array(signs), 4))
        for signs in np.ndindex(2, 2, 2)
        for signs in [2 * np.array(signs) - 1]
    }


def _same_points(a, b) -> bool:
    a, b = (np.array(sorted(map(tuple, np.round(x, 3)))) for x in (a, b))
    return np.allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("moved", [False, True], ids=["", "transformed"])
@pytest.mark.parametrize("boxMoved", [False, True], ids=["", "box-transformed"])
def test_eight_corners_of_a_turned_roi_come_back_in_voxels(scene, matrix, moved, boxMoved) -> None:
    volume = addVolume(scene, PLAIN, matrix)
    if moved:
        volume.SetAndObserveTransformNodeID(addTransform(scene, grid((1.2, 1.2, 1.2), (5, 60, -20), (3, 4, 5))).GetID())
    under = addTransform(scene, grid((1, 1, 1), (50, 10, 5), (-9, 2, 1))) if boxMoved else None
    center_ijk = np.array([18.0, 12.0, 9.0])
    to_world = ijkToWorld(volume)
    center = (to_world @ np.append(center_ijk, 1))[:3]
    half_axes = rotation(33, -14, 71) * np.array([11.0, 7.0, 9.0])
    roi = addRoi(scene, center, half_axes, under=under)
    expected = center_ijk + (np.linalg.inv(to_world)[:3, :3] @ half_axes @ (2 * np.array(list(np.ndindex(2, 2, 2))) - 1).T).T
    assert _same_points(boxes.boxFromRoi(roi, volume).corners_ijk, expected)


def test_an_roi_placed_by_its_own_calls_is_read_the_same_way(scene) -> None:
    """Not through our own setRoi: centre and size as the Markups module sets them."""
    volume = addVolume(scene, PLAIN, np.eye(4))
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    roi.SetCenter(10, 11, 12)
    roi.SetSize(4, 6, 8)
    corners = boxes.boxFromRoi(roi, volume).corners_ijk
    assert np.allclose(corners.min(axis=0), [8, 8, 8])
    assert np.allclose(corners.max(axis=0), [12, 14, 16])


def test_an_unplaced_roi_is_refused_with_a_sentence(scene) -> None:
    volume = addVolume(scene, PLAIN, np.eye(4))
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    with pytest.raises(QMedSAMError, match="no size yet"):
        boxes.boxFromRoi(roi, volume)


def test_a_bent_box_is_refused_with_a_sentence(scene) -> None:
    volume = addVolume(scene, PLAIN, np.eye(4))
    roi = addRoi(scene, (10, 10, 10), np.eye(3) * 4)
    roi.SetAndObserveTransformNodeID(addBendingTransform(scene).GetID())
    with pytest.raises(QMedSAMError, match="not linear"):
        boxes.boxFromRoi(roi, volume)


def _addView(scene, name, k, turned=False, mapped=True):
    """A slice view through the slice k of the oblique grid, along its slices or (``turned``) across them."""
    view = slicer.vtkMRMLSliceNode()
    view.SetName(name)
    view.SetLayoutName(name)
    view = scene.AddNode(view)
    view.SetMappedInLayout(mapped)
    directions = np.eye(4)
    directions[:3, :3] = rotation(12, -25, 40)[:, [0, 2, 1] if turned else [0, 1, 2]]
    directions[:3, 3] = (GRIDS["oblique"] @ [5, 5, k + 0.3, 1])[:3]
    view.GetSliceToRAS().DeepCopy(matrixFromArray(directions))


def test_a_box_drawn_in_an_oblique_view_lies_along_it(scene) -> None:
    """The application lays the diagonal between the two clicks into a cuboid along R, A and S."""
    volume = addVolume(scene, PLAIN, GRIDS["oblique"])
    _addView(scene, "Red", 10)
    first, second = ((GRIDS["oblique"] @ [*place, 10.3, 1])[:3] for place in ((4, 6), (24, 16)))

    def drawn():
        return addRoi(scene, (first + second) / 2, np.diag(np.abs(second - first) / 2))

    roi = drawn()
    assert boxes.squareToView(roi, first, volume)
    corners = boxes.boxFromRoi(roi, volume).corners_ijk
    # 20 x 10 voxels of 1 x 1.5 mm; as deep as 15 mm, in slices of 2.5
    assert np.allclose(corners.min(0), (4, 6, 7.3), atol=1e-3) and np.allclose(corners.max(0), (24, 16, 13.3), atol=1e-3)
    elsewhere = drawn()
    before = elsewhere.GetSize()
    assert not boxes.squareToView(elsewhere, first + (0, 0, 9), volume) and elsewhere.GetSize() == before


def test_a_2d_box_goes_to_the_slice_that_is_shown(scene) -> None:
    volume = addVolume(scene, PLAIN, GRIDS["oblique"])
    roi = addRoi(scene, (GRIDS["oblique"] @ [18, 12, 9, 1])[:3], np.eye(3) * 5)
    _addView(scene, "Green", 3, turned=True)
    _addView(scene, "Red", 14)
    assert boxes.flattenToSlice(roi, volume) == 14
    assert list(boxes.boxFromRoi(roi, volume).slices(2, 20)) == [14]


@pytest.mark.parametrize(("k", "mapped"), [(14, False), (-15, True), (20, True)], ids=["hidden", "below", "above"])
def test_a_view_that_shows_nothing_of_the_volume_does_not_draw_a_2d_box_to_it(scene, k, mapped) -> None:
    volume = addVolume(scene, PLAIN, GRIDS["oblique"])
    roi = addRoi(scene, (GRIDS["oblique"] @ [18, 12, 9, 1])[:3], np.eye(3) * 5)
    _addView(scene, "Red", k, mapped=mapped)
    assert boxes.flattenToSlice(roi, volume) == 9
    _addView(scene, "Compare", 4)
    assert boxes.flattenToSlice(roi, volume) == 4


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
def test_a_2d_box_covers_exactly_one_slice(scene, matrix) -> None:
    volume = addVolume(scene, PLAIN, matrix)
    center = (matrix @ [18, 12, 9.3, 1])[:3]
    roi = addRoi(scene, center, matrix[:3, :3] * np.array([6, 5, 4]))
    assert boxes.flattenToSlice(roi, volume) == 9
    box = boxes.boxFromRoi(roi, volume)
    assert list(box.slices(2, 20)) == [9]
    assert np.allclose(box.corners_ijk.min(axis=0), [12, 7, 8.5], atol=1e-6)


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
def test_a_box_fitted_to_a_segment_holds_it_with_five_percent(scene, matrix) -> None:
    volume = addVolume(scene, PLAIN, matrix)
    roi = addRoi(scene, (0, 0, 0), np.eye(3))
    mask = np.zeros(PLAIN.shape, bool)
    mask[4:9, 6:16, 10:30] = True
    boxes.fitToMask(roi, mask, matrix)
    corners = boxes.boxFromRoi(roi, volume).corners_ijk
    assert np.allclose(corners.min(axis=0), [9.5 - 1, 5.5 - 0.5, 3.5 - 0.25], atol=1e-6)
    assert np.allclose(corners.max(axis=0), [29.5 + 1, 15.5 + 0.5, 8.5 + 0.25], atol=1e-6)
    with pytest.raises(QMedSAMError, match="empty"):
        boxes.fitToMask(roi, mask & False, matrix)


def test_a_bond_is_a_reference_and_survives_a_rename_and_a_saved_scene(scene, tmp_path) -> None:
    segmentation = addSegmentation(scene, addVolume(scene, PLAIN, np.eye(4)), ["liver", "spleen"])
    segmentation.GetSegmentation().GetSegment("spleen").SetColor(0.1, 0.9, 0.2)
    roi = boxes.createRoi(scene, segmentation, "spleen")
    boxes.setRoi(roi, (10, 11, 12), rotation(10, 20, 30) * np.array([3.0, 4.0, 5.0]))
    roi.SetName("anything")
    segmentation.SetName("another")
    assert boxes.boundRois(segmentation) == [roi]
    assert boxes.boundRois(segmentation, "liver") == []
    assert np.allclose(roi.GetDisplayNode().GetSelectedColor(), (0.1, 0.9, 0.2))
    for node, file in ((segmentation, "s.seg.nrrd"), (roi, "r.mrk.json"), (scene.GetFirstNodeByName("CT"), "v.nrrd")):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / file))
        assert node.GetStorageNode().WriteData(node)
    scene.SetRootDirectory(str(tmp_path))
    assert scene.Commit(str(tmp_path / "s.mrml"))
    other = newScene()
    other.SetURL(str(tmp_path / "s.mrml"))
    assert other.Connect()
    loaded = other.GetFirstNodeByName("another")
    (back,) = boxes.boundRois(loaded, "spleen")
    assert np.allclose(arrayFromMatrix(back.GetObjectToWorldMatrix()), arrayFromMatrix(roi.GetObjectToWorldMatrix()), atol=1e-4)


def test_rois_that_a_module_hides_are_not_offered(scene) -> None:
    free, hidden, unplaced = (scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name) for name in "abc")
    for roi in (free, hidden):
        boxes.setRoi(roi, (10, 11, 12), np.eye(3) * 4)
    hidden.SetHideFromEditors(True)
    assert max(unplaced.GetSize()) <= 0 and boxes.freeRois(scene) == [free]


def test_a_duplicate_has_the_same_size_and_segment(scene) -> None:
    segmentation = addSegmentation(scene, addVolume(scene, PLAIN, np.eye(4)), ["liver"])
    roi = boxes.createRoi(scene, segmentation, "liver")
    roi.SetAndObserveTransformNodeID(addTransform(scene, grid((1, 1, 1), (50, 10, 5), (-9, 2, 1))).GetID())
    boxes.setRoi(roi, (10, 11, 12), rotation(10, 20, 30) * np.array([3.0, 4.0, 5.0]))
    twin = boxes.duplicate(roi)
    assert boxes.boundRois(segmentation, "liver") == [roi, twin]
    a, b = (arrayFromMatrix(node.GetObjectToWorldMatrix()) for node in (roi, twin))
    assert np.allclose(a[:3, :3], b[:3, :3])
    assert np.allclose(np.linalg.norm(a[:3, 3] - b[:3, 3]), 1.5)
    assert np.allclose(roi.GetSize(), twin.GetSize())
