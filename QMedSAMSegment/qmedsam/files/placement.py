"""Where a NIfTI file says that it lies: twice, in units and with codes of its own, which a mask says in the same words.

Programs choose differently between qform and sform, and in what they take where both have the code 0. ITK keeps one of the two
and writes it as both, in mm and with the code 1: such a mask lay 11 to 106 mm beside its image in programs that take the other
one, and was of another size for those that pass over the unit.
"""

from __future__ import annotations

import gzip
import itertools
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..geometry import Volume
from .reading import quiet
from .volumes import ijk_to_ras_of

#: Names, formats and offsets of what is needed of the two versions of the header.
_FIELDS = {
    348: {
        "sizeof_hdr": ("i4", 0),
        "dim": ("8i2", 40),
        "datatype": ("i2", 70),
        "bitpix": ("i2", 72),
        "pixdim": ("8f4", 76),
        "vox_offset": ("f4", 108),
        "scl_slope": ("f4", 112),
        "xyzt_units": ("u1", 123),
        "qform_code": ("i2", 252),
        "sform_code": ("i2", 254),
        "quatern": ("3f4", 256),
        "qoffset": ("3f4", 268),
        "srow": ("(3,4)f4", 280),
        "magic": ("S4", 344),
    },
    540: {
        "magic": ("S4", 4),
        "dim": ("8i8", 16),
        "pixdim": ("8f8", 104),
        "qform_code": ("i4", 344),
        "sform_code": ("i4", 348),
        "quatern": ("3f8", 352),
        "qoffset": ("3f8", 376),
        "srow": ("(3,4)f8", 400),
        "xyzt_units": ("i4", 500),
    },
}
_PIXDIM = "pixdim"
_PLACES = ("qform_code", "sform_code", "quatern", "qoffset", "srow", "xyzt_units")
#: NIfTI's numbers of the voxel types of label maps.
_TYPES = {np.dtype(np.uint8): 2, np.dtype(np.uint16): 512}
#: Part of a voxel by which two matrices may place a corner apart and still say the same.
_SAME = 0.1
#: Voxels along an axis that NIfTI-1 can count.
_MOST = 32767
_COMPRESSION = 4

#: Fields of a header by their names, in the file's own numbers.
Placement = Dict[str, np.ndarray]


def placement_for(source: Path, volume: Volume) -> Optional[Placement]:
    """What a NIfTI mask of a volume says of its place, taken over from the file that the volume was read from.

    Of an Analyze file that is the size of its voxels alone: with both codes 0 every program places the mask as it places the
    image.

    Returns:
        None where the source is no NIfTI or Analyze file, or lies on another grid.
    """
    import SimpleITK as sitk

    found = _read(source)
    if found is None or found[1] != volume.shape_ijk:
        return None
    reader = sitk.ImageFileReader()
    with tempfile.TemporaryDirectory(prefix="qmedsam-") as folder:  # as ITK will understand the mask
        alone = Path(folder) / "mask.nii"
        alone.write_bytes(_head(volume.shape_ijk, np.dtype(np.uint8), found[0]))
        reader.SetFileName(str(alone))
        try:
            with quiet():
                reader.ReadImageInformation()
        except RuntimeError:
            return None
    corners = np.array(list(itertools.product(*((0, n - 1) for n in volume.shape_ijk), (1,)))).T
    apart = np.linalg.norm((((ijk_to_ras_of(reader) - volume.ijk_to_ras) @ corners)[:3]), axis=0).max()
    return found[0] if apart < _SAME * volume.spacing_mm.min() else None


def write_placed(path: Path, array_kji: np.ndarray, placement: Placement) -> None:
    """Write a NIfTI-1 file with a placement taken over, by Python: it says when a disk is full.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        array_kji: ``(k, j, i)`` of uint8 or uint16.
        placement: of the image.

    Raises:
        OSError: the disk is full.
    """
    head = _head(array_kji.shape[::-1], array_kji.dtype, placement)
    voxels = np.ascontiguousarray(array_kji, array_kji.dtype.newbyteorder("<"))
    with path.open("wb") as stream:
        if not path.name.lower().endswith(".gz"):
            stream.write(head)
            stream.write(voxels.data)
            return
        with gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as packed:
            packed.write(head)
            packed.write(voxels.data)


def _head(shape_ijk: Tuple[int, ...], dtype: np.dtype, placement: Placement) -> bytes:
    """All that stands before the voxels; no extensions."""
    header = np.zeros((), _structure(348, "<"))
    header["sizeof_hdr"], header["vox_offset"], header["scl_slope"], header["magic"] = 348, 352, 1, b"n+1"
    header["dim"] = (3, *shape_ijk, 1, 1, 1, 1)
    header["datatype"], header["bitpix"] = _TYPES[dtype], 8 * dtype.itemsize
    with np.errstate(over="ignore"):  # of NIfTI-2's float64
        for name, value in placement.items():
            header[name] = value
    return header.tobytes() + bytes(4)


def _structure(size: int, order: Any) -> np.dtype:
    formats, offsets = zip(*_FIELDS[size].values())
    made = np.dtype({"names": list(_FIELDS[size]), "formats": list(formats), "offsets": list(offsets), "itemsize": size})
    return made.newbyteorder(order)


def _read(path: Path) -> Optional[Tuple[Placement, Tuple[int, ...]]]:
    """Placement and shape ``(i, j, k)`` in a NIfTI or Analyze header; None of any other file, and of what NIfTI-1 cannot hold."""
    name = path.name.lower()
    if name.endswith((".img", ".img.gz")):  # of a pair; the header may be packed or not, as the voxels may
        stem = path.name[: name.rindex(".img")]
        path = next((p for p in map(path.with_name, (f"{stem}.hdr", f"{stem}.hdr.gz")) if p.is_file()), path)
    elif not name.endswith((".nii", ".nii.gz", ".hdr", ".hdr.gz")):
        return None
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(540)
    except (OSError, EOFError):
        return None
    for size, order in itertools.product(_FIELDS, "<>"):
        if len(head) >= size and np.frombuffer(head, order + "i4", 1)[0] == size:
            header = np.frombuffer(head, _structure(size, order), 1)[0]
            placement = {_PIXDIM: np.ones(8)}
            placement[_PIXDIM][:4] = header[_PIXDIM][:4]
            if bytes(header["magic"])[:2] in (b"n+", b"ni"):
                placement.update({key: np.array(header[key]) for key in _PLACES})
                placement["xyzt_units"] = np.array(int(header["xyzt_units"]) & 7)  # of length: there is no time
            else:  # Analyze has other things in these places
                placement[_PIXDIM][0] = 1
            count = int(header["dim"][0])
            shape = (*map(int, header["dim"][1 : 1 + count]), 1, 1, 1)[:3]
            return (placement, shape) if 1 <= count <= 7 and max(shape) <= _MOST else None
    return None
