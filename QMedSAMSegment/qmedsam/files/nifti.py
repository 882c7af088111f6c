"""Headers of NIfTI-1, NIfTI-2 and Analyze 7.5: looked at before ITK opens the file."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from .header import ImageHeader, check_sizes, cut
from .paths import reason_of

_CHUNK = 1 << 20
#: Bits and channels of the voxel types; complex numbers and what ITK does not know are missing.
_TYPES = dict.fromkeys((2, 256), (8, 1))
_TYPES.update({**dict.fromkeys((4, 512), (16, 1)), **dict.fromkeys((8, 16, 768), (32, 1))})
_TYPES.update({**dict.fromkeys((64, 1024, 1280), (64, 1)), 128: (24, 3), 2304: (32, 4)})
_COMPLEX = (32, 1792, 2048)
_UNITS = {1: "metres", 3: "micrometres"}
#: mm by which the corners that qform and sform give may differ: both are kept as float32.
_SAME_PLACE = 0.1
#: No length of a header is longer.
_FARTHEST = 1e30


@dataclass(frozen=True)
class NiftiHeader:
    """The fields of a NIfTI or Analyze header that matter here.

    Attributes:
        version: 1 or 2; 0 for Analyze 7.5.
        order: ``<`` or ``>``.
        dim: sizes of the used axes.
        datatype: code of the voxel type.
        pixdim: eight numbers.
        offset: where the voxels begin.
        qform, sform: ``4 x 4`` to RAS in the file's unit, None where the code is 0.
        units: code of the unit of length.
        single: whether header and voxels are one file.
    """

    version: int
    order: str
    dim: Tuple[int, ...]
    datatype: int
    pixdim: Tuple[float, ...]
    offset: float
    qform: Optional[np.ndarray]
    sform: Optional[np.ndarray]
    units: int
    single: bool


def read_nifti_header(path: Path) -> NiftiHeader:
    """The header of a file that :func:`~.kinds.kind_of` calls ``nifti`` (of a pair, by either name).

    Raises:
        QMedSAMError: it is none, ends too early, or its sizes are none.
    """
    where = _header_file(path)
    try:
        with _opened(where) as stream:
            head = stream.read(540)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise cut(path) from error
    except OSError as error:
        raise QMedSAMError(f"'{where.name}' cannot be read ({reason_of(error)}).", "Copy it again.") from error
    try:
        return _parsed(head, path)
    except struct.error as error:
        raise cut(path) from error


def check_nifti(path: Path) -> ImageHeader:
    """Look whether a NIfTI file holds what its header promises, in values that ITK survives.

    Raises:
        QMedSAMError: it does not.
    """
    header = read_nifti_header(path)
    if header.datatype in _COMPLEX:
        raise QMedSAMError(f"The voxels of '{path.name}' are complex numbers.", "Save their magnitude.")
    if header.datatype not in _TYPES:
        raise QMedSAMError(f"The voxels of '{path.name}' are of the unknown type {header.datatype}.", "Export it again.")
    bits, channels = _TYPES[header.datatype]
    # Before ITK sees it: vectors (axis 5) with a scale end the process (seen with SimpleITK 2.5).
    if any(n > 1 for n in header.dim[4:]):
        text = " x ".join(map(str, header.dim))
        raise QMedSAMError(
            f"The voxels of '{path.name}' are vectors, or it has too many dimensions ({text}).", "Extract one channel first."
        )
    long = [s for s, n in zip(header.pixdim[1:4], header.dim[:3]) if n > 1]
    if not all(math.isfinite(s) and s != 0 for s in long):
        raise QMedSAMError(
            f"'{path.name}' has the voxel size {' x '.join(f'{s:g}' for s in long)} mm.",
            "Correct the spacing in its header (pixdim) or export it again.",
        )
    for matrix in (header.qform, header.sform):
        if matrix is not None and not (np.isfinite(matrix).all() and np.abs(matrix).max() < _FARTHEST):
            raise QMedSAMError(f"'{path.name}' has no valid geometry.", "Correct qform and sform in its header.")
    if not math.isfinite(header.offset) or header.offset < 0:
        raise QMedSAMError(f"The header of '{path.name}' does not say where its voxels begin.", "Export it again.")
    voxels = math.prod(header.dim) * bits // 8
    _check_voxels(path, header, voxels)
    notes: Tuple[str, ...] = ()
    if header.version == 0:
        notes = (
            f"'{path.name}' is in the old Analyze format, which does not say how it lies in the patient: left and right, "
            "or front and back, may be swapped.",
        )
    frames = header.dim[3] if len(header.dim) > 3 else 1
    return ImageHeader(
        "nifti",
        header.dim,
        bits // 8,
        channels,
        frames,
        3 if frames > 1 else None,
        suffix=".nii.gz" if _is_packed(path) else path.suffix if not header.single else ".nii",
        notes=notes + _unit_note(header),
    )


def place_note(header: NiftiHeader, used: np.ndarray, name: str) -> Tuple[str, ...]:
    """A sentence where qform and sform put the image at different places.

    Args:
        header: of the file.
        used: ``4 x 4`` to RAS in mm, as the image was read.
        name: of the file.
    """
    forms = {name: form for name, form in (("qform", header.qform), ("sform", header.sform)) if form is not None}
    scale = {1: 1e3, 3: 1e-3}.get(header.units, 1.0)
    sizes = [*header.dim[:3], 1, 1, 1][:3]
    corners = np.array([[i * (sizes[0] - 1), j * (sizes[1] - 1), k * (sizes[2] - 1), 1] for i, j, k in np.ndindex(2, 2, 2)])

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        """mm between the farthest corners of two places."""
        return float(np.linalg.norm(((one - other) @ corners.T)[:3], axis=0).max())

    placed = {which: np.vstack([form[:3] * scale, form[3]]) for which, form in forms.items()}
    misses = {which: apart(form, used) for which, form in placed.items()}
    if not misses or max(misses.values()) <= _SAME_PLACE:
        return ()
    taken = min(misses, key=misses.__getitem__)
    far = max(misses.values())
    if misses[taken] > _SAME_PLACE:  # ITK, and Slicer with it, takes directions from the one and lengths from the other
        return (
            f"The voxel size (pixdim) of '{name}' is not that of its {taken}, up to {far:.1f} mm apart; its pixdim was used.",
        )
    other = "sform" if taken == "qform" else "qform"
    return (f"'{name}' names two places in the patient, up to {far:.1f} mm apart; its {taken} was used, not its {other}.",)


def as_nifti1(path: Path, target: Path) -> None:
    """Write a NIfTI-2 file as NIfTI-1, which ITK reads; voxels as they are.

    Raises:
        QMedSAMError: an axis is longer than NIfTI-1 can say.
    """
    with _opened(path) as stream:
        head = stream.read(540)
        order = "<" if head[:4] == struct.pack("<i", 540) else ">"
        dim = struct.unpack(order + "8q", head[16:80])
        if max(dim[1 : dim[0] + 1]) > 32767:
            raise QMedSAMError(
                f"'{path.name}' is a NIfTI-2 file with an axis of {max(dim)} voxels.", "Crop it, or save it as NRRD."
            )
        out = bytearray(352)
        struct.pack_into(order + "i", out, 0, 348)
        used = [max(n, 1) for n in dim[1 : dim[0] + 1]]
        struct.pack_into(order + "8h", out, 40, dim[0], *used, *[1] * (7 - len(used)))
        out[70:74] = head[12:16]  # datatype, bitpix
        for place, fields, start in ((76, "8d", 104), (112, "2d", 176), (256, "6d", 352), (280, "12d", 400)):
            values = [min(max(v, -_FARTHEST), _FARTHEST) for v in struct.unpack_from(order + fields, head, start)]
            struct.pack_into(order + fields.replace("d", "f"), out, place, *values)
        struct.pack_into(order + "f", out, 108, 352)
        out[123] = struct.unpack_from(order + "i", head, 500)[0] & 0xFF
        codes = struct.unpack_from(order + "2i", head, 344)
        struct.pack_into(order + "2h", out, 252, *(min(max(code, 0), 5) for code in codes))
        out[344:348] = b"n+1\0"
        stream.seek(max(struct.unpack_from(order + "q", head, 168)[0], 540))
        with target.open("wb") as copy:
            copy.write(out)
            shutil.copyfileobj(stream, copy, _CHUNK)


def _header_file(path: Path) -> Path:
    """The file with the header: of a pair that is named by its voxels, the other one."""
    if path.suffix.lower() != ".img":
        return path
    with path.open("rb") as stream:
        head = stream.read(348)
    alone = len(head) == 348 and 348 in (struct.unpack(order + "i", head[:4])[0] for order in "<>") and head[344:347] == b"n+1"
    second = head[4:7] == b"n+2"
    packed = head[:2] == b"\x1f\x8b" and not path.with_suffix(".hdr").exists()
    return path if alone or second or packed else path.with_suffix(".hdr")


def _is_packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if _is_packed(path) else path.open("rb")  # type: ignore[return-value]


def _parsed(head: bytes, path: Path) -> NiftiHeader:
    for order in "<>":
        size = struct.unpack(order + "i", head[:4])[0]
        if size == 348:
            version = {b"n+1": 1, b"ni1": 1}.get(head[344:347], 0)
            at, real, short = (40, 70, 76, 108, 252, 256, 280), "f", "h"
            units, single = head[123], head[344:347] == b"n+1"
        elif size == 540:
            version, at, real, short = 2, (16, 12, 104, 168, 344, 352, 400), "d", "q"
            units, single = struct.unpack_from(order + "i", head, 500)[0] & 0xFF, head[4:7] == b"n+2"
        else:
            continue
        dim = struct.unpack_from(f"{order}8{short}", head, at[0])
        axes = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else ()
        if not axes or min(axes) < 1:
            raise QMedSAMError(f"'{path.name}' has no valid size in its header.", "Export it again.")
        pixdim = struct.unpack_from(f"{order}8{real}", head, at[2])
        offset = struct.unpack_from(order + ("f" if version < 2 else "q"), head, at[3])[0]
        codes = struct.unpack_from(order + ("2h" if version < 2 else "2i"), head, at[4]) if version else (0, 0)
        quaternion = struct.unpack_from(f"{order}6{real}", head, at[5])
        rows = np.array(struct.unpack_from(f"{order}12{real}", head, at[6]), float).reshape(3, 4)
        return NiftiHeader(
            version,
            order,
            axes,
            struct.unpack_from(order + "h", head, at[1])[0],
            pixdim,
            offset,
            _qform(quaternion, pixdim) if codes[0] > 0 else None,
            np.vstack([rows, [0, 0, 0, 1]]) if codes[1] > 0 else None,
            units & 7,
            single,
        )
    raise QMedSAMError(f"'{path.name}' is not a NIfTI file.", "Check what it really is.")


def _qform(quaternion: Tuple[float, ...], pixdim: Tuple[float, ...]) -> np.ndarray:
    """``4 x 4`` by the standard's method 2."""
    b, c, d = quaternion[:3]
    norm = b * b + c * c + d * d
    if norm > 1:
        b, c, d = (v / math.sqrt(norm) for v in (b, c, d))
    a = math.sqrt(max(1 - (b * b + c * c + d * d), 0.0)) if math.isfinite(norm) else math.nan
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by who asks
        matrix[:3, :3] = rotation * (pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1))
    matrix[:3, 3] = quaternion[3:]
    return matrix


