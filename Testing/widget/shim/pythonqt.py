"""PySide6 made to look like PythonQt: Qt properties as Python properties, ``connect("signal(args)", slot)``, ``.name``.

Written from PythonQt's public behaviour, for the few classes that the extension uses.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
import types
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets


class ctkCollapsibleButton(QtWidgets.QFrame):
    """A frame with a heading that folds; here it can only be told to."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self._folded: list = []
        self.setContentsMargins(0, 20, 0, 0)

    def _getText(self) -> str:
        return self._text

    def _setText(self, text: str) -> None:
        self._text = text

    def _getCollapsed(self) -> bool:
        return self._collapsed

    def _setCollapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self._fold()

    text = QtCore.Property(str, _getText, _setText)
    collapsed = QtCore.Property(bool, _getCollapsed, _setCollapsed)

    def showEvent(self, event: Any) -> None:
        self._fold()
        super().showEvent(event)

    def _fold(self) -> None:
        if self._collapsed:
            self._folded = [one for one in self._children() if not one.isHidden()]
        for child in self._folded:
            child.setVisible(not self._collapsed)
        self.setMaximumHeight(22 if self._collapsed else 16777215)

    def _children(self) -> list:
        return self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly)

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        palette = self.property("palette")  # by then a Python property, as in PythonQt
        painter.fillRect(0, 0, self.property("width"), 20, palette.color(QtGui.QPalette.Button))
        painter.setPen(palette.color(QtGui.QPalette.ButtonText))
        painter.drawText(6, 15, ("\u25b8 " if self._collapsed else "\u25be ") + self._text)
        painter.end()


_KEPT: list = []


class _Loader(QtUiTools.QUiLoader):
    def __init__(self) -> None:
        super().__init__()
        self.registerCustomWidget(ctkCollapsibleButton)

    def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
        widget = super().createWidget(className, parent, name)
        # PySide6 keeps QObject.connect from being replaced in its classes; an instance and a subclass may have their own
        widget.connect = functools.partial(_connect, widget)
        widget.disconnect = functools.partial(_disconnect, widget)
        _KEPT.append(widget)  # its Python half would else be made anew, without what was set on it
        return widget


class _Timer(QtCore.QTimer):
    def connect(self, signature: str, slot: Any) -> bool:
        return _connect(self, signature, slot)


class _Shortcut(QtGui.QShortcut):
    def connect(self, signature: str, slot: Any) -> bool:
        return _connect(self, signature, slot)


class _FileDialog(QtWidgets.QFileDialog):
    """PythonQt returns the name alone."""

    @staticmethod
    def getOpenFileName(*arguments: Any) -> str:
        return QtWidgets.QFileDialog.getOpenFileName(*arguments)[0]


#: What slots have raised since a test began: PythonQt writes it to the log, and no caller hears of it.
slotErrors: list = []


def _connect(self: Any, signature: str, slot: Any) -> bool:
    """PythonQt passes what the signature says, fewer to a slot that takes fewer, and returns False for an unknown signal."""
    name, arguments = signature.rstrip(")").split("(")
    meta = self.metaObject()
    if meta.indexOfSignal(QtCore.QMetaObject.normalizedSignature(signature).data().decode()) < 0 and not (
        arguments == "" and hasattr(getattr(self, name, None), "connect")  # a default argument left out: clicked()
    ):
        return False
    count = _accepted(slot, len([argument for argument in arguments.split(",") if argument]))

    def called(*values: Any) -> None:
        try:
            slot(*values[:count])
        except Exception as error:
            slotErrors.append(error)
            traceback.print_exc()

    # PySide6 passes as many values as it sees the function take
    takes = {0: lambda: called(), 1: lambda one: called(one)}.get(count, called)
    getattr(self, name).connect(takes)
    self.__dict__.setdefault("connections", []).append((signature, slot, takes))
    return True


def _disconnect(self: Any, signature: str, slot: Any) -> bool:
    connections = self.__dict__.get("connections", [])
    found = next((one for one in connections if one[:2] == (signature, slot)), None)
    if found is None:
        return False
    connections.remove(found)
    getattr(self, signature.split("(")[0]).disconnect(found[2])
    return True


def _accepted(slot: Any, offered: int) -> int:
    """How many of the offered values a slot takes."""
    try:
        parameters = inspect.signature(slot).parameters.values()
    except (TypeError, ValueError):
        return offered
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return offered
    return min(offered, sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters))


def _property(name: str) -> property:
    return property(lambda self: self.property(name), lambda self, value: self.setProperty(name, value))


def install() -> types.ModuleType:
    """Make ``qt`` and ``ctk`` importable."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q"):
                setattr(qt, name, getattr(source, name))
    ctk.ctkCollapsibleButton = ctkCollapsibleButton
    for kind in [value for value in vars(qt).values() if isinstance(value, type) and issubclass(value, QtCore.QObject)]:
        kind.name = _property("objectName")
        meta = kind.staticMetaObject
        for index in range(meta.propertyOffset(), meta.propertyCount()):
            setattr(kind, meta.property(index).name(), _property(meta.property(index).name()))
    qt.QUiLoader, qt.QFileDialog, qt.QTimer, qt.QShortcut = _Loader, _FileDialog, _Timer, _Shortcut
    sys.modules.update(qt=qt, ctk=ctk)
    return qt
