"""What a file is, told from its first bytes: names lie (a JPEG called ``.png``), and ITK's own guess asks every library."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Optional, Tuple

from ..errors import QMedSAMError

FORMATS_READ = "NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, BMP, TIFF or a challenge .npz"

_HEAD = 8192
_NDIMS = re.compile(rb"(?:^|\n)[ \t]*NDims[ \t]*=", re.IGNORECASE)
#: Explicit value representations of DICOM, for files without the mark "DICM".
_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split())

#: First bytes of what users take for images, what it is, and what to do.
_FOREIGN: Tuple[Tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF", "Export the image from the program that made it."),
    (b"GIF8", "a GIF", "Save it as PNG."),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", "Save it as PNG or TIFF."),
    (b"\x89HDF", "an HDF5 file (MINC 2, Keras)", "Convert it to NIfTI or NRRD, e.g. with mnc2nii."),
    (b"CDF", "a NetCDF file (MINC 1)", "Convert it to NIfTI, e.g. with mnc2nii."),
    (b"7z\xbc\xaf", "a packed archive", "Unpack it, and give what is in it."),
    (b"Rar!", "a packed archive", "Unpack it, and give what is in it."),
    (b"BZh", "packed with bzip2", "Unpack it first."),
    (b"\xfd7zXZ", "packed with xz", "Unpack it first."),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it first."),
    (b"# vtk", "a VTK file", "Convert it to NRRD, e.g. by saving it from Slicer."),
)


def kind_of(path: Path) -> str:
    """``dicom``, ``nifti``, ``nrrd``, ``metaimage``, ``png``, ``jpeg``, ``bmp``, ``tiff`` or ``npz``.

    Raises:
        QMedSAMError: it is something else; the sentence says what, where that is known.
    """
    kind = known_kind(path)
    if kind is not None:
        return kind
    what = _foreign(path)
    raise QMedSAMError(f"'{path.name}' is {what[0]}." if what[0] else f"'{path.name}' is not an image that can be read.", what[1])


def known_kind(path: Path) -> Optional[str]:
    """The same, and None for a file that is none of them or cannot be opened."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return None
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith(b"NRRD00"):
        return "nrrd"
    for start, kind in _PICTURES:
        if head.startswith(start):
            return kind
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "npz" if path.suffix.lower() == ".npz" or _holds_arrays(path) else None
    if head.startswith(b"\x1f\x8b"):
        return "nifti" if _is_nifti(unpacked(head, 540)) else None
    if _is_nifti(head) or _is_pair(path):
        return "nifti"
    if _NDIMS.search(head):
        return "metaimage"
    return "dicom" if _is_bare_dicom(head) else None


_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)


def unpacked(packed: bytes, count: int) -> bytes:
    """The first bytes of what gzip packed; fewer where it is damaged."""
    try:
        return zlib.decompressobj(31).decompress(packed, count)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    """NIfTI-1 and NIfTI-2 of both byte orders, and Analyze 7.5, which has the size of its header only."""
    if len(head) < 348:
        return False
    sizes = {struct.unpack(order + "i", head[:4])[0] for order in "<>"}
    if 540 in sizes:
        return head[4:7] in (b"n+2", b"ni2")
    return 348 in sizes


def _is_pair(path: Path) -> bool:
    """The voxels of an Analyze or NIfTI pair, whose header lies beside them."""
    if path.suffix.lower() != ".img":
        return False
    try:
        with path.with_suffix(".hdr").open("rb") as stream:
            return _is_nifti(stream.read(540))
    except OSError:
        return False


def _is_bare_dicom(head: bytes) -> bool:
    """A data set without preamble and meta header: a known first group, and an element that looks like one."""
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack(order + "HH", head[:4])
        if group not in (2, 8) or element > 0x18:  # files begin with 0002,0000 to 0010 or 0008,0000 to 0018
            continue
        if head[4:6] in _VRS:
            return True
        if order == "<" and struct.unpack("<I", head[4:8])[0] <= 256:
            return True
    return False


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist()[:1000])
    except Exception:  # damaged in one of many ways
        return False


def _foreign(path: Path) -> Tuple[str, str]:
    """What the file is instead ("" where that is unknown), and what to do."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    suffix = path.suffix.lower()
    for start, what, hint in _FOREIGN:
        if head.startswith(start):
            return what, hint
    if head.startswith(b"PK"):
        what = "a scene of 3D Slicer" if suffix == ".mrb" else "a zip file"
        return what, "Unpack it, and give the image or the DICOM folder that is in it."
    if suffix in (".mgz", ".mgh"):
        return "in FreeSurfer's format", f"Convert it: mri_convert {path.name} {path.stem}.nii.gz (or with nibabel)."
    if head.startswith(b"\x1f\x8b"):
        if path.name.lower().endswith(".nii.gz"):
            return "packed, but not a NIfTI file inside (or damaged)", "Copy or export it again."
        return "packed with gzip, and no NIfTI image", "Unpack it first."
    if head[4:8] == b"ftyp":
        return "a HEIC picture or a video", "Save it as JPEG or PNG."
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP picture", "Save it as PNG."
    return "", f"Give {FORMATS_READ}."
