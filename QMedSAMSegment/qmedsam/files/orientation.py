"""Pictures that their file holds turned: EXIF says how viewers show them, and boxes are drawn on what they show.

A turned picture (JPEG, PNG, TIFF) becomes a volume as viewers show it, whose matrix still leads to the place that the file's own
pixels have for 3D Slicer and ITK, which know no EXIF (of TIFF they do half of it): voxel indices are the viewers', millimetres
Slicer's. What is written for it has the file's own pixels again.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Sequence, Tuple

import numpy as np

from ..geometry import Volume
from .tiff import orientation_of_tiff

#: By EXIF orientation, how the stored rows and columns become what is shown: transposed first, then rows and columns reversed.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_ORIENTATION = 0x0112
#: Segments of a JPEG file before its picture; cameras write up to a dozen. Chunks of a PNG, its pixels' among them.
_MOST_SEGMENTS = 1000
_MOST_CHUNKS = 1_000_000
_LONGEST_EXIF = 1 << 20


def orientation_of(path: Path) -> int:
    """The EXIF orientation of a JPEG, PNG or TIFF, 1 to 8; 1 of any other file, and where EXIF says nothing or nonsense."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
            if head.startswith(b"\xff\xd8"):
                stream.seek(2)
                return _in_jpeg(stream)
            if head == b"\x89PNG\r\n\x1a\n":
                return _in_png(stream)
        return orientation_of_tiff(path) if head[:2] in (b"II", b"MM") else 1
    except (OSError, struct.error):
        return 1


def _in_jpeg(stream: BinaryIO) -> int:
    for _ in range(_MOST_SEGMENTS):
        head = stream.read(4)
        while head[:2] == b"\xff\xff":  # fill bytes
            head = head[1:] + stream.read(1)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:  # the picture begins
            return 1
        length = struct.unpack(">H", head[2:])[0] - 2
        content = stream.read(max(length, 0))
        if head[1] == 0xE1 and content.startswith(b"Exif\0\0"):
            return _in_exif(content[6:])
    return 1


def _in_png(stream: BinaryIO) -> int:
    """The chunk ``eXIf`` may stand before the pixels or behind them."""
    for _ in range(_MOST_CHUNKS):
        length, name = struct.unpack(">I4s", stream.read(8))
        if name == b"eXIf":
            return _in_exif(stream.read(min(length, _LONGEST_EXIF)))
        if name == b"IEND":
            return 1
        stream.seek(length + 4, os.SEEK_CUR)
    return 1


def _in_exif(content: bytes) -> int:
    """The value in the first directory of a TIFF structure.

    Raises:
        struct.error: it ends too early.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return 1
    place = struct.unpack_from(order + "I", content, 4)[0]
    for n in range(struct.unpack_from(order + "H", content, place)[0]):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", content, place + 2 + 12 * n)
        if tag == _ORIENTATION:
            return value if (kind, count) == (3, 1) and value in _TURNS else 1
    return 1


def upright(volume: Volume, orientation: int) -> Volume:
    """A picture, or every page of a stack, as viewers show it, with a note.

    Args:
        volume: of the file's own pixels.
        orientation: from :func:`orientation_of`.
    """
    if orientation == 1:
        return volume
    transpose, rows, columns = _TURNS[orientation]
    array = volume.array_kji.swapaxes(1, 2) if transpose else volume.array_kji
    array = np.ascontiguousarray(array[:, :: -1 if rows else 1, :: -1 if columns else 1])
    width, height = volume.shape_ijk[:2]
    note = (
        f"The file holds the picture turned (EXIF orientation {orientation}): boxes are taken as viewers show it, masks are "
        f"written for the file's own {width} x {height} pixels."
    )
    matrix = volume.ijk_to_ras @ _to_stored(orientation, array.shape)
    return replace(volume, array_kji=array, ijk_to_ras=matrix, orientation=orientation, notes=(*volume.notes, note))


def as_stored(array_kji: np.ndarray, volume: Volume) -> Tuple[np.ndarray, Volume]:
    """An array on the grid of a volume, and the volume, for the pixels of its file; as they are where it is not turned."""
    if volume.orientation == 1:
        return array_kji, volume
    matrix = volume.ijk_to_ras @ np.linalg.inv(_to_stored(volume.orientation, volume.array_kji.shape))
    turned = replace(volume, array_kji=_undo(volume.array_kji, volume.orientation), ijk_to_ras=matrix, orientation=1)
    return _undo(array_kji, volume.orientation), turned


def _undo(array_kji: np.ndarray, orientation: int) -> np.ndarray:
    transpose, rows, columns = _TURNS[orientation]
    array = array_kji[:, :: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(array.swapaxes(1, 2) if transpose else array)


def turn_of_itk(orientation: int, size: Sequence[int]) -> np.ndarray:
    """``4 x 4``, from indices of a TIFF's own pixels to those at which ITK (and so 3D Slicer) shows them.

    ITK mirrors rows and columns as the orientation says, but never transposes.

    Args:
        orientation: from :func:`orientation_of`.
        size: columns and rows of the file.
    """
    return _to_stored((orientation - 1) % 4 + 1, (1, size[1], size[0]))


def _to_stored(orientation: int, shape_kji: Tuple[int, ...]) -> np.ndarray:
    """``4 x 4``, from indices of what is shown (of this shape) to those of the file."""
    transpose, rows, columns = _TURNS[orientation]
    height, width = shape_kji[1:3]
    reverse = np.diag([-1.0 if columns else 1.0, -1.0 if rows else 1.0, 1.0, 1.0])
    reverse[:2, 3] = (width - 1) * columns, (height - 1) * rows
    swap = np.eye(4)[[1, 0, 2, 3]] if transpose else np.eye(4)
    return swap @ reverse
