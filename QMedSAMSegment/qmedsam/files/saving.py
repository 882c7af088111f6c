"""Images to files by SimpleITK, whose writers of NRRD, NIfTI and others say nothing of a full disk: read back, always."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .damage import check_complete
from .orientation import as_stored
from .paths import NotWhole, PathLike, writing
from .placement import placement_for, write_placed
from .volumes import ijk_to_ras_of, image_of, quiet

#: Voxels by which a corner may move by what a format keeps of the geometry (NIfTI: 24 bits).
_TOLERANCE = 1e-2
_CHUNK = 1 << 20
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
        del image  # the copy that is read back takes its place
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
    """Read an image back and compare it with what it should hold.

    Raises:
        NotWhole: anything differs, or the file ends too early.
    """
    import SimpleITK as sitk

    try:
        check_complete(path)
        _check_packed(path)
        with quiet():
            image = sitk.ReadImage(str(path))
    except (QMedSAMError, RuntimeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NotWhole() from error
    read = sitk.GetArrayViewFromImage(image)
    reach = np.abs(np.linalg.inv(ijk_to_ras) @ ijk_to_ras_of(image) - np.eye(4))[:3] @ (*array_kji.shape[2::-1], 1)
    same = read.dtype == array_kji.dtype and np.array_equal(read, array_kji) and reach.max() < _TOLERANCE
    if not same or any(not image.HasMetaDataKey(key) or image.GetMetaData(key) != value for key, value in (fields or {}).items()):
        raise NotWhole()


def _check_packed(path: Path) -> None:
    """To the end of a gzip stream with its checksum, which readers of images do not care for.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile: it is cut off.
    """
    name = path.name.lower()
    if not name.endswith((".nii.gz", ".nrrd")):
        return
    with path.open("rb") as stream:
        if name.endswith(".nrrd"):  # its header ends with an empty line
            packed = False
            while stream.peek(1) and (line := stream.readline().strip()):
                packed |= line.lower() == b"encoding: gzip"
            if not packed:
                return
        with gzip.GzipFile(fileobj=stream) as content:
            while content.read(_CHUNK):
                pass
