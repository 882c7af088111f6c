"""Headers of MetaImage (``.mha``, ``.mhd``): looked at before ITK opens the file."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from ..errors import QMedSAMError, shown
from .header import ImageHeader, check_axes, check_sizes, cut, integers_in, is_there, numbers_in

_MOST_BYTES = 1 << 20
_LONGEST = 4000
_CHUNK = 1 << 20
_TYPES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4}
_TYPES.update({"LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8, "DOUBLE": 8})


def check_metaimage(path: Path) -> ImageHeader:
    """Look whether a MetaImage holds what its header promises, in values that ITK survives.

    Raises:
        QMedSAMError: it does not.
    """
    fields, end = read_metaimage_header(path)
    for name, value in fields:
        # On any line: ITK's reader takes the last, and ends the process over 0 or 11 (seen with SimpleITK 2.5).
        if name == "ndims" and value.strip() not in ("2", "3", "4"):
            raise QMedSAMError(f"The image '{path.name}' has {shown(value)} dimensions.", "Extract one volume first.")
    last: Dict[str, str] = dict(fields)
    count = int(last["ndims"]) if "ndims" in last else 0
    sizes = integers_in(last.get("dimsize", ""))
    if not count or len(sizes) < count or min(sizes[:count], default=0) < 1:
        raise QMedSAMError(f"'{path.name}' has no valid size in its header.", "Export it again.")
    sizes = sizes[:count]
    kind = last.get("elementtype", "").strip().upper()
    channels = (integers_in(last.get("elementnumberofchannels", "1")) or [0])[0]
    kind, channels = _array_type(kind, channels)
    depth = _TYPES.get(kind[4:] if kind.startswith("MET_") else kind)
    if depth is None or not 1 <= channels <= 65535:
        raise QMedSAMError(f"The voxels of '{path.name}' are of the type '{shown(kind)}'.", "Save it as numbers.")
    _check_voxels(path, last, math.prod(sizes) * depth * channels, end)
    _check_geometry(path, last, count)
    frames = sizes[3] if count == 4 else 1
    measured = any(name in last for name in ("elementspacing", "elementsize")) or count < 3
    notes = () if measured else (f"'{path.name}' tells no voxel size: sizes are given in voxels.",)
    axis = 3 if frames > 1 else None
    return ImageHeader("metaimage", tuple(sizes), depth * channels, channels, frames, axis, 1.0, measured, ".mha", notes)


def read_metaimage_header(path: Path) -> Tuple[List[Tuple[str, str]], int]:
    """Fields in their order, by lower-case names, and where the voxels begin.

    Raises:
        QMedSAMError: no end of the header in the first MiB, or a line too long for one.
    """
    with path.open("rb") as stream:
        content = stream.read(_MOST_BYTES)
    fields: List[Tuple[str, str]] = []
    place = 0
    while place < len(content):
        end = content.find(b"\n", place)
        end = len(content) if end < 0 else end
        if end - place > _LONGEST:
            break
        name, separator, value = content[place:end].decode("utf-8", "replace").rstrip("\r").partition("=")
        place = end + 1
        if separator:
            fields.append((name.strip().lower(), value.strip()))
            if fields[-1][0] == "elementdatafile":
                return fields, place
    raise QMedSAMError(f"'{path.name}' is no MetaImage, or its header is damaged.", "Export it again.")


def voxel_files(path: Path, fields: Dict[str, str]) -> List[Path]:
    """The files that hold the voxels; the header's own for LOCAL. Lists and patterns of several files are not read."""
    name = fields.get("elementdatafile", "")
    if name.upper() == "LOCAL":
        return [path]
    if name.upper().startswith("LIST") or "%" in name:
        raise QMedSAMError(f"'{path.name}' keeps its voxels in several files.", "Save it as one file, e.g. as .nrrd.")
    return [path.parent / name]


def _check_stream(path: Path, where: Path, start: int, declared: int) -> None:
    """Whether packed voxels unpack, checksum and all: over a damaged stream ITK's reader never ends (seen with SimpleITK 2.5),
    and before 2.4 it takes one that is cut off for whole."""
    unpacker, count = zlib.decompressobj(47), 0  # zlib or gzip
    try:
        with where.open("rb") as stream:
            stream.seek(start)
            while count <= declared and not unpacker.eof:
                packed = unpacker.unconsumed_tail or stream.read(_CHUNK)
                if not packed:
                    count += len(unpacker.flush())
                    break
                count += len(unpacker.decompress(packed, _CHUNK))
    except zlib.error as error:
        raise cut(path) from error
    if count < declared or (count == declared and not unpacker.eof):
        raise cut(path)


def _check_geometry(path: Path, fields: Dict[str, str], count: int) -> None:
    for name in ("elementspacing", "elementsize"):
        spacing = numbers_in(fields.get(name, ""))
        if spacing:
            check_axes(path, np.diag(spacing[:count] if len(spacing) >= count else [math.nan]))
    for name in ("transformmatrix", "rotation", "orientation"):
        matrix = numbers_in(fields.get(name, ""))
        if matrix:
            check_axes(path, np.reshape(matrix, (count, count)) if len(matrix) == count * count else [[math.nan]])
    for name in ("offset", "position", "origin"):
        if not all(map(math.isfinite, numbers_in(fields.get(name, "")))):
            raise QMedSAMError(f"'{path.name}' has no valid geometry.", "Correct the origin in its header.")


def _array_type(kind: str, channels: int) -> Tuple[str, int]:
    """``MET_UCHAR_ARRAY`` is ``MET_UCHAR`` with channels."""
    return (kind[: -len("_ARRAY")], channels) if kind.endswith("_ARRAY") else (kind, channels)


def _check_voxels(path: Path, fields: Dict[str, str], declared: int, end: int) -> None:
    (where,) = voxel_files(path, fields)
    if not is_there(where):
        raise QMedSAMError(
            f"'{path.name}' needs its file of voxels, '{shown(where.name)}', which is not there.", "Copy both files."
        )
    stored = where.stat().st_size - (end if where == path else 0)
    if fields.get("binarydata", "true").lower() in ("false", "0") and "compresseddata" not in fields:
        check_sizes(path, declared, stored, 8)
    elif fields.get("compresseddata", "false").lower()[:1] in ("t", "1", "y"):
        check_sizes(path, declared, stored)
        _check_stream(path, where, end if where == path else 0, declared)
    elif where == path or stored >= declared:
        check_sizes(path, declared, stored, 1)
    else:
        raise QMedSAMError(
            f"The file of voxels '{shown(where.name)}' of '{path.name}' has {stored} bytes, not the {declared} that are needed.",
            "Copy or export both files again.",
        )
