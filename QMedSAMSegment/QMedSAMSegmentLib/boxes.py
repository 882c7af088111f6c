"""ROI nodes to the engine's boxes, and their bond with a segment.

A box belongs to a segment by a node reference and an attribute, never by its name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional, Sequence, Set

import numpy as np
from qmedsam import Box, QMedSAMError

from . import drawn
from .geometry import arrayFromMatrix, ijkToWorld, matrixFromArray, nodeToWorld
from .volumes import imageOf

#: Reference role and attribute by which an ROI belongs to a segment.
SEGMENTATION_ROLE = "QMedSAM.Segmentation"
SEGMENT_ATTRIBUTE = "QMedSAM.SegmentID"
#: Attribute: how an ROI looked before it was bound (two colours, handles), given back when its segment goes.
FORMER_LOOK = "QMedSAM.FormerLook"
#: Room around a segment when a box is fitted to it, as a share of its size; what the models were trained with.
FIT_MARGIN = 0.05


def boxFromRoi(roiNode: Any, volumeNode: Any, **attributes: Any) -> Box:
    """The box of an ROI in a volume's voxel coordinates: centre and three half axes, so that every rotation is kept.

    Args:
        roiNode: ``vtkMRMLMarkupsROINode``; it and the volume may each be under a linear transform.
        volumeNode: the volume that is segmented.
        attributes: ``label``, ``name``, ``color`` of the box.

    Returns:
        The box, with the rectangle that it was drawn by (:mod:`~QMedSAMSegmentLib.drawn`) while that holds.

    Raises:
        QMedSAMError: the ROI has no size yet, or a transform is not linear.
    """
    nodeToWorld(roiNode)  # refuses a non-linear transform; a linear one is part of the matrix below
    size = np.array(roiNode.GetSize(), dtype=float)
    if roiNode.GetNumberOfControlPoints() == 0 or np.count_nonzero(size > 0) < 2:
        raise QMedSAMError(f"The box '{roiNode.GetName()}' has no size yet.", "Draw it: two clicks in a slice view.")
    toWorld = arrayFromMatrix(roiNode.GetObjectToWorldMatrix())
    # Eight corners follow from this; the node's bounds would forget the rotation.
    box = Box.from_ras(toWorld[:3, 3], toWorld[:3, :3] * (size / 2), ijkToWorld(volumeNode), **attributes)
    return replace(box, rectangles=drawn.rectanglesOf(roiNode, volumeNode, box))


def setRoi(roiNode: Any, centerWorld: Sequence[float], halfAxesWorld: np.ndarray) -> None:
    """Give an ROI its place: centre and half axes (columns, at right angles) in world RAS.

    Raises:
        QMedSAMError: the axes are not at right angles (a sheared volume), or the ROI's transform is not linear.
    """
    fromWorld = np.linalg.inv(nodeToWorld(roiNode))
    halfAxes = fromWorld[:3, :3] @ np.asarray(halfAxesWorld, dtype=float)
    half = np.linalg.norm(halfAxes, axis=0)
    directions = halfAxes / half
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise QMedSAMError("A box along the axes of a sheared image is not a cuboid.", "Draw the box by hand.")
    if np.linalg.det(directions) < 0:
        directions[:, 2] *= -1  # a cuboid is its own mirror image, and an ROI's axes are right-handed
    matrix = np.eye(4)
    matrix[:3, :3] = directions
    center = (fromWorld @ np.append(np.asarray(centerWorld, dtype=float), 1.0))[:3]
    matrix[:3, 3] = center
    roiNode.SetCenter(*center.tolist())  # makes the control point of an ROI that was never placed
    roiNode.SetAndObserveObjectToNodeMatrix(matrixFromArray(matrix))
    roiNode.SetSize(*(2 * half).tolist())


def createRoi(scene: Any, segmentationNode: Any, segmentId: str) -> Any:
    """A new, unplaced ROI node bound to a segment, in its colour and named after it."""
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    name = scene.GenerateUniqueName(f"{segment.GetName()} box")
    roiNode = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    roiNode.CreateDefaultDisplayNodes()
    outline(roiNode)
    bind(roiNode, segmentationNode, segmentId)
    return roiNode


def outline(roiNode: Any) -> None:
    """Show an ROI as thin lines with small handles and without its name: the anatomy stays in sight.

    A markups file can say none of this about the fill.
    """
    display = roiNode.GetDisplayNode()
    display.SetFillVisibility(False)
    display.SetPropertiesLabelVisibility(False)
    display.SetInteractionHandleScale(1.5)
    display.SetGlyphScale(1.5)


def bind(roiNode: Any, segmentationNode: Any, segmentId: str) -> None:
    """Make an ROI the box of a segment and give it the segment's colour."""
    roiNode.SetNodeReferenceID(SEGMENTATION_ROLE, segmentationNode.GetID())
    roiNode.SetAttribute(SEGMENT_ATTRIBUTE, segmentId)
    updateColor(roiNode)


