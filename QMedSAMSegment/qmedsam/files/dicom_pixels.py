"""Pixels of DICOM files as they are stored: plain ones by numpy, packed ones by :mod:`.dicom_packed`."""

from __future__ import annotations

import struct
import warnings
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError, shown
from .dicom_header import DicomFile
from .dicom_packed import by_gdcm, check_stream, fragments_of, unpack_bits
from .header import cut

_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.113619.5.2")
_BIG = "1.2.840.10008.1.2.2"
_RUNS = "1.2.840.10008.1.2.5"
_JPEGS = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91))
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")


class Pixels:
    """The frames of a file.

    Args:
        file: whose pixels these are.

    Raises:
        QMedSAMError: sizes that cannot be, pixels that are cut off, or packed in a way that is not known.
    """

    def __init__(self, file: DicomFile) -> None:
        self.file = file
        self.rows, self.columns = file.get("Rows", int, 0), file.get("Columns", int, 0)
        self.frames = file.get("NumberOfFrames", int, 1)
        self.samples = file.get("SamplesPerPixel", int, 1)
        self.bits = file.get("BitsAllocated", int, 16)
        self.stored = min(file.get("BitsStored", int, self.bits) or self.bits, self.bits)
        self.high = file.get("HighBit", int, self.stored - 1)
        self.signed = file.get("PixelRepresentation", int, 0) == 1
        self.color = file.get("PhotometricInterpretation", str, "MONOCHROME2").strip().upper()
        self.floats = _is_float(file)
        self._fragments: Optional[List[Tuple[int, int]]] = None
        name = file.path.name
        if not (0 < self.rows <= 65535 and 0 < self.columns <= 65535 and 0 < self.frames < 2**31):
            raise QMedSAMError(f"'{name}' has no valid size in its header.", "Export it again.")
        if self.samples not in (1, 3) or self.bits not in (1, 8, 16, 32, 64) or (self.samples == 3 and self.bits not in (8, 16)):
            what = f"{self.samples} samples of {self.bits} bits"
            raise QMedSAMError(f"The pixels of '{name}' are {what}.", "Export it as grey of up to 32 bits, or RGB.")
        if self.bits == 64 and not self.floats:
            raise QMedSAMError(f"The pixels of '{name}' have 64 bits.", "Export it with 16.")
        if self.samples == 3 and self.color not in _COLORS:
            raise QMedSAMError(f"The colours of '{name}' are '{shown(self.color)}'.", "Export it as RGB.")
        if not 0 <= self.high < self.bits or self.stored < 1 or self.high + 1 < self.stored:
            self.stored, self.high = self.bits, self.bits - 1
        self._check_length()

    @property
    def is_rgb(self) -> bool:
        return self.samples == 3 or self.color == "PALETTE COLOR"

    @property
    def is_packed(self) -> bool:
        """Whether a library of C has to unpack it."""
        return self.file.syntax in _JPEGS

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values."""
        if self.floats:
            return np.dtype(np.float32 if self.bits == 32 else np.float64)
        size = max(self.bits // 8, 1)
        return np.dtype(f"{'i' if self.signed else 'u'}{size}")

    @property
    def range(self) -> Tuple[int, int]:
        """Least and largest value that may be stored."""
        return (-(1 << (self.stored - 1)), (1 << (self.stored - 1)) - 1) if self.signed else (0, (1 << self.stored) - 1)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Frames as ``(n, rows, columns)`` or, in colour, ``(n, rows, columns, 3)``.

        Raises:
            QMedSAMError: pixels that cannot be unpacked.
        """
        first = self._one(numbers[0])
        if len(numbers) == 1:
            return first[None]
        out = np.empty((len(numbers), *first.shape), first.dtype)
        out[0] = first
        for n, number in enumerate(numbers[1:], start=1):
            out[n] = self._one(number)
        return out

    def _one(self, number: int) -> np.ndarray:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array = self._unpacked(number) if self.file.length is None else self._plain(number)
                return self._palette(array) if self.color == "PALETTE COLOR" else array
        except QMedSAMError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # of pydicom, GDCM or numpy over a damaged stream
            raise QMedSAMError(
                f"The pixels of '{self.file.path.name}' cannot be unpacked.", "It may be damaged: copy it again."
            ) from error

    @property
    def _per_frame(self) -> int:
        """Bits of a plain frame."""
        samples = 2 if self.color == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.bits

    def _check_length(self) -> None:
        file = self.file
        if file.length is not None:
            if file.syntax not in _PLAIN and file.inflated is None:
                raise QMedSAMError(
                    f"The pixels of '{file.path.name}' are not packed as it says.", "It may be damaged: copy it again."
                )
            if (self._per_frame * self.frames + 7) // 8 > file.length:
                raise cut(file.path)
            return
        if file.syntax not in (*_JPEGS, _RUNS):
            raise QMedSAMError(
                f"'{file.path.name}' is packed in a way that is not known here ({_syntax_name(file.syntax)}).",
                "Export it uncompressed, e.g. with gdcmconv --raw.",
            )
        self._fragments = fragments_of(file)
        if self.frames >= len(self._fragments):  # the first one is a table; every frame has one at least
            raise cut(file.path)

    def _bytes(self, number: int) -> bytes:
        file = self.file
        bits = self._per_frame
        start, end = bits * number // 8, (bits * (number + 1) + 7) // 8
        if self.bits == 8 and file.syntax == _BIG and _is_ow(file):  # words of two pixels, turned round
            words = self._part(start & ~1, end + 1 & ~1)
            return np.frombuffer(words, "u2").byteswap().tobytes()[start % 2 :][: end - start]
        return self._part(start, end)

    def _part(self, start: int, end: int) -> bytes:
        """Bytes of the plain pixels."""
        file = self.file
        if file.inflated is not None:
            return file.inflated[start:end]
        with file.path.open("rb") as stream:
            stream.seek(file.offset + start)
            content = stream.read(end - start)
        if len(content) < end - start:
            raise cut(file.path)
        return content

    def _plain(self, number: int) -> np.ndarray:
        content = self._bytes(number)
        if self.bits == 1:
            values = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
            start = self._per_frame * number % 8
            return values[start : start + self._per_frame].reshape(self.rows, self.columns)
        dtype = self.dtype.newbyteorder(">" if self.file.syntax == _BIG else "<")
        values = np.frombuffer(content, dtype).astype(self.dtype, copy=False)
        if self.color == "YBR_FULL_422" and self.samples == 3:
            pairs = values.reshape(-1, 4)
            luma, blue, red = pairs[:, :2].ravel(), pairs[:, 2].repeat(2), pairs[:, 3].repeat(2)
            return self._rgb(np.stack([luma, blue, red], axis=-1).reshape(self.rows, self.columns, 3))
        if self.samples == 3:
            planar = self.file.get("PlanarConfiguration", int, 0) == 1
            shape = (3, self.rows, self.columns) if planar else (self.rows, self.columns, 3)
            shaped = values.reshape(shape)
            return self._rgb(np.moveaxis(shaped, 0, -1) if planar else shaped)
        return self._cleaned(values.reshape(self.rows, self.columns))

    def _rgb(self, array: np.ndarray) -> np.ndarray:
        if not self.color.startswith("YBR_FULL"):
            return array
        luma, blue, red = (array[..., n].astype(np.float32) for n in range(3))
        blue, red = blue - 128, red - 128
        rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
        return np.clip(np.round(rgb), 0, 255).astype(np.uint8)

    def _cleaned(self, array: np.ndarray) -> np.ndarray:
        """Without the bits that are no part of the value (old overlays), signs carried up; bright is much, as viewers show it."""
        if not self.floats and self.stored < self.bits:
            array = self._used_bits(array)
        if self.color != "MONOCHROME1" or self.floats:
            return array
        low, high = self.range
        return (low + high - array.astype(np.int64)).astype(array.dtype)

    def _used_bits(self, array: np.ndarray) -> np.ndarray:
        shift = self.high + 1 - self.stored
        unsigned = array.view(f"u{array.dtype.itemsize}") >> np.array(shift, f"u{array.dtype.itemsize}")
        unsigned = unsigned & np.array((1 << self.stored) - 1, unsigned.dtype)
        if not self.signed:
            return unsigned.astype(self.dtype, copy=False)
        up = self.bits - self.stored
        return (unsigned << np.array(up, unsigned.dtype)).view(self.dtype) >> np.array(up, self.dtype)

    def _palette(self, array: np.ndarray) -> np.ndarray:
        """``(rows, columns, 3)`` of the indices into the file's table of colours."""
        channels = []
        for name in ("Red", "Green", "Blue"):
            count, first, bits = (int(v) for v in self.file.dataset.get(f"{name}PaletteColorLookupTableDescriptor"))
            data = bytes(self.file.dataset.get(f"{name}PaletteColorLookupTableData"))
            count = count or 65536
            wide = len(data) >= 2 * count
            table = np.frombuffer(data, "<u2" if wide else "u1")[:count]
            table = (table >> 8 if wide and (bits == 16 or table.max(initial=0) > 255) else table).astype(np.uint8)
            channels.append(table[np.clip(array.astype(np.int64) - first, 0, len(table) - 1)])
        return np.stack(channels, axis=-1)

    def _unpacked(self, number: int) -> np.ndarray:
        packed = self._packed(number)
        if self.file.syntax == _RUNS:
            return self._runs(packed)
        check_stream(packed, self)
        array = by_gdcm(packed, self)
        if array.shape[:2] != (self.rows, self.columns) or (array.ndim == 3) != (self.samples == 3):
            raise ValueError("another shape")
        return array if self.samples == 3 else self._cleaned(array.astype(self.dtype, copy=False))

    def _packed(self, number: int) -> bytes:
        """The packed bytes of a frame."""
        assert self._fragments is not None
        table, *fragments = self._fragments
        if self.frames == 1:
            chosen = fragments
        elif len(fragments) == self.frames:
            chosen = fragments[number : number + 1]
        else:
            with self.file.path.open("rb") as stream:
                stream.seek(table[0])
                offsets = np.frombuffer(stream.read(table[1] // 4 * 4), "<u4").astype(np.int64)
            if len(offsets) != self.frames or not fragments:
                raise QMedSAMError(f"The frames of '{self.file.path.name}' cannot be told apart.", "Export it uncompressed.")
            ends = [*offsets[1:], np.iinfo(np.int64).max]
            origin = fragments[0][0] - 8
            chosen = [f for f in fragments if offsets[number] <= f[0] - 8 - origin < ends[number]]
        with self.file.path.open("rb") as stream:
            parts = []
            for place, length in chosen:
                stream.seek(place)
                parts.append(stream.read(length))
        return b"".join(parts)

    def _runs(self, packed: bytes) -> np.ndarray:
        """RLE by planes of bytes, the highest first."""
        count, *offsets = struct.unpack("<16I", packed[:64])
        per_sample = self.bits // 8
        if count != per_sample * self.samples:
            raise ValueError("another number of segments")
        pixels = self.rows * self.columns
        planes = np.zeros((self.samples, pixels, per_sample), np.uint8)
        for n in range(count):
            end = offsets[n + 1] if n + 1 < count else len(packed)
            planes[n // per_sample, :, per_sample - 1 - n % per_sample] = unpack_bits(packed[offsets[n] : end], pixels)
        values = (
            planes.reshape(self.samples, pixels * per_sample).view(self.dtype.newbyteorder("<")).astype(self.dtype, copy=False)
        )
        if self.samples == 3:
            return self._rgb(np.moveaxis(values.reshape(3, self.rows, self.columns), 0, -1))
        return self._cleaned(values.reshape(self.rows, self.columns))


def _is_float(file: DicomFile) -> bool:
    if file.inflated is not None or file.offset < 12:
        return False
    with file.path.open("rb") as stream:
        stream.seek(file.offset - 12)
        head = stream.read(12)
    return any(head[n : n + 4] in (b"\xe0\x7f\x08\0", b"\xe0\x7f\x09\0") for n in (0, 4))


def _is_ow(file: DicomFile) -> bool:
    with file.path.open("rb") as stream:
        stream.seek(max(file.offset - 8, 0))
        return stream.read(2) == b"OW"


def _syntax_name(uid: str) -> str:
    try:
        from pydicom.uid import UID

        return shown(UID(uid).name)
    except Exception:
        return shown(uid)
