"""Masks land voxel-exact on a phantom's truth, and enter segments by the editor's rules."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import slicer
from nodes import (
    HandTimer,
    addBendingTransform,
    addRoi,
    addSegmentation,
    addTransform,
    addVolume,
    brightSegmenter,
    grid,
    labelmaps,
    newScene,
    segmentArray,
)
from qmedsam import QMedSAMError
from qmedsam.measures import diameters
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib.boxes import boxFromRoi
from QMedSAMSegmentLib.boxtags import BOXES_TAG, restoreFromTag
from QMedSAMSegmentLib.geometry import ijkToWorld, matrixFromArray
from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic
from QMedSAMSegmentLib.runs import Prompt, Run
from QMedSAMSegmentLib.segments import EditorWriter, orientedImage
from QMedSAMSegmentLib.settings import Settings
from QMedSAMSegmentLib.worker import Job

SHAPE = (18, 44, 52)
FIXED = Settings(strategy="fixed")
GRIDS = {
    "aligned": grid((1.0, 1.0, 2.5)),
    "oblique": grid((1.0, 1.0, 2.5), (12, -25, 40)),
    "flipped": grid((-1.0, 1.0, 2.5), (12, 0, 7)),
    "anisotropic": grid((0.7, 1.4, 6.0), (0, 30, 0)),
}
#: Centre in voxels, turn against the world in degrees, half sizes in mm.
BLOBS = (((13, 14, 8), (20, 10, 30), (7, 9, 8)), ((39, 31, 9), (-30, 5, 15), (8, 6, 9)))
MOVE = grid((1.1, 1.1, 1.1), (5, 60, -20), (3, 4, 5))


def _scene_with_blobs(scene, matrix, moved=False):
    """Two bright cuboids turned against the grid, of one grey value on black, with a turned ROI around each.

    A cuboid given in world coordinates: what is inside its ROI and bright is the truth, exactly.
    """
    transform = addTransform(scene, MOVE) if moved else None
    to_world = (MOVE if moved else np.eye(4)) @ matrix
    i, j, k = np.meshgrid(*(np.arange(n) for n in SHAPE[::-1]), indexing="ij")
    world = (np.stack([i, j, k, np.ones_like(i)], -1) @ to_world.T)[..., :3]
    array, truths, rois = np.zeros(SHAPE, np.uint8), [], []
    for n, (center_ijk, turn, half) in enumerate(
        (((13, 14, 8), (20, 10, 30), (7, 9, 8)), ((39, 31, 9), (-30, 5, 15), (8, 6, 9)))
    ):
        center = (to_world @ [*center_ijk, 1])[:3]
        local = np.abs((world - center) @ rotation(*turn))
        truth = (local <= half).all(-1).transpose(2, 1, 0)
        array[truth] = 200
        truths.append(truth)
        rois.append(addRoi(scene, center, rotation(*turn) * np.array(half) * 1.04, name=f"blob {n}"))
    volume = addVolume(scene, array, matrix)
    if transform is not None:
        volume.SetAndObserveTransformNodeID(transform.GetID())
    assert not (truths[0] & truths[1]).any() and min(t.sum() for t in truths) > 200
    return volume, rois, truths


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("moved", [False, True], ids=["", "transformed"])
def test_two_turned_boxes_land_voxel_exact_in_two_segments(scene, matrix, moved) -> None:
    volume, rois, truths = _scene_with_blobs(scene, matrix, moved)
    before = slicer.util.arrayFromVolume(volume).copy()
    segmentation, result = QMedSAMSegmentLogic(brightSegmenter).segment(volume, rois, settings=FIXED)
    ids = list(segmentation.GetSegmentation().GetSegmentIDs())
    assert len(ids) == 2
    for segmentId, truth, one in zip(ids, truths, result.objects):
        assert np.array_equal(segmentArray(segmentation, segmentId, volume), truth)
        assert one.voxels == truth.sum()
    assert np.array_equal(slicer.util.arrayFromVolume(volume), before)
    assert [segmentation.GetSegmentation().GetSegment(i).GetName() for i in ids] == ["blob 0", "blob 1"]


@pytest.mark.parametrize("segmentationMoved", [False, True], ids=["", "segmentation-transformed"])
def test_a_segmentation_of_another_geometry_gets_the_same_place(scene, segmentationMoved) -> None:
    """Half the voxel size, turned: the mask is there, at most a coarse voxel off at its border, and the grid stays."""
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
    fine = addVolume(scene, np.zeros((60, 100, 110), np.uint8), grid((0.6, 0.6, 0.8), (0, 0, 33), (0, 0, 20)), "fine")
    if segmentationMoved:
        fine.SetAndObserveTransformNodeID(addTransform(scene, MOVE).GetID())
    matrix = grid((0.6, 0.6, 0.8), (0, 0, 33))
    # a grid around the first blob, whose centre the ROI knows
    center = np.array(rois[0].GetCenterWorld())
    to_parent = np.linalg.inv(MOVE) if segmentationMoved else np.eye(4)
    matrix[:3, 3] = (to_parent @ np.append(center, 1))[:3] - matrix[:3, :3] @ np.array([55, 50, 30])
    fine.SetIJKToRASMatrix(matrixFromArray(matrix))
    segmentation = addSegmentation(scene, None, ["a"])
    segmentation.SetAndObserveTransformNodeID(fine.GetTransformNodeID())
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(fine)
    QMedSAMSegmentLogic(brightSegmenter).segment(volume, rois[:1], segmentation, ["a"], FIXED)
    found = segmentArray(segmentation, "a", volume)
    dice = 2 * (found & truths[0]).sum() / (found.sum() + truths[0].sum())
    assert dice > 0.97
    image = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation("a", image)
    assert np.allclose(image.GetSpacing(), (0.6, 0.6, 0.8))


def test_rgb_and_a_single_slice(scene) -> None:
    array = np.full((1, 40, 50, 3), 20, np.uint8)
    array[0, 10:20, 15:35] = 220
    volume = addVolume(scene, array, grid((0.5, 0.5, 0.5), (0, 0, 20)), "photo")
    matrix = volume_matrix = grid((0.5, 0.5, 0.5), (0, 0, 20))
    roi = addRoi(scene, (matrix @ [25, 15, 0, 1])[:3], volume_matrix[:3, :3] * np.array([14, 8, 3.0]))
    segmentation, _ = QMedSAMSegmentLogic(brightSegmenter).segment(volume, [roi])
    (segmentId,) = segmentation.GetSegmentation().GetSegmentIDs()
    assert np.array_equal(segmentArray(segmentation, segmentId, volume), array[..., 0] > 100)


@pytest.fixture
def painted(scene):
    """Blob 0's segment 'a' empty; 'b' covers the lower half of the volume."""
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
    segmentation = addSegmentation(scene, volume, ["a", "b"])
    editorNode = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    lower = np.zeros(SHAPE, np.uint8)
    lower[:9] = 1
    whole = tuple(slice(0, n) for n in SHAPE)
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    writer.modify(segmentation, "b", orientedImage(lower, whole, GRIDS["oblique"]), False)
    assert np.array_equal(segmentArray(segmentation, "b", volume), lower > 0)
    return volume, rois[0], truths[0], segmentation, editorNode, lower > 0


