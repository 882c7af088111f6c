"""Lines of files: the axes of lesions as prompts, and the diameters of what was found as Slicer's line markups."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Box, Volume
from ..lines import box_of_line, crossing
from ..measures import Diameters
from .grids import LPS_TO_RAS
from .marks import points_of, to_ijk
from .markups import SCHEMA, to_ras
from .numeric import list_of
from .paths import PathLike, writing


def line_of(entry: Mapping[str, Any], volume: Volume, where: str, attributes: Dict[str, Any]) -> Box:
    """The box of an object of a plain file that has ``"line"`` and, if wanted, ``"across"``.

    Either is two points (voxel indices, three each; two on a picture), or ``{"ijk": ...}`` or ``{"ras": ...}`` with them.

    Raises:
        QMedSAMError: they are no lines on one slice.
    """
    lines = [_ends(entry[key], volume, f"'{key}' of {where}") if key in entry else None for key in ("line", "across")]
    assert lines[0] is not None
    return box_of_line(lines[0], lines[1], volume, **attributes)


def _ends(value: Any, volume: Volume, what: str) -> np.ndarray:
    points, _ = points_of(value if isinstance(value, dict) else {"ijk": value}, volume, what)
    if len(points) != 2:
        raise QMedSAMError(f"{what} is not two points.", "Give its ends: [[i0, j0, k0], [i1, j1, k1]].")
    return points


def boxes_of_lines(markups: Sequence[Mapping[str, Any]], names: Sequence[str], volume: Volume) -> List[Box]:
    """One box for every line markup of a Slicer file, or for two that cross each other on one slice.

    Args:
        markups: of the type ``Line``, with their ``controlPoints``.
        names: of each.
        volume: the image.

    Raises:
        QMedSAMError: a line without both ends, or one that lies in no slice.
    """
    ends = [_of_markup(markup, f"Line '{name}'", volume) for markup, name in zip(markups, names)]
    boxes, n = [], 0
    while n < len(ends):
        second = ends[n + 1] if n + 1 < len(ends) and crossing(ends[n], ends[n + 1], volume) else None
        boxes.append(box_of_line(ends[n], second, volume, name=names[n]))
        n += 1 if second is None else 2
    return boxes


def _of_markup(markup: Mapping[str, Any], where: str, volume: Volume) -> np.ndarray:
    points = markup.get("controlPoints")
    places = [point.get("position") for point in points if isinstance(point, dict)] if isinstance(points, list) else []
    if len(places) != 2:
        raise QMedSAMError(f"{where} does not have two ends.", "Draw it with two clicks.")
    ends = np.array([list_of(place, (3,), f"An end of {where}") for place in places])
    return to_ijk(ends @ to_ras(markup, where).T, volume)


def write_diameters(path: PathLike, found: Mapping[int, Diameters], names: Mapping[int, str], volume: Volume) -> None:
    """Write both axes of every object as line markups that 3D Slicer opens.

    Args:
        path: ends in ``.json`` (Slicer expects ``.mrk.json``).
        found: by label, see :func:`qmedsam.measures.diameters`.
        names: of the labels.
        volume: the image.

    Raises:
        QMedSAMError: the file cannot be written.
    """
    markups = []
    for label, one in found.items():
        for axis, ends, length in (("long", one.long_ijk, one.long_mm), ("short", one.short_ijk, one.short_mm)):
            name = f"{names[label]} {axis} {length:.1f} mm"
            to_lps = LPS_TO_RAS @ volume.ijk_to_ras
            places = ends @ to_lps[:3, :3].T + to_lps[:3, 3]
            points = [
                {"id": str(n), "label": f"{name}-{n}", "position": place.tolist(), "positionStatus": "defined"}
                for n, place in enumerate(places, 1)
            ]
            markups.append(
                {"type": "Line", "name": name, "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
            )
    with writing(path) as beside:
        text = json.dumps({"@schema": SCHEMA, "markups": markups}, indent=2, ensure_ascii=False)
        beside.write_text(text + "\n", encoding="utf-8")
