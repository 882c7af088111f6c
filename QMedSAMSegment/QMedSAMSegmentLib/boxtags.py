"""The boxes that a segment was made from, in a tag of the segment, so that a ``.seg.nrrd`` carries them along."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from qmedsam import Box, QMedSAMError
from qmedsam.terminology import code_of

from .boxes import boundSegmentIds, createRoi, setRoi
from .geometry import nodeToWorld
from .segments import content, storedGrid

#: Tag of a segment: its boxes, 12 numbers each (centre, then half axes, in the segmentation's RAS), ';' between boxes.
#: Neither ':' nor '|', which separate tags in a ``.seg.nrrd``.
BOXES_TAG = "QMedSAM.Boxes"
#: Tag of a segment: the matrix of its labelmap at that time (16 numbers), then the :class:`Anchor` of what was in its boxes
#: (9, where anything was).
#: A hardened transform moves the labelmap's grid together with what is in it; *Specify geometry* and another source geometry
#: with resampled labelmaps change the grid as much, but leave in place what is in it. The anchor tells them apart.
GRID_TAG = "QMedSAM.BoxesGrid"
#: Tags of :mod:`~QMedSAMSegmentLib.stroketags`: they are about what the boxes gave, and go when that is replaced.
STROKES_TAG, SLICES_TAG = "QMedSAM.Strokes", "QMedSAM.Slices"

#: Two explanations of a grid that differ by less than this share of the object's size in mm are equally good.
_TIE = 1e-3
#: What is in the boxes may have been edited by this share of its size, when a changed grid has to be explained.
_EDITED = 0.25


class Anchor(NamedTuple):
    """What of a segment lies in its boxes, in mm: where and how far it extends, whatever the voxels.

    Attributes:
        center: centre of mass in the segmentation's RAS.
        spread: ``3 x 3`` covariance.
    """

    center: np.ndarray
    spread: np.ndarray

    def moved(self, matrix: np.ndarray) -> Anchor:
        """The same object after a linear transform."""
        linear = matrix[:3, :3]
        return Anchor((matrix @ np.append(self.center, 1.0))[:3], linear @ self.spread @ linear.T)

    def distance(self, other: Anchor) -> float:
        """How far two objects are apart in place, size and direction, as a share of their size; 0 for the same one."""
        size = np.sqrt(max(np.trace(self.spread), np.trace(other.spread), 1e-6))
        turned = np.linalg.norm(_root(self.spread) - _root(other.spread))
        return float((np.linalg.norm(self.center - other.center) + turned) / size)


def _root(spread: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance: standard deviations, in mm."""
    values, vectors = np.linalg.eigh(spread)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def storeInTag(segmentationNode: Any, segmentId: str, boxes: Sequence[Box], ijkToNode: np.ndarray) -> None:
    """Write what was applied into its segment: not the ROIs, which may have moved or gone meanwhile.

    What was stored of strokes is taken out.

    Args:
        segmentationNode: in its own coordinates the boxes are stored.
        segmentId: of the segment, with its new content.
        boxes: of one volume.
        ijkToNode: ``4 x 4`` from that volume's voxels into the segmentation's coordinates.
    """
    placed = []
    for box in boxes:
        center = (ijkToNode @ np.append(box.center_ijk, 1.0))[:3]
        placed.append(np.vstack([center, (ijkToNode[:3, :3] @ box.half_axes_ijk).T]))
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    segment.SetTag(BOXES_TAG, ";".join(" ".join(f"{value:.6g}" for value in one.ravel()) for one in placed))
    grid, anchor = storedGrid(segmentationNode, segmentId), _anchor(segmentationNode, segmentId, placed)
    numbers = list(grid.ravel()) if grid is not None else []
    if anchor is not None:
        numbers += [*anchor.center, *anchor.spread[np.triu_indices(3)]]
    segment.SetTag(GRID_TAG, " ".join(f"{value:.9g}" for value in numbers))
    segment.RemoveTag(STROKES_TAG)
    segment.RemoveTag(SLICES_TAG)


def restorableSegments(segmentationNode: Any) -> List[str]:
    """Segments that carry boxes in their tag while the scene has no ROI node of theirs."""
    if segmentationNode is None:
        return []
    segmentation, bound = segmentationNode.GetSegmentation(), boundSegmentIds(segmentationNode)
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return [one for one in ids if one not in bound and tagOf(segmentationNode, one, BOXES_TAG)]


def restoreBoxes(segmentationNode: Any) -> Tuple[List[Any], List[str]]:
    """ROI nodes for every segment that :func:`restorableSegments` names.

    Returns:
        The nodes, and a sentence for each segment whose boxes cannot come back; the others' do.
    """
    rois: List[Any] = []
    problems: List[str] = []
    for segmentId in restorableSegments(segmentationNode):
        try:
            rois.extend(restoreFromTag(segmentationNode, segmentId))
        except QMedSAMError as error:
            problems.append(str(error))
    return rois, problems