def _apply(painted, **changes):
    volume, roi, _, segmentation, editorNode, _ = painted
    logic = QMedSAMSegmentLogic(brightSegmenter)
    logic.segment(volume, [roi], segmentation, ["a"], FIXED, editorNode, **changes)
    return logic, segmentArray(segmentation, "a", volume), segmentArray(segmentation, "b", volume)


def test_overwrite_none_leaves_other_segments_alone(painted) -> None:
    painted[4].SetOverwriteMode(painted[4].OverwriteNone)
    _, a, b = _apply(painted)
    assert np.array_equal(a, painted[2]) and np.array_equal(b, painted[5])


def test_without_an_editor_node_other_segments_are_left_alone(painted) -> None:
    volume, roi, truth, segmentation, _, lower = painted
    QMedSAMSegmentLogic(brightSegmenter).segment(volume, [roi], segmentation, ["a"], FIXED)
    assert np.array_equal(segmentArray(segmentation, "a", volume), truth)
    assert np.array_equal(segmentArray(segmentation, "b", volume), lower)


def test_an_earlier_calls_editor_node_does_not_rule_a_call_without_one(painted) -> None:
    volume, roi, truth, segmentation, node, lower = painted
    other = addSegmentation(volume.GetScene(), volume, ["x", "y"])
    node.SetOverwriteMode(node.OverwriteAllSegments)
    node.SetAndObserveSegmentationNode(other)
    node.SetAndObserveSourceVolumeNode(volume)
    node.SetSelectedSegmentID("y")
    logic = QMedSAMSegmentLogic(brightSegmenter)
    logic.segment(volume, [roi], other, ["x"], FIXED, node)
    logic.segment(volume, [roi], segmentation, ["a"], FIXED)
    assert np.array_equal(segmentArray(segmentation, "a", volume), truth)
    assert np.array_equal(segmentArray(segmentation, "b", volume), lower)
    assert node.GetSegmentationNode() is other and node.GetSelectedSegmentID() == "y"


