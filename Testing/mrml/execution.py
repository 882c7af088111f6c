"""Slicer's own execution model, from the slicer-core wheel: its XML parser, its command lines, its way of running a module.

The wheel wraps the class that runs modules (``vtkSlicerCLIModuleLogic``) but not the one that describes them
(``ModuleDescription``), which is reached through the library's exported symbols.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
import time
from pathlib import Path
from typing import Any, List

import pytest
import slicer
import slicer_core
from nodes import logicOf, newScene

_KEPT: list = []  # what C++ points at


def _library(name: str) -> ctypes.CDLL:
    found = sorted(Path(slicer_core.__file__).parent.rglob(name))
    if not found:
        pytest.skip(f"this slicer-core has no {name}")
    return ctypes.CDLL(str(found[0]))


def _call(library: ctypes.CDLL, symbol: str, *arguments: Any) -> int:
    try:
        function = getattr(library, symbol)
    except AttributeError:
        pytest.skip(f"this slicer-core exports no {symbol}")
    function.restype = ctypes.c_int
    return function(*arguments)


def _string(text: str) -> Any:
    """A ``const std::string&`` of the wheel's ABI (a pointer to characters; length, capacity and references lie before)."""
    raw = text.encode()
    content = ctypes.create_string_buffer(struct.pack("<QQii", len(raw), len(raw), -1, 0) + raw + b"\0")  # -1: never shared
    pointer = ctypes.c_void_p(ctypes.addressof(content) + 24)
    _KEPT.extend((content, pointer))
    return ctypes.byref(pointer)


class ExecutionModel:
    """A scripted command line module as Slicer registers, parametrizes and runs it.

    Args:
        script: the ``.py`` with its ``.xml`` beside.
        folder: for the files that data travel in.

    Attributes:
        errors: what the parser has against the XML: 0 is nothing.
        scene: with the logics that the application always has.
    """

    def __init__(self, script: Path, folder: Path) -> None:
        parser, nodes = _library("libModuleDescriptionParser.so"), _library("libMRMLCLI.so")
        memory = ctypes.create_string_buffer(1 << 16)
        _KEPT.append(memory)
        description = ctypes.c_void_p(ctypes.addressof(memory))
        _call(parser, "_ZN17ModuleDescriptionC1Ev", description)
        text = script.with_suffix(".xml").read_text(encoding="utf-8")
        scratch = ctypes.create_string_buffer(64)
        self.errors = _call(
            parser, "_ZN23ModuleDescriptionParser5ParseERKSsR17ModuleDescription", scratch, _string(text), description
        )
        values = {"SetType": "CommandLineModule", "SetLocation": sys.executable, "SetTarget": str(script)}
        for setter, value in values.items():
            _call(parser, f"_ZN17ModuleDescription{len(setter)}{setter}ERKSs", description, _string(value))
        _call(nodes, "_ZN28vtkMRMLCommandLineModuleNode25RegisterModuleDescriptionE17ModuleDescription", description)

        self.title = str(re.search("<title>(.*)</title>", text).group(1))
        self.folder, self.scene = folder, newScene()
        self._cache = slicer.vtkCacheManager()
        self.scene.SetCacheManager(self._cache)
        self._application = slicer.vtkSlicerApplicationLogic()
        self._application.SetMRMLScene(self.scene)
        self._application.SetTemporaryPath(str(folder))
        self._application.CreateProcessingThread()
        self._logic = slicer.vtkSlicerCLIModuleLogic()
        self._logic.SetMRMLScene(self.scene)
        self._logic.SetMRMLApplicationLogic(self._application)
        _KEPT.append(logicOf("vtkSlicerSegmentationsModuleLogic"))

    def close(self) -> None:
        self._application.TerminateProcessingThread()
        self.scene.Clear(True)

    def node(self, **values: Any) -> Any:
        """A parameter node, set as ``slicer.cli`` sets it."""
        made = slicer.vtkMRMLCommandLineModuleNode()
        self.scene.AddNode(made)
        made.SetModuleDescription(self.title)
        for name, value in values.items():
            if isinstance(value, bool):
                made.SetParameterAsBool(name, value)
            elif isinstance(value, int):
                made.SetParameterAsInt(name, value)
            elif isinstance(value, float):
                made.SetParameterAsDouble(name, value)
            elif isinstance(value, str):
                made.SetParameterAsString(name, value)
            else:
                made.SetParameterAsNode(name, value)
        return made

    def run(self, **values: Any) -> Any:
        """As ``slicer.cli.runSync``: outputs are loaded into their nodes, results into the parameter node."""
        made = self.node(**values)
        self._logic.ApplyAndWait(made, False)
        return made

    def start(self, **values: Any) -> Any:
        """As ``slicer.cli.run``: in the background."""
        made = self.node(**values)
        self._logic.Apply(made, False)
        return made

    def wait(self, node: Any, *states: str, seconds: float = 60) -> str:
        """Until the node is in one of the states; the state."""
        end = time.monotonic() + seconds
        while node.GetStatusString() not in states and time.monotonic() < end:
            time.sleep(0.02)
            self._application.ProcessModified()
            self._application.ProcessReadData()
        return str(node.GetStatusString())

    def left(self) -> List[str]:
        """Names of the files that were left in the folder."""
        return sorted(path.name for path in self.folder.iterdir())
