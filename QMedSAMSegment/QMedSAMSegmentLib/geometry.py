"""Nodes of a scene: matrices between them as numpy arrays, and taking one away."""

from __future__ import annotations

from typing import Any

import numpy as np
from qmedsam import QMedSAMError


def arrayFromMatrix(matrix: Any) -> np.ndarray:
    """``4 x 4`` numpy array of a ``vtkMatrix4x4``."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrixFromArray(array: np.ndarray) -> Any:
    """``vtkMatrix4x4`` of a ``4 x 4`` array."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=float).ravel().tolist())
    return matrix


def nodeToWorld(node: Any) -> np.ndarray:
    """``4 x 4`` matrix from a transformable node's own coordinates to world RAS in mm; identity without a transform.

    Raises:
        QMedSAMError: its transform is not linear.
    """
    import vtk

    transform = node.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    if transform is not None:
        if not transform.IsTransformToWorldLinear():
            raise QMedSAMError(
                f"'{node.GetName()}' is under the transform '{transform.GetName()}', which is not linear.",
                "Harden the transform on it (Transforms module), or take it out of the transform.",
            )
        transform.GetMatrixTransformToWorld(matrix)
    return arrayFromMatrix(matrix)


def ijkToWorld(volumeNode: Any) -> np.ndarray:
    """``4 x 4`` matrix from a volume's voxel indices to world RAS in mm, its linear transform included.

    Raises:
        QMedSAMError: its transform is not linear.
    """
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return nodeToWorld(volumeNode) @ arrayFromMatrix(matrix)


def removeWithDisplay(node: Any) -> None:
    """Take a node out of its scene together with its display nodes, which the scene would keep."""
    scene = node.GetScene()
    displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    for one in [*displays, node]:
        if scene is not None and one is not None:
            scene.RemoveNode(one)