def updateColor(roiNode: Any) -> None:
    """Take over the colour of the segment that the ROI is bound to; the former look comes back when that segment is gone."""
    segment, display = _boundSegment(roiNode), roiNode.GetDisplayNode()
    if display is None or not roiNode.GetAttribute(SEGMENT_ATTRIBUTE):
        return
    former = roiNode.GetAttribute(FORMER_LOOK)
    if segment is not None:
        if not former:
            look = [*display.GetSelectedColor(), *display.GetColor(), display.GetHandlesInteractive()]
            roiNode.SetAttribute(FORMER_LOOK, " ".join(f"{value:.6g}" for value in look))
        display.SetSelectedColor(segment.GetColor())
        display.SetColor(segment.GetColor())
    elif former:
        look = [float(value) for value in former.split()]
        display.SetSelectedColor(look[:3])
        display.SetColor(look[3:6])
        display.SetHandlesInteractive(bool(look[6]))
        roiNode.RemoveAttribute(FORMER_LOOK)


def updateColors(scene: Any) -> None:
    """:func:`updateColor` for every ROI, after segments came, went or got another colour."""
    for roiNode in _rois(scene):
        updateColor(roiNode)


def boundSegmentId(roiNode: Any, segmentationNode: Any) -> Optional[str]:
    """The segment of this segmentation that an ROI is bound to, or None."""
    if roiNode.GetNodeReference(SEGMENTATION_ROLE) is not segmentationNode or _boundSegment(roiNode) is None:
        return None
    return roiNode.GetAttribute(SEGMENT_ATTRIBUTE)


def boundRois(segmentationNode: Any, segmentId: Optional[str] = None) -> List[Any]:
    """ROI nodes bound to a segmentation (or to one of its segments), in the order of the scene."""
    scene = segmentationNode.GetScene() if segmentationNode is not None else None
    bound = [(node, boundSegmentId(node, segmentationNode)) for node in _rois(scene)]
    return [node for node, bondId in bound if bondId is not None and segmentId in (None, bondId)]


def boundSegmentIds(segmentationNode: Any) -> Set[str]:
    """Segments of a segmentation that have a box."""
    return {roiNode.GetAttribute(SEGMENT_ATTRIBUTE) for roiNode in boundRois(segmentationNode)}


def freeRois(scene: Any) -> List[Any]:
    """Placed ROI nodes that belong to no segment yet, as they come with a file or from the Markups module.

    Without those that another module hides from choosers for its own use. Not each of them is meant as a box: see
    :func:`~QMedSAMSegmentLib.foreign.candidates`.
    """
    free = [node for node in _rois(scene) if _boundSegment(node) is None and not node.GetHideFromEditors()]
    return [node for node in free if max(node.GetSize()) > 0]


def _rois(scene: Any) -> List[Any]:
    if scene is None:
        return []
    found = scene.GetNodesByClass("vtkMRMLMarkupsROINode")  # once: asking for the n-th walks over the scene each time
    found.UnRegister(None)
    return [found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())]


def duplicate(roiNode: Any) -> Any:
    """A second ROI of the same place and segment, moved by a quarter of its size along its first axis so that it can be seen."""
    segmentationNode = roiNode.GetNodeReference(SEGMENTATION_ROLE)
    twin = createRoi(roiNode.GetScene(), segmentationNode, roiNode.GetAttribute(SEGMENT_ATTRIBUTE))
    twin.SetAndObserveTransformNodeID(roiNode.GetTransformNodeID())
    toWorld = arrayFromMatrix(roiNode.GetObjectToWorldMatrix())
    halfAxes = toWorld[:3, :3] * (np.array(roiNode.GetSize()) / 2)
    setRoi(twin, toWorld[:3, 3] + halfAxes[:, 0] / 2, halfAxes)
    return twin


def fitToMask(roiNode: Any, mask_kji: np.ndarray, ijkToRas: np.ndarray, margin: float = FIT_MARGIN) -> None:
    """Fit an ROI to a mask, along the axes of the mask's grid.

    Args:
        roiNode: is changed.
        mask_kji: boolean.
        ijkToRas: ``4 x 4`` from the mask's voxels to world RAS; columns at right angles.
        margin: share of the mask's size left free on every side.

    Raises:
        QMedSAMError: the mask is empty.
    """
    used = [np.flatnonzero(mask_kji.any(axis=tuple(a for a in range(3) if a != axis))) for axis in (2, 1, 0)]
    if not len(used[0]):
        raise QMedSAMError("The segment is empty.", "Paint a rough shape first, or draw the box.")
    low, high = np.array([u[0] - 0.5 for u in used]), np.array([u[-1] + 0.5 for u in used])
    half = (high - low) / 2 * (1 + 2 * margin)
    center = ijkToRas @ np.append((low + high) / 2, 1.0)
    drawn.forget(roiNode)
    setRoi(roiNode, center[:3], ijkToRas[:3, :3] * half)


