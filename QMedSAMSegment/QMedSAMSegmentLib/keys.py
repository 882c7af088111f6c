"""The effect's keys: one set for the application, whichever of its Segment Editors is used.

Two shortcuts of one key in one window are ambiguous to Qt, and neither works: an editor in another module is enough.
"""

from __future__ import annotations

import weakref
from typing import Any, Callable, List, Optional

#: Keys that neither the editor nor the slice views use, and the effect's method that each calls.
KEYS = (("Shift+B", "onAddBox"), ("Shift+P", "onPreview"), ("Shift+A", "onApplyClicked"), ("Shift+C", "onCorrectKey"))

_users: List[Any] = []  # weak references to active effects, the last activated last
_shortcuts: List[Any] = []


def take(effect: Any) -> None:
    """An effect has become active: the keys are there, where there is a main window to have them."""
    import qt
    import slicer

    from .signals import connected

    leave(effect)
    _users.append(weakref.ref(effect))
    mainWindow = slicer.util.mainWindow()
    if mainWindow is None or _shortcuts:
        return
    for key, method in KEYS:
        shortcut = qt.QShortcut(mainWindow)
        shortcut.setKey(qt.QKeySequence(key))
        connected(shortcut, "activated()", _caller(method))
        _shortcuts.append(shortcut)


def leave(effect: Any) -> None:
    """An effect is not active any more; with the last one the keys go."""
    _users[:] = [one for one in _users if one() not in (None, effect)]
    if not _users:
        for shortcut in _shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        _shortcuts.clear()


def shortcuts() -> List[Any]:
    """The application's, while an effect is active and there is a main window."""
    return list(_shortcuts)


def inUse(effect: Any, segmentationNode: Any) -> bool:
    """Whether another active effect edits this segmentation."""
    return any(one() not in (None, effect) and one().segmentationNode is segmentationNode for one in _users)


def current() -> Optional[Any]:
    """The effect that is meant: the last activated of those that are seen, else the last activated."""
    active = [one() for one in _users if one() is not None]
    seen = [effect for effect in active if effect.panel is not None and effect.panel.widget.visible]
    return (seen or active or [None])[-1]


def _caller(method: str) -> Callable[[], None]:
    def pressed() -> None:
        effect = current()
        if effect is not None:
            getattr(effect, method)()

    return pressed
