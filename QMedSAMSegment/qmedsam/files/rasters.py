"""Headers of PNG, JPEG and BMP: sizes before a library makes room for them, and whether the picture has its end."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Optional, Tuple

from ..errors import QMedSAMError
from .header import ImageHeader, check_sizes, cut

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
#: Samples that a byte of JPEG can become: blocks of 8 x 8 with two codes of a bit each.
_JPEG_MOST = 260
_MOST_CHUNKS = 1_000_000


def check_raster(path: Path, kind: str) -> ImageHeader:
    """Look whether a picture holds what its header promises.

    Args:
        path: the file.
        kind: ``png``, ``jpeg`` or ``bmp``.

    Raises:
        QMedSAMError: it does not.
    """
    width, height, channels, depth, most = {"png": _png, "jpeg": _jpeg, "bmp": _bmp}[kind](path)
    if width < 1 or height < 1:
        raise QMedSAMError(f"'{path.name}' has no valid size in its header.", "Export it again.")
    check_sizes(path, width * height * channels * depth, path.stat().st_size, most)
    return ImageHeader(kind, (width, height), channels * depth, channels, measured=False)


def _png(path: Path) -> Tuple[int, int, int, int, int]:
    with path.open("rb") as stream:
        head = stream.read(33)
        _check_chunks(stream, path)
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise cut(path)
    width, height, bits, color = struct.unpack(">IIBB", head[16:26])
    if bits not in (1, 2, 4, 8, 16) or color not in _PNG_CHANNELS:
        raise QMedSAMError(f"'{path.name}' is not a valid PNG picture.", "Save it again.")
    if color == 4:
        raise QMedSAMError(f"'{path.name}' is grey with transparency.", "Save it as grey or RGB, without transparency.")
    # A bit of the smallest depth becomes a byte, of a palette three.
    return width, height, _PNG_CHANNELS[color], 2 if bits == 16 else 1, 1040 * 24


def _check_chunks(stream: BinaryIO, path: Path) -> None:
    """Every part of a PNG ends in the file: libpng makes room for the length that it names, up to 2 GiB, and fills it."""
    size = stream.seek(0, os.SEEK_END)
    place = 8
    for _ in range(_MOST_CHUNKS):
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            raise cut(path)
        place += 12 + struct.unpack(">I", head[:4])[0]
        if place > size:
            raise cut(path)
        if head[4:] == b"IEND":
            return
    raise QMedSAMError(f"'{path.name}' is not a valid PNG picture.", "Save it again.")


def _jpeg(path: Path) -> Tuple[int, int, int, int, int]:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size, scan = jpeg_size(content)
        # After the head: a thumbnail in one of its segments has an end marker of its own.
        if content.find(b"\xff\xd9", scan) < 0:
            raise cut(path)
    if size is None:
        raise QMedSAMError(f"'{path.name}' is not a valid JPEG picture.", "Save it again.")
    bits, height, width, channels = size
    if channels not in (1, 3) or bits != 8:
        what = "in the colours of a printer (CMYK)" if channels == 4 else f"of {channels} channels of {bits} bits"
        raise QMedSAMError(f"'{path.name}' is {what}.", "Save it as RGB or grey, with 8 bits.")
    return width, height, channels, 1, _JPEG_MOST * channels


def jpeg_size(content: Any) -> Tuple[Optional[Tuple[int, int, int, int]], int]:
    """(bits, height, width, channels) of a JPEG stream, None where it does not say; and where its head ends."""
    place = 2
    size: Optional[Tuple[int, int, int, int]] = None
    while content[place : place + 1] == b"\xff":
        marker = content[place + 1 : place + 2]
        if marker == b"\xff" or not marker:
            place += 1
            if not marker:
                break
            continue
        if marker == b"\xf7" or (b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc")):
            frame = bytes(content[place + 4 : place + 10])
            size = struct.unpack(">BHHB", frame) if len(frame) == 6 else None
        if marker == b"\xda":
            break
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        if length < 2:
            break
        place += 2 + length
    return size, place


def _bmp(path: Path) -> Tuple[int, int, int, int, int]:
    with path.open("rb") as stream:
        head = stream.read(54)
    if len(head) < 54:
        raise cut(path)
    length, offset, kind = struct.unpack("<I", head[2:6])[0], *struct.unpack("<II", head[10:18])
    stored = path.stat().st_size
    if length > stored or offset > stored:
        raise cut(path)
    if kind < 40:
        raise QMedSAMError(f"'{path.name}' is a BMP of an old kind.", "Save it as PNG.")
    width, height, _, bits, packing = struct.unpack("<iiHHI", head[18:34])
    if bits not in (8, 24, 32) or packing not in (0, 1, 3):
        raise QMedSAMError(f"'{path.name}' is a BMP of {bits} bits.", "Save it as PNG.")
    # ITK makes three channels of palettes; a run of 255 is two bytes.
    most = 3 if packing != 1 else 3 * 128
    if packing != 1 and abs(height) * ((abs(width) * bits + 31) // 32 * 4) > stored - offset:
        raise cut(path)
    return width, abs(height), 1 if bits == 8 else bits // 8, 1, most
