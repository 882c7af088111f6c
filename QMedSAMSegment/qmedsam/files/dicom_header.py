"""Headers of DICOM files, read by pydicom out of a stream that believes no length, and where the pixels lie."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, List, Optional, Tuple, TypeVar, cast

from ..errors import QMedSAMError, shown
from .header import cut

_UNDEFINED = 0xFFFFFFFF
#: Reads that a header may take: a hundred times what a large multi-frame one does.
_MOST_READS = 3_000_000
#: Elements that are longer stay in the file. Private ones hold whole pictures.
_DEFERRED = 1 << 20
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MOST_INFLATED = 1 << 30
_SOP_CLASS = 0x00080016
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"SQ", b"UT", b"UC", b"UR")

#: What objects without a grey image are called.
NO_IMAGES = {
    "1.2.840.10008.1.3.10": "the directory of a DICOM medium (DICOMDIR)",
    "1.2.840.10008.5.1.4.1.1.66.4": "a DICOM segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a DICOM segmentation",
    "1.2.840.10008.5.1.4.1.1.66.1": "a DICOM registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "a DICOM registration",
    "1.2.840.10008.5.1.4.1.1.66.5": "a DICOM surface",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose of radiotherapy (RTDOSE)",
    "1.2.840.10008.5.1.4.1.1.481.3": "contours of radiotherapy (RTSTRUCT)",
    "1.2.840.10008.5.1.4.1.1.481.5": "a plan of radiotherapy (RTPLAN)",
    "1.2.840.10008.5.1.4.1.1.104.1": "a document (PDF in DICOM)",
    "1.2.840.10008.5.1.4.1.1.30": "a DICOM parametric map",
}
_NO_MODALITIES = {
    "SEG": "a DICOM segmentation",
    "RTDOSE": "a dose of radiotherapy (RTDOSE)",
    "RTSTRUCT": "contours of radiotherapy (RTSTRUCT)",
    "RTPLAN": "a plan of radiotherapy (RTPLAN)",
    "SR": "a DICOM report",
    "PR": "a DICOM presentation state",
    "KO": "a DICOM selection of images",
    "REG": "a DICOM registration",
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file without its pixels.

    Attributes:
        path: of the file.
        dataset: of pydicom, up to the pixels.
        syntax: UID of the transfer syntax.
        offset: byte where the value of the pixels begins; -1 where there are none.
        length: of that value; None for fragments.
        inflated: the pixels themselves, of a deflated file.
    """

    path: Path
    dataset: Any
    syntax: str
    offset: int
    length: Optional[int]
    inflated: Optional[bytes] = None

    def get(self, keyword: str, convert: Callable[[Any], _T], default: _T) -> _T:
        """A value of the data set, and ``default`` where it is missing, empty or no such thing."""
        return value_of(self.dataset, keyword, convert, default)

    @property
    def series(self) -> str:
        return self.get("SeriesInstanceUID", str, "").strip()

    @property
    def no_image(self) -> str:
        """What this is when it is no image; else empty."""
        uid = self.get("SOPClassUID", str, "") or value_of(self.dataset.file_meta, "MediaStorageSOPClassUID", str, "")
        known = NO_IMAGES.get(uid.strip()) or _NO_MODALITIES.get(self.get("Modality", str, "").strip().upper(), "")
        if known:
            return known
        if "MOSAIC" in self.get("ImageType", lambda v: "\\".join(map(str, [v] if isinstance(v, str) else v)).upper(), ""):
            return "a mosaic of Siemens, many slices in one picture: convert it first, e.g. with dcm2niix"
        if self.offset < 0 or self.get("Rows", int, 0) < 1 or self.get("Columns", int, 0) < 1:
            return "DICOM, but no image"
        return ""


def value_of(dataset: Any, keyword: str, convert: Callable[[Any], _T], default: _T) -> _T:
    """A value of a pydicom data set; ``default`` where it is missing, empty or cannot be converted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = dataset.get(keyword)
            return default if found is None or (hasattr(found, "__len__") and not len(found)) else convert(found)
    except Exception:  # a value of a file, which may be anything
        return default


def items_of(dataset: Any, keyword: str) -> List[Any]:
    """The items of a sequence; empty where there is none."""
    return value_of(dataset, keyword, list, [])


def read_dicom_header(path: Path) -> DicomFile:
    """The header of a file.

    Raises:
        QMedSAMError: it is no DICOM, is damaged, or pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise QMedSAMError("Reading DICOM needs the package pydicom.", "Install it: python -m pip install pydicom.") from error
    with _opened(path) as stream:
        if _is_deflated(stream):
            return _deflated(stream, path)
        bounded = _Bounded(stream)
        dataset = _parsed(bounded)
        syntax = _syntax(dataset)
        offset, length = _pixels(bounded, path, syntax)
        return DicomFile(path, dataset, syntax, offset, length)


def read_whole(path: Path) -> Any:
    """pydicom's data set of an object that is no image (SEG, RTSTRUCT), read to its end out of a stream that believes no length.

    Raises:
        QMedSAMError: it is no DICOM, or is damaged.
    """
    import pydicom

    with _opened(path) as stream:
        plain = io.BytesIO(_inflated(stream, path)) if _is_deflated(stream) else stream
        return pydicom.dcmread(_Bounded(plain))


