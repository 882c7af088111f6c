"""How much memory a case will take, told from its header; and how much a process takes."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Optional, Tuple

from ..errors import QMedSAMError
from ..files.challenge import array_header
from ..files.dicom import dicom_shape
from ..files.header import resident as resident
from ..files.kinds import known_kind
from ..files.reading import header_of
from .settings import Case

#: A worker that works, without the volume (measured on 32 million voxels of 1 to 8 bytes: 330 MiB, and 130 before OpenVINO).
BASE = 360 * 2**20
_READING = 160 * 2**20
#: Bytes per voxel beside its own while it is segmented: labels, and their copies while they are written (measured: 1.4).
_EXTRA = 3

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_memory(text: str) -> int:
    """``4G``, ``1500M``, ``0.5 GiB`` in bytes.

    Raises:
        QMedSAMError: it is no size, or not above 0.
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?B)?\s*", text, re.IGNORECASE)
    try:
        size = int(float(found.group(1)) * _UNITS[found.group(2).upper()]) if found else 0
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise QMedSAMError(f"'{text}' is no size of a memory.", "Give a number and a unit, e.g. 4G or 1500M.")
    return size


def check_memory(case: Case, limit: int) -> None:
    """Look at the headers of a case's images before their voxels are read.

    Raises:
        QMedSAMError: segmenting it needs more than ``limit`` bytes. A header that cannot be read is left to the reader.
    """
    segmentation = None if case.has_boxes else case.segmentation
    for path, what in ((case.volume, "volume"), (segmentation, "segmentation")):
        found = _shape_of(path, case.series) if path else None
        if found is None:
            continue
        shape, depth = found
        voxels = 1
        for n in shape:
            voxels *= n
        # While the file is read its voxels are there twice: in the reader's buffer and in the array made of it.
        need = max(_READING + 2 * depth * voxels, BASE + (depth + _EXTRA) * voxels)
        if need > limit:
            raise QMedSAMError(
                f"The {what} has {' x '.join(map(str, shape))} voxels; segmenting it takes about {in_words(need)} "
                f"and a worker may take {in_words(limit)}.",
                "Crop it, or allow more with --memory (fewer workers leave more for each).",
            )


def in_words(size: float) -> str:
    """``4.0 GiB``."""
    power = next((n for n in (1, 2, 3) if size < 1000 * 1024**n), 4)
    size /= 1024**power
    return f"{size:.{0 if size >= 100 else 1}f} {'KMGT'[power - 1]}iB"


def _shape_of(path: Path, series: Optional[str]) -> Optional[Tuple[Tuple[int, ...], int]]:
    """Voxels along each axis, and bytes of one; None for a header that cannot be read."""
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                shape, dtype = array_header(archive, "imgs")
            return shape, dtype.itemsize
        if path.is_dir() or known_kind(path) == "dicom":
            found = dicom_shape(path, series)
            return (*found.size, *((found.frames,) if found.frames > 1 else ())), found.depth
        header = header_of(path)
        return header.size, header.depth
    except Exception:  # whatever is wrong with the file, its reader says it better
        return None