def restoreFromTag(segmentationNode: Any, segmentId: str) -> List[Any]:
    """ROI nodes for the boxes that a segment carries in its tag, moved by every transform that was hardened on it since.

    Raises:
        QMedSAMError: the tag cannot be read, nobody can tell where the boxes belong now, or a transform has made one oblique.
    """
    name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    try:
        boxes = _stored(segmentationNode, segmentId)
        motion = motionSince(segmentationNode, segmentId)
    except ValueError:
        raise QMedSAMError(f"The boxes stored with the segment '{name}' cannot be read.", "Draw a new one.") from None
    if motion is None:
        raise QMedSAMError(
            f"The segment '{name}' is on another grid now and looks different: where its boxes belong cannot be told.",
            "Use 'Fit', or draw a new one.",
        )
    toWorld = nodeToWorld(segmentationNode) @ motion
    rois: List[Any] = []
    for box in boxes:
        rois.append(createRoi(segmentationNode.GetScene(), segmentationNode, segmentId))
        try:
            setRoi(rois[-1], (toWorld @ np.append(box[0], 1.0))[:3], toWorld[:3, :3] @ box[1:].T)
        except QMedSAMError:
            for roiNode in rois:
                segmentationNode.GetScene().RemoveNode(roiNode)
            raise
    return rois


def storedBoxes(segmentationNode: Any, segmentId: str, ijkToNode: np.ndarray) -> List[Box]:
    """The boxes that a segment carries in its tag, in the voxels of a volume; none where nobody can tell where they belong now.

    Args:
        segmentationNode, segmentId: whose.
        ijkToNode: ``4 x 4`` from the volume's voxels into the segmentation's coordinates.
    """
    try:
        boxes, motion = _stored(segmentationNode, segmentId), motionSince(segmentationNode, segmentId)
    except ValueError:
        return []
    if motion is None:
        return []
    return [
        Box.from_ras((motion @ np.append(box[0], 1.0))[:3], motion[:3, :3] @ box[1:].T, ijkToNode, label=n)
        for n, box in enumerate(boxes, start=1)
    ]


def _stored(segmentationNode: Any, segmentId: str) -> List[np.ndarray]:
    """The tag's boxes as they were written, ``4 x 3`` each; raises ValueError where it holds something else."""
    entries = tagOf(segmentationNode, segmentId, BOXES_TAG).split(";")
    return [np.array([float(number) for number in entry.split()]).reshape(4, 3) for entry in entries if entry]


def motionSince(segmentationNode: Any, segmentId: str) -> Optional[np.ndarray]:
    """``4 x 4``: how linear transforms have moved a segment since its boxes were stored (see :data:`GRID_TAG`).

    Returns:
        None where neither "it was moved" nor "it was resampled" explains what is in the segment now.

    Raises:
        ValueError: a tag holds no numbers.
    """
    boxes = _stored(segmentationNode, segmentId)
    numbers = np.array([float(n) for n in tagOf(segmentationNode, segmentId, GRID_TAG).split()])
    now = storedGrid(segmentationNode, segmentId)
    if not len(numbers) or now is None:
        return np.eye(4)
    if len(numbers) not in (16, 25):
        raise ValueError
    moved = now @ np.linalg.inv(numbers[:16].reshape(4, 4))
    if np.abs(moved - np.eye(4)).max() < 1e-4:
        return np.eye(4)
    if len(numbers) == 16:
        return None
    spread = np.zeros((3, 3))
    spread[np.triu_indices(3)] = numbers[19:25]
    stored = Anchor(numbers[16:19], spread + np.triu(spread, 1).T)
    errors = {}
    for kind, motion in (("moved", moved), ("resampled", np.eye(4))):
        placed = [np.vstack([(motion @ np.append(box[0], 1.0))[:3], box[1:] @ motion[:3, :3].T]) for box in boxes]
        found = _anchor(segmentationNode, segmentId, placed)
        errors[kind] = np.inf if found is None else stored.moved(motion).distance(found)
    if min(errors.values()) > _EDITED:
        return None
    if abs(errors["moved"] - errors["resampled"]) < _TIE:  # a ball that turned about its centre, say
        rigid = np.abs(moved[:3, :3].T @ moved[:3, :3] - np.eye(3)).max() < 1e-3
        return moved if rigid else np.eye(4)
    return moved if errors["moved"] < errors["resampled"] else np.eye(4)


def _anchor(segmentationNode: Any, segmentId: str, boxes: Sequence[np.ndarray]) -> Optional[Anchor]:
    """Of what a segment holds within boxes (``4 x 3``: centre and half axes, in the node's RAS); None where they are empty."""
    corners = np.concatenate([box[0] + (2 * np.array(list(np.ndindex(2, 2, 2))) - 1) @ box[1:] for box in boxes])
    count, total, squares = 0, np.zeros(3), np.zeros((3, 3))
    origin = corners.mean(axis=0)  # far from it, squares would lose their digits
    frames = [(box[0], np.linalg.pinv(box[1:])) for box in boxes]  # a box may have no thickness
    for points in content(segmentationNode, segmentId, corners):
        inside = np.zeros(len(points), bool)
        for center, toBox in frames:
            inside |= (np.abs((points - center) @ toBox) <= 1.001).all(axis=1)
        kept = points[inside] - origin
        count += len(kept)
        total += kept.sum(axis=0)
        squares += kept.T @ kept
    if not count:
        return None
    mean = total / count
    return Anchor(origin + mean, squares / count - np.outer(mean, mean))


def codeOf(segmentationNode: Any, segmentId: str) -> str:
    """What a segment is in a standard terminology (:mod:`qmedsam.terminology`); empty where nobody chose it."""
    if segmentationNode.GetSegmentation().GetSegment(segmentId) is None:
        return ""
    return code_of(tagOf(segmentationNode, segmentId, "TerminologyEntry"))


def tagOf(segmentationNode: Any, segmentId: str, name: str) -> str:
    """The value of a segment's tag; empty where it has none."""
    import vtk

    value = vtk.mutable("")
    return str(value) if segmentationNode.GetSegmentation().GetSegment(segmentId).GetTag(name, value) else ""