def test_overwrite_all_takes_the_voxels(painted) -> None:
    painted[4].SetOverwriteMode(painted[4].OverwriteAllSegments)
    _, a, b = _apply(painted)
    assert np.array_equal(a, painted[2]) and np.array_equal(b, painted[5] & ~painted[2])


def test_the_editable_area_is_kept(painted) -> None:
    node = painted[4]
    node.SetOverwriteMode(node.OverwriteNone)
    node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    node.SetMaskSegmentID("b")
    _, a, _ = _apply(painted)
    assert np.array_equal(a, painted[2] & painted[5])
    node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    _apply_again = _apply(painted)[1]
    # outside all segments: what 'a' has already stays, new voxels only where 'b' is not
    assert not (_apply_again & painted[5] & ~a).any()


def test_the_intensity_range_is_kept(painted) -> None:
    volume, _, truth, *_ = painted
    array = slicer.util.arrayFromVolume(volume)
    array[:, :, 13:] = np.where(array[:, :, 13:] > 0, 180, 0)
    node = painted[4]
    node.SetOverwriteMode(node.OverwriteNone)
    node.SetSourceVolumeIntensityMask(True)
    node.SetSourceVolumeIntensityMaskRange(190, 255)
    _, a, _ = _apply(painted)
    right = np.zeros(SHAPE, bool)
    right[:, :, 13:] = True
    assert truth[:, :, 13:].any() and np.array_equal(a, truth & ~right)


@pytest.mark.parametrize("mask", ["editable area", "intensity range"])
def test_replace_keeps_what_may_not_be_edited_also_beyond_the_box(painted, mask) -> None:
    """Segment 'b' reaches far beyond the box and is replaced."""
    volume, roi, truth, segmentation, node, lower = painted
    node.SetOverwriteMode(node.OverwriteNone)
    editable = np.zeros(SHAPE, bool)
    if mask == "editable area":
        editable[:, :, :13] = True
        writer = EditorWriter(volume.GetScene())
        writer.aim(segmentation, volume)
        whole = tuple(slice(0, n) for n in SHAPE)
        writer.modify(segmentation, "a", orientedImage(editable, whole, GRIDS["oblique"]), False)
        node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
        node.SetMaskSegmentID("a")
    else:
        editable = slicer.util.arrayFromVolume(volume) >= 190
        node.SetSourceVolumeIntensityMask(True)
        node.SetSourceVolumeIntensityMaskRange(190, 255)
    before = labelmaps(segmentation)
    logic = QMedSAMSegmentLogic(brightSegmenter)
    logic.segment(volume, [roi], segmentation, ["b"], FIXED, node)
    found = segmentArray(segmentation, "b", volume)
    assert (lower & ~editable)[:, :, 30:].any() and (truth & editable).any()
    assert np.array_equal(found, (truth & editable) | (lower & ~editable))
    assert logic.undo() and labelmaps(segmentation) == before


def test_replace_takes_what_was_there_and_add_keeps_it(painted) -> None:
    volume, roi, truth, segmentation, editorNode, lower = painted
    editorNode.SetOverwriteMode(editorNode.OverwriteNone)
    logic = QMedSAMSegmentLogic(brightSegmenter)
    logic.segment(volume, [roi], segmentation, ["b"], FIXED, editorNode, mode="add")
    assert np.array_equal(segmentArray(segmentation, "b", volume), lower | truth)
    logic.segment(volume, [roi], segmentation, ["b"], FIXED, editorNode)
    assert np.array_equal(segmentArray(segmentation, "b", volume), truth)