def squareToView(roiNode: Any, cornerWorld: Sequence[float], volumeNode: Any) -> bool:
    """Turn an ROI that was drawn in one slice view along that view's axes, as deep as its shorter side (at most as the image).

    The application lays the rectangle's diagonal into a cuboid along R, A and S: in an oblique view (70.6 x 53.9 x 13.2 mm on
    the sample), neither what was drawn nor of a depth that anybody chose.

    Args:
        roiNode: has just been placed; its centre stays.
        cornerWorld: where the first click was, RAS.
        volumeNode: what it was drawn on.

    Returns:
        Whether a slice view shows both clicks; with clicks in two views the ROI stays as it is.
    """
    center = arrayFromMatrix(roiNode.GetObjectToWorldMatrix())[:3, 3]
    diagonal = np.asarray(cornerWorld, dtype=float) - center
    for view in shownViews(volumeNode.GetScene()):
        axes = view[:3, :3] / np.linalg.norm(view[:3, :3], axis=0)
        half, away = np.abs(axes.T @ diagonal), abs(axes[:, 2] @ (center - view[:3, 3]))
        if max(half[2], away) > 1e-3 * half.max() + 0.01:
            continue
        imageDepth = float(np.abs(axes[:, 2] @ ijkToWorld(volumeNode)[:3, :3]) @ imageOf(volumeNode).GetDimensions())
        half[2] = min(half[0], half[1], imageDepth / 2)
        setRoi(roiNode, center, axes * half)
        drawn.remember(roiNode, np.stack([center - diagonal, center + diagonal]))
        return True
    return False


def onlyViewsIn3D(scene: Any) -> bool:
    """Whether the layout shows no slice view; not where there is none at all, as without a window."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLSliceNode") for n in range(count)]
    return bool(nodes) and not any(node.IsMappedInLayout() for node in nodes)


def shownSlice(volumeNode: Any) -> Optional[int]:
    """Index k of the volume's slice that is shown, by the slice view that looks most along its slices; None without one.

    Of views that are on the screen and inside the volume; a layout keeps the nodes of those that it hides.

    Raises:
        QMedSAMError: the volume holds no image, or its transform is not linear.
    """
    scene, toWorld, slices = volumeNode.GetScene(), ijkToWorld(volumeNode), imageOf(volumeNode).GetDimensions()[2]
    across = np.cross(toWorld[:3, 0], toWorld[:3, 1])
    best, found = np.cos(np.radians(30)), None  # beyond 30 degrees a view does not show this slice
    for view in shownViews(scene):
        along = abs(view[:3, 2] @ across) / np.linalg.norm(across)
        k = int(np.floor((np.linalg.inv(toWorld) @ view[:, 3])[2] + 0.5))
        if along > best and 0 <= k < slices:
            best, found = along, k
    return found


def shownViews(scene: Any) -> List[np.ndarray]:
    """``SliceToRAS``, ``4 x 4``, of every slice view on the screen."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLSliceNode") for n in range(count)]
    return [arrayFromMatrix(node.GetSliceToRAS()) for node in nodes if node.IsMappedInLayout()]


def flattenToSlice(roiNode: Any, volumeNode: Any) -> int:
    """Make an ROI a 2D box: along the volume's axes and one slice thick, on the slice that is shown, else on its middle one.

    Returns:
        The slice's index k.

    Raises:
        QMedSAMError: the volume holds no image, or see :func:`boxFromRoi`.
    """
    slices = imageOf(volumeNode).GetDimensions()[2]
    box = boxFromRoi(roiNode, volumeNode)
    toWorld = ijkToWorld(volumeNode)
    corners = box.corners_ijk
    low, high = corners.min(axis=0), corners.max(axis=0)
    k = shownSlice(volumeNode)
    if k is None:
        k = int(np.clip(np.floor(box.center_ijk[2] + 0.5), 0, slices - 1))
    half = np.array([(high[0] - low[0]) / 2, (high[1] - low[1]) / 2, 0.5])
    center = toWorld @ np.array([*((low + high) / 2)[:2], k, 1.0])
    setRoi(roiNode, center[:3], toWorld[:3, :3] * half)
    return k


def _boundSegment(roiNode: Any) -> Optional[Any]:
    segmentationNode = roiNode.GetNodeReference(SEGMENTATION_ROLE)
    segmentId = roiNode.GetAttribute(SEGMENT_ATTRIBUTE)
    if segmentationNode is None or not segmentId:
        return None
    return segmentationNode.GetSegmentation().GetSegment(segmentId)
