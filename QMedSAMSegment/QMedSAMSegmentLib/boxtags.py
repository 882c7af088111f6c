"""The boxes that a segment was made from, in a tag of the segment, so that a ``.seg.nrrd`` carries them along."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np
from qmedsam import Box, QMedSAMError

from .boxes import boundRois, createRoi, setRoi
from .geometry import nodeToWorld
from .segments import storedGrid

#: Tag of a segment: its boxes, 12 numbers each (centre, then half axes, in the segmentation's RAS), ';' between boxes.
#: Neither ':' nor '|', which separate tags in a ``.seg.nrrd``.
BOXES_TAG = "QMedSAM.Boxes"
#: Tag of a segment: the matrix of its labelmap at that time, 16 numbers. A hardened transform moves the labelmap, but no number
#: in a tag; another source geometry moves neither.
GRID_TAG = "QMedSAM.BoxesGrid"


def storeInTag(segmentationNode: Any, segmentId: str, boxes: Sequence[Box], ijkToNode: np.ndarray) -> None:
    """Write what was applied into its segment: not the ROIs, which may have moved or gone meanwhile.

    Args:
        segmentationNode: in its own coordinates the boxes are stored.
        segmentId: of the segment.
        boxes: of one volume.
        ijkToNode: ``4 x 4`` from that volume's voxels into the segmentation's coordinates.
    """
    entries = []
    for box in boxes:
        center = (ijkToNode @ np.append(box.center_ijk, 1.0))[:3]
        halfAxes = ijkToNode[:3, :3] @ box.half_axes_ijk
        entries.append(" ".join(f"{value:.6g}" for value in [*center, *halfAxes.T.ravel()]))
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    segment.SetTag(BOXES_TAG, ";".join(entries))
    grid = storedGrid(segmentationNode, segmentId)
    segment.SetTag(GRID_TAG, " ".join(f"{value:.9g}" for value in grid.ravel()) if grid is not None else "")


def restorableSegments(segmentationNode: Any) -> List[str]:
    """Segments that carry boxes in their tag while the scene has no ROI node of theirs."""
    if segmentationNode is None:
        return []
    segmentation = segmentationNode.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return [one for one in ids if _tag(segmentation, one, BOXES_TAG) and not boundRois(segmentationNode, one)]


def restoreFromTag(segmentationNode: Any, segmentId: str) -> List[Any]:
    """ROI nodes for the boxes that a segment carries in its tag, moved by every transform that was hardened on it since.

    Raises:
        QMedSAMError: the tag cannot be read, or a transform has made a box oblique.
    """
    value, grid = (_tag(segmentationNode.GetSegmentation(), segmentId, name) for name in (BOXES_TAG, GRID_TAG))
    try:
        boxes = [np.array([float(number) for number in entry.split()]).reshape(4, 3) for entry in value.split(";") if entry]
        toWorld = nodeToWorld(segmentationNode) @ _hardenedSince(segmentationNode, segmentId, grid)
    except ValueError:
        raise QMedSAMError("The boxes stored with the segment cannot be read.", "Draw a new one.") from None
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


def _hardenedSince(segmentationNode: Any, segmentId: str, grid: str) -> np.ndarray:
    """``4 x 4``: how linear transforms have moved a segment since its labelmap had this matrix (see :data:`GRID_TAG`).

    Raises:
        ValueError: these are no numbers.
    """
    now = storedGrid(segmentationNode, segmentId)
    if not grid or now is None:
        return np.eye(4)
    return now @ np.linalg.inv(np.reshape([float(number) for number in grid.split()], (4, 4)))


def _tag(segmentation: Any, segmentId: str, name: str) -> str:
    """A tag's value; empty where the segment has none."""
    import vtk

    value = vtk.mutable("")
    return str(value) if segmentation.GetSegment(segmentId).GetTag(name, value) else ""
