"""Images to files by SimpleITK, whose writers of NRRD, NIfTI and others say nothing of a full disk: read back, always."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .grids import ijk_to_ras_of, image_of
from .metaimage import check_metaimage
from .orientation import as_stored
from .paths import NotWhole, PathLike, writing
from .placement import placement_for, write_placed
from .reading import quiet

#: Voxels by which a corner may move by what a format keeps of the geometry (NIfTI: 24 bits).
_TOLERANCE = 1e-2
_CHUNK = 1 << 20
#: Bytes before the voxels of a NIfTI-1 file without extensions.
_NIFTI_HEAD = 352
_PNG_END = b"IEND\xaeB`\x82"


def write_image(path: PathLike, array_kji: np.ndarray, volume: Volume, source: Optional[Path] = None, level: int = -1) -> None:
    """Write numbers that belong to a volume's voxels, with its place in the patient; all or nothing.

    Args:
        path: with a suffix that SimpleITK knows.
        array_kji: ``(k, j, i)``, on the volume's grid.
        volume: gives the geometry.
        source: file that the volume was read from; see :func:`save_image`.
        level: of compression, 0 to 9; -1 for the format's own.

    Raises:
        QMedSAMError: it cannot be written, or not be held by the format.
    """
    array_kji, volume = as_stored(array_kji, volume)
    with writing(path) as beside:
        save_image(beside, array_kji, volume, source=source, level=level)


def save_image(
    path: Path,
    array_kji: np.ndarray,
    volume: Volume,
    fields: Optional[Mapping[str, str]] = None,
    source: Optional[Path] = None,
    level: int = -1,
) -> None:
    """The same into a file that :func:`~qmedsam.files.writing` gave.

    Args:
        path: to write to; the suffix chooses the format.
        array_kji: ``(k, j, i)``.
        volume: gives the geometry.
        fields: of the header (NRRD).
        source: file that the volume was read from: a NIfTI file of whole numbers says its place as a NIfTI source does.
        level: of compression, 0 to 9; -1 for the format's own.

    Raises:
        QMedSAMError: the grid is sheared, and the format is NIfTI.
        NotWhole: the file does not hold what it should.
        RuntimeError: SimpleITK's.
    """
    import SimpleITK as sitk

    nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    placement = placement_for(source, volume) if nifti and source is not None else None
    if placement is not None:
        write_placed(path, array_kji, placement)
    else:
        if nifti:
            check_not_sheared(path, volume)
        image = image_of(array_kji, volume.ijk_to_ras)
        for key, value in (fields or {}).items():
            image.SetMetaData(key, value)
        with quiet():
            sitk.WriteImage(image, str(path), True, level)
        del image
    check_saved(path, array_kji, volume.ijk_to_ras, fields)


def save_png(path: Path, array_ji: np.ndarray) -> None:
    """Grey numbers of 8 or 16 bits to a PNG file that :func:`~qmedsam.files.writing` gave.

    Raises:
        NotWhole: the file does not hold what it should.
        RuntimeError: SimpleITK's.
    """
    import SimpleITK as sitk

    with quiet():
        sitk.WriteImage(sitk.GetImageFromArray(array_ji), str(path), True)
        try:
            read = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        except RuntimeError as error:
            raise NotWhole() from error
    if read.dtype != array_ji.dtype or not np.array_equal(read, array_ji) or not path.read_bytes().endswith(_PNG_END):
        raise NotWhole()


def check_not_sheared(path: Path, volume: Volume) -> None:
    """Whether NIfTI can hold a grid.

    Raises:
        QMedSAMError: it cannot.
    """
    directions = volume.ijk_to_ras[:3, :3] / volume.spacing_mm
    # ITK writes the nearest rotation into the file and says nothing (seen with SimpleITK 2.5).
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise QMedSAMError("A NIfTI file cannot hold the sheared grid of this volume.", "Write a .seg.nrrd or .nrrd file.")


def check_saved(path: Path, array_kji: np.ndarray, ijk_to_ras: np.ndarray, fields: Optional[Mapping[str, str]] = None) -> None:
    """Compare what an image file holds with what it should hold.

    NIfTI and NRRD byte by byte as they are unpacked, to the end and its checksum: once, and without a second copy of the
    voxels. Others are read by SimpleITK.

    Raises:
        NotWhole: anything differs, or the file ends too early.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    wanted = sitk.GetImageFromArray(np.empty((1, 1, 1), array_kji.dtype)).GetPixelID()
    try:
        with quiet():
            reader.ReadImageInformation()
            same = reader.GetSize() == array_kji.shape[::-1] and reader.GetPixelID() == wanted
            same = same and all(reader.HasMetaDataKey(k) and reader.GetMetaData(k) == v for k, v in (fields or {}).items())
            if path.name.lower().endswith((".nii", ".nii.gz", ".nrrd")):
                same = same and _holds(path, array_kji)
            else:
                if path.suffix.lower() in (".mha", ".mhd"):
                    check_metaimage(path)  # before 2.4 SimpleITK takes a part for the whole
                image = reader.Execute()
                same = same and np.array_equal(sitk.GetArrayViewFromImage(image), array_kji)
    except (RuntimeError, QMedSAMError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NotWhole() from error
    reach = np.abs(np.linalg.inv(ijk_to_ras) @ ijk_to_ras_of(reader) - np.eye(4))[:3] @ (*array_kji.shape[2::-1], 1)
    if not same or reach.max() > _TOLERANCE:
        raise NotWhole()


def _holds(path: Path, array_kji: np.ndarray) -> bool:
    """Whether the voxels of a NIfTI or NRRD file are these, and nothing is missing behind them.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile: a stream is cut off.
    """
    wanted = np.ascontiguousarray(array_kji).reshape(-1).view(np.uint8)
    name = path.name.lower()
    with path.open("rb") as file:
        packed = name.endswith(".gz")
        if name.endswith(".nrrd"):  # its header ends with an empty line
            while line := file.readline().strip():
                packed |= line.lower() == b"encoding: gzip"
        with gzip.GzipFile(fileobj=file) if packed else file as stream:
            if not name.endswith(".nrrd"):
                head = stream.read(_NIFTI_HEAD)
                if len(head) < _NIFTI_HEAD or struct.unpack_from("<f", head, 108)[0] != _NIFTI_HEAD:
                    return False
            place = 0
            while chunk := stream.read(_CHUNK):
                if not np.array_equal(np.frombuffer(chunk, np.uint8), wanted[place : place + len(chunk)]):
                    return False
                place += len(chunk)
    return place == len(wanted)
