"""DICOM series from a folder or from one of their files; only regular stacks of slices are accepted."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from ..errors import QMedSAMError, shown
from ..geometry import Volume
from .dicom_frames import Frame, frames_of
from .dicom_header import DicomFile, read_dicom_header
from .dicom_pixels import Pixels
from .dicom_stack import Stack, stack_of
from .dicom_values import voxels_of
from .grids import LPS_TO_RAS, chosen_frames, modality_of
from .header import check_fits_memory
from .kinds import known_kind
from .paths import name_of

#: Files of a folder that are looked into; more are a whole archive.
_MOST_FILES = 100_000
#: Bytes of a damaged file in which its series is looked for.
_LOOKED_AT = 1 << 20
#: Series and files that a sentence names.
_LISTED = 8


@dataclass(frozen=True)
class DicomShape:
    """Voxels of what a DICOM source becomes, told from its headers.

    Attributes:
        size: along i, j and k.
        depth: bytes of a voxel in memory.
        frames: time points.
    """

    size: Tuple[int, int, int]
    depth: int
    frames: int


@dataclass
class _Found:
    """What lies in a folder.

    Attributes:
        folder: it.
        series: images by the UID of their series.
        damaged: files that could not be read, and why.
    """

    folder: Path
    series: Dict[str, List[DicomFile]] = field(default_factory=dict)
    damaged: Dict[Path, QMedSAMError] = field(default_factory=dict)

    def whole(self, uid: str) -> List[DicomFile]:
        """The files of a series.

        Raises:
            QMedSAMError: one of the damaged files names it: a slice would be missing.
        """
        files = self.series.get(uid, [])
        for path, error in self.damaged.items():
            # One that ends before it could name its series is of this one where a slice is missing.
            if _names(path, uid) or not _is_stack(files):
                hint = f"Take it out of '{self.folder.name}', or copy it again: a slice would be missing."
                raise QMedSAMError(error.message, hint)
        return files


def _is_stack(files: List[DicomFile]) -> bool:
    try:
        _stack(files, "")
    except QMedSAMError:
        return False
    return True


def _names(path: Path, uid: str) -> bool:
    """Whether a damaged file speaks of a series."""
    with path.open("rb") as stream:
        return bool(uid) and uid.encode("ascii", "replace") in stream.read(_LOOKED_AT)


def read_dicom(source: Path, series: Optional[str], frame_index: Optional[int]) -> Iterator[Volume]:
    """The time points of a series.

    Args:
        source: a folder (its subfolders are not looked at), or a file: the series that it belongs to, the file alone when it
            is a multi-frame image or says nothing of its place.
        series: UID, its beginning, number, description or a part of it, where a folder holds several.
        frame_index: as for :func:`~.volumes.read_frames`.

    Raises:
        QMedSAMError: no series, several without ``series``, slices that are no regular stack, a damaged file, or one that is
            no image.
    """
    files = _files(source, series)
    name = _name(files, source)
    stack = _stack(files, name)
    numbers = chosen_frames(name, len(stack.times), frame_index, stack.what)
    modality = modality_of(files[0].get("Modality", str, ""))
    pixels = {file.path: Pixels(file) for file in files}
    _check_alike(pixels, name)
    first = pixels[files[0].path]
    frame = first.rows * first.columns * (3 if first.is_rgb else max(first.dtype.itemsize, 2))
    check_fits_memory(source, frame * len(stack.times[0]))
    matrix = LPS_TO_RAS @ stack.matrix
    for number in numbers:
        array = voxels_of(stack.times[number], pixels, modality == "PET")
        yield Volume(array, matrix, modality, name, notes=stack.notes, measured=stack.measured)


def count_dicom_frames(source: Path, series: Optional[str] = None) -> int:
    """Time points of a series.

    Raises:
        QMedSAMError: as :func:`read_dicom`.
    """
    return dicom_shape(source, series).frames


def dicom_shape(source: Path, series: Optional[str] = None) -> DicomShape:
    """How large a series is, before a pixel is read.

    Raises:
        QMedSAMError: as :func:`read_dicom`.
    """
    files = _files(source, series)
    stack = _stack(files, _name(files, source))
    rows, columns = stack.times[0][0].size
    pixels = Pixels(files[0])
    depth = 3 if pixels.is_rgb else max(pixels.bits // 8, 4 if len(files) > 1 else 2)
    return DicomShape((columns, rows, len(stack.times[0])), depth, len(stack.times))


def is_packed(source: Path, series: Optional[str] = None) -> bool:
    """Whether a library of C has to unpack the pixels of a series."""
    return any(Pixels(file).is_packed for file in _files(source, series)[:1])


def series_files(source: Path, series: Optional[str] = None, time_point: int = 0) -> Tuple[str, ...]:
    """Files of the series that :func:`~qmedsam.files.read_volume` makes of a folder or file, in the order of its slices.

    Empty where the source is no DICOM.

    Raises:
        QMedSAMError: a folder holds several series, or none of that name.
    """
    if source.is_dir():
        try:
            _series_in(source)
        except QMedSAMError:
            return ()
        files = _files(source, series)
    elif known_kind(source) == "dicom":
        try:
            files = _files(source, series)
        except QMedSAMError:
            return ()
    else:
        return ()
    try:
        return tuple(dict.fromkeys(str(frame.file.path) for frame in _time(files, source, time_point)))
    except QMedSAMError:  # changed since it was read; whoever refers to the files compares their places
        return tuple(str(file.path) for file in files)


def frame_order(source: Path, series: Optional[str] = None, time_point: int = 0) -> Tuple[int, ...]:
    """Numbers, from 0, of the frames of a multi-frame file in the order of the slices of a time point.

    Raises:
        QMedSAMError: as :func:`read_dicom`.
    """
    return tuple(frame.number for frame in _time(_files(source, series), source, time_point))


def _time(files: List[DicomFile], source: Path, time_point: int) -> Tuple[Frame, ...]:
    """The frames of a time point, of the last one where there are not so many."""
    times = _stack(files, source.name).times
    return times[min(time_point, len(times) - 1)]


def _name(files: List[DicomFile], source: Path) -> str:
    return shown(files[0].get("SeriesDescription", str, "").strip(" \0")) or name_of(source)


def _files(source: Path, series: Optional[str]) -> List[DicomFile]:
    """The files of the series that is asked for."""
    if source.is_dir():
        found = _series_in(source)
        chosen = _chosen(source, found.series, series)
        return found.whole(chosen[0].series)
    file = read_dicom_header(source)
    if file.no_image:
        raise QMedSAMError(f"'{source.name}' is {file.no_image}.", "Give the file or folder of the images themselves.")
    if series is not None and not any(test([file]) for test in _tests(series)):
        raise QMedSAMError(
            f"'{source.name}' does not belong to the DICOM series {shown(series)}.", f"Its series is {file.series}."
        )
    if not file.series or file.get("NumberOfFrames", int, 1) > 1 or file.get("ImagePositionPatient", list, None) is None:
        return [file]
    files = _series_in(source.parent).whole(file.series)
    return files if len(files) > 1 else [file]


def _series_in(folder: Path) -> _Found:
    """The images of a folder by series, and its DICOM files that are damaged.

    Raises:
        QMedSAMError: no image, with what is there instead.
    """
    found = _Found(folder)
    others: Dict[str, int] = {}
    count = 0
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        path = folder / name
        if not path.is_file() or known_kind(path) != "dicom":
            continue
        count += 1
        if count > _MOST_FILES:
            text = f"The folder '{folder}' holds more than {_MOST_FILES:,} DICOM files."
            raise QMedSAMError(text, "Give the folder of one series.")
        try:
            file = read_dicom_header(path)
        except QMedSAMError as error:
            found.damaged[path] = error
            continue
        if file.no_image:
            others[file.no_image] = others.get(file.no_image, 0) + 1
        else:
            found.series.setdefault(file.series, []).append(file)
    if not found.series:
        if found.damaged:
            raise next(iter(found.damaged.values()))
        what = ", ".join(sorted(others)[:3])
        raise QMedSAMError(
            f"The folder '{folder}' holds no DICOM images" + (f", but {what}." if what else "."),
            "Give the folder that directly holds the files of a series.",
        )
    return found


def _chosen(folder: Path, found: Dict[str, List[DicomFile]], series: Optional[str]) -> List[DicomFile]:
    """One series of several.

    Raises:
        QMedSAMError: several or none of that name.
    """
    if series is None:
        if len(found) == 1:
            return next(iter(found.values()))
        raise QMedSAMError(
            f"The folder '{folder}' holds {len(found)} DICOM series.",
            "Name one with --series, by its number, its description or a part of it, or the beginning of its UID (in a list of "
            f"cases: its column series). {_listing(found)}",
        )
    for test in _tests(series):
        fits = [uid for uid in found if test(found[uid])]
        if len(fits) == 1:
            return found[fits[0]]
        if fits:
            raise QMedSAMError(
                f"{len(fits)} series of '{folder}' fit the name {shown(series)}.",
                f"Say it more closely. {_listing({u: found[u] for u in fits})}",
            )
    raise QMedSAMError(f"The folder '{folder}' holds no DICOM series {shown(series)}.", _listing(found))


def _tests(series: str) -> Tuple[Callable[[List[DicomFile]], bool], ...]:
    """Whether a series is meant by a name: its UID, number, description, the beginning of the UID, a part of the description."""
    wanted = series.strip().lower()

    def number(files: List[DicomFile]) -> str:
        return str(files[0].get("SeriesNumber", int, ""))  # type: ignore[arg-type]

    def description(files: List[DicomFile]) -> str:
        return files[0].get("SeriesDescription", str, "").strip(" \0").lower()

    return (
        lambda files: files[0].series == wanted,
        lambda files: number(files) == wanted,
        lambda files: description(files) == wanted,
        lambda files: bool(wanted) and files[0].series.startswith(wanted),
        lambda files: bool(wanted) and wanted in description(files),
    )


def _listing(found: Dict[str, List[DicomFile]]) -> str:
    """The series in the order of their numbers."""
    lines = []
    for uid, files in sorted(found.items(), key=lambda item: (item[1][0].get("SeriesNumber", int, 1 << 30), item[0])):
        description = shown(files[0].get("SeriesDescription", str, "").strip(" \0")) or "no description"
        number = files[0].get("SeriesNumber", int, None)
        about = f"{len(files)} file{'s' * (len(files) != 1)}, {shown(uid) or 'no UID'}"
        lines.append(f"{'' if number is None else f'{number}: '}{description} ({about})")
    more = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return "There are: " + "; ".join(lines[:_LISTED]) + more + "."


def _stack(files: List[DicomFile], name: str) -> Stack:
    several = [file for file in files if file.get("NumberOfFrames", int, 1) > 1]
    if several and len(files) > 1:
        raise QMedSAMError(f"The series '{name}' consists of several multi-frame files.", "Give one of the files.")
    if files[0].get("NumberOfFrames", int, 1) > 1:
        Pixels(files[0])  # before a list of as many frames as it claims to have is made
    return stack_of([frame for file in files for frame in frames_of(file)], name)


def _check_alike(pixels: Dict[Path, Pixels], name: str) -> None:
    first = next(iter(pixels.values()))
    for path, each in pixels.items():
        if each.is_rgb != first.is_rgb:
            raise QMedSAMError(f"'{path.name}' in the series '{name}' is a picture in colours, others are grey.", "Take it out.")
