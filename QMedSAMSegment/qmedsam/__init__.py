"""QMedSAM: boxes on medical images become 3D masks, on a CPU.

``Segmenter().segment(volume, boxes)`` is the whole interface; ``Volume`` and ``Box`` say where things are.
"""

from __future__ import annotations

from .errors import QMedSAMError
from .geometry import Box, Volume
from .models import ModelStore
from .segmenter import Segmentation, Segmenter

__version__ = "0.5.0"  # of engine, extension and training; a test compares the copy in QMedSAMBatch.xml
__all__ = ["Box", "ModelStore", "QMedSAMError", "Segmentation", "Segmenter", "Volume", "__version__"]
