"""The extension's functions for scripts: no widget, no main window."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from qmedsam import QMedSAMError, Segmentation, Segmenter

from .boxes import bind, boundSegmentId
from .geometry import removeWithDisplay
from .grids import ensureReferenceGeometry
from .installer import Installer, installed
from .runs import Prompt, Run
from .segments import EditorWriter, requireEditorLogic
from .settings import Settings
from .trial import guardThisApplication


class QMedSAMSegmentLogic:
    """Segments boxes of a scene from a script.

    >>> logic = QMedSAMSegmentLogic()
    >>> segmentationNode, result = logic.segment(volumeNode, [roiNode])
    >>> logic.undo()

    Args:
        segmenters: makes the engine for a model's name (None: by modality); for tests and other engines.
    """

    def __init__(self, segmenters: Callable[[Optional[str]], Segmenter] = Segmenter) -> None:
        self._segmenters = segmenters
        self._loaded: Dict[Optional[str], Segmenter] = {}
        self._writer: Optional[EditorWriter] = None
        guardThisApplication()

    def segmenter(self, model: str = "auto") -> Segmenter:
        """The engine for a model's name; kept, so that a network is loaded once."""
        name = None if model == "auto" else model
        if name not in self._loaded:
            self._loaded[name] = self._segmenters(name)
        return self._loaded[name]

    def segment(
        self,
        volumeNode: Any,
        roiNodes: Sequence[Any],
        segmentationNode: Any = None,
        segmentIds: Optional[Sequence[str]] = None,
        settings: Optional[Settings] = None,
        segmentEditorNode: Any = None,
        progress: Optional[Callable[[int, int], None]] = None,
        cancelled: Optional[Callable[[], bool]] = None,
        **changes: str,
    ) -> Tuple[Any, Segmentation]:
        """Segment the object in every box, each into its segment.

        Args:
            volumeNode: grey or RGB, under no or a linear transform; not changed.
            roiNodes: ``vtkMRMLMarkupsROINode``, rotated as they may be; only bound to their segment, not changed.
            segmentationNode: gets the masks; None for a new one.
            segmentIds: one per box; without, the segment that a box is bound to, or a new one named after the box.
            settings: of the run.
            segmentEditorNode: its masking and overwrite settings count (it is set to this segmentation and volume); without,
                other segments are left alone.
            progress: called with done and total slices.
            cancelled: asked after every slice; what is done by then is added to the segments, also where the rest would replace.
            changes: single settings by name, for example ``strategy="fixed"``.

        Returns:
            The segmentation node and what became of every box (``result.objects``; ``result.errors`` names those that cannot be
            segmented, the others are written), confidence, seconds, messages.

        Raises:
            QMedSAMError: something that the user can mend, or no box can be segmented. New nodes are taken away again.
        """
        requireEditorLogic()
        if settings is not None and not isinstance(settings, Settings):
            raise QMedSAMError(f"The settings are {_kind(settings)}.", "Give a QMedSAMSegmentLib.settings.Settings.")
        chosen = (settings or Settings()).changed(**changes)
        _require(volumeNode, "vtkMRMLScalarVolumeNode", "volume")
        if hasattr(roiNodes, "IsA") or isinstance(roiNodes, str):
            raise QMedSAMError(f"The boxes are {_kind(roiNodes)}, not a list.", "Give a list: segment(volumeNode, [roiNode]).")
        roiNodes = list(roiNodes)
        for roiNode in roiNodes:
            _require(roiNode, "vtkMRMLMarkupsROINode", "box")
        if segmentationNode is not None:
            _require(segmentationNode, "vtkMRMLSegmentationNode", "segmentation")
        if segmentEditorNode is not None:
            _require(segmentEditorNode, "vtkMRMLSegmentEditorNode", "Segment Editor node")
        scene = volumeNode.GetScene()
        if isinstance(segmentIds, str):
            raise QMedSAMError(f"The segments are the text '{segmentIds}'.", "Give a list of segment IDs, one per box.")
        if segmentIds is not None and len(segmentIds) != len(roiNodes):
            raise QMedSAMError(f"{len(segmentIds)} segments cannot go with {len(roiNodes)} boxes.", "Give one per box.")
        made = segmentationNode is None
        if made:
            segmentationNode = self._newSegmentation(volumeNode)
        try:
            run = Run(volumeNode, segmentationNode, _prompts(roiNodes, segmentationNode, segmentIds), chosen, copy=False)
            result = run.compute(self.segmenter(chosen.model), progress, cancelled)
            written = run.alive and run.write(self._aimedWriter(scene, segmentEditorNode, segmentationNode, volumeNode))
        except Exception:
            if made:
                removeWithDisplay(segmentationNode)
            raise
        if written:
            for prompt in run.prompts:
                if segmentationNode.GetSegmentation().GetSegment(prompt.segmentId) is not None:
                    bind(prompt.roiNode, segmentationNode, prompt.segmentId)
        return segmentationNode, result

    def install(self, wheelFolder: Optional[str] = None, log: Optional[Callable[[str], None]] = None) -> None:
        """Install OpenVINO into Slicer's Python, from the network or from a folder of wheels; nothing is asked.

        Raises:
            QMedSAMError: with what can be done about it.
        """
        if not installed():
            Installer().install(Path(wheelFolder) if wheelFolder else None, log)

    def undo(self) -> bool:
        """Take back the last segmentation of this object; false when there is none."""
        return self._writer is not None and self._writer.undo()

    def redo(self) -> bool:
        """Repeat what was taken back; false when there is nothing."""
        return self._writer is not None and self._writer.redo()

    def _aimedWriter(self, scene: Any, editorNode: Any, segmentationNode: Any, volumeNode: Any) -> EditorWriter:
        writer = self._writer
        if writer is None or not writer.serves(scene, editorNode):
            writer = self._writer = EditorWriter(scene, editorNode)
        writer.aim(segmentationNode, volumeNode)
        return writer

    @staticmethod
    def _newSegmentation(volumeNode: Any) -> Any:
        name = f"{volumeNode.GetName()} segmentation"
        segmentationNode = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        ensureReferenceGeometry(segmentationNode, volumeNode)
        return segmentationNode


