"""QMedSAM: boxes on medical images become 3D masks, on a CPU.

``qmedsam.segment("ct.nii.gz", boxes)`` is the whole interface in one line; ``Segmenter().segment(volume, boxes)`` keeps the
loaded model for the next one. ``Volume`` and ``Box`` say where things are.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing itself takes longer to import than all of this
if TYPE_CHECKING:
    from .errors import QMedSAMError
    from .geometry import Box, Volume
    from .models import ModelStore
    from .notebook import segment
    from .segmenter import Segmentation, Segmenter

__version__ = "0.5.0"  # of engine, extension and training; a test compares the copy in QMedSAMBatch.xml
__all__ = ["Box", "ModelStore", "QMedSAMError", "Segmentation", "Segmenter", "Volume", "__version__", "segment"]

#: Where each name lives. Loaded when it is asked for: the command line must be able to say something before that.
_ROOMS = {
    "Box": "geometry",
    "ModelStore": "models",
    "QMedSAMError": "errors",
    "Segmentation": "segmenter",
    "Segmenter": "segmenter",
    "Volume": "geometry",
    "segment": "notebook",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    globals()[name] = value
    return value
