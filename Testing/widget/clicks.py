"""A slice view that can be clicked: Slicer's own displayable manager for markups places what the selection node says."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import slicer
import vtk
from nodes import logicOf
from QMedSAMSegmentLib.geometry import arrayFromMatrix, ijkToWorld, matrixFromArray


class ClickedView:
    """A slice view along a volume's slices, without a window: nothing is drawn.

    Args:
        volumeNode: its grid gives the directions.
        k: index of the slice.
    """

    def __init__(self, volumeNode: Any, k: int) -> None:
        scene = volumeNode.GetScene()
        node = slicer.vtkMRMLSliceNode()
        node.SetName("Red")
        node.SetLayoutName("Red")
        self.node = scene.AddNode(node)
        self.node.SetMappedInLayout(1)
        self.toWorld = ijkToWorld(volumeNode)
        matrix = np.eye(4)
        matrix[:3, :3] = self.toWorld[:3, :3] / np.linalg.norm(self.toWorld[:3, :3], axis=0)
        matrix[:3, 3] = (self.toWorld @ [0, 0, k, 1])[:3]
        self.node.GetSliceToRAS().DeepCopy(matrixFromArray(matrix))
        self.node.SetDimensions(400, 400, 1)
        self.node.SetFieldOfView(200, 200, 1)
        self.node.UpdateMatrices()
        self.k = k
        window, interactor = vtk.vtkRenderWindow(), vtk.vtkGenericRenderWindowInteractor()
        window.SetOffScreenRendering(True)
        self.renderer = vtk.vtkRenderer()
        window.AddRenderer(self.renderer)
        interactor.SetRenderWindow(window)
        logic, markups = slicer.vtkSlicerApplicationLogic(), logicOf("vtkSlicerMarkupsLogic")
        logic.SetMRMLScene(scene)
        if not markups.IsMarkupsNodeRegistered("vtkMRMLMarkupsROINode"):  # the Qt module does this
            markups.RegisterMarkupsNode(slicer.vtkMRMLMarkupsROINode(), slicer.vtkSlicerROIWidget())
        logic.SetModuleLogic("Markups", markups)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(logic)
        name = "vtkMRMLMarkupsDisplayableManager"
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(self.node)
        self._manager = self.group.GetDisplayableManagerByClassName(name)
        self._kept = (window, interactor, logic, markups, factory)

    def click(self, ij: Sequence[float]) -> None:
        """Move the mouse over a place of the slice, in voxels, press and let go."""
        self.clickRas((self.toWorld @ [*ij, self.k, 1])[:3])

    def clickRas(self, ras: Sequence[float]) -> None:
        """The same by millimetres."""
        toRas = arrayFromMatrix(self.node.GetXYToRAS())
        xy = (np.linalg.inv(toRas) @ [*ras, 1])[:2]
        events = vtk.vtkCommand
        for kind in (events.MouseMoveEvent, events.LeftButtonPressEvent, events.LeftButtonReleaseEvent):
            data = slicer.vtkMRMLInteractionEventData()
            data.SetType(kind)
            data.SetDisplayPosition([round(v) for v in xy])
            data.SetWorldPosition([float(value) for value in ras])
            data.SetViewNode(self.node)
            data.SetRenderer(self.renderer)
            data.SetMouseMovedSinceButtonDown(False)
            self._manager.CanProcessInteractionEvent(data, vtk.reference(0.0))
            self._manager.ProcessInteractionEvent(data)