def test_a_segment_whose_box_finds_nothing_is_left_as_it_is(painted) -> None:
    volume, roi, truth, segmentation, *_ = painted
    roi2 = addRoi(volume.GetScene(), (GRIDS["oblique"] @ [39, 10, 5, 1])[:3], np.eye(3) * 4, name="in the dark")
    logic = QMedSAMSegmentLogic(brightSegmenter)
    before = labelmaps(segmentation)["b"]
    _, result = logic.segment(volume, [roi, roi2], segmentation, ["a", "b"], FIXED)
    assert np.array_equal(segmentArray(segmentation, "a", volume), truth) and labelmaps(segmentation)["b"] == before
    assert any("'b'" in message and "left as it was" in message for message in result.messages)
    tags = [segmentation.GetSegmentation().GetSegment(one).HasTag(BOXES_TAG) for one in "ab"]
    assert tags == [True, False]


def test_what_is_found_off_the_grid_of_the_segmentation_empties_no_segment(painted) -> None:
    volume, roi, *_ = painted
    scene = volume.GetScene()
    away = addVolume(scene, np.zeros((4, 5, 6), np.uint8), grid(origin=(900, 0, 0)), "away")
    segmentation = addSegmentation(scene, away, ["a"])
    writer = EditorWriter(scene)
    writer.aim(segmentation, away)
    writer.modify(
        segmentation,
        "a",
        orientedImage(np.ones((2, 5, 6), bool), (slice(0, 2), slice(0, 5), slice(0, 6)), grid(origin=(900, 0, 0))),
        False,
    )
    before = labelmaps(segmentation)
    with pytest.raises(QMedSAMError, match="outside the grid"):
        QMedSAMSegmentLogic(brightSegmenter).segment(volume, [roi], segmentation, ["a"], FIXED)
    assert before["a"][0] and labelmaps(segmentation) == before


def _bad(scene, kind: str):
    """A box that cannot be segmented, and what the sentence about it has to hold."""
    if kind == "unplaced":
        return scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "bad"), "no size yet"
    roi = addRoi(scene, (5000, 0, 0), np.eye(3) * 5, name="bad")
    if kind == "bent":
        roi.SetAndObserveTransformNodeID(addBendingTransform(scene).GetID())
    return roi, "not linear" if kind == "bent" else "lies outside the image"


@pytest.mark.parametrize("kind", ["outside", "unplaced", "bent"])
@pytest.mark.parametrize("own", [True, False], ids=["own-segment", "new-segment"])
def test_one_bad_box_is_named_and_the_good_ones_are_written(scene, kind, own) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
    bad, words = _bad(scene, kind)
    segmentation = addSegmentation(scene, volume, ["a", "b", "c"] if own else [])
    ids = ["a", "b", "c"] if own else None
    _, result = QMedSAMSegmentLogic(brightSegmenter).segment(volume, [rois[0], bad, rois[1]], segmentation, ids, FIXED)
    inner = segmentation.GetSegmentation()
    found = {inner.GetSegment(one).GetName(): segmentArray(segmentation, one, volume) for one in inner.GetSegmentIDs()}
    assert np.array_equal(found["a" if own else "blob 0"], truths[0])
    assert np.array_equal(found["c" if own else "blob 1"], truths[1])
    assert ("b" in found and not found["b"].any()) if own else set(found) == {"blob 0", "blob 1"}
    assert [bool(one.error) for one in result.objects] == [False, True, False] and words in result.objects[1].error
    assert sum(words in message and "'bad'" in message for message in result.messages) == 1
    assert not bad.GetAttribute("QMedSAM.SegmentID") or own
    with pytest.raises(QMedSAMError, match=words):
        QMedSAMSegmentLogic(brightSegmenter).segment(volume, [bad], segmentation, settings=FIXED)


def test_a_segment_that_goes_during_a_run_is_named_and_the_others_are_written(scene) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
    segmentation = addSegmentation(scene, volume, ["a", "b"])
    segmentation.GetSegmentation().GetSegment("a").SetName("liver")
    run = Run(volume, segmentation, [Prompt(rois[0], "a"), Prompt(rois[1], "b")], FIXED)
    run.compute(brightSegmenter())
    segmentation.GetSegmentation().RemoveSegment("a")
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    assert run.alive and run.write(writer) and np.array_equal(segmentArray(segmentation, "b", volume), truths[1])
    assert any("'liver' is gone" in message for message in run.result.messages)
    segmentation.GetSegmentation().RemoveSegment("b")
    assert not run.alive and not run.write(writer)


