"""Files that end too early in formats whose readers fill up the rest in silence.

Measured with SimpleITK 2.5: half a ``.nii``, ``.nii.gz``, ``.jpg`` or ``.bmp`` is read without an error, its missing part
zero or grey. NRRD, MetaImage and PNG readers notice by themselves.
"""

from __future__ import annotations

import gzip
import math
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Tuple

from ..errors import QMedSAMError
from .paths import reason_of

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


def check_complete(path: Path) -> None:
    """Look whether an image file holds all that its header promises.

    Raises:
        QMedSAMError: it ends too early, or a NIfTI header names no voxel size.
    """
    with path.open("rb") as stream:
        magic = stream.read(4)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        _check_nifti(path, compressed=magic[:2] == _GZIP)
    elif magic[:3] == b"\xff\xd8\xff":
        if not _jpeg_ends(path):
            raise _cut(path)
    elif magic[:2] == b"BM":
        with path.open("rb") as stream:
            header = stream.read(6)
        if len(header) < 6 or struct.unpack("<I", header[2:])[0] > path.stat().st_size:
            raise _cut(path)


def _cut(path: Path) -> QMedSAMError:
    return QMedSAMError(f"'{path.name}' ends too early; a part of the image is missing.", "Copy or export it again.")


def _jpeg_ends(path: Path) -> bool:
    """Whether the picture has its end marker, whatever comes behind it (phones append the video of a moment)."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = 2
        # Over the segments of the head, to the first scan: a thumbnail in one of them has an end marker of its own.
        while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
            fill = content[place + 1 : place + 2] == b"\xff"
            place += 1 if fill else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        return content.find(b"\xff\xd9", place) >= 0


def _check_nifti(path: Path, compressed: bool) -> None:
    opener = gzip.open if compressed else open
    try:
        with opener(path, "rb") as stream:
            needed, spacing = _read_header(stream, path)
            if compressed:
                # The last four bytes tell the length modulo 4 GiB, of the last member only (bgzip): else count.
                complete = _gzip_length(path) == needed % 2**32 or _counted(stream, needed)
            else:
                complete = path.stat().st_size >= needed
    except (EOFError, zlib.error, struct.error, gzip.BadGzipFile) as error:
        raise _cut(path) from error
    except OSError as error:
        raise QMedSAMError(f"'{path.name}' cannot be read ({reason_of(error)}).", "Copy it again.") from error
    if not complete:
        raise _cut(path)
    if not all(math.isfinite(s) and s != 0 for s in spacing):
        raise QMedSAMError(
            f"'{path.name}' has the voxel size {' x '.join(f'{s:g}' for s in spacing)} mm.",
            "Correct the spacing in its header (pixdim) or export it again.",
        )


def _read_header(stream: BinaryIO, path: Path) -> Tuple[int, Tuple[float, ...]]:
    """Bytes that the (unpacked) file must have, and the spacing of the axes longer than one."""
    head = stream.read(348)
    for order in "<>":
        size = struct.unpack(order + "i", head[:4])[0]
        if size == 348:
            dim = struct.unpack(order + "8h", head[40:56])
            bits = struct.unpack(order + "h", head[72:74])[0]
            spacing = struct.unpack(order + "8f", head[76:108])
            offset = int(struct.unpack(order + "f", head[108:112])[0])
            break
        if size == 540:
            bits = struct.unpack(order + "h", head[14:16])[0]
            dim = struct.unpack(order + "8q", head[16:80])
            spacing = struct.unpack(order + "8d", head[104:168])
            offset = struct.unpack(order + "q", head[168:176])[0]
            break
    else:
        raise QMedSAMError(f"'{path.name}' is not a NIfTI file.", "Check what it really is.")
    axes = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else ()
    if not axes or min(axes) < 1:
        raise QMedSAMError(f"'{path.name}' has no valid size in its header.", "Export it again.")
    long = tuple(s for s, n in zip(spacing[1:4], axes[:3]) if n > 1)
    return offset + math.prod(axes) * bits // 8, long


def _gzip_length(path: Path) -> int:
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return struct.unpack("<I", stream.read(4))[0]


def _counted(stream: BinaryIO, needed: int) -> bool:
    while stream.tell() < needed:
        if not stream.read(min(_CHUNK, needed - stream.tell())):
            return False
    return True
