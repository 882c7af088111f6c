"""The module QMedSAM: registers the Segment Editor effect, installs the engine, lists models, checks the machine."""

from __future__ import annotations

import os
from typing import Any

import slicer
from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest, ScriptedLoadableModuleWidget

__all__ = ["QMedSAMSegment", "QMedSAMSegmentLogic", "QMedSAMSegmentTest", "QMedSAMSegmentWidget"]


class QMedSAMSegment(ScriptedLoadableModule):
    """What the application reads about the module; everything else waits until the application has started."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("QMedSAM")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["QMedSAM developers"]
        self.parent.helpText = _(
            "Draw a box around an organ or a lesion and get its 3D mask in seconds, on this computer's processor. "
            "The effect QMedSAM is in the Segment Editor; this module installs the engine and keeps the models. "
            "Research software: not a medical device, not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "Implements QMedSAM (arXiv 2412.11186). Runs its networks with OpenVINO. "
            "Code: Apache-2.0; weights: see each model's card."
        )
        slicer.app.connect("startupCompleted()", self.onStartupCompleted)

    def onStartupCompleted(self) -> None:
        registerEditorEffect()
        registerSampleData()


def registerEditorEffect() -> None:
    """Add the effect to every Segment Editor."""
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    # First the package, then the source: setPythonSource looks the class up in the package, and where the package was not
    # imported it executes the file in its place, upon which no other module of the package can be imported any more.
    from QMedSAMSegmentLib import SegmentEditorEffect

    effect = effects.qSlicerSegmentEditorScriptedEffect(None)
    folder = os.path.dirname(__file__)
    effect.setPythonSource(os.path.join(folder, "QMedSAMSegmentLib", "SegmentEditorEffect.py").replace("\\", "/"))
    assert isinstance(effect.self(), SegmentEditorEffect)
    effect.self().register()


def registerSampleData() -> None:
    """Offer the shipped phantom with its boxes in the module Sample Data: copied from the extension, nothing is downloaded."""
    import hashlib

    import SampleData
    from QMedSAMSegmentLib.selfcheck import sampleFolder

    files = [sampleFolder() / name for name in ("QMedSAMPhantom.nrrd", "QMedSAMPhantom-boxes.mrk.json")]
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="QMedSAM",
        sampleName="QMedSAMPhantom",
        thumbnailFileName=os.path.join(os.path.dirname(__file__), "Resources", "Icons", "QMedSAMPhantom.png"),
        uris=[file.as_uri() for file in files],
        checksums=[f"SHA256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files],
        fileNames=[file.name for file in files],
        nodeNames=["QMedSAMPhantom", "QMedSAMPhantom-boxes"],
        loadFileType=["VolumeFile", "MarkupsFile"],
        customDownloader=lambda source: loadSampleData(),
    )


def loadSampleData() -> Any:
    """Load the phantom and its boxes, as outlines, from the extension; the volume node."""
    from QMedSAMSegmentLib.boxes import outline
    from QMedSAMSegmentLib.selfcheck import sampleFolder

    volumeNode = slicer.util.loadVolume(str(sampleFolder() / "QMedSAMPhantom.nrrd"))
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")}
    slicer.util.loadMarkups(str(sampleFolder() / "QMedSAMPhantom-boxes.mrk.json"))  # returns one node, and not always the same
    for roiNode in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        if roiNode.GetID() not in before:
            outline(roiNode)
    return volumeNode


class QMedSAMSegmentWidget(ScriptedLoadableModuleWidget):
    """A thin frame around :class:`QMedSAMSegmentLib.modulepanel.ModulePanel`."""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        from QMedSAMSegmentLib.modulepanel import ModulePanel

        ui = slicer.util.loadUI(os.path.join(os.path.dirname(__file__), "Resources", "UI", "QMedSAMSegment.ui"))
        self.layout.addWidget(ui)
        self.panel = ModulePanel(ui)

    def enter(self) -> None:
        self.panel.update()

    def cleanup(self) -> None:
        self.panel.close()


class QMedSAMSegmentTest(ScriptedLoadableModuleTest):
    """Runs inside the application: the shipped model on the shipped phantom, by script and by effect, with numbers."""

    ORGANS = ("right kidney", "left kidney")
    LEAST_DSC = 0.9

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_EffectIsRegistered()
        from QMedSAMSegmentLib import installer

        if not installer.installed():
            self.delayDisplay("OpenVINO is not installed: the tests that need it are skipped.")
            return
        self.setUp()
        self.test_ScriptSegmentsThePhantom()
        self.setUp()
        self.test_EffectSegmentsThePhantom()

    def test_EffectIsRegistered(self) -> None:
        self.assertIn("QMedSAM", self._editor().availableEffectNames())

    def test_ScriptSegmentsThePhantom(self) -> None:
        self._needOpenVINO()
        volume, rois, truth = self._sample()
        logic = QMedSAMSegmentLogic()
        segmentation, _result = logic.segment(volume, rois, modality="CT")
        ids = list(segmentation.GetSegmentation().GetSegmentIDs())
        for segmentId, name in zip(ids, self.ORGANS):
            self.assertGreaterEqual(self._dsc(segmentation, segmentId, truth, name, volume), self.LEAST_DSC)
        self.assertTrue(logic.undo())
        self.assertEqual(segmentation.GetSegmentation().GetNumberOfSegments(), 0)

    def test_EffectSegmentsThePhantom(self) -> None:
        self._needOpenVINO()
        from QMedSAMSegmentLib.boxes import bind

        volume, rois, truth = self._sample()
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        editor = self._editor()
        editor.setSegmentationNode(segmentation)
        editor.setSourceVolumeNode(volume)
        for roi, name in zip(rois, self.ORGANS):
            segmentId = segmentation.GetSegmentation().AddEmptySegment("", name)
            bind(roi, segmentation, segmentId)
            editor.setCurrentSegmentID(segmentId)
            editor.setActiveEffectByName("QMedSAM")
            effect = editor.activeEffect()
            effect.setParameter("modality", "CT")
            effect.self().onApply()
            self.assertGreaterEqual(self._dsc(segmentation, segmentId, truth, name, volume), self.LEAST_DSC)
        editor.undo()
        self.assertEqual(self._voxels(segmentation, segmentId, volume).sum(), 0)
        editor.setActiveEffectByName("")

    def _needOpenVINO(self) -> None:
        """A test runner skips visibly; nothing is installed in testing mode."""
        from QMedSAMSegmentLib import installer

        if not installer.installed():
            self.skipTest("OpenVINO is not installed")

    def _editor(self) -> Any:
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.setMRMLScene(slicer.mrmlScene)
        editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
        return editor

    def _sample(self) -> Any:
        """The volume, the boxes of ORGANS in their order, and the truth."""
        from QMedSAMSegmentLib.selfcheck import sampleFolder

        volume = loadSampleData()
        loaded = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
        rois = [next(roi for roi in loaded if roi.GetName() == name) for name in self.ORGANS]
        return volume, rois, slicer.util.loadSegmentation(str(sampleFolder() / "QMedSAMPhantom-truth.seg.nrrd"))

    @staticmethod
    def _voxels(segmentation: Any, segmentId: str, volume: Any) -> Any:
        return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentId, volume) > 0

    def _dsc(self, segmentation: Any, segmentId: str, truth: Any, name: str, volume: Any) -> float:
        truthId = truth.GetSegmentation().GetSegmentIdBySegmentName(name)
        found, wanted = self._voxels(segmentation, segmentId, volume), self._voxels(truth, truthId, volume)
        return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
