"""The parts of the application that the extension talks to: ``slicer.app``, base classes, the C++ half of an effect.

Scene, nodes, markups and the Segment Editor's logic are real (slicer-core); what stands here only passes calls on.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import types
from typing import Any, ClassVar, Dict, List

import slicer
import slicer.util
from PySide6 import QtWidgets


class App:
    """``slicer.app``."""

    def __init__(self, application: QtWidgets.QApplication) -> None:
        self._application = application
        self.applicationName = "Slicer"
        self.started: List[Any] = []
        self.testing = False

    def processEvents(self) -> None:
        self._application.processEvents()

    def testingEnabled(self) -> bool:
        return self.testing

    def topLevelWidgets(self) -> List[Any]:
        gc.disable()  # a collection in the middle of it would delete widgets that are in Qt's list already
        try:
            return self._application.topLevelWidgets()
        finally:
            gc.enable()

    def palette(self) -> Any:
        return self._application.palette()

    def connect(self, signature: str, slot: Any) -> None:
        assert signature == "startupCompleted()"
        self.started.append(slot)

    def pauseRender(self) -> None: ...

    def resumeRender(self) -> None: ...


class ScriptedEffect:
    """``qSlicerSegmentEditorScriptedEffect``: what C++ does for a Python effect, over the real editor logic."""

    registered: ClassVar[List[ScriptedEffect]] = []

    def __init__(self, parent: Any = None) -> None:
        self.name = self.title = ""
        self.perSegment = self.requireSegments = True
        self.showEffectCursorInSliceView = True
        self.options = QtWidgets.QWidget()
        QtWidgets.QVBoxLayout(self.options)
        self.editor: Any = None
        self.defaults: Dict[str, str] = {}
        self.visibleAnswer = 1
        self.actors: List[Any] = []  # (view widget, actor) that are in views
        self.undoSaves = 0

    def setPythonSource(self, path: str) -> None:
        """The steps of C++: the folder is the module, the file the class; without such a class the file is executed."""
        moduleName, className = os.path.basename(os.path.dirname(path)), os.path.splitext(os.path.basename(path))[0]
        className += "" if className.endswith("Effect") else "Effect"
        module = sys.modules.setdefault(moduleName, types.ModuleType(moduleName))
        if not hasattr(module, className):
            spec = importlib.util.spec_from_file_location(moduleName, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[moduleName] = module
            spec.loader.exec_module(module)
        self._self = getattr(module, className)(self)
        setattr(slicer, moduleName, self._self)

    def self(self) -> Any:
        return self._self

    def parameterSetNode(self) -> Any:
        return self.editor.GetSegmentEditorNode() if self.editor is not None else None

    def _key(self, name: str) -> str:
        return f"{self.name}.{name}"

    def setParameterDefault(self, name: str, value: Any) -> None:
        node = self.parameterSetNode()
        self.defaults[name] = str(value)
        if node is not None and node.GetAttribute(self._key(name)) is None:
            node.SetAttribute(self._key(name), str(value))

    def parameter(self, name: str) -> str:
        return self.parameterSetNode().GetAttribute(self._key(name)) or ""

    def integerParameter(self, name: str) -> int:
        return int(float(self.parameter(name) or 0))

    def setParameter(self, name: str, value: Any) -> None:
        self.parameterSetNode().SetAttribute(self._key(name), str(value))

    def addOptionsWidget(self, widget: Any) -> None:
        self.options.layout().addWidget(widget)

    def selectedSegmentLabelmap(self) -> Any:
        self.editor.UpdateReferenceGeometryImage()
        self.editor.UpdateSelectedSegmentLabelmap()
        return self.editor.GetSelectedSegmentLabelmap()

    def addActor2D(self, viewWidget: Any, actor: Any) -> None:
        self.actors.append((viewWidget, actor))
        if viewWidget.renderer is not None:
            viewWidget.renderer.AddViewProp(actor)

    def removeActor2D(self, viewWidget: Any, actor: Any) -> None:
        self.actors.remove((viewWidget, actor))
        if viewWidget.renderer is not None:
            viewWidget.renderer.RemoveViewProp(actor)

    def confirmCurrentSegmentVisible(self) -> int:
        return self.visibleAnswer

    def saveStateForUndo(self) -> None:
        self.undoSaves += 1
        self.editor.SaveStateForUndo()

    def modifySegmentByLabelmap(self, node: Any, segmentId: str, image: Any, mode: Any) -> None:
        self.editor.ModifySegmentByLabelmap(node, segmentId, image, mode, self.perSegment, False)


class AbstractScriptedSegmentEditorEffect:
    """Base class of Python effects."""

    def __init__(self, scriptedEffect: Any) -> None:
        self.scriptedEffect = scriptedEffect

    def register(self) -> None:
        ScriptedEffect.registered.append(self.scriptedEffect)

    def setupOptionsFrame(self) -> None: ...

    def deactivate(self) -> None: ...


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any) -> None:
        self.parent, self.layout = parent, parent.layout()

    def setup(self) -> None: ...


def _module(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module


def install(application: QtWidgets.QApplication) -> App:
    """Make the names of the application importable."""
    app = App(application)
    slicer.app = app
    slicer.qSlicerSegmentEditorAbstractEffect = slicer.vtkSlicerSegmentEditorLogic  # the same ModificationMode names
    translator = types.SimpleNamespace(tr=lambda text: text, translate=lambda context, text: text)
    _module("slicer.i18n", **vars(translator))
    _module("SegmentEditorEffects", AbstractScriptedSegmentEditorEffect=AbstractScriptedSegmentEditorEffect)
    _module("qSlicerSegmentationsEditorEffectsPythonQt", qSlicerSegmentEditorScriptedEffect=ScriptedEffect)
    import unittest

    _module(
        "slicer.ScriptedLoadableModule",
        ScriptedLoadableModule=ScriptedLoadableModule,
        ScriptedLoadableModuleWidget=ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleTest=type("ScriptedLoadableModuleTest", (unittest.TestCase,), {"__test__": False}),
    )

    class SampleDataLogic:
        sources: ClassVar[List[Dict[str, Any]]] = []

        @classmethod
        def registerCustomSampleDataSource(cls, **source: Any) -> None:
            cls.sources.append(source)

    _module("SampleData", SampleDataLogic=SampleDataLogic)
    return app


def useScene(scene: Any, markupsLogic: Any) -> None:
    """Make a scene the application's."""
    slicer.mrmlScene = scene
    slicer.modules = types.SimpleNamespace(markups=types.SimpleNamespace(logic=lambda: markupsLogic))
