"""Image files to :class:`~qmedsam.geometry.Volume`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Generator, Iterator, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .grids import LPS_TO_RAS, chosen_frames, grey_or_rgb, ijk_to_ras_of
from .header import ImageHeader
from .kinds import kind_of
from .nifti import place_note, read_nifti_header
from .orientation import orientation_of, turn_of_itk, upright
from .paths import PathLike, check_name, existing_file, name_of
from .reading import header_of, read_image
from .tiff import TiffHeader


def volume_of(image: Any, modality: str = "", name: str = "") -> Volume:
    """A SimpleITK image as a :class:`Volume`.

    Args:
        image: 2D or 3D (further axes of length 1 are dropped); grey, RGB or RGBA. Alpha is dropped, a grey picture saved
            as RGB becomes grey, 16-bit colours become 8-bit.
        modality, name: for the volume.

    Raises:
        QMedSAMError: several time points, or voxels that are vectors or complex numbers.
    """
    if any(n > 1 for n in image.GetSize()[3:]):
        raise QMedSAMError(
            f"The image '{name}' has {image.GetDimension()} dimensions ({' x '.join(map(str, image.GetSize()))}).",
            "Extract one time point or channel first.",
        )
    return Volume(_grey(_array_of(image), name), ijk_to_ras_of(image), modality, name)


def read_volume(path: PathLike, series: Optional[str] = None, frame_index: Optional[int] = None) -> Volume:
    """Read an image with its place in the patient.

    Args:
        path: NIfTI, NRRD, MetaImage, PNG, JPEG, BMP, TIFF, a challenge ``.npz``, a folder with one DICOM series, or one
            DICOM file (the slices of its series beside it come along). What a file is, its content says, not its name.
        series: of a folder that holds several: its UID or the beginning of it, its number, or its description.
        frame_index: which time point, from 0, of a file or series that has several.

    Returns:
        Grey values as stored (rescaled, for DICOM and NIfTI); 2D images have ``k == 1``, photographs
        are as viewers show them (EXIF). ``modality`` is filled from DICOM
        tag 0008,0060 or the name of an ``.npz``; else it is ``""``. ``notes`` says what was assumed.

    Raises:
        QMedSAMError: missing, empty, truncated or foreign file; several time points without ``frame_index``; vectors or
            complex numbers; geometry that is not a regular grid; a DICOM folder with no series, several, or with missing
            slices; an image that the machine's memory cannot hold.
    """
    with closing(read_frames(path, series, frame_index)) as frames:
        return next(frames)


def count_frames(path: PathLike, series: Optional[str] = None) -> int:
    """Time points of what :func:`read_volume` reads, told from its header.

    Raises:
        QMedSAMError: as there.
    """
    kind, path = _kind(path)
    if kind == "dicom":
        from .dicom import count_dicom_frames

        return count_dicom_frames(path, series)
    return 1 if kind == "npz" else header_of(path).frames


def read_frames(path: PathLike, series: Optional[str] = None, frame_index: Optional[int] = -1) -> Generator[Volume, None, None]:
    """Every time point of what :func:`read_volume` reads, in their order; the file is read once.

    Args:
        path, series: as there.
        frame_index: this one only; None where the caller does not expect several, -1 for all.

    Raises:
        QMedSAMError: as there.
    """
    kind, path = _kind(path)
    if kind == "dicom":
        from .dicom import read_dicom

        yield from read_dicom(path, series, frame_index)
        return
    if kind == "npz":
        from .challenge import read_challenge_volume

        chosen_frames(path.name, 1, frame_index)
        yield read_challenge_volume(path)
        return
    header = header_of(path)
    numbers = chosen_frames(path.name, header.frames, frame_index)
    yield from _volumes(path, header, numbers)


def _kind(path: PathLike) -> Tuple[str, Path]:
    check_name(path)
    path = Path(path)
    if path.is_dir():
        return "dicom", path
    path = existing_file(path, "an image")
    return kind_of(path), path


def _volumes(path: Path, header: ImageHeader, numbers: range) -> Iterator[Volume]:
    """The volumes of a file that ITK reads."""
    only = numbers[0] if len(numbers) == 1 and header.frame_axis == 3 else None
    image = read_image(path, header, only)
    matrix, notes = ijk_to_ras_of(image), header.notes
    if header.kind == "nifti":
        notes += place_note(read_nifti_header(path), matrix, path.name)
    if isinstance(header, TiffHeader):
        matrix = LPS_TO_RAS @ np.diag([*((1.0, 1.0) if None in header.spacing_mm[:2] else header.spacing_mm[:2]), 1.0, 1.0])
        matrix[2, 2] = header.spacing_mm[2] or 1.0
        matrix = matrix @ turn_of_itk(header.orientation, header.size)
    matrix[:3] *= header.to_mm
    name = name_of(path)
    array = _array_of(image)
    for number in numbers:
        frame = array if only is not None else _frame(array, header, number)
        volume = Volume(_grey(frame, name), matrix, name=name, notes=notes, measured=header.measured)
        yield upright(volume, orientation_of(path))


def _frame(array: np.ndarray, header: ImageHeader, number: int) -> np.ndarray:
    """``(k, j, i)`` or with channels, of the array of all time points ``(t, k, j, i)`` or as its header says."""
    if header.frame_axis == -1:
        return np.ascontiguousarray(array[..., number])
    if header.frame_axis == 3:
        return array[number]
    if isinstance(header, TiffHeader) and header.frames > 1:
        return np.ascontiguousarray(
            array[number :: header.frames] if header.time_first else array[number * header.slices :][: header.slices]
        )
    return array


def _array_of(image: Any) -> np.ndarray:
    """``(k, j, i)``, ``(t, k, j, i)``, each with channels last where there are several."""
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image)
    dimension = image.GetDimension()
    size = list(image.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    size += [1] * (3 - len(size))
    return array.reshape(tuple(size[::-1]) + array.shape[dimension:])


def _grey(array: np.ndarray, name: str) -> np.ndarray:
    """Grey values or colours, of an array with or without channels."""
    if array.ndim == 3:
        return array
    channels = array.shape[3]
    if channels not in (1, 3, 4) or (channels > 1 and array.dtype.kind in "fc"):
        raise QMedSAMError(f"The voxels of '{name}' are vectors of {channels} numbers.", "Extract one channel first.")
    return np.ascontiguousarray(array[..., 0]) if channels == 1 else grey_or_rgb(array)
