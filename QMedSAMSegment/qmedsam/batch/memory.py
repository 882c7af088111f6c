"""How much memory a case will take, told from its header; and how much a process takes."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Optional, Tuple

from ..errors import QMedSAMError
from .settings import Case

#: A worker that works, without the volume (measured on 32 million voxels of 1 to 8 bytes: 330 MiB, and 130 before OpenVINO).
BASE = 360 * 2**20
_READING = 160 * 2**20
#: Bytes per voxel beside its own while it is segmented: labels, and their copies while they are written (measured: 1.4).
_EXTRA = 3

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_memory(text: str) -> int:
    """``4G``, ``1500M``, ``0.5 GiB`` in bytes.

    Raises:
        QMedSAMError: it is no size, or not above 0.
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(i?B)?\s*", text, re.IGNORECASE)
    try:
        size = int(float(found.group(1)) * _UNITS[found.group(2).upper()]) if found else 0
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise QMedSAMError(f"'{text}' is no size of a memory.", "Give a number and a unit, e.g. 4G or 1500M.")
    return size


def check_memory(case: Case, limit: int) -> None:
    """Look at the headers of a case's images before their voxels are read.

    Raises:
        QMedSAMError: segmenting it needs more than ``limit`` bytes. A header that cannot be read is left to the reader.
    """
    segmentation = None if case.has_boxes else case.segmentation
    for path, what in ((case.volume, "volume"), (segmentation, "segmentation")):
        found = _shape_of(path, case.series) if path else None
        if found is None:
            continue
        shape, depth = found
        voxels = 1
        for n in shape:
            voxels *= n
        # While the file is read its voxels are there twice: in the reader's buffer and in the array made of it.
        need = max(_READING + 2 * depth * voxels, BASE + (depth + _EXTRA) * voxels)
        if need > limit:
            raise QMedSAMError(
                f"The {what} has {' x '.join(map(str, shape))} voxels; segmenting it takes about {in_words(need)} "
                f"and a worker may take {in_words(limit)}.",
                "Crop it, or allow more with --memory (fewer workers leave more for each).",
            )


def machine_memory() -> Optional[int]:
    """Bytes of physical memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def resident(pid: int) -> Optional[int]:
    """Bytes that a process holds in memory; None where the system does not tell (elsewhere than on Linux without psutil)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # not installed, or the process has gone
        return None


def in_words(size: float) -> str:
    """``4.0 GiB``."""
    power = next((n for n in (1, 2, 3) if size < 1000 * 1024**n), 4)
    size /= 1024**power
    return f"{size:.{0 if size >= 100 else 1}f} {'KMGT'[power - 1]}iB"


def _shape_of(path: Path, series: Optional[str]) -> Optional[Tuple[Tuple[int, ...], int]]:
    """Voxels along each axis, and bytes of one; None for a header that cannot be read."""
    try:
        if path.suffix.lower() == ".npz":
            return _shape_of_npz(path)
        return _shape_of_image(path, series)
    except Exception:  # whatever is wrong with the file, its reader says it better
        return None


def _shape_of_npz(path: Path) -> Optional[Tuple[Tuple[int, ...], int]]:
    from numpy.lib import format as npy

    with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as stream:
        version = npy.read_magic(stream)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    return tuple(int(n) for n in shape), dtype.itemsize


def _shape_of_image(path: Path, series: Optional[str]) -> Optional[Tuple[Tuple[int, ...], int]]:
    import SimpleITK as sitk

    from ..files.volumes import quiet

    reader = sitk.ImageFileReader()
    with quiet():
        files = (str(path),)
        if path.is_dir():
            series = series or sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))[0]
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series)
        reader.SetFileName(files[0])
        reader.ReadImageInformation()
    shape = [int(n) for n in reader.GetSize()]
    # "vector of 16-bit signed integer"
    bits = int(re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())).group(1))  # type: ignore[union-attr]
    depth = reader.GetNumberOfComponents() * bits // 8
    if len(files) > 1:
        shape[-1] *= len(files)
        depth = max(depth, 4)  # slices whose scales differ are read as float32
    return tuple(shape), depth
