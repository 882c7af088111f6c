"""Box prompts from Slicer ROI files, plain JSON and challenge ``.npz``, and back to Slicer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from ..errors import QMedSAMError, encodable, shown
from ..geometry import Box, Volume
from ..marks import SliceRectangle
from .challenge import read_arrays
from .lines import boxes_of_lines, line_of
from .marks import marks_of
from .markups import SCHEMA, box_of_roi, markup_name, markup_of
from .numeric import MOST_LETTERS, color_of, is_number, label_of, list_of
from .paths import PathLike, existing_file, writing
from .tables import text_of

#: Most bytes of a file.
_MOST_BYTES = 256 << 20


def read_boxes(path: PathLike, volume: Volume) -> List[Box]:
    """Read box prompts for a volume.

    Args:
        path: one of

            - ``.mrk.json``: Slicer's ROI markups, one or several in the file, rotated or not (a transform that the ROI was
              put under in Slicer is not part of the file: harden it first); or line markups, the long axis of an object each,
              or both axes of one in turn (:mod:`qmedsam.lines`).
            - ``.json``: ``{"boxes": [...]}`` or the bare list. A box is six voxel indices ``[i0, j0, k0, i1, j1, k1]``, both
              ends included (four, ``[i0, j0, i1, j1]``, on a 2D image), or an object with ``"ijk"`` (such a list) or ``"ras"``
              (``{"center": [3 mm], "half_axes": 3 x 3 mm, one axis per column}``) or ``"line"`` (:func:`.lines.line_of`) and, if
              wanted, ``"name"``, ``"label"``, ``"color"`` (0..1), ``"candidate"`` (which answer to take, 0 is the surest),
              strokes and rectangles (:mod:`qmedsam.files.marks`).
            - ``.npz``: the challenge's ``boxes``, ``(N, 6)`` of ``x0 y0 z0 x1 y1 z1`` or ``(N, 4)``, both ends included; or the
              dictionaries of 2025, a rectangle on the middle slice and the first and last slice.
        volume: the image that the boxes belong to.

    Returns:
        Boxes in the file's order with unique labels (their position in the file, from 1, where it gives none). They may lie
        outside the volume.

    Raises:
        QMedSAMError: missing, damaged or foreign file, markups that are no ROI, no box, a label used twice, or a box with a
            wrong number of values.
    """
    path = existing_file(path, "a box file")
    if path.suffix.lower() == ".npz":
        values = read_arrays(path, ("boxes",), pickled=("boxes",))["boxes"]
        if isinstance(values, list):
            return _numbered(_from_dictionaries(values, volume, path), f"'{path.name}' gives")
        if not isinstance(values, np.ndarray):
            raise QMedSAMError(f"'boxes' in '{path.name}' are no list of boxes.", "It must be N x 4 or N x 6 numbers.")
        if values.ndim != 2 or values.dtype.kind not in "iuf":
            raise QMedSAMError(f"'boxes' in '{path.name}' has the shape {values.shape}.", "It must be N x 4 or N x 6 numbers.")
        boxes = [_from_indices(row.tolist(), volume, {}, _where(path, n)) for n, row in enumerate(values, 1)]
    elif path.suffix.lower() == ".json":
        content = _load(path)
        if isinstance(content, dict) and "markups" in content:
            boxes = _from_markups(content["markups"], volume, path)
        else:
            boxes = _from_plain(content, volume, path)
    else:
        raise QMedSAMError(f"'{path.name}' is not a box file.", "Give a Slicer .mrk.json, a .json or a challenge .npz.")
    if not boxes:
        raise QMedSAMError(f"'{path.name}' holds no box.", "Draw at least one ROI.")
    return _numbered(boxes, f"'{path.name}' gives")


def boxes_of(entries: Any, volume: Volume, name: str) -> List[Box]:
    """The same for what would stand in a plain ``.json``; ``name`` says in messages where it stands.

    Raises:
        QMedSAMError: as for :func:`read_boxes`.
    """
    boxes = _from_plain(entries, volume, Path(name))
    if not boxes:
        raise QMedSAMError(f"'{name}' holds no box.", "Give at least one.")
    return _numbered(boxes, f"'{name}' gives")


def _from_dictionaries(entries: List[Any], volume: Volume, path: Path) -> List[Box]:
    """The boxes of the challenge of 2025: a rectangle on one slice, the middle of a range where they name none."""
    names = ("z_mid_x_min", "z_mid_y_min", "z_min", "z_mid_x_max", "z_mid_y_max", "z_max")
    boxes = []
    for n, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not all(is_number(entry.get(name)) for name in names):
            raise QMedSAMError(
                f"{_where(path, n)} is not a box of the challenge of 2025.", f"It must name {', '.join(names)}, each a number."
            )
        x0, y0, z0, x1, y1, z1 = (float(entry[name]) for name in names)
        middle = entry["z_mid"] if is_number(entry.get("z_mid")) else np.floor((z0 + z1) / 2)
        box = _from_indices([x0, y0, z0, x1, y1, z1], volume, {}, _where(path, n))
        boxes.append(replace(box, rectangles=(SliceRectangle(2, int(middle), (x0 - 0.5, y0 - 0.5, x1 + 0.5, y1 + 0.5)),)))
    return boxes


def write_boxes(path: PathLike, boxes: Sequence[Box], volume: Volume) -> None:
    """Write boxes as ROI markups that 3D Slicer opens.

    Args:
        path: ends in ``.json`` (Slicer expects ``.mrk.json``).
        boxes: at least one.
        volume: the image that they belong to.

    Raises:
        QMedSAMError: no box, a label used twice, another suffix, a box whose sides are not at right angles in space (a
            Slicer ROI is a cuboid; voxel-aligned boxes on a sheared grid are not), anything else that :func:`read_boxes`
            would refuse (a color or label that is none, a box without size), or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise QMedSAMError(f"Boxes cannot be written to '{path.name}'.", "Give a name that ends in .mrk.json.")
    if not boxes:
        raise QMedSAMError("There is no box to write.", "Draw at least one ROI.")
    markups = [markup_of(box, volume) for box in _numbered(boxes, "The boxes give")]
    text = json.dumps({"@schema": SCHEMA, "markups": markups}, indent=2, ensure_ascii=False)
    _from_markups(json.loads(text)["markups"], volume, path)
    with writing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def _numbered(boxes: Sequence[Box], who: str) -> List[Box]:
    """Labels that are given, else the position from 1."""
    numbered = [box if box.label else replace(box, label=n) for n, box in enumerate(boxes, 1)]
    twice = next((label for label, count in Counter(box.label for box in numbered).items() if count > 1), 0)
    if twice:
        raise QMedSAMError(f"{who} the label {twice} to several boxes.", "Give every box its own label, or none to all.")
    return numbered


