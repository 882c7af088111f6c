"""Packed pixels of DICOM files: the fragments that hold them, run lengths, and the JPEG family by GDCM.

GDCM never sees the file: it gets a frame's packed bytes under a header of our own, so that no tag of the file decides what it
does (rescale tags of a colour picture make ITK convert a third of its rows; 32-bit big-endian values come out wrong).
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any, List, Protocol, Tuple

import numpy as np

from .dicom_header import DicomFile
from .header import cut
from .rasters import jpeg_size

_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


def fragments_of(file: DicomFile) -> List[Tuple[int, int]]:
    """Places and lengths of the items of packed pixels; the first is the table of offsets."""
    found: List[Tuple[int, int]] = []
    size = file.path.stat().st_size
    with file.path.open("rb") as stream:
        place = file.offset
        while True:
            stream.seek(place)
            head = stream.read(8)
            if len(head) < 8:
                raise cut(file.path)
            group, element, length = struct.unpack("<HHI", head)
            if (group, element) == _END:
                break
            if (group, element) != _ITEM or place + 8 + length > size:
                raise cut(file.path)
            found.append((place + 8, length))
            place += 8 + length
    if len(found) < 2:
        raise cut(file.path)
    return found


def unpack_bits(data: bytes, count: int) -> np.ndarray:
    """PackBits, exactly ``count`` bytes."""
    out = bytearray()
    place = 0
    while place < len(data) and len(out) < count:
        head = data[place]
        if head < 128:
            out += data[place + 1 : place + 2 + head]
            place += 2 + head
        elif head > 128:
            out += data[place + 1 : place + 2] * (257 - head)
            place += 2
        else:
            place += 1
    if len(out) < count:
        raise ValueError("too short")
    return np.frombuffer(bytes(out[:count]), np.uint8)


class Coded(Protocol):
    """What a decoder has to know of a file's pixels; see :class:`.dicom_pixels.Pixels`."""

    file: DicomFile
    rows: int
    columns: int
    samples: int
    bits: int
    stored: int
    high: int
    signed: bool
    color: str


def check_stream(packed: bytes, pixels: Coded) -> None:
    """The stream's own size, which libraries make room for."""
    size: Any = None
    start = packed.find(b"\xff\x4f\xff\x51")
    if 0 <= start <= 1 << 16:
        width, height, x, y = struct.unpack(">4I", packed[start + 8 : start + 24])
        size = (height - y, width - x)
    elif packed[:2] == b"\xff\xd8":
        found, _ = jpeg_size(packed)
        size = found and (found[1], found[2])
    if size != (pixels.rows, pixels.columns):
        raise ValueError("another size")


def by_gdcm(packed: bytes, pixels: Coded) -> np.ndarray:
    """A frame of the JPEG family, out of a file of our own that says nothing but what the pixels are."""
    import SimpleITK as sitk

    from .reading import quiet

    color = pixels.color if pixels.samples == 3 else "MONOCHROME2"
    uid = "2.25.1"
    meta = (
        _element(2, 1, b"OB", b"\0\1") + _element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.7") + _element(2, 3, b"UI", uid.encode())
    )
    meta += _element(2, 16, b"UI", pixels.file.syntax.encode())
    body = _element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.7") + _element(8, 0x18, b"UI", uid.encode())
    body += _element(8, 0x60, b"CS", b"OT")
    numbers = [(2, pixels.samples), (0x10, pixels.rows), (0x11, pixels.columns), (0x100, pixels.bits), (0x101, pixels.stored)]
    numbers += [(0x102, pixels.high), (0x103, int(pixels.signed))]
    if pixels.samples == 3:
        numbers.append((6, 0))
    parts = [(element, _element(0x28, element, b"US", struct.pack("<H", value))) for element, value in numbers]
    parts.append((4, _element(0x28, 4, b"CS", color.encode())))
    body += b"".join(part for _, part in sorted(parts))
    packed += b"\0" * (len(packed) % 2)
    item = b"\xfe\xff\x00\xe0"
    body += b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + item + b"\0\0\0\0" + item + struct.pack("<I", len(packed)) + packed
    body += b"\xfe\xff\xdd\xe0\0\0\0\0"
    with tempfile.TemporaryDirectory(prefix="qmedsam-") as folder:
        path = Path(folder) / "frame.dcm"
        path.write_bytes(b"\0" * 128 + b"DICM" + _element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        with quiet():
            return sitk.GetArrayFromImage(reader.Execute())[0]


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    if vr == b"OB":
        return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value
