"""TIFF: what its pages are (slices, channels, time points, thumbnails), and how long a voxel is."""

from __future__ import annotations

import os
import re
import shutil
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..errors import QMedSAMError
from .header import ImageHeader, check_sizes, cut

_MOST_PAGES = 100_000
_MOST_VALUES = 1 << 22
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_WIDTH, _HEIGHT, _BITS, _PACKING, _DESCRIPTION, _SAMPLES = 256, 257, 258, 259, 270, 277
_X, _Y, _PLANAR, _UNIT, _SUBFILE, _FORMAT, _STRIPS, _TILES, _TURN = 282, 283, 284, 296, 254, 339, 279, 325, 274
_WANTED = {_WIDTH, _HEIGHT, _BITS, _PACKING, _DESCRIPTION, _SAMPLES}
_WANTED |= {_X, _Y, _PLANAR, _UNIT, _SUBFILE, _FORMAT, _STRIPS, _TILES, _TURN}
#: Ways of packing that ITK's libtiff has, and what a byte of theirs can become.
_PACKINGS = {1: 1, 5: 4096, 8: 1040, 32946: 1040, 32773: 128, 7: 520, 2: 20_000, 3: 20_000, 4: 20_000}
_NAMES = {34925: "LZMA", 50000: "zstd", 50001: "WebP", 34712: "JPEG 2000", 33005: "JPEG 2000", 6: "the old JPEG", 34887: "LERC"}
_LENGTHS = {"µm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "\\u00B5m": 1e-3, "nm": 1e-6, "mm": 1.0, "cm": 10.0}
_LENGTHS.update({"m": 1e3, "inch": 25.4, "in": 25.4, "Å": 1e-7, "pm": 1e-9})


@dataclass(frozen=True)
class TiffHeader(ImageHeader):
    """Attributes:
    spacing_mm: of x, y and z; None for an axis that is not told.
    slices: pages of one time point.
    time_first: whether the pages' time runs faster than their depth.
    orientation: how viewers turn the stored pixels, 1 to 8 as in EXIF.
    """

    spacing_mm: Tuple[Optional[float], Optional[float], Optional[float]] = (None, None, None)
    slices: int = 1
    time_first: bool = field(default=False)
    orientation: int = 1


Page = Dict[int, Tuple]


def check_tiff(path: Path) -> TiffHeader:
    """Look whether a TIFF holds what its pages promise, and what they mean.

    Raises:
        QMedSAMError: it does not; its pages differ or are channels; ITK cannot unpack it.
    """
    with path.open("rb") as stream:
        try:
            pages = _pages(stream)
        except (struct.error, OverflowError, OSError) as error:
            raise cut(path) from error
    if not pages:
        raise cut(path)
    first = pages[0]
    if any((page.get(_SUBFILE, (0,))[0] & 1) for page in pages):
        raise QMedSAMError(
            f"'{path.name}' holds reduced copies of its picture (thumbnails, a pyramid).", "Save the picture alone, e.g. as PNG."
        )
    kinds = {tuple(page.get(tag, (0,)) for tag in (_WIDTH, _HEIGHT, _BITS, _SAMPLES, _FORMAT)) for page in pages}
    if len(kinds) > 1:
        raise QMedSAMError(f"The {len(pages)} pages of '{path.name}' differ in size or type.", "Save one of them alone.")
    if len({_turn_of(page) for page in pages}) > 1:
        raise QMedSAMError(f"The pages of '{path.name}' are to be shown turned in different ways.", "Save one of them alone.")
    width, height = (first.get(tag, (0,))[0] for tag in (_WIDTH, _HEIGHT))
    samples = first.get(_SAMPLES, (1,))[0]
    bits = first.get(_BITS, (1,))
    packing = first.get(_PACKING, (1,))[0]
    if width < 1 or height < 1 or not 1 <= samples <= 4:
        raise QMedSAMError(f"'{path.name}' has no valid size in its header.", "Export it again.")
    if packing not in _PACKINGS:
        raise QMedSAMError(
            f"'{path.name}' is packed by {_NAMES.get(packing, f'method {packing}')}.", "Save it with LZW, or unpacked."
        )
    if max(bits) == 64 or (max(bits) == 16 and first.get(_FORMAT, (1,))[0] == 3):
        raise QMedSAMError(
            f"The values of '{path.name}' are numbers of {max(bits)} bits.", "Save it with 32 bits (float) or less."
        )
    depth = samples * max((max(bits) + 7) // 8, 1)
    declared = width * height * depth * len(pages)
    stored = min(path.stat().st_size, sum(sum(page.get(_STRIPS) or page.get(_TILES) or (0,)) for page in pages))
    check_sizes(path, declared * min(max(bits), 8) // 8 if packing == 1 else declared, stored, _PACKINGS[packing])
    return _meaning(path, pages, width, height, samples, depth)


def _meaning(path: Path, pages: List[Page], width: int, height: int, samples: int, depth: int) -> TiffHeader:
    """Which pages are slices and which time points."""
    description = bytes(pages[0].get(_DESCRIPTION, (b"",))[0]).decode("utf-8", "replace").strip("\0 ")
    channels, slices, frames, time_first = 1, len(pages), 1, False
    spacing: List[Optional[float]] = [None, None, None]
    told = False
    if description.startswith("ImageJ="):
        values = dict(line.split("=", 1) for line in description.splitlines() if "=" in line)
        channels, frames = (_count(values.get(key)) for key in ("channels", "frames"))
        slices = _count(values.get("slices")) if "slices" in values else max(len(pages) // (channels * frames), 1)
        told, spacing = True, _imagej_spacing(values, pages[0])
    elif "<OME" in description[:4000] or "openmicroscopy" in description[:4000]:
        found = _ome(description)
        if found is not None:
            channels, slices, frames, time_first, spacing = found
            told = True
            channels = 1 if channels == samples else channels
    if told and len(pages) == 1 and slices * frames > 1:
        raise QMedSAMError(
            f"'{path.name}' keeps its {slices * frames} pages in a way that only ImageJ reads.", "Save it as NRRD there."
        )
    if channels > 1:
        raise QMedSAMError(
            f"The pages of '{path.name}' are {channels} channels.", "Save one channel alone (ImageJ: Split Channels)."
        )
    if channels * slices * frames != len(pages):
        raise QMedSAMError(
            f"'{path.name}' says that it has {slices} slices at {frames} time points, but it has {len(pages)} pages.",
            "Save it again.",
        )
    if not told:
        spacing = [*_resolution(pages[0]), None]
    measured = all(s is not None for s in spacing)
    notes: Tuple[str, ...] = ()
    if slices > 1 and not measured:
        notes = (
            f"The {slices} pages of '{path.name}' were taken as slices; it tells no distance between them: sizes are in voxels.",
        )
    return TiffHeader(
        "tiff",
        (width, height, len(pages)) if len(pages) > 1 else (width, height),
        depth,
        samples,
        frames,
        2 if frames > 1 else None,
        measured=measured,
        suffix=".tif",
        notes=notes,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        slices=slices,
        time_first=time_first,
        orientation=_turn_of(pages[0]),
    )


def _turn_of(page: Page) -> int:
    value = page.get(_TURN, (1,))[0]
    return value if value in range(1, 9) else 1


def turned_back(path: Path, target: Path) -> None:
    """Write a copy of a checked file that asks nobody to turn it.

    ITK turns some orientations half (a picture that lies on its side is mirrored at most), and reads others with 8 bits or not
    at all; of a file that is not to be turned it gives the stored pixels as they are.
    """
    shutil.copyfile(path, target)
    with target.open("r+b") as stream:
        for directory in list(_directories(stream)):
            for place, (tag, kind, _) in directory.entries():
                if tag == _TURN and kind in (1, 3, 4):
                    stream.seek(place + (12 if directory.big else 8))
                    stream.write(struct.pack(directory.order + _LETTERS[kind], 1))


def _count(text: Optional[str]) -> int:
    text = (text or "1").strip()
    return int(text) if text.isdigit() and 0 < len(text) < 7 and int(text) else 1


def _length(value: Optional[float], unit: Optional[str]) -> Optional[float]:
    to_mm = _LENGTHS.get((unit or "").strip())
    return value * to_mm if to_mm and value and 0 < value < 1e12 else None


def _imagej_spacing(values: Dict[str, str], page: Page) -> List[Optional[float]]:
    """ImageJ keeps pixels per unit in the resolution, and the unit in its text."""
    unit = values.get("unit")
    out = [_length(1 / r if r else None, unit) for r in (_ratio(page.get(tag)) for tag in (_X, _Y))]
    try:
        depth = abs(float(values["spacing"]))
    except (KeyError, ValueError):
        return [*out, None]
    return [*out, _length(depth, values.get("zunit", unit))]


def _resolution(page: Page) -> List[Optional[float]]:
    """mm of x and y, where inches or centimetres are named. 72, 96 and 300 dpi are of a screen or a printer, not of a thing."""
    unit = {2: 25.4, 3: 10.0}.get(page.get(_UNIT, (2,))[0])
    out = []
    for tag in (_X, _Y):
        ratio = _ratio(page.get(tag))
        out.append(unit / ratio if unit and ratio and round(ratio, 3) not in (1, 72, 96, 150, 300, 600) else None)
    return out


def _ratio(value: Optional[Tuple]) -> Optional[float]:
    return value[0] / value[1] if value and len(value) == 2 and value[0] and value[1] else None


def _ome(text: str) -> Optional[Tuple[int, int, int, bool, List[Optional[float]]]]:
    """Channels, slices, time points, whether time runs faster than depth, and the spacing."""
    if "<!ENTITY" in text:  # no text that grows while it is read
        return None
    try:
        pixels = next((node for node in ET.fromstring(text).iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    except ET.ParseError:
        return None
    if pixels is None:
        return None
    channels, slices, frames = (_count(pixels.get(f"Size{axis}")) for axis in "CZT")
    order = re.sub("[^ZT]", "", pixels.get("DimensionOrder", "XYZCT"))
    spacing: List[Optional[float]] = []
    for axis in "XYZ":
        try:
            value: Optional[float] = float(pixels.get(f"PhysicalSize{axis}", ""))
        except ValueError:
            value = None
        spacing.append(_length(value, pixels.get(f"PhysicalSize{axis}Unit", "µm")))
    return channels, slices, frames, order == "TZ", spacing


class _Directory(NamedTuple):
    """The raw entries of a page, from ``place`` on."""

    place: int
    raw: bytes
    order: str
    big: bool

    def entries(self) -> Iterator[Tuple[int, Tuple[int, int, int]]]:
        """Where each stands in the file; its tag, type and number of values."""
        form, width = (self.order + "HHQ", 20) if self.big else (self.order + "HHI", 12)
        for start in range(0, len(self.raw), width):
            yield self.place + start, struct.unpack_from(form, self.raw, start)


def _directories(stream: BinaryIO) -> Iterator[_Directory]:
    """Of a TIFF or BigTIFF, one by one.

    Raises:
        OSError: they lead out of the file or in a circle (in which libtiff goes round), or are more than anybody has.
        struct.error: the file ends within one.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    number, few, width = ("Q", "Q", 20) if big else ("I", "H", 12)
    place = struct.unpack(order + number, head[8:16] if big else head[4:8])[0]
    seen: Set[int] = set()
    while place:
        if place >= size or place in seen or len(seen) >= _MOST_PAGES:
            raise OSError("no chain of pages")
        seen.add(place)
        stream.seek(place)
        count = struct.unpack(order + few, stream.read(struct.calcsize("=" + few)))[0]
        if count > 4096:
            raise OSError("too many entries")
        raw = stream.read(count * width)
        following = struct.unpack(order + number, stream.read(struct.calcsize("=" + number)))[0]
        yield _Directory(place + struct.calcsize("=" + few), raw, order, big)
        place = following


def _pages(stream: BinaryIO) -> List[Page]:
    """Those tags of every page that are wanted."""
    size = os.fstat(stream.fileno()).st_size
    return [_page(stream, directory, size) for directory in _directories(stream)]


def orientation_of_tiff(path: Path) -> int:
    """How viewers turn the first page, 1 to 8 as in EXIF; 1 where the file does not say, or is damaged."""
    with path.open("rb") as stream:
        try:
            return _turn_of(_page(stream, next(_directories(stream)), os.fstat(stream.fileno()).st_size))
        except (struct.error, OSError, StopIteration):
            return 1


def _page(stream: BinaryIO, directory: _Directory, size: int) -> Page:
    page: Page = {}
    order, big = directory.order, directory.big
    for place, (tag, kind, number) in directory.entries():
        if tag not in _WANTED or kind not in _SIZES or (kind == 2) != (tag == _DESCRIPTION):
            continue
        length = number * _SIZES[kind]
        if number > _MOST_VALUES:
            raise OSError("too many values")
        start = place - directory.place
        raw = directory.raw[start + (12 if big else 8) : start + (20 if big else 12)]
        if length > len(raw):
            place = struct.unpack(order + ("Q" if big else "I"), raw)[0]
            if place + length > size:
                raise OSError("beyond the end")
            stream.seek(place)
            raw = stream.read(length)
        raw = raw[:length]
        if kind == 2:
            page[tag] = (raw,)
        elif kind in (5, 10) and number:
            page[tag] = struct.unpack(f"{order}{2 * number}{'I' if kind == 5 else 'i'}", raw)
        elif kind in _LETTERS and number:
            page[tag] = struct.unpack(f"{order}{number}{_LETTERS[kind]}", raw)
    return page