@pytest.fixture
def cropped(scene):
    """The oblique volume with blob 0, and a segmentation whose geometry ends in the middle of the blob, with a volume of it.

    The same grid, or one of half the voxel size (``fine``).
    """

    def make(fine: bool):
        volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
        matrix = GRIDS["oblique"].copy()
        shape = np.array(SHAPE)
        if fine:
            matrix[:3, 3] -= matrix[:3, :3] @ [0.25, 0.25, 0.25]
            matrix[:3, :3] /= 2
            shape = shape * 2
        shape[2] = 28 if fine else 14  # i: the blob's centre is at 13
        part = addVolume(scene, np.zeros(shape, np.uint8), matrix, "part")
        segmentation = addSegmentation(scene, part, ["a"])
        inside = truths[0].copy()
        inside[:, :, 14:] = False
        assert 200 < inside.sum() < truths[0].sum() - 200
        return volume, rois[0], truths[0], inside, segmentation

    return make


def _extentOf(segmentation) -> list:
    image = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation("a", image)
    return image.GetExtent()


@pytest.mark.parametrize("fine", [False, True], ids=["same-grid", "finer"])
@pytest.mark.parametrize("ranged", [False, True], ids=["", "intensity-range"])
def test_a_mask_is_cut_to_the_geometry_of_the_segmentation_and_the_number_says_so(cropped, fine, ranged) -> None:
    volume, roi, truth, inside, segmentation = cropped(fine)
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    if ranged:  # nothing of the object may be edited
        node.SetSourceVolumeIntensityMask(True)
        node.SetSourceVolumeIntensityMaskRange(0, 100)
    logic = QMedSAMSegmentLogic(brightSegmenter)
    _, result = logic.segment(volume, [roi], segmentation, ["a"], FIXED, node)
    found = segmentArray(segmentation, "a", volume)
    ml = 2.5 / 1000
    (one,) = result.objects
    assert one.volume_ml == pytest.approx(inside.sum() * ml) and one.voxels == inside.sum()
    measured = diameters(inside, ijkToWorld(volume))
    assert measured is not None and one.diameters.long_mm == pytest.approx(measured.long_mm)
    assert np.allclose(one.diameters.short_ijk, measured.short_ijk)
    cut = f"{(truth & ~inside).sum() * ml:.1f} ml of 'blob 0' lie outside the geometry"
    assert sum(cut in message for message in result.messages) == 1
    extent = _extentOf(segmentation)
    assert extent[1] <= (27 if fine else 13)
    if ranged:
        assert found.sum() < (0.1 * inside.sum() if fine else 1)  # grey values between the voxels are interpolated
        kept = [message for message in result.messages if "'a' were not written: the editor's masking" in message]
        assert len(kept) == 1 and float(kept[0].split()[0]) == pytest.approx((inside.sum() - found.sum()) * ml, rel=0.1)
    else:
        assert np.array_equal(found, inside) and not any("not written" in message for message in result.messages)


def test_a_preview_shows_what_would_be_written(cropped) -> None:
    from QMedSAMSegmentLib.preview import Preview

    volume, roi, _, inside, segmentation = cropped(True)
    run = Run(volume, segmentation, [Prompt(roi, "a")], FIXED)
    run.compute(brightSegmenter())
    run.forget()
    preview = Preview()
    assert np.array_equal(segmentArray(preview.show(run), "a", volume), inside)
    writer = EditorWriter(volume.GetScene())
    writer.aim(segmentation, volume)
    part = volume.GetScene().GetFirstNodeByName("part")
    assert run.write(writer)
    assert np.array_equal(segmentArray(segmentation, "a", part), segmentArray(preview.node, "a", part))
    assert run.result.labels_kji.size == 0 and run.task.volume.array_kji.nbytes < 100


def test_what_another_segment_of_the_run_takes_is_said(scene) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["aligned"])
    segmentation = addSegmentation(scene, volume, ["organ", "lesion"])
    lesion = addRoi(scene, rois[0].GetCenterWorld(), np.eye(3) * 4, name="lesion")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    node.SetOverwriteMode(node.OverwriteAllSegments)
    _, result = QMedSAMSegmentLogic(brightSegmenter).segment(
        volume, [rois[0], lesion], segmentation, ["organ", "lesion"], FIXED, node
    )
    small = segmentArray(segmentation, "lesion", volume)
    assert small.any() and np.array_equal(segmentArray(segmentation, "organ", volume), truths[0] & ~small)
    taken = [message for message in result.messages if "'organ' went to the other segments" in message]
    assert len(taken) == 1 and taken[0].startswith(f"{small.sum() * 2.5 / 1000:.2f} ml")


