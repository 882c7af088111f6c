"""Image files to :class:`~qmedsam.geometry.Volume`: the one place where LPS becomes RAS."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from ..intensity import MODALITIES
from .damage import check_complete
from .paths import PathLike, check_name, existing_file, name_of, reason_of

#: SimpleITK and most files are LPS; Slicer and this engine are RAS. Its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_FORMATS = "NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, BMP, TIFF or a challenge .npz"


def ijk_to_ras_of(image) -> np.ndarray:
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
    import SimpleITK as sitk

    if any(n > 1 for n in image.GetSize()[3:]):
        raise QMedSAMError(
            f"The image '{name}' has {image.GetDimension()} dimensions ({' x '.join(map(str, image.GetSize()))}).",
            "Extract one time point or channel first.",
        )
    array = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel()
    if channels not in (1, 3, 4) or (channels > 1 and array.dtype.kind in "fc"):
        raise QMedSAMError(f"The voxels of '{name}' are vectors of {channels} numbers.", "Extract one channel first.")
    array = array.reshape((image.GetSize()[:3] + (1,))[2::-1] + array.shape[image.GetDimension() :])
    return Volume(grey_or_rgb(array) if channels > 1 else array, ijk_to_ras_of(image), modality, name)


def image_of(array_kji: np.ndarray, ijk_to_ras: np.ndarray):
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


def read_volume(path: PathLike, series: Optional[str] = None) -> Volume:
    """Read an image with its place in the patient.

    Args:
        path: NIfTI, NRRD, MetaImage, PNG, JPEG, BMP, TIFF, a challenge ``.npz``, a folder with one DICOM series, or one
            DICOM file (the slices of its series beside it come along).
        series: DICOM series UID, where a folder holds several.

    Returns:
        Grey values as stored (rescaled, for DICOM and NIfTI); 2D images have ``k == 1``. ``modality`` is filled from DICOM
        tag 0008,0060 or the name of an ``.npz``; else it is ``""``.

    Raises:
        QMedSAMError: missing, empty, truncated or foreign file; several time points, vectors or complex numbers; geometry
            that is not a regular grid; a DICOM folder with no series, several, or with missing slices.
    """
    import SimpleITK as sitk

    from .dicom import read_dicom_file, read_dicom_folder

    check_name(path)
    path = Path(path)
    if path.is_dir():
        with quiet():
            return read_dicom_folder(path, series)
    path = existing_file(path, "an image")
    if path.suffix.lower() == ".npz":
        from .challenge import read_challenge_volume

        return read_challenge_volume(path)
    with quiet():
        reader = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
        if reader == "GDCMImageIO":
            return read_dicom_file(path, series)
        if not reader:
            raise QMedSAMError(f"'{path.name}' is not an image that can be read.", f"Give {_FORMATS}.")
        check_complete(path)
        return volume_of(read_image(path), name=name_of(path))


def read_image(path: Path):
    """A SimpleITK image, with its errors said in plain words.

    Raises:
        QMedSAMError: damaged file, or geometry that is not a regular grid.
    """
    import SimpleITK as sitk

    try:
        with _apart(path) as only:
            return sitk.ReadImage(str(only))
    except (RuntimeError, MemoryError) as error:
        raise unreadable(path.name, error) from error


def unreadable(name: str, error: BaseException) -> QMedSAMError:
    """What SimpleITK meant."""
    text = str(error)
    if "orthonormal" in text:
        return QMedSAMError(
            f"The voxel axes in '{name}' are sheared or have no length.",
            "Resample the image onto a regular grid (in Slicer: Resample Scalar/Vector/DWI Volume), or correct its header.",
        )
    if "spacing" in text.lower() or "determinant" in text:
        return QMedSAMError(f"'{name}' has no valid geometry ({reason_of(error)}).", "Correct its spacing and direction.")
    if "PixelType" in text:
        return QMedSAMError(f"The pixel type of '{name}' is not known.", "Save it as grey or RGB, without transparency.")
    if "allocate" in text or isinstance(error, MemoryError):
        return QMedSAMError(f"There is not enough memory for '{name}'.", "Crop the image, or check its header.")
    return QMedSAMError(
        f"'{name}' could not be read as an image ({reason_of(error)}).", "It may be damaged: copy or export it again."
    )


@contextmanager
def _apart(path: Path) -> Iterator[Path]:
    """The file, out of sight of its neighbour: asked for ``a.nii.gz``, ITK takes the voxels of an ``a.nii`` beside it."""
    if not path.name.lower().endswith(".nii.gz") or not path.with_suffix("").exists():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="qmedsam-") as folder:
        alone = Path(folder) / path.name
        try:
            alone.symlink_to(path.resolve())
        except OSError:  # Windows without the right to make links
            shutil.copyfile(path, alone)
        yield alone


@contextmanager
def quiet() -> Iterator[None]:
    """No C++ warnings on the terminal; what matters of them is raised as an error."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


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
