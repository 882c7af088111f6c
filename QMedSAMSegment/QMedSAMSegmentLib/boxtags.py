"""The boxes that a segment was made from, in a tag of the segment, so that a ``.seg.nrrd`` carries them along."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np
from qmedsam import Box, QMedSAMError

from .boxes import boundRois, createRoi, setRoi
from .geometry import nodeToWorld

#: Tag of a segment: its boxes, 12 numbers each (centre, then half axes, in the segmentation's RAS), ';' between boxes.
#: Neither ':' nor '|', which separate tags in a ``.seg.nrrd``.
BOXES_TAG = "QMedSAM.Boxes"


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
    segmentationNode.GetSegmentation().GetSegment(segmentId).SetTag(BOXES_TAG, ";".join(entries))


def restorableSegments(segmentationNode: Any) -> List[str]:
    """Segments that carry boxes in their tag while the scene has no ROI node of theirs."""
    if segmentationNode is None:
        return []
    segmentation = segmentationNode.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return [one for one in ids if _tag(segmentation, one, BOXES_TAG) and not boundRois(segmentationNode, one)]


def restoreFromTag(segmentationNode: Any, segmentId: str) -> List[Any]:
    """ROI nodes for the boxes that a segment carries in its tag.

    Raises:
        QMedSAMError: the tag cannot be read.
    """
    value = _tag(segmentationNode.GetSegmentation(), segmentId, BOXES_TAG)
    try:
        boxes = [np.array([float(number) for number in entry.split()]).reshape(4, 3) for entry in value.split(";") if entry]
    except ValueError:
        raise QMedSAMError("The boxes stored with the segment cannot be read.", "Draw a new one.") from None
    toWorld = nodeToWorld(segmentationNode)
    rois = []
    for box in boxes:
        roiNode = createRoi(segmentationNode.GetScene(), segmentationNode, segmentId)
        setRoi(roiNode, (toWorld @ np.append(box[0], 1.0))[:3], toWorld[:3, :3] @ box[1:].T)
        rois.append(roiNode)
    return rois


def _tag(segmentation: Any, segmentId: str, name: str) -> str:
    """A tag's value; empty where the segment has none."""
    import vtk

    value = vtk.mutable("")
    return str(value) if segmentation.GetSegment(segmentId).GetTag(name, value) else ""
