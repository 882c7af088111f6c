"""Every picture of the tutorial, the icons and the sample's thumbnail, made from the real code and the shipped phantom.

python Testing/pictures/make.py    (needs what Testing/requirements.txt lists; about ten seconds on an idle laptop)

Slices and 3D views are drawn by Slicer's displayable managers (slicer-core), the panels by the extension's own code on PySide6
instead of PythonQt; they are no screenshots of the application.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "Resources" / "Screenshots"
ORGANS = ("right kidney", "left kidney")
SLICE, FIELD_OF_VIEW_MM, SIZE = 20, 300, (700, 540)
_ALIVE: list = []


def main() -> None:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    sys.path[:0] = [str(ROOT / folder) for folder in ("QMedSAMSegment", "Testing/mrml", "Testing/widget", "Testing/widget/shim")]
    import application
    import icons
    import nodes
    import pythonqt
    from PySide6 import QtCore, QtWidgets

    qtApplication = QtWidgets.QApplication([])
    settings = tempfile.TemporaryDirectory()  # the user's stay as they are
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, settings.name)
    qtApplication.setOrganizationName("QMedSAMPictures")
    qtApplication.setStyle("Fusion")
    pythonqt.install()
    application.install(qtApplication)
    scene = nodes.newScene()
    application.useScene(scene, nodes.logicOf("vtkSlicerMarkupsLogic"))
    SCREENSHOTS.mkdir(exist_ok=True)
    icons.main()
    _tutorial(scene, *_sample(scene))
    _modulePanel()
    _batchPanel()
    settings.cleanup()


def _sample(scene: Any) -> Any:
    """The phantom in its window, and its ROIs by name."""
    import nodes
    import slicer
    from QMedSAMSegmentLib.boxes import outline

    folder = ROOT / "Resources" / "SampleData"
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    _ALIVE.append(colors)  # it takes its nodes along when it goes
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "QMedSAMPhantom")
    reader = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    reader.SetFileName(str(folder / "QMedSAMPhantom.nrrd"))
    assert reader.ReadData(volume)
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    assert nodes.logicOf("vtkSlicerMarkupsLogic").LoadMarkups(str(folder / "QMedSAMPhantom-boxes.mrk.json"), "boxes")
    rois = [node for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode", scene)]
    for roi in rois:
        display = roi.GetDisplayNode()
        display.SetHandlesInteractive(False)  # their size follows the screen, which is not there
        outline(roi)
        display.SetVisibility(roi.GetName() in ORGANS)
    return volume, {roi.GetName(): roi for roi in rois}


def _tutorial(scene: Any, volume: Any, rois: Dict[str, Any]) -> None:
    """Boxes, preview, result in 2D and 3D, and the effect's panel after Apply all."""
    import editing
    import numpy as np
    from qmedsam import Segmenter
    from views import SliceView, ThreeDView, savePicture

    chosen = [rois[name] for name in ORGANS]
    colors = {name: rois[name].GetDisplayNode().GetSelectedColor() for name in ORGANS}
    editor = editing.Editor(scene, volume, chosen, colors)
    editor.effect.logic._segmenters = lambda model: Segmenter(model, threads=1)
    editor.scripted.setParameter("modality", "CT")
    editor.effect.updateGUIFromMRML()
    view = SliceView(volume, SLICE, SIZE, FIELD_OF_VIEW_MM)
    savePicture(view.array(), SCREENSHOTS / "box.png")
    editor.ui.previewButton.click()
    editor.finish()
    savePicture(view.array(), SCREENSHOTS / "preview.png")
    editor.effect.onCancel()
    editor.ui.applyAllButton.click()
    editor.finish()
    applied = view.array()
    savePicture(applied, SCREENSHOTS / "applied.png")
    _panel(editor.scripted.options, SCREENSHOTS / "effect.png", width=400)
    _frames(editor.scripted.options, SCREENSHOTS / "frames.png")
    left, right, top, bottom = 110, 590, 40, 400
    savePicture(applied[top:bottom:2, left:right:2], ROOT / "QMedSAMSegment" / "Resources" / "Icons" / "QMedSAMPhantom.png")
    editor.segmentation.CreateClosedSurfaceRepresentation()
    focus = np.mean([roi.GetCenterWorld() for roi in chosen], axis=0)
    threeD = ThreeDView(scene, focus, focus + (60, 400, 90), SIZE)
    savePicture(threeD.array(), SCREENSHOTS / "surface.png")
    _correction(editor, view)
    editor.effect.deactivate()


def _correction(editor: Any, view: Any) -> None:
    """A box that was drawn too small cuts a kidney off: a stroke over what is missing, and what comes of it."""
    import numpy as np
    from drawing import EVENTS, DrawnView
    from QMedSAMSegmentLib.boxes import boxFromRoi
    from views import savePicture

    whole, roi = editor.mask(ORGANS[0])[SLICE], editor.rois[0]
    box = boxFromRoi(roi, editor.volume)
    size = np.array(roi.GetSize())
    size[1] *= 0.6
    roi.SetSize(*size)
    editor.segmentation.RemoveClosedSurfaceRepresentation()
    editor.ui.applyButton.click()
    editor.finish()
    found = editor.mask(ORGANS[0])[SLICE]
    missing = np.argwhere(whole & ~found)
    missing = missing[missing[:, 0] < box.center_ijk[1]]  # the larger part
    j, i = np.median(missing, axis=0)
    half = (np.percentile(missing[:, 1], 80) - np.percentile(missing[:, 1], 20)) / 2
    editor.ui.correctButton.click()
    drawn = DrawnView(editor.effect, editor.volume, SLICE, node=view.node, renderer=view.renderer)
    path = [(i + half * share, j, SLICE) for share in np.linspace(-1, 1, 9)]
    drawn.send(EVENTS.MouseMoveEvent, path[0])
    drawn.send(EVENTS.LeftButtonPressEvent, path[0])
    for one in path[1:]:
        drawn.send(EVENTS.MouseMoveEvent, one)
    before = view.array()
    drawn.send(EVENTS.LeftButtonReleaseEvent, path[-1])
    editor.finish()
    after = view.array()
    crop = (slice(60, 420), slice(90, 420))
    between = np.full((360, 10, 3), 128, np.uint8)
    savePicture(np.concatenate([before[crop], between, after[crop]], axis=1), SCREENSHOTS / "correct.png")
    for _ in range(2):
        _panel(editor.scripted.options, SCREENSHOTS / "correcting.png", width=400)
        editor.effect.panel.say(editor.status)  # as high as it has to be at this width


