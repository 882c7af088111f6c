"""A slice view that is drawn in: what ``qMRMLSliceWidget`` and its interactor tell an effect, without a window."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np
import vtk
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld, matrixFromArray

EVENTS = vtk.vtkCommand


class DrawnView:
    """Stands for ``qMRMLSliceWidget`` along the slices of a volume.

    Args:
        effect: gets the events.
        volumeNode: whose slices.
        index: of the slice that is shown.
        axis: along which the slices follow each other.
        node, renderer: of a view that is there already.
    """

    def __init__(
        self, effect: Any, volumeNode: Any, index: int, axis: int = 2, node: Optional[Any] = None, renderer: Optional[Any] = None
    ) -> None:
        self.effect, self.volumeNode, self.axis, self.renderer = effect, volumeNode, axis, renderer
        self.node = node
        if node is None:
            self.node = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLSliceNode", f"view {axis}")
            self.node.SetMappedInLayout(1)
            self.node.SetDimensions(400, 400, 1)
            self.node.SetFieldOfView(200, 200, 1)
            self.show(index)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.renders = 0

    def show(self, index: int) -> None:
        """Another slice; the effect hears of it."""
        toWorld = ijkToWorld(self.volumeNode)
        normal = np.linalg.inv(toWorld[:3, :3])[self.axis]
        normal /= np.linalg.norm(normal)
        first = toWorld[:3, (self.axis + 1) % 3] / np.linalg.norm(toWorld[:3, (self.axis + 1) % 3])
        middle = (np.array(self.volumeNode.GetImageData().GetDimensions()) - 1) / 2
        middle[self.axis] = index
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([first, np.cross(normal, first), normal], axis=1)
        matrix[:3, 3] = (toWorld @ [*middle, 1])[:3]
        self.node.GetSliceToRAS().DeepCopy(matrixFromArray(matrix))
        self.node.UpdateMatrices()
        self.effect.processViewNodeEvents(self.node, EVENTS.ModifiedEvent, self)

    # As the widget

    def className(self) -> str:
        return "qMRMLSliceWidget"

    def sliceLogic(self) -> Any:
        return self

    def GetSliceNode(self) -> Any:
        return self.node

    def sliceView(self) -> Any:
        return self

    def scheduleRender(self) -> None:
        self.renders += 1

    # As the mouse

    def send(self, event: int, ijk: Sequence[float], ctrl: bool = False, shift: bool = False, alt: bool = False) -> bool:
        """An event at a voxel; whether the effect took it."""
        world = ijkToWorld(self.volumeNode) @ [*ijk, 1.0]
        x, y = (np.linalg.inv(arrayFromMatrix(self.node.GetXYToRAS())) @ world)[:2]
        self.interactor.SetEventInformation(round(x), round(y), int(ctrl), int(shift))
        self.interactor.SetAltKey(int(alt))
        taken = self.effect.processInteractionEvents(self.interactor, event, self)
        assert isinstance(taken, bool)  # anything else is a warning per event in the application
        return taken

    def draw(self, *path: Sequence[float], ctrl: bool = False) -> None:
        """Press at the first voxel, pull over the others, let go at the last."""
        self.send(EVENTS.MouseMoveEvent, path[0], ctrl)
        assert self.send(EVENTS.LeftButtonPressEvent, path[0], ctrl)
        for one in path[1:]:
            assert self.send(EVENTS.MouseMoveEvent, one, ctrl)
        assert self.send(EVENTS.LeftButtonReleaseEvent, path[-1], ctrl)


def visible(actor: Any) -> bool:
    return bool(actor.GetVisibility()) and actor.GetMapper().GetInput().GetNumberOfLines() > 0
