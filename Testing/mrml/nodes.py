"""Small builders of scenes and nodes for the tests."""

from __future__ import annotations

import sys
import threading
from typing import Any, Optional, Sequence

import numpy as np
import slicer
import vtk
from qmedsam import Segmenter
from qmedsam.network.fake import FakeNetwork
from qmedsam.phantom.shapes import rotation
from QMedSAMSegmentLib.boxes import setRoi
from QMedSAMSegmentLib.geometry import matrixFromArray
from vtk.util import numpy_support

vtk.vtkObject.GlobalWarningDisplayOff()  # a scene without an application warns about its missing singletons

_ALIVE: list = []


def newScene() -> Any:
    """A scene with selection, hierarchy, segmentation and markups logic, as the application makes it."""
    scene = slicer.vtkMRMLScene()
    for singleton in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
        node = getattr(slicer, singleton)()
        node.SetSingletonTag("Singleton")
        scene.AddNode(node)
    logics = [slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerMarkupsLogic(), slicer.vtkSlicerSequencesLogic()]
    for logic in logics:
        logic.SetMRMLScene(scene)
    _ALIVE[:] = logics  # a scene does not own its logics
    return scene


def logicOf(name: str) -> Any:
    """The logic of a class that :func:`newScene` made last."""
    return next(logic for logic in _ALIVE if logic.GetClassName() == name)


def grid(spacing: Sequence[float] = (1.0, 1.5, 2.5), turn: Sequence[float] = (0, 0, 0), origin=(7.0, -20.0, 35.0)) -> np.ndarray:
    """``4 x 4`` of a voxel grid; negative spacings flip an axis."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*turn) * np.asarray(spacing, float)
    matrix[:3, 3] = origin
    return matrix


def addVolume(scene: Any, array: np.ndarray, matrix: np.ndarray, name: str = "CT") -> Any:
    """A volume node: scalar for ``(k, j, i)``, vector for ``(k, j, i, c)``."""
    kind = "vtkMRMLScalarVolumeNode" if array.ndim == 3 else "vtkMRMLVectorVolumeNode"
    node = scene.AddNewNodeByClass(kind, name)
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    flat = np.ascontiguousarray(array).reshape(array.shape[0] * array.shape[1] * array.shape[2], -1)
    scalars = numpy_support.numpy_to_vtk(flat, deep=True)
    image.GetPointData().SetScalars(scalars)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrixFromArray(matrix))
    return node


def addTransform(scene: Any, matrix: np.ndarray) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    node.SetMatrixTransformToParent(matrixFromArray(matrix))
    return node


def addBendingTransform(scene: Any) -> Any:
    """A transform that is not linear."""
    node = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bend")
    bend = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for n, point in enumerate(((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (50, 50, 50))):
        source.InsertNextPoint(point)
        target.InsertNextPoint([p + (5 if n == 4 else 0) for p in point])
    bend.SetSourceLandmarks(source)
    bend.SetTargetLandmarks(target)
    bend.SetBasisToR()
    node.SetAndObserveTransformToParent(bend)
    return node


def addRoi(scene: Any, center: Sequence[float], half_axes: np.ndarray, name: str = "box", under: Optional[Any] = None) -> Any:
    """An ROI node whose place in the *world* is given, under a transform or not."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.CreateDefaultDisplayNodes()
    if under is not None:
        node.SetAndObserveTransformNodeID(under.GetID())
    setRoi(node, center, half_axes)
    return node


def addSegmentation(scene: Any, volume: Optional[Any] = None, segments: Sequence[str] = ()) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.CreateDefaultDisplayNodes()
    if volume is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name in segments:
        node.GetSegmentation().AddEmptySegment(name, name)
    return node


def segmentArray(segmentation: Any, segmentId: str, volume: Any) -> np.ndarray:
    """Boolean ``(k, j, i)`` of a segment on a volume's voxels."""
    transform = segmentation.GetParentTransformNode()
    reference = slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(volume, transform)
    image = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation(segmentId, image)
    if image.GetPointData().GetScalars() is None or min(image.GetDimensions()) == 0:
        return np.zeros(volume.GetImageData().GetDimensions()[::-1], bool)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, reference, resampled, False, False)
    values = numpy_support.vtk_to_numpy(resampled.GetPointData().GetScalars())
    return values.reshape(resampled.GetDimensions()[::-1]) > 0


def labelmaps(segmentation: Any) -> dict:
    """Per segment the bytes, the extent and the matrix of its own labelmap, for comparisons bit for bit."""
    found = {}
    inner = segmentation.GetSegmentation()
    for n in range(inner.GetNumberOfSegments()):
        segmentId = inner.GetNthSegmentID(n)
        image = slicer.vtkOrientedImageData()
        segmentation.GetBinaryLabelmapRepresentation(segmentId, image)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        scalars = image.GetPointData().GetScalars()
        content = b"" if scalars is None else numpy_support.vtk_to_numpy(scalars).tobytes()
        found[segmentId] = (content, image.GetExtent(), [matrix.GetElement(r, c) for r in range(4) for c in range(4)])
    return found


def brightSegmenter(model: Optional[str] = None) -> Segmenter:
    """The engine with a network that takes what is bright in the box: exact on noiseless phantoms sampled whole."""
    return Segmenter(network=FakeNetwork(input_size=256))


#: Stands for PythonSlicer: starts what it is told with its own output, waits, and passes no signal on.
LAUNCHER = [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"]


class HandTimer:
    """A timer that a test fires by hand: ``HandTimer.last.callback()``."""

    last: Any = None

    def __init__(self, callback: Any) -> None:
        self.callback, self.running = callback, False
        HandTimer.last = self

    def start(self) -> None:
        self.running = True

    def close(self) -> None:
        self.running = False


class Pip:
    """Stands for pip's process: says ``lines``, ends with ``code``; ``calls`` are the arguments it was launched with."""

    def __init__(self, lines: Sequence[str] = (), code: int = 0) -> None:
        self.lines, self.code, self.killed = lines, code, threading.Event()
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> Pip:
        self.calls.append(list(arguments))
        self.stdout = iter(self.lines)
        return self

    def kill(self) -> None:
        self.killed.set()

    def wait(self) -> int:
        return self.code
