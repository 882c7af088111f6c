"""Where a box was drawn: its rectangle on that slice says more of the object than the box's extents, and the walk begins there.

The rectangle stays with the ROI while its other sides are pulled in other views, and is given up once the box no longer holds it.
"""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np
from qmedsam import Box, Volume
from qmedsam.geometry import View
from qmedsam.lines import box_of_line, crossing
from qmedsam.marks import SliceRectangle

from .geometry import ijkToWorld, nodeToWorld
from .volumes import imageOf

#: Attribute of an ROI: two opposite corners of the rectangle that was drawn, six numbers in the ROI's own coordinates, so that
#: whatever moves the ROI moves it too.
DRAWN_ATTRIBUTE = "QMedSAM.Drawn"
#: Voxels by which a rectangle may reach out of its box, or out of its slice.
_SLACK = 0.51


def remember(roiNode: Any, cornersWorld: np.ndarray) -> None:
    """Keep with an ROI the rectangle that was drawn, by two opposite corners, ``2 x 3`` world RAS."""
    fromWorld = np.linalg.inv(nodeToWorld(roiNode))
    own = np.asarray(cornersWorld, float) @ fromWorld[:3, :3].T + fromWorld[:3, 3]
    roiNode.SetAttribute(DRAWN_ATTRIBUTE, " ".join(f"{value:.6g}" for value in own.ravel()))


def forget(roiNode: Any) -> None:
    """The box was made anew in another way."""
    roiNode.RemoveAttribute(DRAWN_ATTRIBUTE)


def rectanglesOf(roiNode: Any, volumeNode: Any, box: Box) -> Tuple[SliceRectangle, ...]:
    """The rectangle that was drawn with an ROI, in a volume's voxels; none where it says nothing of this box any more.

    That is where the box is not along the volume's axes, the rectangle lies on none of its slices, or reaches out of it.

    Args:
        roiNode: whose.
        volumeNode: that is segmented.
        box: the ROI's, in that volume.
    """
    try:
        numbers = [float(number) for number in (roiNode.GetAttribute(DRAWN_ATTRIBUTE) or "").split()]
    except ValueError:
        return ()
    if len(numbers) != 6 or not np.isfinite(numbers).all() or not _alongAxes(box):
        return ()
    toIjk = np.linalg.inv(ijkToWorld(volumeNode)) @ nodeToWorld(roiNode)
    corners = np.reshape(numbers, (2, 3)) @ toIjk[:3, :3].T + toIjk[:3, 3]
    shape = _gridOf(volumeNode)
    axis = int(np.abs(corners[1] - corners[0]).argmin())
    index = int(np.floor(corners[:, axis].mean() + 0.5))
    view = View.of(shape, axis)
    if np.abs(corners[:, axis] - index).max() > _SLACK or index not in box.slices(axis, view.count):
        return ()
    (x0, y0), (x1, y1) = corners.min(axis=0)[list(view.in_plane)], corners.max(axis=0)[list(view.in_plane)]
    cut = box.cut(view, index)
    if cut is None or x0 < cut[0] - _SLACK or y0 < cut[1] - _SLACK or x1 > cut[2] + _SLACK or y1 > cut[3] + _SLACK:
        return ()
    return (SliceRectangle(axis, index, (float(x0), float(y0), float(x1), float(y1))),)


def redraw(roiNode: Any, volumeNode: Any, box: Box, views: List[np.ndarray]) -> None:
    """A box was let go: where its rectangle's slice is shown, the user saw it there, and the box's cut is the rectangle now.

    Args:
        roiNode: whose.
        volumeNode: that is segmented.
        box: the ROI's, in that volume.
        views: ``SliceToRAS``, ``4 x 4``, of the slice views on the screen.
    """
    drawn = rectanglesOf(roiNode, volumeNode, box)
    if not drawn:
        return
    toWorld = ijkToWorld(volumeNode)
    view = View.of(_gridOf(volumeNode), drawn[0].axis)
    cut = box.cut(view, drawn[0].index)
    normal = np.cross(*(toWorld[:3, axis] for axis in view.in_plane))
    normal /= np.linalg.norm(normal)
    thickness = abs(normal @ toWorld[:3, view.axis])
    corners = np.full((2, 3), float(drawn[0].index))
    assert cut is not None, "the rectangle lies in it"
    corners[:, list(view.in_plane)] = cut[:2], cut[2:]
    world = corners @ toWorld[:3, :3].T + toWorld[:3, 3]
    for shown in views:
        along = abs(normal @ shown[:3, 2]) / np.linalg.norm(shown[:3, 2])
        if along > 0.999 and abs(normal @ (shown[:3, 3] - world[0])) <= thickness / 2:
            remember(roiNode, world)


def freeLines(scene: Any) -> List[Any]:
    """The lines of a scene that have both ends."""
    found = scene.GetNodesByClass("vtkMRMLMarkupsLineNode") if scene is not None else None
    if found is None:
        return []
    found.UnRegister(None)
    lines = [found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())]
    return [node for node in lines if node.GetNumberOfDefinedControlPoints() == 2 and not node.GetHideFromEditors()]


def boxOfLine(lineNode: Any, volumeNode: Any) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the box of an object lies of which a line is the long axis, or one of two that cross each other.

    Returns:
        Centre (3) and half axes (``3 x 3``, columns) of the box, and two opposite corners (``2 x 3``) of the rectangle on the
        line's slice; all world RAS.

    Raises:
        QMedSAMError: the line is not on one slice, or outside the image.
    """
    toWorld, grid = ijkToWorld(volumeNode), _gridOf(volumeNode)
    ends = _ends(lineNode, toWorld)
    others = [node for node in freeLines(lineNode.GetScene()) if node is not lineNode]
    across = next((line for line in (_ends(node, toWorld) for node in others) if crossing(ends, line, grid)), None)
    box = box_of_line(ends, across, grid, name=lineNode.GetName())
    (drawn,) = box.rectangles
    corners = np.full((2, 3), float(drawn.index))
    corners[:, list(View.of(grid, drawn.axis).in_plane)] = drawn.rectangle[:2], drawn.rectangle[2:]
    center = toWorld @ np.append(box.center_ijk, 1.0)
    return center[:3], toWorld[:3, :3] @ box.half_axes_ijk, corners @ toWorld[:3, :3].T + toWorld[:3, 3]


def _ends(lineNode: Any, toWorld: np.ndarray) -> np.ndarray:
    """Of a line, ``2 x 3`` in the voxels of a volume."""
    place, ends = [0.0, 0.0, 0.0], []
    for n in range(2):
        lineNode.GetNthControlPointPositionWorld(n, place)
        ends.append((np.linalg.inv(toWorld) @ [*place, 1.0])[:3])
    return np.array(ends)


def _gridOf(volumeNode: Any) -> Volume:
    """The volume's grid without its voxels."""
    i, j, k = imageOf(volumeNode).GetDimensions()
    return Volume(np.broadcast_to(np.zeros((), np.uint8), (k, j, i)), ijkToWorld(volumeNode))


def _alongAxes(box: Box) -> bool:
    """Whether a box's sides run along the voxels' axes."""
    axes = np.abs(box.half_axes_ijk)
    return bool((np.sort(axes, axis=0)[:2] <= 1e-3 * axes.max()).all())
