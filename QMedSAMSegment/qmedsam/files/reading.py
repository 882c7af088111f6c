"""The one door to ITK's readers: a file is told by its content, its header compared with its bytes, and only then opened."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator, List, Optional

import numpy as np

from ..errors import QMedSAMError
from .header import ImageHeader, check_fits_memory
from .kinds import kind_of
from .metaimage import check_metaimage
from .nifti import as_nifti1, check_nifti, read_nifti_header
from .nrrd import check_nrrd, time_as_list
from .paths import PathLike, existing_file
from .rasters import check_raster
from .tiff import TiffHeader, check_tiff, turned_back

#: ITK's reader by kind. DICOM and npz have readers of their own.
_READERS = {
    "nifti": "NiftiImageIO",
    "nrrd": "NrrdImageIO",
    "metaimage": "MetaImageIO",
    "png": "PNGImageIO",
    "jpeg": "JPEGImageIO",
    "bmp": "BMPImageIO",
    "tiff": "TIFFImageIO",
}
_DESCRIPTORS = threading.RLock()


def header_of(path: PathLike, what: str = "an image") -> ImageHeader:
    """What a file says of its image, checked; without a voxel being read.

    Args:
        path: any but DICOM and ``.npz``.
        what: the file should be, for messages.

    Raises:
        QMedSAMError: missing, empty, foreign or truncated file, or one that declares what cannot be.
    """
    path = existing_file(path, what)
    kind = kind_of(path)
    if kind == "nifti":
        return check_nifti(path)
    if kind == "nrrd":
        return check_nrrd(path)
    if kind == "metaimage":
        return check_metaimage(path)
    if kind == "tiff":
        return check_tiff(path)
    if kind in ("png", "jpeg", "bmp"):
        return check_raster(path, kind)
    raise QMedSAMError(f"'{path.name}' is {'DICOM' if kind == 'dicom' else 'an .npz file'}, not {what}.", "Give another file.")


def read_image(path: PathLike, header: Optional[ImageHeader] = None, frame: Optional[int] = None) -> Any:
    """A SimpleITK image of a checked file.

    Args:
        path: any but DICOM and ``.npz``.
        header: of :func:`header_of`; None makes it.
        frame: the only one to read of a file whose time is its fourth axis.

    Raises:
        QMedSAMError: as :func:`header_of`; damaged file, or geometry that is not a regular grid.
    """
    import SimpleITK as sitk

    path = Path(path)
    header = header or header_of(path)
    only = frame is not None and header.frame_axis == 3
    check_fits_memory(path, header.bytes // header.frames if only else header.bytes)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[header.kind])
    try:
        with _named_for_itk(path, header) as place, quiet():
            reader.SetFileName(str(place))
            if only:
                reader.ReadImageInformation()
                further = reader.GetDimension() - 4
                reader.SetExtractIndex([0, 0, 0, frame, *[0] * further])
                reader.SetExtractSize([*reader.GetSize()[:3], 0, *[0] * further])
            return reader.Execute()
    except MemoryError as error:
        raise QMedSAMError(f"There is not enough memory for '{path.name}'.", "Crop the image, or check its header.") from error
    except RuntimeError as error:
        raise _why(path, header) from error


def _why(path: Path, header: ImageHeader) -> QMedSAMError:
    """What is wrong with a file that ITK refuses; from the file, not from ITK's words."""
    if header.kind == "nifti":
        nifti = read_nifti_header(path)
        for matrix in (nifti.sform, nifti.qform):
            if matrix is not None:
                lengths = np.linalg.norm(matrix[:3, :3], axis=0)
                axes = matrix[:3, :3] / np.where(lengths > 0, lengths, 1)
                if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
                    return QMedSAMError(
                        f"The voxel axes in '{path.name}' are sheared or have no length.",
                        "Resample the image onto a regular grid (in Slicer: Resample Scalar/Vector/DWI Volume), "
                        "or correct its header.",
                    )
    return QMedSAMError(f"'{path.name}' could not be read as an image.", "It may be damaged: copy or export it again.")


@contextmanager
def _named_for_itk(path: Path, header: ImageHeader) -> Iterator[Path]:
    """The file under a name that ITK's reader goes by.

    ITK tells packed from plain NIfTI by the name, and asked for ``a.nii.gz`` takes the voxels of an ``a.nii`` beside it. It
    knows no NIfTI-2, no axis of time in a NRRD, and not all ways in which a TIFF may be turned.
    """
    lower = path.name.lower()
    second = header.kind == "nifti" and read_nifti_header(path).version == 2
    renamed = header.kind in ("nifti", "nrrd", "metaimage") and bool(header.suffix) and not lower.endswith(_names_of(header))
    shadowed = lower.endswith(".nii.gz") and path.with_suffix("").exists()
    timed = header.kind == "nrrd" and header.frames > 1
    turned = isinstance(header, TiffHeader) and header.orientation != 1
    if not (second or renamed or shadowed or timed or turned):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="qmedsam-") as folder:
        alone = Path(folder) / ("image" + (".nii" if second else ".nhdr" if timed else header.suffix))
        if second:
            as_nifti1(path, alone)
        elif turned:
            alone = Path(folder) / "image.tif"
            turned_back(path, alone)
        elif not (timed and time_as_list(path, alone)):
            alone = path
            if renamed or shadowed:
                alone = Path(folder) / ("image" + header.suffix)
                _link(path, alone)
        yield alone


def _names_of(header: ImageHeader) -> tuple:
    if header.kind == "nrrd":
        return (".nrrd", ".nhdr")
    if header.kind == "metaimage":
        return (".mha", ".mhd")
    return (header.suffix,) if header.suffix in (".nii", ".nii.gz") else (".img", ".hdr", ".img.gz", ".nii", ".nia")


def _link(path: Path, alone: Path) -> None:
    try:
        alone.symlink_to(path.resolve())
    except OSError:  # Windows without the right to make links
        shutil.copyfile(path, alone)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of C and C++ libraries on the terminal: what matters of it is raised as an error.

    ITK's warnings are switched off; libtiff, libjpeg, libpng and the NIfTI library write to the descriptors themselves.
    """
    import SimpleITK as sitk

    with _DESCRIPTORS:
        before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        saved = {number: copy for number in (1, 2) for copy in _silenced(number)}
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(before)
            if 1 in saved:
                _flush_libraries()
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)


def _silenced(number: int) -> List[int]:
    """Turn a descriptor to nothing; a copy of it to give back, none where there is no such descriptor."""
    stream = sys.stdout if number == 1 else sys.stderr
    try:
        if stream is not None:
            stream.flush()
        copy = os.dup(number)
    except (OSError, ValueError):  # a program without a terminal
        return []
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        os.close(copy)
        return []
    os.dup2(nowhere, number)
    os.close(nowhere)
    return [copy]


def _flush_libraries() -> None:
    """What C libraries have printed but not sent yet would come out later."""
    with suppress(OSError, AttributeError):
        (ctypes.cdll.ucrtbase if sys.platform == "win32" else ctypes.CDLL(None)).fflush(None)
