"""Slice and 3D views off the screen: Slicer's own displayable managers draw, nothing of the application is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

SLICE_MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLMarkupsDisplayableManager")
THREE_D_MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLCameraDisplayableManager",
)


class _View:
    """A renderer in an off-screen window with the displayable managers of its kind."""

    def __init__(self, scene: Any, node: Any, factory: Any, managers: Tuple[str, ...], size: Tuple[int, int]) -> None:
        self.node = node
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.logic = slicer.vtkSlicerApplicationLogic()
        self.logic.SetMRMLScene(scene)
        markups = slicer.vtkSlicerMarkupsLogic()
        markups.SetMRMLScene(scene)
        markups.RegisterMarkupsNode(slicer.vtkMRMLMarkupsROINode(), slicer.vtkSlicerROIWidget())  # the Qt module does this
        self.logic.SetModuleLogic("Markups", markups)
        self.markups = markups  # the application logic does not own it
        factory.SetMRMLApplicationLogic(self.logic)
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(node)

    def array(self) -> np.ndarray:
        """What is seen: ``height x width x 3`` uint8."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]


class SliceView(_View):
    """A slice view along the volume's own slices.

    Args:
        volumeNode: in the background.
        k: index of the slice.
        size: width and height in pixels.
        fieldOfView: width in mm.
    """

    def __init__(self, volumeNode: Any, k: int, size: Tuple[int, int], fieldOfView: float) -> None:
        scene = volumeNode.GetScene()
        node = slicer.vtkMRMLSliceNode()
        node.SetName("Red")
        node.SetLayoutName("Red")
        node = scene.AddNode(node)
        super().__init__(scene, node, slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS, size)
        self.sliceLogic = slicer.vtkMRMLSliceLogic()
        self.sliceLogic.SetMRMLScene(scene)
        self.sliceLogic.SetSliceNode(node)
        self.sliceLogic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        _alongSlices(node, volumeNode, k)
        node.SetDimensions(size[0], size[1], 1)
        node.SetFieldOfView(fieldOfView, fieldOfView * size[1] / size[0], 1)
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.sliceLogic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        # A layer of its own below the overlays: translucent boxes are blended with what is in their layer only.
        background = vtk.vtkRenderer()
        background.AddActor2D(actor)
        self.window.SetNumberOfLayers(2)
        self.window.AddRenderer(background)
        self.renderer.SetLayer(1)


class ThreeDView(_View):
    """A 3D view on a point of the scene.

    Args:
        scene: is shown.
        focus: RAS.
        position: of the camera, RAS.
        size: width and height in pixels.
    """

    def __init__(self, scene: Any, focus: np.ndarray, position: np.ndarray, size: Tuple[int, int]) -> None:
        node = slicer.vtkMRMLViewNode()
        node.SetName("View1")
        node.SetLayoutName("1")
        node = scene.AddNode(node)
        super().__init__(scene, node, slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREE_D_MANAGERS, size)
        self.renderer.SetBackground(0.757, 0.765, 0.91)  # the application's 3D views
        self.renderer.SetBackground2(0.455, 0.471, 0.745)
        self.renderer.GradientBackgroundOn()
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(*focus)
        camera.SetPosition(*position)
        camera.SetViewUp(0, 0, 1)
        self.renderer.ResetCameraClippingRange()


def _alongSlices(node: Any, volumeNode: Any, k: int) -> None:
    """Put a slice node on a slice of the volume, its left side to the patient's right."""
    from QMedSAMSegmentLib.geometry import ijkToWorld, matrixFromArray

    toWorld = ijkToWorld(volumeNode)
    directions = toWorld[:3, :3] / np.linalg.norm(toWorld[:3, :3], axis=0)
    middle = (np.array(volumeNode.GetImageData().GetDimensions()) - 1) / 2
    matrix = np.eye(4)
    # rows run towards the feet or the back in the image and upwards on the screen
    matrix[:3, :3] = np.stack([directions[:, 0], -directions[:, 1], directions[:, 2]], axis=1)
    matrix[:3, 3] = (toWorld @ [middle[0], middle[1], k, 1])[:3]
    node.GetSliceToRAS().DeepCopy(matrixFromArray(matrix))
    node.UpdateMatrices()


def savePicture(array: np.ndarray, path: Path) -> None:
    """``height x width x 3`` uint8 as a PNG."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(array)).save(path, optimize=True)
