"""Corrections on real nodes: what is written, undone, masked, kept; where the box comes from. The engine is a rule."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from corrections import RuleSegmenter
from nodes import addRoi, addSegmentation, addTransform, addVolume, brightSegmenter, grid, labelmaps, segmentArray
from qmedsam import Box, QMedSAMError
from qmedsam.marks import Stroke
from QMedSAMSegmentLib.boxes import bind
from QMedSAMSegmentLib.boxtags import BOXES_TAG, storeInTag, tagOf
from QMedSAMSegmentLib.correction import CorrectionRun
from QMedSAMSegmentLib.geometry import ijkToWorld
from QMedSAMSegmentLib.runs import Prompt, Run
from QMedSAMSegmentLib.segments import EditorWriter, ijkToSegmentation, orientedImage
from QMedSAMSegmentLib.settings import Settings
from QMedSAMSegmentLib.stroketags import slicesOf, strokesOf
from QMedSAMSegmentLib.volumes import volumeFromNode

SHAPE = (12, 30, 26)
OBJECT = np.zeros(SHAPE, bool)
OBJECT[3:9, 8:20, 7:19] = True


class Case:
    """A volume and a segmentation with an object from elsewhere, and an editor that writes."""

    def __init__(self, scene, matrix=None, spacing=None, mask=OBJECT) -> None:
        matrix = grid((1.0, 1.2, 2.0), (15, 20, -10)) if matrix is None else matrix
        self.volume = addVolume(scene, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 100, matrix)
        self.segmentation = addSegmentation(scene, self.volume, ["a", "b"])
        if spacing is not None:  # edited on a grid of its own
            other = addVolume(scene, np.zeros([2 * n for n in SHAPE], np.uint8), spacing)
            self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(other)
        self.editorNode = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.editorNode.SetOverwriteMode(self.editorNode.OverwriteNone)
        self.writer = EditorWriter(scene, self.editorNode)
        self.writer.aim(self.segmentation, self.volume)
        self.put("a", mask)
        self.engine = RuleSegmenter()

    @property
    def toNode(self) -> np.ndarray:
        return ijkToSegmentation(ijkToWorld(self.volume), self.segmentation)

    def put(self, segmentId: str, mask: np.ndarray) -> None:
        image = orientedImage(mask, tuple(slice(0, n) for n in mask.shape), self.toNode)
        self.writer.modify(self.segmentation, segmentId, image, False)

    def mask(self, segmentId: str = "a") -> np.ndarray:
        return segmentArray(self.segmentation, segmentId, self.volume)

    def run(self, stroke=None, **what) -> CorrectionRun:
        volume = volumeFromNode(self.volume)
        return CorrectionRun(self.volume, self.segmentation, "a", volume, Settings(), stroke, **what)

    def correct(self, stroke=None, **what) -> CorrectionRun:
        run = self.run(stroke, **what)
        self.shown = []
        run.write(run.task.compute(self.engine, self.shown.append), self.writer)
        return run

    def strokes(self) -> int:
        return len(strokesOf(self.segmentation, "a", self.toNode))


def _stroke(i: float, j: float, k: float, adds: bool = True, axis: int = 2) -> Stroke:
    return Stroke(np.array([[i, j, k]]), axis, adds, 1.0)


def _block(i: int, j: int, k: int, axis: int = 2) -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    reach = [2, 2, 2]
    found[tuple(slice(max(v - r, 0), v + r + 1) for v, r in zip((k, j, i), reach))] = True
    return found


def _slices(axis: int, index: int) -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    found[(slice(None),) * (2 - axis) + (index,)] = True
    return found


def test_every_stroke_is_one_action_and_the_list_of_strokes_follows_undo_and_redo(scene) -> None:
    case = Case(scene)
    states = [(case.mask(), 0)]
    for stroke in (_stroke(20, 10, 4), _stroke(9, 9, 8, adds=False), _stroke(12, 21, 4, axis=1)):
        case.correct(stroke)
        states.append((case.mask(), case.strokes()))
    assert [count for _mask, count in states] == [0, 1, 2, 3]
    second = _block(9, 9, 8) & ~_slices(2, 4)  # not where it was corrected before
    third = _block(12, 21, 4) & ~_slices(2, 4) & ~_slices(2, 8)
    wanted = ((OBJECT | _block(20, 10, 4)) & ~second) | third
    assert np.array_equal(states[-1][0], wanted)
    for mask, count in states[-2::-1]:
        assert case.writer.undo()
        assert np.array_equal(case.mask(), mask) and case.strokes() == count
    for mask, count in states[1:]:
        assert case.writer.redo()
        assert np.array_equal(case.mask(), mask) and case.strokes() == count
    assert case.writer.undo()
    case.correct(_stroke(20, 20, 5))  # on what is there now, with the two strokes that are left
    assert [len(call.box.strokes) for call in case.engine.calls[-2:]] == [3, 3]
    assert np.array_equal(case.mask(), states[2][0] | (_block(20, 20, 5) & ~_slices(2, 4)))


def test_the_shown_slice_is_answered_first_and_nothing_is_written_by_it(scene) -> None:
    case = Case(scene)
    before = labelmaps(case.segmentation)
    run = case.run(_stroke(20, 10, 5))
    seen = []
    case.engine.between = lambda: seen.append(labelmaps(case.segmentation) == before)
    answers = []
    result = run.task.compute(case.engine, answers.append)
    assert [call.shown for call in case.engine.calls] == [(2, 5), None] and seen == [True]
    (image,) = run.sliceImages(answers[0]).values()
    assert image.GetExtent()[4:] == (5, 5) and labelmaps(case.segmentation) == before
    assert run.write(result, case.writer)


@pytest.mark.parametrize("moved", [False, True])
def test_the_box_of_a_segment_from_elsewhere_is_its_extent_with_a_margin(scene, moved) -> None:
    case = Case(scene)
    if moved:
        transform = addTransform(scene, np.array([[0.0, -1, 0, 3], [1, 0, 0, 8], [0, 0, 1, -2], [0, 0, 0, 1]]))
        case.volume.SetAndObserveTransformNodeID(transform.GetID())
        case.segmentation.SetAndObserveTransformNodeID(transform.GetID())
    case.correct(_stroke(12, 12, 5))
    box = case.engine.calls[-1].box
    assert np.allclose(box.corners_ijk.min(axis=0), [6.5 - 0.6, 7.5 - 0.6, 2.5 - 0.3], atol=1e-4)
    assert np.allclose(box.corners_ijk.max(axis=0), [18.5 + 0.6, 19.5 + 0.6, 8.5 + 0.3], atol=1e-4)


def test_a_stroke_beside_the_box_makes_it_larger_and_the_stored_one_stays(scene) -> None:
    case = Case(scene)
    toWorld = ijkToWorld(case.volume)
    roi = addRoi(scene, (toWorld @ [12.5, 13.5, 5.5, 1])[:3], toWorld[:3, :3] * [6.5, 6.5, 3.5])
    bind(roi, case.segmentation, "a")
    size = roi.GetSize()
    case.correct(_stroke(23, 13, 5))
    box = case.engine.calls[-1].box
    assert box.corners_ijk[:, 0].max() > 23.5 and np.allclose(box.corners_ijk[:, 0].min(), 6, atol=1e-3)
    assert np.allclose(box.corners_ijk[:, 1].max(), 20, atol=1e-3)
    assert roi.GetSize() == size and "".join(tagOf(case.segmentation, "a", BOXES_TAG)).count(";") == 0
    scene.RemoveNode(roi)
    case.correct(_stroke(12, 12, 5))  # the box that was stored with it, made as large by the same stroke
    assert np.allclose(case.engine.calls[-1].box.corners_ijk, box.corners_ijk, atol=1e-3)


def test_of_two_boxes_the_one_is_asked_that_the_stroke_is_in(scene) -> None:
    case = Case(scene)
    boxes = [Box.from_voxels([2, 2, 2], [10, 26, 9], label=1), Box.from_voxels([14, 2, 2], [24, 26, 9], label=2)]
    storeInTag(case.segmentation, "a", boxes, case.toNode)
    case.correct(_stroke(20, 10, 5))
    assert np.allclose(case.engine.calls[-1].box.center_ijk, boxes[1].center_ijk, atol=1e-3)
    case.correct(_stroke(5, 10, 5))
    assert np.allclose(case.engine.calls[-1].box.center_ijk, boxes[0].center_ijk, atol=1e-3)
    assert len(case.engine.calls[-1].box.strokes) == 1 and case.strokes() == 2
    assert tagOf(case.segmentation, "a", BOXES_TAG).count(";") == 1  # both are still stored


@pytest.mark.parametrize("adds", [True, False])
def test_the_editable_area_holds_for_what_is_added_and_for_what_is_taken_away(scene, adds) -> None:
    """Outside all segments: what the other one holds stays as it is, in both."""
    case = Case(scene)
    other = np.zeros(SHAPE, bool)
    other[:, 10:, :] = True  # overlaps the object
    case.put("b", other)
    case.editorNode.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    run = case.correct(_stroke(6, 10, 5, adds))
    block = _block(6, 10, 5) & ~other
    assert np.array_equal(case.mask(), OBJECT | block if adds else OBJECT & ~block)
    assert np.array_equal(case.mask("b"), other)
    assert any("masking keeps them" in note for note in run.notes)


@pytest.mark.parametrize("overwrite", [False, True])
def test_overwrite_rules_hold(scene, overwrite) -> None:
    case = Case(scene)
    other = np.zeros(SHAPE, bool)
    other[:, :, 19:] = True
    case.put("b", other)
    case.editorNode.SetOverwriteMode(case.editorNode.OverwriteAllSegments if overwrite else case.editorNode.OverwriteNone)
    case.correct(_stroke(20, 10, 5))
    block = _block(20, 10, 5)
    assert np.array_equal(case.mask(), OBJECT | block)
    assert np.array_equal(case.mask("b"), other & ~(block & ~OBJECT) if overwrite else other)
    case.writer.undo()
    assert np.array_equal(case.mask(), OBJECT) and np.array_equal(case.mask("b"), other)


def test_an_intensity_range_holds(scene) -> None:
    case = Case(scene)
    case.editorNode.SetSourceVolumeIntensityMask(True)
    case.editorNode.SetSourceVolumeIntensityMaskRange(0, 40)
    case.correct(_stroke(20, 10, 5))
    editable = slicer.util.arrayFromVolume(case.volume) <= 40
    assert np.array_equal(case.mask(), OBJECT | (_block(20, 10, 5) & editable))


def test_on_a_finer_grid_nothing_but_the_correction_changes(scene) -> None:
    matrix = grid((1.0, 1.2, 2.0), (15, 20, -10))
    finer = matrix.copy()
    finer[:3, :3] *= 0.5
    finer[:3, 3] = (matrix @ [-0.25, -0.25, -0.25, 1])[:3]
    case = Case(scene, matrix, spacing=finer)
    image = case.segmentation.GetSegmentation().GetSegment("a").GetRepresentation("Binary labelmap")
    from vtk.util import numpy_support

    def voxels():
        array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        found = np.zeros([2 * n for n in SHAPE], bool)
        first = image.GetExtent()[::2]
        found[tuple(slice(a, a + n) for a, n in zip(first[::-1], array.shape))] = array > 0
        return found

    speck = voxels()
    speck[7, 17, 15] = False  # half a voxel of the volume, which no resampling to its grid and back would keep
    inner = orientedImage(speck, tuple(slice(0, n) for n in speck.shape), finer)
    case.writer.modify(case.segmentation, "a", inner, False)
    image = case.segmentation.GetSegmentation().GetSegment("a").GetRepresentation("Binary labelmap")
    before = voxels()
    case.correct(_stroke(21, 10, 5))
    image = case.segmentation.GetSegmentation().GetSegment("a").GetRepresentation("Binary labelmap")
    after = voxels()
    block = np.repeat(np.repeat(np.repeat(_block(21, 10, 5), 2, 0), 2, 1), 2, 2)
    assert not before[7, 17, 15] and np.array_equal(after, before | block)


def test_what_was_painted_or_corrected_stays_until_a_stroke_lies_on_it(scene) -> None:
    case = Case(scene)
    case.correct(_stroke(12, 12, 8))
    painted = case.mask()
    painted[5, 8:12, 18:25] = True
    case.put("a", painted)
    run = case.correct(_stroke(22, 12, 6))
    assert case.engine.calls[-1].kept == {(2, 5), (2, 8)} and np.array_equal(case.mask()[5], painted[5])
    assert case.mask()[6, 12, 22] and run.kept == {(2, 5)}
    case.correct(_stroke(22, 20, 7))
    assert case.engine.calls[-1].kept == {(2, 5), (2, 6), (2, 8)}
    case.writer.undo()
    case.writer.undo()
    assert slicesOf(case.segmentation, "a", case.mask(), case.toNode).painted == {(2, 5)}  # as before the run
    case.correct(_stroke(22, 12, 6), keepPainted=False)
    assert case.engine.calls[-1].kept == {(2, 8)}
    case.writer.undo()
    case.correct(_stroke(22, 12, 5))
    assert case.engine.calls[-1].kept == {(2, 8)} and case.mask()[5, 12, 22]


def test_what_was_painted_after_an_apply_is_known(scene) -> None:
    matrix = np.eye(4)
    array = np.zeros(SHAPE, np.uint8)
    array[OBJECT] = 200
    case = Case(scene, matrix, mask=np.zeros(SHAPE, bool))
    slicer.util.arrayFromVolume(case.volume)[:] = array
    roi = addRoi(scene, (12.5, 13.5, 5.5), np.diag([6.5, 6.5, 3.5]))
    bind(roi, case.segmentation, "a")
    run = Run(case.volume, case.segmentation, [Prompt(roi, "a")], Settings(strategy="fixed"), copy=False)
    run.compute(brightSegmenter())
    assert run.write(case.writer)
    found = case.mask()
    assert found.any() and not slicesOf(case.segmentation, "a", found, case.toNode).painted
    found[4, 9, 9] = False
    case.put("a", found)
    assert slicesOf(case.segmentation, "a", found, case.toNode).painted == {(2, 4)}


def test_going_on_from_a_painted_slice_finds_the_others_and_keeps_it(scene) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[OBJECT] = 200
    flat = np.zeros(SHAPE, bool)
    flat[5, 8:20, 7:17] = True  # not as the network would have it
    case = Case(scene, np.eye(4), mask=flat)
    slicer.util.arrayFromVolume(case.volume)[:] = array
    with pytest.raises(QMedSAMError, match="no box that goes on"):
        case.run(start=(2, 5))
    storeInTag(case.segmentation, "a", [Box.from_edges([6.2, 7.2, 2.2], [18.8, 19.8, 8.8])], case.toNode)
    with pytest.raises(QMedSAMError, match="Nothing is painted on the shown slice"):
        case.run(start=(2, 7))
    run = case.correct(start=(2, 5))
    found = case.mask()
    assert np.array_equal(found[5], flat[5]) and run.kept == {(2, 5)} and case.strokes() == 0
    assert not (found & ~OBJECT).any() and (found & OBJECT).sum() > 0.7 * OBJECT.sum()
    ((rectangle),) = run.task.box.rectangles
    assert (rectangle.axis, rectangle.index, rectangle.rectangle) == (2, 5, (6.5, 7.5, 16.5, 19.5))
    case.writer.undo()
    assert np.array_equal(case.mask(), flat)


def test_another_answer_takes_the_place_of_the_last_and_is_refused_after_an_edit(scene) -> None:
    case = Case(scene)
    first = case.correct(_stroke(21, 10, 5))
    one = case.mask()
    assert first.stands
    second = case.correct(before=first, candidate=1)
    larger = OBJECT.copy()
    larger[3:8, 7:14, 18:25] = True
    assert case.engine.calls[-1].candidate == 1 and np.array_equal(case.mask(), larger) and case.strokes() == 1
    third = case.correct(before=second, candidate=0)
    assert np.array_equal(case.mask(), one) and third.stands and not second.stands  # smaller again
    case.writer.undo()
    assert not third.stands and second.stands
    case.put("a", OBJECT)
    assert not second.stands


def test_a_run_knows_when_segment_or_place_are_not_what_it_began_with(scene) -> None:
    case = Case(scene)
    run = case.run(_stroke(20, 10, 5))
    assert run.alive and run.untouched
    changed = OBJECT.copy()
    changed[4, 4, 4] = True
    case.put("a", changed)
    assert not run.untouched
    case.put("a", OBJECT)
    assert run.untouched
    case.volume.SetOrigin(1, 2, 3)
    assert not run.untouched
    case.segmentation.GetSegmentation().RemoveSegment("a")
    assert not run.alive


def test_an_empty_segment_without_a_box_is_refused_with_a_sentence(scene) -> None:
    case = Case(scene, mask=np.zeros(SHAPE, bool))
    with pytest.raises(QMedSAMError, match="The selected segment is empty"):
        case.run(_stroke(3, 3, 3))