@pytest.mark.parametrize("kind", ["transform", "both"])
def test_a_run_is_written_where_it_was_computed_in_the_segmentation(scene, kind) -> None:
    """The volume and the segmentation are moved together while it computes: nothing has moved between them."""
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
    segmentation = addSegmentation(scene, volume, ["a"])
    run = Run(volume, segmentation, [Prompt(rois[0], "a")], FIXED)
    run.compute(brightSegmenter())
    move = addTransform(scene, MOVE)
    for node in (volume, segmentation) if kind == "both" else (segmentation,):
        node.SetAndObserveTransformNodeID(move.GetID())
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    assert run.write(writer)
    segmentation.SetAndObserveTransformNodeID(None)
    volume.SetAndObserveTransformNodeID(None)
    assert np.array_equal(segmentArray(segmentation, "a", volume), truths[0])


def test_two_boxes_of_one_segment_are_united(scene) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["anisotropic"])
    segmentation = addSegmentation(scene, volume, ["a"])
    QMedSAMSegmentLogic(brightSegmenter).segment(volume, rois, segmentation, ["a", "a"], FIXED)
    assert np.array_equal(segmentArray(segmentation, "a", volume), truths[0] | truths[1])


def test_undo_and_redo_bit_for_bit_and_in_one_step(painted) -> None:
    volume, roi, _, segmentation, editorNode, _ = painted
    editorNode.SetOverwriteMode(editorNode.OverwriteAllSegments)
    logic = QMedSAMSegmentLogic(brightSegmenter)
    assert not logic.undo()
    before = labelmaps(segmentation)
    other = addRoi(volume.GetScene(), roi.GetCenterWorld(), np.eye(3) * 5, name="new")
    segmentation_ids = before.keys()
    logic.segment(volume, [roi], segmentation, ["a"], FIXED, editorNode)
    first = labelmaps(segmentation)
    logic.segment(volume, [roi, other], segmentation, None, FIXED, editorNode)  # one bound, one new: one action
    second = labelmaps(segmentation)
    assert len(second) == 3 and first.keys() == segmentation_ids and first != before
    assert logic.undo() and labelmaps(segmentation) == first
    assert logic.undo() and labelmaps(segmentation) == before
    assert not logic.undo()
    assert logic.redo() and labelmaps(segmentation) == first
    assert logic.redo() and labelmaps(segmentation) == second
    assert not logic.redo()


def test_a_seg_nrrd_keeps_voxels_boxes_and_names(scene, tmp_path) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["oblique"])
    segmentation, _ = QMedSAMSegmentLogic(brightSegmenter).segment(volume, rois, settings=FIXED)
    segmentation.AddDefaultStorageNode()
    segmentation.GetStorageNode().SetFileName(str(tmp_path / "two.seg.nrrd"))
    assert segmentation.GetStorageNode().WriteData(segmentation)
    other = newScene()
    loaded = other.AddNewNodeByClass("vtkMRMLSegmentationNode")
    loaded.AddDefaultStorageNode()
    loaded.GetStorageNode().SetFileName(str(tmp_path / "two.seg.nrrd"))
    assert loaded.GetStorageNode().ReadData(loaded)
    again = addVolume(other, slicer.util.arrayFromVolume(volume), GRIDS["oblique"])
    for segmentId, truth, roi in zip(segmentation.GetSegmentation().GetSegmentIDs(), truths, rois):
        assert np.array_equal(segmentArray(loaded, segmentId, again), truth)
        (restored,) = restoreFromTag(loaded, segmentId)
        a, b = (
            np.array(sorted(map(tuple, boxFromRoi(r, v).corners_ijk.round(2)))) for r, v in ((roi, volume), (restored, again))
        )
        assert np.abs(a - b).max() < 0.05


def test_a_cancelled_run_keeps_its_slices(scene) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["aligned"])
    seen = []
    segmentation, result = QMedSAMSegmentLogic(brightSegmenter).segment(
        volume, rois[:1], settings=FIXED, progress=lambda *at: seen.append(at), cancelled=lambda: len(seen) >= 3
    )
    assert result.cancelled and len(seen) == 3
    (segmentId,) = segmentation.GetSegmentation().GetSegmentIDs()
    found = segmentArray(segmentation, segmentId, volume)
    done = np.flatnonzero(found.any(axis=(1, 2)))
    assert 0 < len(done) <= 3 and np.array_equal(found[done], truths[0][done])


