"""Headers of NRRD: looked at before ITK opens the file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from ..errors import QMedSAMError
from .header import ImageHeader, check_axes, check_sizes, cut, integers_in, is_there, numbers_in, shown

#: Longest line of a field, in bytes. ITK's reader ends the process over one of 1,020 (seen with SimpleITK 2.5).
_LONGEST = 1000
_MOST_LINES = 1 << 20
_MOST_BYTES = 16 << 20
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64"), 8),
    **dict.fromkeys(("int64_t", "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"), 8),
}
_MM = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "micrometer": 1e-3}
_MM.update({"micrometre": 1e-3, "nm": 1e-6, "cm": 10.0, "m": 1e3, "meter": 1e3, "metre": 1e3, "": 1.0})
#: Kinds of an axis that is no direction in space, and may be time.
_SERIES = ("list", "time")
_SPATIAL = ("domain", "space", "???", "none", "")


@dataclass(frozen=True)
class NrrdHeader:
    """The fields of a NRRD header, by their lower-case names, its own key/value pairs, and where its voxels begin.

    Attributes:
        fields: ``sizes``, ``type``, ...; of a name that comes twice the last.
        keys: what is written with ``:=``.
        lines: of the header, its empty last one included (0 for a header without voxels).
        end: bytes of the header.
        data: names of the files with the voxels, when they are not in this one.
    """

    fields: Dict[str, str]
    keys: Dict[str, str]
    lines: int
    end: int
    data: Tuple[str, ...]


def read_nrrd_header(path: Path) -> NrrdHeader:
    """The header of a file that :func:`~.kinds.kind_of` calls ``nrrd``.

    Raises:
        QMedSAMError: a line is too long, or no header.
    """
    fields: Dict[str, str] = {}
    keys: Dict[str, str] = {}
    listed: List[str] = []
    lines = 0
    in_list = False
    with path.open("rb") as stream:
        while True:
            raw = stream.readline(_MOST_BYTES)
            lines += 1
            if not raw or lines > _MOST_LINES or stream.tell() > _MOST_BYTES:
                break
            line = raw.rstrip(b"\r\n").decode("utf-8", "replace")
            if not line and not in_list:
                break
            if line.startswith("#"):
                continue
            key, separator, value = line.partition(":=")
            if separator and ": " not in key:
                keys[key] = value
                continue
            if len(raw) > _LONGEST:
                raise QMedSAMError(
                    f"Line {lines} in the header of '{path.name}' is too long.", "It may be damaged: export it again."
                )
            if in_list:
                listed.append(line)
                continue
            name, separator, value = line.partition(":")
            if separator:
                name = name.strip().lower()
                name = {"data file": "datafile", "line skip": "lineskip", "byte skip": "byteskip"}.get(name, name)
                fields[name] = value.strip()
                in_list = name == "datafile" and value.strip().upper().startswith("LIST")
        end = stream.tell()
    if lines > _MOST_LINES or end > _MOST_BYTES:
        raise QMedSAMError(f"The header of '{path.name}' is too long.", "It may be damaged: export it again.")
    return NrrdHeader(fields, keys, lines, end, _data_files(fields.get("datafile", ""), listed, path))


def check_nrrd(path: Path) -> ImageHeader:
    """Look whether a NRRD file holds what its header promises.

    Raises:
        QMedSAMError: it does not.
    """
    header = read_nrrd_header(path)
    fields = header.fields
    sizes = integers_in(fields.get("sizes", ""))
    axes = integers_in(fields.get("dimension", ""))
    if not sizes or axes != [len(sizes)] or min(sizes) < 1 or len(sizes) > 16:
        raise QMedSAMError(f"'{path.name}' has no valid size in its header.", "Export it again.")
    depth = _TYPES.get(fields.get("type", "").lower())
    if depth is None:
        raise QMedSAMError(
            f"The voxels of '{path.name}' are of the type '{shown(fields.get('type', ''))}'.", "Save it as numbers."
        )
    _check_voxels(path, header, math.prod(sizes) * depth)
    kinds = _kinds(fields, len(sizes))
    series = [n for n, kind in enumerate(kinds) if kind not in _SPATIAL]
    channels, frames, frame_axis = 1, 1, None
    if len(series) > 1 or len(sizes) - len(series) > 4:
        text = " x ".join(map(str, sizes))
        raise QMedSAMError(
            f"The image '{path.name}' has {len(sizes)} dimensions ({text}).", "Extract one time point or channel first."
        )
    if series:
        at = series[0]
        if kinds[at] in _SERIES:
            frames, frame_axis = sizes[at], -1
        else:
            channels = sizes[at]
        sizes = sizes[:at] + sizes[at + 1 :]
        depth *= channels * frames
    elif len(sizes) > 3:
        frames, frame_axis = sizes[3], 3
    _check_geometry(fields, path)
    to_mm, measured, notes = _unit(fields, path, len(sizes))
    frame_axis = frame_axis if frames > 1 else None
    return ImageHeader("nrrd", tuple(sizes), depth, channels, frames, frame_axis, to_mm, measured, ".nrrd", notes)


def time_as_list(path: Path, target: Path) -> bool:
    """Write a header that calls the axis of time a list, which ITK reads; the voxels stay where they are.

    Returns:
        Whether that was needed.
    """
    header = read_nrrd_header(path)
    kinds = [kind.lower() for kind in header.fields.get("kinds", "").split()]
    if "time" not in kinds or "space directions" not in header.fields:
        return False
    fields = dict(header.fields)
    fields["kinds"] = " ".join("list" if kind == "time" else kind for kind in kinds)
    if not header.data:
        fields["datafile"], fields["lineskip"] = str(path.resolve()), str(header.lines)
    elif len(header.data) == 1:
        fields["datafile"] = str((path.parent / header.data[0]).resolve())
    else:
        return False
    names = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
    fields.pop("content", None)
    text = "NRRD0005\n" + "".join(f"{names.get(k, k)}: {v}\n" for k, v in fields.items() if k != "datafile")
    target.write_text(f"{text}data file: {fields['datafile']}\n", encoding="utf-8")
    return True


def _kinds(fields: Dict[str, str], count: int) -> List[str]:
    """The kind of every axis; "" stands for a direction in space."""
    given = [kind.lower() for kind in fields.get("kinds", "").split()]
    given = given if len(given) == count else [""] * count
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())
    for n, direction in enumerate(directions if len(directions) == count else []):
        if direction == "none" and given[n] in ("", "???", "none"):
            given[n] = "list"
    # Time among three axes is depth for all that reads it: kept as it always was (a cine saved as a volume).
    return given if count > 3 or "time" not in given else ["" if kind == "time" else kind for kind in given]


def _unit(fields: Dict[str, str], path: Path, axes: int) -> Tuple[float, bool, Tuple[str, ...]]:
    """Length of its unit in mm, whether there is one, and what to say about it."""
    spacings = [part for part in fields.get("spacings", "").split() if part.lower() != "nan"]
    if "space directions" not in fields and not spacings:
        if axes < 3:
            return 1.0, False, ()
        return 1.0, False, (f"'{path.name}' tells no voxel size: sizes are given in voxels.",)
    units = re.findall(r'"([^"]*)"', fields.get("space units", "") or fields.get("units", ""))
    units = [unit.strip() for unit in units if unit.strip() not in ("", "???", "none")]
    names = {unit if unit in _MM else unit.lower() for unit in units}
    if not names:
        return 1.0, True, ()
    if len(names) == 1 and next(iter(names)) in _MM:
        to_mm = _MM[next(iter(names))]
        note = f"The lengths in '{path.name}' are in {units[0]}; they were converted to mm."
        return to_mm, True, () if to_mm == 1.0 else (note,)
    text = ", ".join(map(shown, sorted(names)[:3]))
    return (
        1.0,
        False,
        (f"The lengths in '{path.name}' are in '{text}', which is no length known here: sizes are given in voxels.",),
    )


def _check_geometry(fields: Dict[str, str], path: Path) -> None:
    """Directions and spacings that are given must be some."""
    vectors = [numbers_in(inside) for inside in re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))]
    if vectors:
        if any(len(vector) != len(vectors) for vector in vectors) or len(vectors) > 4:
            raise QMedSAMError(f"'{path.name}' has no valid geometry.", "Correct the spacing and direction in its header.")
        check_axes(path, vectors)
    spacings = [s for s in numbers_in(fields.get("spacings", "")) if not math.isnan(s)]
    if spacings:
        check_axes(path, np.diag(spacings))
    origin = numbers_in(fields.get("space origin", "").strip("() "))
    if not all(map(math.isfinite, origin)):
        raise QMedSAMError(f"'{path.name}' has no valid geometry.", "Correct the origin in its header.")


def _data_files(field: str, listed: List[str], path: Path) -> Tuple[str, ...]:
    if not field:
        return ()
    if field.upper().startswith("LIST"):
        return tuple(line.strip() for line in listed if line.strip())
    numbered = re.fullmatch(r"(.*%\d*d\S*)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})(\s+\d+)?", field)
    if not numbered:
        return (field,)
    pattern, first, last, step = numbered.group(1), *(int(numbered.group(n)) for n in (2, 3, 4))
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else ()
    if not 0 < len(numbers) <= 100_000:
        raise QMedSAMError(f"'{path.name}' names no files of voxels.", "Export it again.")
    return tuple(re.sub(r"%(\d*)d", lambda found, n=n: format(n, found.group(1) or "d"), pattern) for n in numbers)


def _check_voxels(path: Path, header: NrrdHeader, declared: int) -> None:
    """Whether the voxels are there; bytes of text encodings are counted as one per digit."""
    if header.data:
        stored = 0
        for name in header.data:
            beside = path.parent / name
            if not is_there(beside):
                raise QMedSAMError(
                    f"'{path.name}' needs its file of voxels, '{shown(Path(name).name)}', which is not there.", "Copy both files."
                )
            stored += beside.stat().st_size
    else:
        stored = path.stat().st_size - header.end
    encoding = header.fields.get("encoding", "").lower()
    if encoding == "raw" and header.data and stored < declared:
        raise QMedSAMError(
            f"The file of voxels '{shown(Path(header.data[0]).name)}' of '{path.name}' has {stored} bytes, not the {declared} "
            "that are needed.",
            "Copy or export both files again.",
        )
    if encoding == "raw":
        check_sizes(path, declared, stored, 1)
    elif encoding in ("gzip", "gz"):
        check_sizes(path, declared, stored)
    elif encoding in ("text", "txt", "ascii", "hex"):
        check_sizes(path, declared, stored, 8)  # "0 " is the shortest number, of a double at most
    else:
        raise QMedSAMError(f"The voxels of '{path.name}' are packed by '{shown(encoding)}'.", "Save it with gzip, or unpacked.")
    if stored <= 0:
        raise cut(path)
