"""Brush, path and earlier strokes in slice views, drawn over the image as Slicer's own effects do."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np
from qmedsam.marks import Stroke

from .geometry import arrayFromMatrix, ijkToWorld

#: Colours of what adds and of what removes; the sign in the brush says it too.
ADDS, REMOVES = (0.25, 0.85, 0.35), (0.95, 0.3, 0.25)
#: Points of a circle.
_ROUND = 48


class StrokeMarks:
    """Actors per view; gone with :meth:`close`.

    Args:
        scriptedEffect: puts actors into views.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        self._effect = scriptedEffect
        self._views: Dict[Any, Dict[str, Any]] = {}
        self._strokes: Sequence[Stroke] = ()
        self._volumeNode: Any = None

    def show(self, viewWidget: Any, xy: Sequence[float], radius: float, adds: bool, path: Sequence[np.ndarray]) -> None:
        """The brush at a place of a view, and what is drawn with it so far; in no other view.

        Args:
            viewWidget: a slice view.
            xy: pixels.
            radius: pixels.
            adds: shown with a plus, else with a minus.
            path: pixels.
        """
        self.hide(but=viewWidget)
        actors = self._actors(viewWidget)
        x, y = float(xy[0]), float(xy[1])
        angles = np.linspace(0, 2 * np.pi, _ROUND + 1)
        arm = min(max(radius * 0.5, 2.0), 6.0)
        lines = [np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)]), [(x - arm, y), (x + arm, y)]]
        if adds:
            lines.append([(x, y - arm), (x, y + arm)])
        _draw(actors["brush"], lines, ADDS if adds else REMOVES)
        _draw(actors["path"], [path] if len(path) > 1 else [], ADDS if adds else REMOVES)
        self.place(viewWidget)

    def hide(self, but: Any = None) -> None:
        """Take brush and path away, in all views but one."""
        for viewWidget, actors in self._views.items():
            if viewWidget != but and actors["brush"].GetVisibility():
                actors["brush"].SetVisibility(False)
                actors["path"].SetVisibility(False)
                viewWidget.sliceView().scheduleRender()

    def list(self, strokes: Sequence[Stroke], volumeNode: Any) -> None:
        """From now on these are the strokes of the segment, on the slices of a volume."""
        self._strokes, self._volumeNode = strokes, volumeNode
        for viewWidget in self._views:
            self.place(viewWidget)

    def place(self, viewWidget: Any) -> None:
        """Show in a view the strokes that lie on what it shows; to be called when it moves."""
        if viewWidget not in self._views:
            return
        toXy = np.linalg.inv(arrayFromMatrix(viewWidget.sliceLogic().GetSliceNode().GetXYToRAS()))
        found: Dict[bool, List[Any]] = {True: [], False: []}
        if self._strokes and self._volumeNode is not None:
            toView = toXy @ ijkToWorld(self._volumeNode)
            for stroke in self._strokes:
                points = stroke.points_ijk @ toView[:3, :3].T + toView[:3, 3]
                half = abs(toView[2, stroke.axis]) / 2 or 0.5  # of a slice, in the view's depth
                if np.abs(points[:, 2]).max() <= half + 1e-3:
                    found[stroke.adds].append(points[:, :2] if len(points) > 1 else points[:, :2] + [[-2, 0], [2, 0]])
        for adds, name in ((True, "added"), (False, "removed")):
            _draw(self._views[viewWidget][name], found[adds], ADDS if adds else REMOVES)
        viewWidget.sliceView().scheduleRender()

    def close(self) -> None:
        """Take everything out of the views."""
        for viewWidget, actors in self._views.items():
            for actor in actors.values():
                self._effect.removeActor2D(viewWidget, actor)
            viewWidget.sliceView().scheduleRender()
        self._views.clear()
        self._strokes, self._volumeNode = (), None

    def _actors(self, viewWidget: Any) -> Dict[str, Any]:
        if viewWidget not in self._views:
            actors = {name: _actor(width) for name, width in (("added", 3), ("removed", 3), ("path", 2), ("brush", 1))}
            for actor in actors.values():
                self._effect.addActor2D(viewWidget, actor)
            self._views[viewWidget] = actors
        return self._views[viewWidget]


def _actor(width: float) -> Any:
    import vtk

    mapper, actor = vtk.vtkPolyDataMapper2D(), vtk.vtkActor2D()
    mapper.SetInputData(vtk.vtkPolyData())
    actor.SetMapper(mapper)
    actor.GetProperty().SetLineWidth(width)
    actor.SetVisibility(False)
    return actor


def _draw(actor: Any, lines: Sequence[Any], color: Sequence[float]) -> None:
    """Lines in pixels of a view."""
    import vtk

    points, cells = vtk.vtkPoints(), vtk.vtkCellArray()
    for line in lines:
        cells.InsertNextCell(len(line))
        for x, y in line:
            cells.InsertCellPoint(points.InsertNextPoint(float(x), float(y), 0.0))
    data = vtk.vtkPolyData()
    data.SetPoints(points)
    data.SetLines(cells)
    actor.GetMapper().SetInputData(data)
    actor.GetProperty().SetColor(*color)
    actor.SetVisibility(bool(len(lines)))
