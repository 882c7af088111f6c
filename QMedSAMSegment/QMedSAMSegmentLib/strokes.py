"""Strokes in slice views: what the mouse does while *Correct* is on, and what becomes of it on the image's grid."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.marks import Stroke

from .geometry import arrayFromMatrix, ijkToWorld
from .stroketags import sliceNormals
from .volumes import imageOf

#: A view turned further than this against every direction of slices shows no slice that a stroke could be meant for.
MOST_TURNED = 20.0
#: Diameter of the brush as a share of the height of what a view shows, as Slicer's own brushes have it; its limits.
BRUSH, THINNEST, WIDEST = 0.02, 0.002, 0.2


def strokeFrom(
    pathRas: Sequence[Sequence[float]], sliceToRas: np.ndarray, volumeNode: Any, adds: bool, radius_mm: float
) -> Stroke:
    """What was drawn in a slice view, on the slice of the image that lies closest to it.

    Args:
        pathRas: points in world RAS.
        sliceToRas: ``4 x 4`` of the view.
        volumeNode: the image; it may be under a linear transform.
        adds: the object, or what does not belong to it.
        radius_mm: of the brush.

    Raises:
        QMedSAMError: the view is turned against the image's slices, nothing was drawn on the image, or its transform is bent.
    """
    toWorld = ijkToWorld(volumeNode)
    along = np.abs(sliceNormals(toWorld) @ (sliceToRas[:3, 2] / np.linalg.norm(sliceToRas[:3, 2])))
    axis = int(np.argmax(along))
    turned = float(np.degrees(np.arccos(min(along[axis], 1.0))))
    if turned > MOST_TURNED:
        raise QMedSAMError(
            f"This view is turned by {turned:.0f} degrees against the slices of the image.",
            "Press 'Rotate to volume plane' in the view's bar, then draw again.",
        )
    size = np.array(imageOf(volumeNode).GetDimensions())
    points = (np.asarray(pathRas, float) - toWorld[:3, 3]) @ np.linalg.inv(toWorld[:3, :3]).T
    points = points[((points >= -0.5) & (points < size - 0.5)).all(axis=1)]
    if not len(points):
        raise QMedSAMError("Nothing was drawn on the image.", "Draw where the source volume is.")
    index = np.floor(np.median(points[:, axis]) + 0.5)
    points[:, axis] = np.clip(index, 0, size[axis] - 1)  # of a view that is turned a little: one slice all the same
    return Stroke(points, axis, adds, radius_mm)


class StrokeTool:
    """The left button draws while the tool is on: with Ctrl the opposite of what is chosen, with Shift and Alt what Slicer does.

    Args:
        drawn: gets the path (world RAS), the view's ``SliceToRAS``, whether it adds, and the radius in mm.
        adding: whether strokes add without Ctrl.
        allowed: asked before a stroke begins.
        marks: shows brush and path: ``show(viewWidget, xy, radius, adds, path)`` in pixels, ``hide()``.
    """

    def __init__(
        self,
        drawn: Callable[[List[np.ndarray], np.ndarray, bool, float], None],
        adding: Callable[[], bool],
        allowed: Callable[[], bool],
        marks: Any,
    ) -> None:
        self._drawn, self._adding, self._allowed, self._marks = drawn, adding, allowed, marks
        self.on = False
        self.share = BRUSH
        self._path: List[np.ndarray] = []
        self._adds = True
        self._view: Optional[Any] = None

    def process(self, interactor: Any, eventId: int, viewWidget: Any) -> bool:
        """An event of a view; whether it was for the tool, and nobody else is to have it."""
        import vtk

        if not self.on or viewWidget.className() != "qMRMLSliceWidget":
            return False
        events = vtk.vtkCommand
        # The second of two quick clicks is told as a double click, which else makes the view fill the window.
        if eventId in (events.LeftButtonPressEvent, events.LeftButtonDoubleClickEvent):
            return self._view is not None or self._pressed(interactor, viewWidget)
        if eventId == events.LeftButtonReleaseEvent and self._view == viewWidget:
            return self._released(interactor, viewWidget)
        if eventId == events.RightButtonPressEvent and self._view is not None:  # as in Slicer: the other button gives it up
            self.giveUp()
            return True
        wheel = {events.MouseWheelForwardEvent: 1.2, events.MouseWheelBackwardEvent: 1 / 1.2}.get(eventId)
        if wheel is not None and interactor.GetShiftKey():
            self.share = float(np.clip(self.share * wheel, THINNEST, WIDEST))
            self._follow(interactor, viewWidget)
            return True
        if eventId == events.LeaveEvent and self._view is None:
            self._marks.hide()
        elif eventId in (events.MouseMoveEvent, events.EnterEvent, events.KeyPressEvent, events.KeyReleaseEvent):
            drawing = self._view == viewWidget  # not "is": the application may wrap a view anew
            if drawing and eventId == events.MouseMoveEvent:
                self._extend(interactor, viewWidget)
            self._follow(interactor, viewWidget)
            return drawing and eventId == events.MouseMoveEvent
        return False

    def giveUp(self) -> None:
        """Forget a stroke that is being drawn."""
        self._view, self._path = None, []
        self._marks.hide()

    def _pressed(self, interactor: Any, viewWidget: Any) -> bool:
        if interactor.GetShiftKey() or interactor.GetAltKey():  # Slicer's own: moving the image, turning the slice
            return False
        if not self._allowed():
            return True  # a dialog may have taken the release
        self._adds = self._adding() != bool(interactor.GetControlKey())
        self._view, self._path = viewWidget, []
        self._extend(interactor, viewWidget)
        self._follow(interactor, viewWidget)
        return True

    def _released(self, interactor: Any, viewWidget: Any) -> bool:
        self._extend(interactor, viewWidget)
        path, self._view, self._path = self._path, None, []
        self._follow(interactor, viewWidget)
        sliceNode = viewWidget.sliceLogic().GetSliceNode()
        self._drawn(path, arrayFromMatrix(sliceNode.GetSliceToRAS()), self._adds, self._radius(sliceNode))
        return True

    def _extend(self, interactor: Any, viewWidget: Any) -> None:
        toRas = arrayFromMatrix(viewWidget.sliceLogic().GetSliceNode().GetXYToRAS())
        point = (toRas @ [*interactor.GetEventPosition()[:2], 0.0, 1.0])[:3]
        if not self._path or not np.allclose(point, self._path[-1]):
            self._path.append(point)

    def _radius(self, sliceNode: Any) -> float:
        return float(sliceNode.GetFieldOfView()[1]) * self.share / 2

    def _follow(self, interactor: Any, viewWidget: Any) -> None:
        """Brush and path where the mouse is."""
        sliceNode = viewWidget.sliceLogic().GetSliceNode()
        toXy = np.linalg.inv(arrayFromMatrix(sliceNode.GetXYToRAS()))
        path = [(toXy @ np.append(point, 1.0))[:2] for point in self._path] if self._view == viewWidget else []
        adds = self._adds if self._view is not None else self._adding() != bool(interactor.GetControlKey())
        radius = self._radius(sliceNode) * float(np.linalg.norm(toXy[:3, :3] @ arrayFromMatrix(sliceNode.GetSliceToRAS())[:3, 0]))
        self._marks.show(viewWidget, interactor.GetEventPosition()[:2], radius, adds, path)