def _unit_note(header: NiftiHeader) -> Tuple[str, ...]:
    unit = _UNITS.get(header.units)
    return (f"The file's lengths are {unit}; they were converted to mm.",) if unit else ()


def _check_voxels(path: Path, header: NiftiHeader, voxels: int) -> None:
    """Whether the voxels are there."""
    where, needed = path, int(header.offset) + voxels
    if not header.single:
        beside = [path.with_suffix(end) for end in (".img", ".img.gz")]
        found = next((p for p in beside if p.is_file()), None)
        if found is None:
            raise QMedSAMError(f"'{path.name}' needs its file of voxels, '{beside[0].name}', beside it.", "Copy both files.")
        where = found
    stored = where.stat().st_size
    if not _is_packed(where):
        check_sizes(path, voxels, stored)
        if stored < needed:
            raise cut(path)
        return
    check_sizes(path, voxels, stored)
    # The last four bytes tell the length modulo 4 GiB, of the last member only (bgzip): else count.
    if _gzip_length(where) == needed % 2**32 and needed <= 64 * stored:
        return
    try:
        with gzip.open(where, "rb") as stream:
            while stream.tell() < needed:
                if not stream.read(min(_CHUNK, needed - stream.tell())):
                    raise cut(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise cut(path) from error


def _gzip_length(path: Path) -> int:
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        return struct.unpack("<I", stream.read(4))[0]
