"""DICOM series from a folder or from one of their files; only regular stacks of slices are accepted."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Tuple, Union

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .paths import name_of
from .volumes import modality_of, read_image, unreadable, volume_of

_MODALITY = "0008|0060"
_DESCRIPTION = "0008|103e"
_SERIES_UID = "0020|000e"
_POSITION = "0020|0032"
#: What says which values a slice may have, and its value where it is missing: bits, sign, intercept and slope.
_TYPE = {"0028|0100": 16, "0028|0103": 0, "0028|1052": 0, "0028|1053": 1}

#: Part of the slice distance by which a slice may miss its place on the regular grid: room for rounded positions. A missing
#: slice is farther off in a stack of any length, a gantry tilt of 1 degree from the sixth slice on (tan 1 degree = 0.017).
_TOLERANCE = 0.1


def read_dicom_folder(folder: Path, series: Optional[str] = None) -> Volume:
    """The series in a folder (its subfolders are not looked at).

    Args:
        folder: holds the files of one series, or of several.
        series: UID of the one wanted.

    Raises:
        QMedSAMError: no series, several without ``series``, another UID, or slices that are no regular stack.
    """
    import SimpleITK as sitk

    found = [str(uid) for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))]
    if not found:
        raise QMedSAMError(
            f"The folder '{folder}' holds no DICOM images.", "Give the folder that directly holds the files of a series."
        )
    if series is not None and series not in found:
        raise QMedSAMError(f"The folder '{folder}' holds no DICOM series {series}.", _listing(folder, found))
    if series is None and len(found) > 1:
        raise QMedSAMError(
            f"The folder '{folder}' holds {len(found)} DICOM series.",
            f"Give the folder of one, or its UID. {_listing(folder, found)}",
        )
    return _read(_files(folder, series or found[0]), folder.name)


def read_dicom_file(path: Path, series: Optional[str] = None) -> Volume:
    """The series that a file belongs to; the file alone when it is a multi-frame image or says nothing of its place.

    Raises:
        QMedSAMError: damaged file, a UID that is not the file's, or slices that are no regular stack.
    """
    header = _header(path)
    uid = _tag(header, _SERIES_UID)
    if series is not None and series != uid:
        raise QMedSAMError(f"'{path.name}' does not belong to the DICOM series {series}.", f"Its series is {uid}.")
    return _read(_files_with(path, header), name_of(path))


def _files_with(path: Path, header) -> Tuple[str, ...]:
    """The file and the others of its series beside it; alone when it is multi-frame or says nothing of its place."""
    uid = _tag(header, _SERIES_UID)
    files = _files(path.parent, uid) if uid else ()
    alone = header.GetSize()[2:] > (1,) or not _tag(header, _POSITION) or len(files) < 2
    return (str(path),) if alone else files


def series_files(source: Path, series: Optional[str] = None) -> Tuple[str, ...]:
    """Files of the series that :func:`~qmedsam.files.read_volume` makes of a folder or file, in the order of its slices.

    Empty where the source is no DICOM.
    """
    import SimpleITK as sitk

    if not source.is_dir():
        if not source.is_file() or sitk.ImageFileReader.GetImageIOFromFileName(str(source)) != "GDCMImageIO":
            return ()
        return _files_with(source, _header(source))
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(source))
    return _files(source, series or str(found[0])) if found else ()


def _files(folder: Path, uid: str) -> Tuple[str, ...]:
    import SimpleITK as sitk

    return tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))


def _header(path: Path):
    """A SimpleITK reader that knows size and tags of a file, but not its voxels."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path.name, error) from error
    return reader


def _tag(header, key: str) -> str:
    return header.GetMetaData(key).strip(" \0") if header.HasMetaDataKey(key) else ""


def _listing(folder: Path, uids: List[str]) -> str:
    lines = []
    for uid in uids:
        files = _files(folder, uid)
        description = _tag(_header(Path(files[0])), _DESCRIPTION) or "no description"
        lines.append(f"{description} ({len(files)} file{'s' * (len(files) != 1)}, {uid})")
    return "There are: " + "; ".join(lines) + "."


def _read(files: Tuple[str, ...], name: str) -> Volume:
    import SimpleITK as sitk

    header = _header(Path(files[0]))
    modality, name = modality_of(_tag(header, _MODALITY)), _tag(header, _DESCRIPTION) or name
    if len(files) == 1:
        return volume_of(read_image(Path(files[0])), modality, name)
    if header.GetSize()[2:] > (1,):
        raise QMedSAMError(f"The series '{name}' consists of several multi-frame files.", "Give one of the files.")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    if modality == "PET":
        reader.SetOutputPixelType(sitk.sitkFloat32)  # nearly always a slope per slice
    try:
        image = reader.Execute()
        if modality != "PET" and image.GetNumberOfComponentsPerPixel() == 1 and _types_differ(reader, len(files)):
            del image  # of the voxel type of the first slice, which the values of the others need not fit
            reader.SetOutputPixelType(sitk.sitkFloat32)
            image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        if "size mismatch" in str(error).lower():
            raise QMedSAMError(f"The slices of the series '{name}' differ in size.", "Give the folder of one scan.") from error
        raise unreadable(name, error) from error
    _check_stack(reader, image, name)
    return volume_of(image, modality, name)


def _types_differ(reader, count: int) -> bool:
    """Whether slices have voxel types of their own (in PET every slice has its slope; those of MR and NM may)."""

    def value(k: int, key: str) -> Union[float, str]:
        text = reader.GetMetaData(k, key).strip(" \0") if reader.HasMetaDataKey(k, key) else ""
        try:
            return float(text or _TYPE[key])
        except ValueError:
            return text

    return any(value(k, key) != value(0, key) for key in _TYPE for k in range(1, count))


def _check_stack(reader, image, name: str) -> None:
    """Compare the position that every slice's header gives with the grid that was made of them."""
    count = image.GetSize()[2]
    texts = [reader.GetMetaData(k, _POSITION) if reader.HasMetaDataKey(k, _POSITION) else "" for k in range(count)]
    try:
        positions = np.array([[float(v) for v in text.strip(" \0").split("\\")] for text in texts]).reshape(count, 3)
    except ValueError:
        raise QMedSAMError(f"The slices of the series '{name}' do not say where they lie.", "Give one of the files.") from None
    direction, spacing = np.array(image.GetDirection()).reshape(3, 3), image.GetSpacing()[2]
    normal = direction[:, 2]
    along = (positions - positions[0]) @ normal
    steps = np.abs(np.diff(along))
    if steps.min() < 1e-3:
        raise QMedSAMError(
            f"The series '{name}' has several images at the same position (time points or echoes).",
            "Give a folder that holds one of them.",
        )
    miss = positions - np.array(image.GetOrigin()) - np.outer(np.arange(count) * spacing, normal)
    if np.abs(along - along[-1] * np.arange(count) / (count - 1)).max() > _TOLERANCE * np.median(steps):
        raise QMedSAMError(
            f"The slices of the series '{name}' are not evenly spaced ({steps.min():.2f} to {steps.max():.2f} mm apart).",
            "Slices may be missing: export the series again, or resample it onto a regular grid.",
        )
    if np.linalg.norm(miss, axis=1).max() > _TOLERANCE * spacing:
        raise QMedSAMError(
            f"The slices of the series '{name}' are shifted against each other (gantry tilt).",
            "Resample it onto a regular grid first (in Slicer: load it, harden its acquisition transform).",
        )
