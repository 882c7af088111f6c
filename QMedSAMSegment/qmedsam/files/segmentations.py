"""What a segmentation on disk is made of: label arrays, segments with names and colours, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional, Tuple
from unicodedata import category

import numpy as np

from ..errors import QMedSAMError
from .challenge import read_arrays
from .paths import PathLike, existing_file
from .reading import header_of
from .volumes import read_volume

#: Label value, name (``""`` for a default) and RGB in 0..1 (None for a default).
Segment = Tuple[int, str, Optional[Tuple[float, float, float]]]

#: Characters that would end a header's line or have no encoding, by their category.
_BLANK = {"Cc": " ", "Zl": " ", "Zp": " ", "Cs": "\N{REPLACEMENT CHARACTER}"}

#: For segments without a colour, by label, in muted anatomical tones; any two are at least 0.2 apart in RGB.
DEFAULT_COLORS: Tuple[Tuple[float, float, float], ...] = (
    (0.50, 0.68, 0.50),
    (0.95, 0.84, 0.57),
    (0.73, 0.30, 0.28),
    (0.43, 0.72, 0.82),
    (0.93, 0.56, 0.33),
    (0.49, 0.40, 0.70),
    (0.86, 0.92, 0.32),
    (0.95, 0.63, 0.74),
    (0.24, 0.48, 0.32),
    (0.24, 0.42, 0.75),
    (0.52, 0.36, 0.12),
    (0.58, 0.93, 0.60),
    (0.80, 0.25, 0.58),
    (0.20, 0.72, 0.66),
    (0.96, 0.95, 0.85),
    (0.82, 0.68, 0.16),
    (0.76, 0.66, 0.92),
    (0.44, 0.14, 0.24),
    (0.42, 0.44, 0.50),
    (0.93, 0.28, 0.16),
)


class Origin(NamedTuple):
    """Where a segmentation comes from, for the formats that refer to it.

    Attributes:
        source: image file or DICOM folder that was segmented.
        series: DICOM series UID, where the folder holds several.
        model: name of the model.
        time_point: which one, from 0, of several in the same place.
    """

    source: Path
    series: Optional[str] = None
    model: str = ""
    time_point: int = 0


def written_name(label: int, name: str, most: int = 256) -> str:
    """A segment's name as one line of text that any format takes, never empty.

    Args:
        label: of the segment.
        name: as given.
        most: characters.
    """
    return one_line(name)[:most].strip() or f"Segment_{label}"


def one_line(name: str) -> str:
    """Text without characters that end a line of a header or have no encoding."""
    return " ".join("".join(_BLANK.get(category(c), c) for c in name).split())


def read_labels(path: PathLike) -> np.ndarray:
    """The label array ``(k, j, i)`` of a label map, a ``.seg.nrrd`` without overlapping segments, or a challenge ``.npz``.

    Raises:
        QMedSAMError: missing, damaged or foreign file, overlapping segments, or values that are no labels.
    """
    path = existing_file(path, "a label map")
    if path.suffix.lower() == ".npz":
        array = read_arrays(path, ("segs",))["segs"]
        array = array[None] if array.ndim == 2 else array
    else:
        layered = path.name.lower().endswith(".seg.nrrd") and header_of(path)
        if layered and (layered.channels > 1 or layered.frames > 1):
            raise QMedSAMError(
                f"The segments of '{path.name}' overlap, and a label map holds one label per voxel.", "Save them one by one."
            )
        array = read_volume(path).array_kji
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise QMedSAMError(f"'{path.name}' is not a label map.", "Its voxels must be whole numbers, one per voxel.")
    # In this order: numbers that are not finite, or beyond the type, are compared before they are converted.
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise QMedSAMError(f"'{path.name}' is not a label map.", "Its voxels must be whole numbers, one per voxel.")
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise QMedSAMError(f"'{path.name}' has labels outside 0 to 65535.", "Export it as a label map again.")
    return array.astype(np.uint8 if not array.size or array.max() <= 255 else np.uint16)