def _load(path: Path) -> Any:
    if path.stat().st_size > _MOST_BYTES:
        raise QMedSAMError(f"'{path.name}' is too large for a file of boxes.", "Save the ROI from Slicer as .mrk.json.")
    try:
        return json.loads(text_of(path.read_bytes()))  # editors on Windows save "Unicode" as UTF-16, with a mark
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or no text at all
        raise QMedSAMError(f"'{path.name}' is not a JSON file.", "Save the ROI from Slicer as .mrk.json.") from error


def _where(path: Path, n: int) -> str:
    return f"Box {n} in '{path.name}'"


def _attributes(entry: Dict[str, Any], where: str) -> Dict[str, Any]:
    """``name``, ``label``, ``color`` and ``candidate`` of an object of a plain file."""
    color, label, name = entry.get("color"), entry.get("label", 0), entry.get("name", "")
    if not isinstance(name, str):
        raise QMedSAMError(f"The name of {where} is not a text.", "Put it in quotes.")
    name = encodable(name[:MOST_LETTERS])
    candidate = entry.get("candidate", 0)
    if not is_number(candidate) or candidate not in range(100):
        raise QMedSAMError(f"The candidate of {where} is not a whole number from 0.", "0 is the network's surest answer.")
    given = {"label": label_of(label, where), "color": None if color is None else color_of(color, where)}
    return {"name": name, "candidate": int(candidate), **given}


def _from_indices(value: Any, volume: Volume, attributes: Dict[str, Any], where: str) -> Box:
    return box_of_indices(list_of(value, (4, 6), where), volume, where, **attributes)


