"""Which ROIs of a scene are meant as boxes: other modules have ROIs of their own, and nothing of theirs is touched."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from qmedsam import QMedSAMError

from .boxes import bind, boundRois, boxFromRoi, createRoi, freeRois, setRoi
from .geometry import arrayFromMatrix
from .volumes import imageOf

#: Attribute of a box that the effect has hidden while it is not used.
HIDDEN_ATTRIBUTE = "QMedSAM.Hidden"
#: Classes of nodes whose reference to an ROI does not make it theirs: what is being placed, shown, or recorded.
_BYSTANDERS = ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode", "vtkMRMLSequenceBrowserNode", "vtkMRMLSubjectHierarchyNode")


class Candidate(NamedTuple):
    """A free ROI, and why it is not taken for a box unless the user names it (empty: it is)."""

    roiNode: Any
    objection: str

    @property
    def text(self) -> str:
        """For a list."""
        return f"{self.roiNode.GetName()} ({self.objection})" if self.objection else self.roiNode.GetName()


def candidates(scene: Any, volumeNode: Any) -> List[Candidate]:
    """The placed ROIs of a scene that belong to no segment.

    Args:
        scene: whose.
        volumeNode: that is to be segmented; None where none is chosen.

    Returns:
        In the order of the scene. Not taken without being named: what another node uses (a crop, volume rendering), what is
        not shown, what does not meet the volume.
    """
    free = freeRois(scene)
    users = _users(scene) if free else {}  # looks at every reference in the scene
    return [Candidate(roi, _objection(roi, volumeNode, users.get(roi.GetID()))) for roi in free]


def adopt(roiNode: Any, segmentationNode: Any, segmentId: str) -> Any:
    """Make an ROI the box of a segment; one that another node uses stays as it is, and a box is made in its place.

    Returns:
        The box.
    """
    if _users(roiNode.GetScene()).get(roiNode.GetID()) is None:
        bind(roiNode, segmentationNode, segmentId)
        _show(roiNode)
        return roiNode
    box = createRoi(roiNode.GetScene(), segmentationNode, segmentId)
    toWorld = arrayFromMatrix(roiNode.GetObjectToWorldMatrix())
    setRoi(box, toWorld[:3, 3], toWorld[:3, :3] * (np.array(roiNode.GetSize()) / 2))
    return box


def hideBoxes(segmentationNode: Any) -> None:
    """Take the boxes of a segmentation out of the views; :func:`showBoxes` brings back those that were shown."""
    for roiNode in boundRois(segmentationNode):
        display = roiNode.GetDisplayNode()
        if display is not None and display.GetVisibility():
            display.SetVisibility(False)
            roiNode.SetAttribute(HIDDEN_ATTRIBUTE, "1")


def showBoxes(segmentationNode: Any) -> None:
    """Show what :func:`hideBoxes` has hidden, also in a scene that was saved meanwhile."""
    for roiNode in boundRois(segmentationNode):
        _show(roiNode)


def _show(roiNode: Any) -> None:
    if roiNode.GetAttribute(HIDDEN_ATTRIBUTE) and roiNode.GetDisplayNode() is not None:
        roiNode.RemoveAttribute(HIDDEN_ATTRIBUTE)
        roiNode.GetDisplayNode().SetVisibility(True)


def _users(scene: Any) -> Dict[str, str]:
    """Per ID of a node that others reference: the name of one of these."""
    found: Dict[str, str] = {}
    for n in range(scene.GetNumberOfNodeReferences() if scene is not None else 0):
        node = scene.GetNthReferencingNode(n)
        if node is not None and not any(node.IsA(kind) for kind in _BYSTANDERS):
            found.setdefault(scene.GetNthReferencedID(n), node.GetName() or node.GetNodeTagName())
    return found


def _objection(roiNode: Any, volumeNode: Any, user: Optional[str]) -> str:
    display = roiNode.GetDisplayNode()
    if user is not None:
        return f"used by {user}"
    if display is not None and not display.GetVisibility() and not roiNode.GetAttribute(HIDDEN_ATTRIBUTE):
        return "not shown"
    return "" if volumeNode is None or meets(roiNode, volumeNode) else "outside the image"


def meets(roiNode: Any, volumeNode: Any) -> bool:
    """Whether an ROI and a volume have a place in common; a box that cannot be computed has none."""
    try:
        box, size = boxFromRoi(roiNode, volumeNode), np.array(imageOf(volumeNode).GetDimensions())
    except QMedSAMError:
        return False
    low, high = box.corners_ijk.min(axis=0), box.corners_ijk.max(axis=0)
    return bool((high > -0.5).all() and (low < size - 0.5).all())