def class_of(path: Path) -> str:
    """The UID of what a DICOM file holds (its SOP class), read no further than there; empty where it does not say.

    Raises:
        QMedSAMError: it is damaged.
    """
    from pydicom.filereader import read_partial

    with _opened(path) as stream:
        if _is_deflated(stream):
            return value_of(_deflated(stream, path).dataset, "SOPClassUID", str, "")
        head = read_partial(cast(BinaryIO, _Bounded(stream)), lambda tag, vr, length: tag > _SOP_CLASS, force=True)
        return value_of(head, "SOPClassUID", str, "") or value_of(head.file_meta, "MediaStorageSOPClassUID", str, "")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file for pydicom, whose own errors on damaged files are of many kinds and become one.

    Raises:
        QMedSAMError: whatever happens while it is open.
    """
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield stream
    except QMedSAMError:
        raise
    except Exception as error:
        why = " (an element is longer than the file)" if isinstance(error, _Beyond) else ""
        raise QMedSAMError(f"'{path.name}' is a damaged DICOM file{why}.", "Copy or export it again.") from error


class _Beyond(Exception):
    """A length that leads out of the file."""


class _Bounded:
    """A stream for pydicom that refuses lengths beyond its end before anybody makes room for them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, io.SEEK_END)
        self._reads = 0
        stream.seek(0)

    def read(self, count: Optional[int] = None) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise _Beyond
        # A short rest is the end of the file, which pydicom looks for with reads of up to 16 bytes.
        if count is not None and count > 16 and count > self.size - self._stream.tell():
            raise _Beyond
        return self._stream.read() if count is None else self._stream.read(count)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            place += self._stream.tell()
        elif whence == io.SEEK_END:
            place += self.size
        if not 0 <= place <= self.size:
            raise _Beyond
        return self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        """The file belongs to who opened it."""


def _parsed(stream: Any) -> Any:
    import pydicom

    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, defer_size=_DEFERRED)
    if not len(dataset) and not len(dataset.file_meta):
        raise ValueError("no element")
    return dataset


def _syntax(dataset: Any) -> str:
    stated = value_of(dataset.file_meta, "TransferSyntaxUID", str, "").strip()
    if stated:
        return stated
    implicit, little = (getattr(dataset, name, True) for name in ("is_implicit_VR", "is_little_endian"))
    return "1.2.840.10008.1.2.2" if not little else "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"


def _pixels(stream: _Bounded, path: Path, syntax: str) -> Tuple[int, Optional[int]]:
    """Where the value of the pixels begins, and its length; -1 where pydicom stopped at the end of the file."""
    head = stream.read(12)
    if len(head) < 8:
        return -1, 0
    order = ">" if head[:2] == b"\x7f\xe0" else "<"
    group, element = struct.unpack(order + "HH", head[:4])
    if group != 0x7FE0 or element not in (0x08, 0x09, 0x10):
        return -1, 0
    place = stream.tell() - len(head)
    if head[4:6] in _LONG_VRS:
        if len(head) < 12:
            raise cut(path)
        length, place = struct.unpack(order + "I", head[8:12])[0], place + 12
    elif head[4:6].isalpha() and head[4:6].isupper():
        length, place = struct.unpack(order + "H", head[6:8])[0], place + 8
    else:
        length, place = struct.unpack(order + "I", head[4:8])[0], place + 8
    if length == _UNDEFINED:
        return place, None
    if place + length > stream.size:
        raise cut(path)
    return place, length


def _is_deflated(stream: BinaryIO) -> bool:
    head = stream.read(1024)
    stream.seek(0)
    return head[128:132] == b"DICM" and _DEFLATED.encode() in head


def _inflated(stream: BinaryIO, path: Path) -> bytes:
    """The file as it would be if it were not deflated; unpacked within limits."""
    content = stream.read()
    # (0002,0000) UL 4: the length of the meta group behind it
    if content[132:140] != b"\x02\0\0\0UL\x04\0":
        raise ValueError("no length of the meta group")
    start = 144 + struct.unpack("<I", content[140:144])[0]
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(content[start:], _MOST_INFLATED)
    if inflater.unconsumed_tail:
        raise QMedSAMError(f"'{shown(path.name)}' unpacks to more than 1 GiB.", "Save it without the deflated transfer syntax.")
    if not inflater.eof:
        raise cut(path)
    syntax = b"1.2.840.10008.1.2.1"
    meta = content[132:start].replace(_DEFLATED.encode(), syntax + b"\0" * (len(_DEFLATED) - len(syntax)))
    return content[:132] + meta + plain


def _deflated(stream: BinaryIO, path: Path) -> DicomFile:
    """The whole file, its pixels in memory."""
    syntax = "1.2.840.10008.1.2.1"
    made = _Bounded(io.BytesIO(_inflated(stream, path)))
    dataset = _parsed(made)
    offset, length = _pixels(made, path, syntax)
    made.seek(max(offset, 0))
    return DicomFile(path, dataset, syntax, offset, length, made.read(length) if offset >= 0 and length else b"")
