"""Image files to :class:`~qmedsam.geometry.Volume`: the one place where LPS becomes RAS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from ..intensity import MODALITIES
from .header import ImageHeader
from .kinds import kind_of
from .nifti import place_note, read_nifti_header
from .orientation import orientation_of, upright
from .paths import PathLike, check_name, existing_file, name_of
from .reading import header_of, read_image
from .tiff import TiffHeader

#: SimpleITK and most files are LPS; Slicer and this engine are RAS. Its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ijk_to_ras_of(image: Any) -> np.ndarray:
    """``4 x 4`` matrix of a SimpleITK image, in mm (2D images lie in the plane k = 0; of 4D the first three axes count)."""
    dimension = image.GetDimension()
    space = min(dimension, 3)
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    matrix[:space, :space] = (direction * np.array(image.GetSpacing()))[:space, :space]
    matrix[:space, 3] = image.GetOrigin()[:space]
    return LPS_TO_RAS @ matrix


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


def image_of(array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> Any:
    """The way back: a 3D SimpleITK image with the geometry of a volume.

    Args:
        array_kji: ``(k, j, i)`` of a type that SimpleITK knows.
        ijk_to_ras: ``4 x 4``; left-handed and sheared grids are kept.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array_kji)
    to_lps = LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    return image


def read_volume(path: PathLike, series: Optional[str] = None, frame_index: Optional[int] = None) -> Volume:
    """Read an image with its place in the patient.

    Args:
        path: NIfTI, NRRD, MetaImage, PNG, JPEG, BMP, TIFF, a challenge ``.npz``, a folder with one DICOM series, or one
            DICOM file (the slices of its series beside it come along). What a file is, its content says, not its name.
        series: of a folder that holds several: its UID or the beginning of it, its number, or its description.
        frame_index: which time point, from 0, of a file or series that has several.

    Returns:
        Grey values as stored (rescaled, for DICOM and NIfTI); 2D images have ``k == 1``, photographs
        are as viewers show them (EXIF). ``modality`` is filled from DICOM tag 0008,0060 or the name of an
        ``.npz``; else it is ``""``. ``notes`` says what was assumed.

    Raises:
        QMedSAMError: missing, empty, truncated or foreign file; several time points without ``frame_index``; vectors or
            complex numbers; geometry that is not a regular grid; a DICOM folder with no series, several, or with missing
            slices; an image that the machine's memory cannot hold.
    """
    frames = read_frames(path, series, frame_index)
    first = next(frames)
    frames.close()
    return first


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


def read_frames(path: PathLike, series: Optional[str] = None, frame_index: Optional[int] = -1) -> Iterator[Volume]:
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


def chosen_frames(name: str, frames: int, frame_index: Optional[int], what: str = "time points") -> range:
    """The time points that are asked for.

    Args:
        name: of the image.
        frames: that it has.
        frame_index: from 0; -1 for all; None for the only one.
        what: the frames are, for the message.

    Raises:
        QMedSAMError: there are several, and none was chosen; or there is none of that number.
    """
    if frame_index == -1:
        return range(frames)
    if frame_index is None and frames > 1:
        raise QMedSAMError(
            f"'{name}' holds {frames} {what}.", f"Choose one with --frame-index 0 to {frames - 1}, or take 'all' of them."
        )
    if not 0 <= (frame_index or 0) < frames:
        raise QMedSAMError(
            f"'{name}' has no time point {frame_index}.", f"Choose 0 to {frames - 1}." if frames > 1 else "It has one, number 0."
        )
    return range(frame_index or 0, (frame_index or 0) + 1)


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
    matrix[:3] *= header.to_mm
    name = name_of(path)
    array = _array_of(image)
    for number in numbers:
        frame = array if only is not None else _frame(array, header, number)
        volume = Volume(_grey(frame, name), matrix, name=name, notes=notes, measured=header.measured)
        yield upright(volume, orientation_of(path)) if header.kind == "jpeg" else volume


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


def modality_of(name: str) -> str:
    """The manifest's name of a modality, ``""`` for an unknown one."""
    return MODALITIES.get(name.strip().upper(), "")


def grey_or_rgb(array: np.ndarray) -> np.ndarray:
    """``(k, j, i)`` of a grey picture saved in colour, else ``(k, j, i, 3)`` of at most 8 bits, from 3 or 4 channels."""
    red, green, blue = (array[..., c] for c in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    colors = np.ascontiguousarray(array[..., :3])
    return (colors // 257).astype(np.uint8) if colors.dtype == np.uint16 else colors