def _require(node: Any, kind: str, role: str) -> None:
    """Refuse what a script may give by mistake in place of a node.

    Raises:
        QMedSAMError: it is not a node of this kind, or not in a scene.
    """
    if not hasattr(node, "IsA") or not node.IsA(kind):
        raise QMedSAMError(f"The {role} is {_kind(node)}, not a {kind}.", "Give the node itself, not its name or its ID.")
    if node.GetScene() is None:
        raise QMedSAMError(f"The {role} is not in a scene.", "Load it, or add its node to slicer.mrmlScene.")


def _kind(value: Any) -> str:
    """A value as a script's author would call it."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the text '{value}'"
    return f"a {value.GetClassName()}" if hasattr(value, "GetClassName") else f"a {type(value).__name__}"


def _prompts(roiNodes: Sequence[Any], segmentationNode: Any, segmentIds: Optional[Sequence[str]]) -> List[Prompt]:
    """Boxes with their segments: the named one, the one that a box is bound to, else a new one."""
    segmentation = segmentationNode.GetSegmentation()
    prompts: List[Prompt] = []
    for n, roiNode in enumerate(roiNodes):
        segmentId = segmentIds[n] if segmentIds is not None else boundSegmentId(roiNode, segmentationNode)
        if segmentId is None:
            taken = {prompt.segmentId for prompt in prompts}
            stem = f"QMedSAM_{segmentation.GetNumberOfSegments() + n + 1}"
            segmentId = segmentation.GenerateUniqueSegmentID(stem)
            while segmentId in taken:
                segmentId = segmentation.GenerateUniqueSegmentID(segmentId + "_")
            prompts.append(Prompt(roiNode, segmentId, isNew=True))
        elif segmentation.GetSegment(segmentId) is None:
            raise QMedSAMError(f"There is no segment '{segmentId}' in '{segmentationNode.GetName()}'.", "Choose another.")
        else:
            prompts.append(Prompt(roiNode, segmentId))
    return prompts