def test_a_cancelled_run_takes_nothing_out_of_a_segment(scene) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["aligned"])
    segmentation = addSegmentation(scene, volume, ["a", "b"])
    logic = QMedSAMSegmentLogic(brightSegmenter)
    logic.segment(volume, rois, segmentation, ["a", "b"], FIXED)
    seen = []
    _, result = logic.segment(
        volume,
        rois,
        segmentation,
        ["b", "a"],  # replace, each by the other's object
        FIXED,
        progress=lambda *at: seen.append(at),
        cancelled=lambda: len(seen) >= 3,
    )
    found = [segmentArray(segmentation, one, volume) for one in "ab"]
    assert result.cancelled and all((mask & truth).sum() == truth.sum() for mask, truth in zip(found, truths))
    assert any(mask.sum() > truth.sum() for mask, truth in zip(found, truths))


def test_a_segmentation_of_surfaces_is_refused_and_an_empty_one_stores_labelmaps(scene) -> None:
    volume, rois, truths = _scene_with_blobs(scene, GRIDS["aligned"])
    logic = QMedSAMSegmentLogic(brightSegmenter)
    segmentation, _ = logic.segment(volume, rois[:1], settings=FIXED)
    inner = segmentation.GetSegmentation()
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    inner.CreateRepresentation(surface)
    inner.SetSourceRepresentationName(surface)
    before = (list(inner.GetSegmentIDs()), inner.GetNthSegment(0).GetRepresentation(surface).GetMTime())
    with pytest.raises(QMedSAMError, match="stored as Closed surface") as caught:
        logic.segment(volume, rois[1:], segmentation, settings=FIXED)
    assert "binary labelmap" in caught.value.hint
    assert (list(inner.GetSegmentIDs()), inner.GetNthSegment(0).GetRepresentation(surface).GetMTime()) == before
    empty = addSegmentation(scene, volume)
    empty.GetSegmentation().SetSourceRepresentationName(surface)
    logic.segment(volume, rois[:1], empty, settings=FIXED)
    (segmentId,) = empty.GetSegmentation().GetSegmentIDs()
    assert np.array_equal(segmentArray(empty, segmentId, volume), truths[0])


def test_a_failing_run_leaves_the_scene_as_it_was(scene) -> None:
    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])
    segmentation = addSegmentation(scene, volume, ["a"])
    nodes = scene.GetNumberOfNodes()
    logic = QMedSAMSegmentLogic(brightSegmenter)
    rois[0].SetCenterWorld(5000, 0, 0)
    with pytest.raises(QMedSAMError, match="outside the image"):
        logic.segment(volume, rois[:1], segmentation)
    with pytest.raises(QMedSAMError, match="outside the image"):
        logic.segment(volume, rois[:1])
    with pytest.raises(QMedSAMError, match="no segment 'zz'"):
        logic.segment(volume, rois, segmentation, ["a", "zz"])
    with pytest.raises(QMedSAMError, match="no box"):
        logic.segment(volume, [], segmentation)
    segmentation.SetAndObserveTransformNodeID(addBendingTransform(scene).GetID())
    with pytest.raises(QMedSAMError, match="not linear"):
        logic.segment(volume, rois[1:], segmentation, ["a"])
    assert scene.GetNumberOfNodes() == nodes + 1  # the bending transform
    assert list(segmentation.GetSegmentation().GetSegmentIDs()) == ["a"]


def test_a_slicer_without_the_editors_logic_is_refused_before_anything_is_computed(scene, monkeypatch) -> None:
    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])
    nodes, slices = scene.GetNumberOfNodes(), []
    monkeypatch.delattr(slicer, "vtkSlicerSegmentEditorLogic")
    with pytest.raises(QMedSAMError, match=r"5\.10"):
        QMedSAMSegmentLogic(brightSegmenter).segment(volume, rois, progress=lambda *at: slices.append(at))
    assert not slices and scene.GetNumberOfNodes() == nodes