def _modulePanel() -> None:
    import slicer
    from qmedsam import ModelStore, Segmenter
    from qmedsam.models import shipped_folder
    from QMedSAMSegmentLib.modulepanel import ModulePanel
    from QMedSAMSegmentLib.selfcheck import selfCheck

    ui = slicer.util.loadUI(str(ROOT / "QMedSAMSegment" / "Resources" / "UI" / "QMedSAMSegment.ui"))
    panel = ModulePanel(ui, store=ModelStore([shipped_folder()]))
    panel.ui.checkLabel.setText(str(selfCheck(Segmenter(threads=1))))
    _panel(ui, SCREENSHOTS / "module.png", width=520)


def _batchPanel() -> None:
    """The section Batch after a run of the real module: the phantom, its kidneys, and a file that is cut short."""
    import shutil
    import subprocess

    import slicer
    from PySide6 import QtWidgets
    from QMedSAMSegmentLib.batchpanel import BatchPanel
    from QMedSAMSegmentLib.batchprocess import moduleFile
    from QMedSAMSegmentLib.worker import Job

    def launch(arguments: Any) -> Any:
        command = [sys.executable, str(moduleFile()), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    widget = slicer.util.loadUI(str(ROOT / "QMedSAMSegment" / "Resources" / "UI" / "QMedSAMSegment.ui"))
    batch = BatchPanel(widget, slicer.util.childWidgetVariables(widget), lambda: True, Job, launch)
    sample = ROOT / "Resources" / "SampleData" / "QMedSAMPhantom.nrrd"
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases"
        cases.mkdir()
        for name in ("patient01", "patient02", "patient03"):
            shutil.copy(sample, cases / f"{name}.nrrd")
            shutil.copy(sample.with_name("QMedSAMPhantom-boxes.mrk.json"), cases / f"{name}.mrk.json")
        (cases / "patient02.nrrd").write_bytes(sample.read_bytes()[:9000])
        batch.ui.batchCasesEdit.setText(str(cases))
        batch.ui.batchOutputEdit.setText(str(Path(folder) / "results"))
        batch.ui.batchModalityBox.setCurrentText("CT")
        batch.ui.batchRunButton.click()
        while batch.running:
            QtWidgets.QApplication.processEvents()
        batch.ui.batchCasesEdit.setText("/data/cohort")
        batch.ui.batchOutputEdit.setText("/data/cohort-results")
        batch.ui.batchReportButton.setEnabled(True)
    for name in ("engineButton", "modelsButton", "linksLabel"):
        getattr(batch.ui, name).setVisible(False)
    batch.ui.batchButton.collapsed = False
    _panel(widget, SCREENSHOTS / "batch.png", width=520)


def _frames(options: Any, target: Path) -> None:
    """The effect's frame as narrow and as wide as panels were seen, in a light and a dark style."""
    import numpy as np
    from PIL import Image
    from PySide6 import QtWidgets
    from views import savePicture

    light, rows = QtWidgets.QApplication.palette(), []
    for palette in (light, _darkPalette()):
        QtWidgets.QApplication.setPalette(palette)
        pictures = []
        for width in (395, 520):
            _panel(options, target, width)
            pictures.append(np.asarray(Image.open(target).convert("RGB")))
        rows.append(np.concatenate([pictures[0], np.full((len(pictures[0]), 10, 3), 128, np.uint8), pictures[1]], axis=1))
    QtWidgets.QApplication.setPalette(light)
    savePicture(np.concatenate(rows), target)


def _darkPalette() -> Any:
    from PySide6 import QtGui

    colors = {"Window": "#323232", "Base": "#1e1e1e", "AlternateBase": "#323232", "Button": "#3c3c3c", "Highlight": "#3d9bff"}
    palette = QtGui.QPalette()
    for role, color in {**colors, **dict.fromkeys(("WindowText", "Text", "ButtonText"), "#ffffff")}.items():
        palette.setColor(getattr(QtGui.QPalette, role), QtGui.QColor(color))
    for role in ("WindowText", "Text", "ButtonText"):
        palette.setColor(QtGui.QPalette.Disabled, getattr(QtGui.QPalette, role), QtGui.QColor("#787878"))
    return palette


def _panel(widget: Any, target: Path, width: int) -> None:
    """A widget as a PNG, as high as it needs to be."""
    from PySide6 import QtWidgets

    widget.resize(width, 400)
    widget.show()
    for _ in range(3):
        QtWidgets.QApplication.processEvents()
    layout = widget.layout()
    widget.resize(width, layout.heightForWidth(width) if layout.hasHeightForWidth() else layout.sizeHint().height())
    QtWidgets.QApplication.processEvents()
    assert widget.grab().save(str(target))
    widget.hide()


if __name__ == "__main__":
    main()
