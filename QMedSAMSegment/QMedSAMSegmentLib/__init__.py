"""The Slicer side of QMedSAM: nodes to boxes, masks to segments, worker, installer, and the Segment Editor effect.

Importing this package is light and needs no Qt: the effect's class is loaded when it is first asked for. It must stay reachable
as an attribute of the package, because ``qSlicerSegmentEditorScriptedEffect.setPythonSource`` looks it up here before it
executes the file, and executing the file would put a plain module in this package's place.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SegmentEditorEffect"]


def __getattr__(name: str) -> Any:
    if name != "SegmentEditorEffect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .SegmentEditorEffect import SegmentEditorEffect

    # Importing the submodule has just bound its module object under the same name; the class is what C++ must find.
    globals()[name] = SegmentEditorEffect
    return SegmentEditorEffect