def test_a_result_that_cannot_be_written_leaves_no_new_segmentation(scene, monkeypatch) -> None:
    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])

    def refuse(*arguments):
        raise QMedSAMError("The grid bends.", "Harden it.")

    monkeypatch.setattr(EditorWriter, "modify", refuse)
    with pytest.raises(QMedSAMError, match="bends"):
        QMedSAMSegmentLogic(brightSegmenter).segment(volume, rois, settings=FIXED)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_scene_closed_during_a_run_drops_the_result(scene) -> None:
    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])
    segmentation = addSegmentation(scene, volume, ["a"])
    run = Run(volume, segmentation, [Prompt(rois[0], "a")], FIXED)
    writer = EditorWriter(scene)
    writer.aim(segmentation, volume)
    steps, wrote = [], []

    def work(progress, cancelled):
        def once(done, total):
            if not steps:
                scene.Clear(False)  # the user closes the scene in the middle
            steps.append(done)
            progress(done, total)

        return run.compute(brightSegmenter(), once, cancelled)

    job = Job(work, lambda _: wrote.append(run.write(writer)), wrote.append, launch=lambda f: f(), timer=HandTimer)
    job.start()
    HandTimer.last.callback()
    assert len(steps) > 3 and wrote == [False]
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_the_logic_works_again_after_the_scene_was_closed(scene) -> None:
    logic = QMedSAMSegmentLogic(brightSegmenter)
    for _ in range(2):
        volume, rois, truths = _scene_with_blobs(scene, GRIDS["aligned"])
        segmentation, _ = logic.segment(volume, rois[:1], settings=FIXED)
        (segmentId,) = segmentation.GetSegmentation().GetSegmentIDs()
        assert np.array_equal(segmentArray(segmentation, segmentId, volume), truths[0])
        scene.Clear(False)


def test_without_openvino_a_script_is_told_how_it_is_installed_here(scene, monkeypatch) -> None:
    class Missing:
        def segment(self, *arguments, **options):
            raise QMedSAMError("OpenVINO, which runs the network, cannot be loaded.", "python -m pip install ...")

    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])
    monkeypatch.setattr("QMedSAMSegmentLib.runs.installed", lambda: False)
    with pytest.raises(QMedSAMError, match="OpenVINO") as caught:
        QMedSAMSegmentLogic(lambda model: Missing()).segment(volume, rois)
    assert "module QMedSAM" in caught.value.hint


def test_a_script_installs_only_what_is_missing(monkeypatch, tmp_path) -> None:
    calls = []

    class Recorder:
        def install(self, *arguments):
            calls.append(arguments)

    monkeypatch.setattr("QMedSAMSegmentLib.logic.Installer", Recorder)
    monkeypatch.setattr("QMedSAMSegmentLib.logic.installed", lambda: True)
    QMedSAMSegmentLogic().install()
    assert calls == []
    monkeypatch.setattr("QMedSAMSegmentLib.logic.installed", lambda: False)
    QMedSAMSegmentLogic().install(str(tmp_path))
    assert calls == [(tmp_path, None)]


def test_undo_stays_with_the_segmentation_that_was_written_last(scene) -> None:
    logic = QMedSAMSegmentLogic(brightSegmenter)
    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])
    first, _ = logic.segment(volume, rois[:1], settings=FIXED)
    second, _ = logic.segment(volume, rois[1:], settings=FIXED)
    kept = labelmaps(first)
    assert len(kept) == 1 and logic.undo()
    assert labelmaps(second) == {} and labelmaps(first) == kept
    assert not logic.undo() and labelmaps(first) == kept


def test_scripts_leave_one_hidden_editor_node_and_keep_their_own_undo(scene) -> None:
    volume, rois, _ = _scene_with_blobs(scene, GRIDS["aligned"])
    segmentation = addSegmentation(scene, volume)
    for _ in range(3):  # a script makes a logic where it needs one; the next one finds the node aimed already
        logic = QMedSAMSegmentLogic(brightSegmenter)
        logic.segment(volume, rois, segmentation, settings=FIXED)
        assert logic.undo() and labelmaps(segmentation) == {}
        del logic
        gc.collect()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode") == 1
    one, two = QMedSAMSegmentLogic(brightSegmenter), QMedSAMSegmentLogic(brightSegmenter)
    (first, _), (second, _) = (logic.segment(volume, rois, settings=FIXED) for logic in (one, two))
    assert one.undo() and labelmaps(first) == {} and len(labelmaps(second)) == 2
    assert two.undo() and labelmaps(second) == {}
