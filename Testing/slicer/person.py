"""Hands and eyes in the application: mouse, keys, waiting, what is on the screen. Only what official Slicer has."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import qt
import slicer
import vtk

Ras = Sequence[float]


class Person:
    """Works in the main window.

    Args:
        folder: for pictures.
        runner: hears what is worth knowing beside a step.
    """

    def __init__(self, folder: Path, runner: Any) -> None:
        self.folder, self._runner = folder, runner
        self._notes: List[str] = []
        self._dialogs: List[str] = []
        self._answers: List[bool] = []
        self._step, self._logged = "", 0
        self._timer = qt.QTimer()
        self._timer.setInterval(300)
        self._timer.connect("timeout()", self._lookForDialogs)
        self._timer.start()
        self._shapes: Dict[str, Any] = {}

    # Around a step

    def begin(self, name: str) -> None:
        self._step, self._notes, self._dialogs, self._answers = name, [], [], []
        self._logged = len(self._log())
        self.settle()

    def end(self, failed: bool) -> List[str]:
        """What is worth knowing of the step; a picture of what it looked like when it failed.

        Raises:
            AssertionError: a dialog came that nobody expected.
        """
        self.settle()
        if failed:
            self.picture("failed " + self._step)
            with_panel = self.status()
            if with_panel:
                self.note(f"the panel says: {with_panel!r}")
        critical = self.criticalLines()
        if critical:
            self.note(f"{len(critical)} critical or error lines in the log, the first: {critical[0][:300]}")
        notes, dialogs = self._notes, self._dialogs
        self._notes, self._dialogs = [], []
        if dialogs:
            raise AssertionError("Dialogs that nobody expected: " + " | ".join(dialogs) + " | notes: " + "; ".join(notes))
        return notes

    def note(self, text: str) -> None:
        """Tell a number or a fact with the step."""
        self._notes.append(text)

    # Time

    def settle(self, seconds: float = 0.3) -> None:
        """Let the application do what it has to."""
        end = time.monotonic() + seconds
        while True:
            slicer.app.processEvents()
            if time.monotonic() >= end:
                return
            time.sleep(0.01)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
        """Wait for something.

        Raises:
            AssertionError: it did not happen in time.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"After {seconds} s still not: {what}. The panel says: {self.status()!r}")
            self.settle(0.05)

    def longestGap(self, during: Callable[[], None]) -> float:
        """Seconds of the longest time in which the event loop did not come by."""
        stamps, timer = [time.monotonic()], qt.QTimer()
        timer.setInterval(10)
        timer.connect("timeout()", lambda: stamps.append(time.monotonic()))
        timer.start()
        during()
        timer.stop()
        stamps.append(time.monotonic())
        return float(np.diff(stamps).max())

    # Eyes

    @property
    def scene(self) -> Any:
        return slicer.mrmlScene

    @property
    def editor(self) -> Any:
        """The Segment Editor's widget."""
        return slicer.util.getModuleWidget("SegmentEditor").editor

    @property
    def active(self) -> bool:
        """Whether the effect is."""
        effect = self.editor.activeEffect()
        return effect is not None and effect.name == "QMedSAM"

    @property
    def effect(self) -> Any:
        """The Python effect of the editor."""
        assert self.active, "the effect QMedSAM is not active"
        return self.editor.activeEffect().self()

    @property
    def ui(self) -> Any:
        """Widgets of the options frame by name."""
        return self.effect.panel.ui

    @property
    def segmentation(self) -> Any:
        return self.editor.segmentationNode()

    @property
    def segments(self) -> List[Tuple[str, str]]:
        """Ids and names of the segments."""
        inner = self.segmentation.GetSegmentation()
        ids = [inner.GetNthSegmentID(n) for n in range(inner.GetNumberOfSegments())]
        return [(one, inner.GetSegment(one).GetName()) for one in ids]

    def status(self) -> str:
        """What the panel says, or would do next."""
        try:
            return str(self.ui.statusLabel.text or self.ui.hintLabel.text)
        except Exception:  # no effect, no editor: nothing to read
            return ""

    def rois(self) -> List[Any]:
        return list(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"))

    def mask(self, segmentId: str) -> np.ndarray:
        """Boolean ``(k, j, i)`` of a segment on the sample."""
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segmentId, self.volume) > 0

    def dsc(self, segmentId: str, organ: str) -> float:
        """Overlap of a segment with the sample's truth."""
        from qmedsam.files import read_boxes, read_labels, read_volume
        from QMedSAMSegmentLib.selfcheck import sampleFolder

        if not self._shapes:
            folder = sampleFolder()
            labels = read_labels(folder / "QMedSAMPhantom-truth.seg.nrrd")
            boxes = read_boxes(folder / "QMedSAMPhantom-boxes.mrk.json", read_volume(folder / "QMedSAMPhantom.nrrd"))
            self._shapes = {box.name: labels == box.label for box in boxes}
        found, truth = self.mask(segmentId), self._shapes[organ]
        return 2 * float((found & truth).sum()) / max(int(found.sum()) + int(truth.sum()), 1)

    def picture(self, name: str) -> None:
        """The main window as a PNG."""
        import ctk

        slicer.util.forceRenderAllViews()
        self.settle()
        file = "".join(letter if letter.isalnum() else "-" for letter in name)[:80] + ".png"
        ctk.ctkWidgetsUtils.grabWidget(slicer.util.mainWindow()).save(str(self.folder / file))

    def _log(self) -> List[str]:
        try:
            return Path(slicer.app.errorLogModel().filePath).read_text(encoding="utf-8", errors="replace").splitlines()
        except Exception:  # a version that keeps its log elsewhere
            return []

    def criticalLines(self) -> List[str]:
        """Of the application's log since the step began."""
        return [line for line in self._log()[self._logged :] if line.startswith(("[CRITICAL]", "[FATAL]", "[ERROR]"))]

    # Hands

    def press(self, button: Any) -> None:
        """Press and release the left button over a widget that can be seen and pressed."""
        self.settle(0.1)
        assert button.visible, f"{button.name} is not to be seen"
        assert button.enabled, f"{button.name} cannot be pressed"
        if button.visibleRegion().isEmpty():
            self.note(f"{button.name} is below the fold")
        clicked: List[int] = []

        def heard() -> None:
            clicked.append(1)

        assert button.connect("clicked()", heard)
        try:
            self._mouse(button)
        except (TypeError, ValueError) as error:
            self.note(f"no mouse events for {button.name} ({error})")
        if not clicked:
            self.note(f"{button.name} was pressed by click()")
            button.click()
        button.disconnect("clicked()", heard)
        self.settle(0.1)

    @staticmethod
    def _mouse(widget: Any) -> None:
        middle = qt.QPointF(widget.width / 2, widget.height / 2)
        left, none = qt.Qt.LeftButton, qt.Qt.NoButton
        for kind, held in ((qt.QEvent.MouseButtonPress, left), (qt.QEvent.MouseButtonRelease, none)):
            qt.QCoreApplication.sendEvent(widget, qt.QMouseEvent(kind, middle, left, held, qt.Qt.NoModifier))

    def choose(self, combo: Any, value: str) -> None:
        """Choose a setting of the effect by its value."""
        index = combo.findData(value)
        assert index >= 0, f"{combo.name} has no {value}"
        combo.setCurrentIndex(index)
        self.settle(0.1)

    def key(self, name: str) -> None:
        """Press a key of the effect: on the keyboard of X11 where ``xdotool`` is at hand, else by its shortcut's own signal."""
        if shutil.which("xdotool") and os.environ.get("DISPLAY"):
            slicer.util.mainWindow().activateWindow()
            self.settle()
            subprocess.run(["xdotool", "key", name.lower()], check=True, timeout=30)
        else:
            self.note(f"{name} by its shortcut's signal: no xdotool")
            from QMedSAMSegmentLib import keys

            shortcut = next(one for one in keys.shortcuts() if one.key.toString() == name)
            shortcut.activated()
        self.settle()

    def show(self, ras: Ras) -> None:
        """Move all slice views to a point."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            node.JumpSliceByOffsetting(*ras)
        self.settle()

    def click(self, view: str, ras: Ras, ctrl: bool = False) -> None:
        """Click into a slice view at a point."""
        interactor, (x, y) = self._interactor(view), self._at(view, ras)
        self._move(interactor, x, y)
        interactor.SetControlKey(int(ctrl))
        interactor.InvokeEvent(vtk.vtkCommand.LeftButtonPressEvent)
        interactor.InvokeEvent(vtk.vtkCommand.LeftButtonReleaseEvent)
        interactor.SetControlKey(0)
        self.settle()

    def wheel(self, view: str, shift: bool = False) -> None:
        """Turn the wheel forwards where the mouse is in a slice view."""
        interactor = self._interactor(view)
        interactor.SetShiftKey(int(shift))
        interactor.InvokeEvent(vtk.vtkCommand.MouseWheelForwardEvent)
        interactor.SetShiftKey(0)
        self.settle()

    def drag(self, view: str, start: Ras, end: Ras, steps: int = 12) -> None:
        """Press at a point of a slice view, pull, and let go at another."""
        interactor = self._interactor(view)
        (x0, y0), (x1, y1) = self._at(view, start), self._at(view, end)
        self._move(interactor, x0 - 3, y0)
        self._move(interactor, x0, y0)
        interactor.InvokeEvent(vtk.vtkCommand.LeftButtonPressEvent)
        for n in range(1, steps + 1):
            self._move(interactor, round(x0 + (x1 - x0) * n / steps), round(y0 + (y1 - y0) * n / steps))
        interactor.InvokeEvent(vtk.vtkCommand.LeftButtonReleaseEvent)
        self.settle()

    def _move(self, interactor: Any, x: int, y: int) -> None:
        """As the window's own adapter tells it: its functions of the same names translate gestures first."""
        interactor.SetEventInformation(x, y, 0, 0, chr(0), 0, None)
        interactor.InvokeEvent(vtk.vtkCommand.EnterEvent)
        interactor.InvokeEvent(vtk.vtkCommand.MouseMoveEvent)
        self.settle(0.05)

    @staticmethod
    def _interactor(view: str) -> Any:
        widget = slicer.app.layoutManager().sliceWidget(view)
        for owner in (widget, widget.sliceView()):
            for name in ("interactorObserver", "interactorStyle"):  # the second up to 5.8
                get = getattr(owner, name, None)
                found = get() if get is not None else None
                if found is not None and found.GetInteractor() is not None:
                    return found.GetInteractor()
        return widget.sliceView().interactor()

    @staticmethod
    def _at(view: str, ras: Ras) -> Tuple[int, int]:
        """Pixels of a view: columns from the left, rows from below."""
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode().GetXYToRAS())
        matrix.Invert()
        x, y = matrix.MultiplyPoint([*ras, 1.0])[:2]
        return round(x), round(y)

    def answer(self, *answers: bool) -> None:
        """The next dialogs get these answers, yes or no."""
        self._answers = list(answers)

    def _lookForDialogs(self) -> None:
        dialog = qt.QApplication.activeModalWidget()
        if dialog is None or not hasattr(dialog, "reject"):
            return
        text = str(getattr(dialog, "text", "") or getattr(dialog, "windowTitle", ""))
        expected = bool(self._answers)
        yes = self._answers.pop(0) if expected else False
        if not expected:
            self._dialogs.append(text)
        button = self._button(dialog, qt.QMessageBox.Ok, qt.QMessageBox.Yes) if yes else None
        if button is not None:
            button.click()
        elif yes:
            dialog.accept()
        else:
            dialog.reject()

    @staticmethod
    def _button(dialog: Any, *kinds: Any) -> Optional[Any]:
        if not hasattr(dialog, "button"):
            return None
        return next((dialog.button(kind) for kind in kinds if dialog.button(kind) is not None), None)

    # Ways through the application that many steps begin with

    def sample(self) -> None:
        """An empty scene, the sample, the Segment Editor with the effect."""
        import SampleData

        slicer.mrmlScene.Clear(0)
        self.settle()
        source = SampleData.SampleDataLogic().sourceForSampleName("QMedSAMPhantom")
        source.customDownloader(source)  # what its button calls
        self.settle()
        self.volume = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0]
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            view.RotateToVolumePlane(self.volume)  # the sample lies oblique: what is drawn is told in its voxels
        self.openEffect()

    def openEffect(self) -> None:
        """From the module's page."""
        slicer.util.selectModule("QMedSAMSegment")
        self.settle()
        self.press(slicer.util.getModuleWidget("QMedSAMSegment").panel.ui.openEditorButton)
        self.settle()
        self.wait(lambda: self.active, "the effect is active in the Segment Editor", 20)

    def undo(self) -> None:
        self.press(slicer.util.findChild(self.editor, "UndoButton"))

    def redo(self) -> None:
        self.press(slicer.util.findChild(self.editor, "RedoButton"))

    def without(self, *names: str) -> None:
        """Take ROIs out of the scene; all without names."""
        for roi in self.rois():
            if not names or roi.GetName() in names:
                slicer.mrmlScene.RemoveNode(roi)
        self.settle()

    def only(self, *names: str) -> None:
        """Keep only these ROIs."""
        others = [roi.GetName() for roi in self.rois() if roi.GetName() not in names]
        if others:
            self.without(*others)

    def finished(self, seconds: float = 300) -> None:
        """Wait until no run computes."""
        self.wait(lambda: not self.effect.session.running, "the run is over", seconds)
        self.settle()

    def boxIjk(self, roi: Any) -> np.ndarray:
        """Low and high corner of a box in voxels of the sample, ``2 x 3``."""
        from QMedSAMSegmentLib.boxes import boxFromRoi

        corners = boxFromRoi(roi, self.volume).corners_ijk
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    def ras(self, ijk: Sequence[float]) -> List[float]:
        """A point of the sample's voxel grid in mm."""
        from QMedSAMSegmentLib.geometry import ijkToWorld

        return [float(value) for value in (ijkToWorld(self.volume) @ [*ijk, 1.0])[:3]]