def box_of_indices(numbers: Sequence[float], volume: Volume, where: str, **attributes: Any) -> Box:
    """A box of four (of a picture) or six voxel indices, both ends included.

    Args:
        numbers: ``i0, j0, (k0,) i1, j1, (k1)``.
        volume: the image.
        where: which box it is, for messages.
        attributes: ``label``, ``name`` and ``color``.

    Raises:
        QMedSAMError: four on a volume, or numbers that are in another order or shares of the image.
    """
    numbers = [float(v) for v in numbers]
    if len(numbers) == 4 and volume.shape_ijk[2] != 1:
        raise QMedSAMError(
            f"{where} has four numbers, but the image has {volume.shape_ijk[2]} slices.", "Give six: i0,j0,k0,i1,j1,k1."
        )
    half = len(numbers) // 2
    names = "ijk"[:half]
    order = ",".join([f"{n}0" for n in names] + [f"{n}1" for n in names])
    if all(0 <= v <= 1 for v in numbers) and any(v not in (0, 1) for v in numbers):
        raise QMedSAMError(
            f"{where} holds shares of the image ({', '.join(f'{v:g}' for v in numbers)}), not voxel indices.",
            f"Multiply them by the image's size ({' x '.join(map(str, volume.shape_ijk[:half]))}): {order}.",
        )
    backwards = [n for n, low, high in zip(names, numbers[:half], numbers[half:]) if low > high]
    if backwards and all(low < high for low, high in zip(numbers[::2], numbers[1::2])):
        pairs = ",".join(f"{n}0,{n}1" for n in names)
        turned = [f"{v:g}" for v in (*numbers[::2], *numbers[1::2])]
        raise QMedSAMError(
            f"{where} runs backwards along {' and '.join(backwards)}: its numbers seem to be in the order {pairs}.",
            f"The order is {order}: {','.join(turned)}.",
        )
    if half == 2:
        numbers = [*numbers[:2], 0.0, *numbers[2:], 0.0]
    return Box.from_voxels(numbers[:3], numbers[3:], **attributes)


def _from_plain(content: Any, volume: Volume, path: Path) -> List[Box]:
    entries = content.get("boxes") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise QMedSAMError(f"'{path.name}' has no list of boxes.", 'Give {"boxes": [[i0, j0, k0, i1, j1, k1], ...]}.')
    boxes = []
    for n, entry in enumerate(entries, 1):
        where = _where(path, n)
        if not isinstance(entry, dict):
            boxes.append(_from_indices(entry, volume, {}, where))
            continue
        if "line" in entry:
            boxes.append(line_of(entry, volume, where, _attributes(entry, where)))
        elif "ijk" in entry:
            boxes.append(_from_indices(entry["ijk"], volume, _attributes(entry, where), where))
        elif isinstance(entry.get("ras"), dict):
            center = list_of(entry["ras"].get("center"), (3,), f"The center of {where}")
            rows = entry["ras"].get("half_axes")
            if not isinstance(rows, list) or len(rows) != 3:
                raise QMedSAMError(f"The half_axes of {where} are not 3 x 3 numbers.", "Give one row each for R, A and S.")
            axes = np.array([list_of(row, (3,), f"A row of half_axes of {where}") for row in rows])
            boxes.append(Box.from_ras(center, axes, volume.ijk_to_ras, **_attributes(entry, where)))
        else:
            raise QMedSAMError(f"{where} has neither 'ijk' nor 'ras' nor 'line'.", "Give one of them.")
        strokes, rectangles = marks_of(entry, volume, where)
        boxes[-1] = replace(boxes[-1], strokes=strokes, rectangles=(*boxes[-1].rectangles, *rectangles))
    return boxes


def _from_markups(markups: Any, volume: Volume, path: Path) -> List[Box]:
    if not isinstance(markups, list) or not all(isinstance(m, dict) for m in markups):
        raise QMedSAMError(f"'{path.name}' has no list of markups.", "Save the ROI from Slicer as .mrk.json.")
    others = sorted({shown(m.get("type")) for m in markups if m.get("type") not in ("ROI", "Line")})
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise QMedSAMError(
            f"'{path.name}' holds markups that are no ROI and no line: {', '.join(others[:3])}{more}.",
            "Save only ROI boxes or lines in it.",
        )
    named = [(m, markup_name(m, n if len(markups) > 1 else 0, path)) for n, m in enumerate(markups, 1)]
    boxes = [box_of_roi(m, name, volume) for m, name in named if m["type"] == "ROI"]
    lines = [(m, name) for m, name in named if m["type"] == "Line"]
    return boxes + boxes_of_lines([m for m, _ in lines], [name for _, name in lines], volume)
