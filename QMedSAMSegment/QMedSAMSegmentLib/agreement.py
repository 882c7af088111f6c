"""Where the three directions of a vote agreed: shown over the slices together with a preview."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import numpy as np

from .geometry import removeWithDisplay
from .runs import Run

NAME = "QMedSAM agreement (%)"
OPACITY = 0.5


class AgreementOverlay:
    """A temporary volume in the foreground of the slice views, 1 to 100 per cent of the votes.

    The slice views get their own foreground back with :meth:`clear`.
    """

    def __init__(self) -> None:
        self.node: Optional[Any] = None
        self._layers: List[Tuple[Any, Optional[str], float]] = []

    def show(self, run: Run) -> None:
        """Show the agreement of a computed run; nothing where the run has none."""
        self.clear()
        if run.agreement is None:
            return
        scene = run.volumeNode.GetScene()
        self.node = _volumeNode(scene, run.agreement, run.volumeNode)
        for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
            composite = scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode")
            self._layers.append((composite, composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()))
            composite.SetForegroundVolumeID(self.node.GetID())
            composite.SetForegroundOpacity(OPACITY)

    def clear(self) -> None:
        """Take it away and give the slice views their own foreground back; a closed scene has done the first already."""
        for composite, volumeId, opacity in self._layers:
            composite.SetForegroundVolumeID(volumeId)
            composite.SetForegroundOpacity(opacity)
        self._layers = []
        node, self.node = self.node, None
        if node is not None:
            removeWithDisplay(node)


def _volumeNode(scene: Any, percent_kji: np.ndarray, like: Any) -> Any:
    """A hidden, unsaved scalar volume of uint8 on the grid of another volume."""
    import slicer
    import vtk
    from vtk.util import numpy_support

    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(NAME)
    node.SetSaveWithScene(False)
    node.SetHideFromEditors(True)
    node = scene.AddNode(node)
    image = vtk.vtkImageData()
    image.SetDimensions(*percent_kji.shape[::-1])
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(percent_kji.ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    like.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveImageData(image)
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileViridis.txt")
    display.AutoWindowLevelOff()
    display.SetWindowLevel(100, 50)
    display.AutoThresholdOff()
    display.SetThreshold(1, 100)  # where no direction sees the object the image stays as it is
    display.ApplyThresholdOn()
    return node
