"""Box prompts from Slicer ROI files, plain JSON and challenge ``.npz``, and back to Slicer."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError, encodable, shown
from ..geometry import Box, Volume
from ..marks import SliceRectangle
from .challenge import read_arrays
from .grids import LPS_TO_RAS
from .marks import marks_of
from .numeric import is_number, list_of
from .paths import PathLike, existing_file, name_of, writing
from .segmentations import one_line
from .tables import text_of

#: What Slicer writes since it has ROI markups. An identifier, not an address: nothing is fetched.
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)

#: How far an ROI's axes may be from orthonormal; Slicer writes 16 digits, hand-made files at least four.
_ORTHONORMAL = 1e-3
#: Most letters of a name, and bytes of a file.
_MOST_LETTERS = 1000
_MOST_BYTES = 256 << 20


#: mm that no patient reaches; a product of such numbers stays finite.
_FARTHEST = 1e100


def read_boxes(path: PathLike, volume: Volume) -> List[Box]:
    """Read box prompts for a volume.

    Args:
        path: one of

            - ``.mrk.json``: Slicer's ROI markups, one or several in the file, rotated or not (a transform that the ROI was
              put under in Slicer is not part of the file: harden it first).
            - ``.json``: ``{"boxes": [...]}`` or the bare list. A box is six voxel indices ``[i0, j0, k0, i1, j1, k1]``, both
              ends included (four, ``[i0, j0, i1, j1]``, on a 2D image), or an object with ``"ijk"`` (such a list) or ``"ras"``
              (``{"center": [3 mm], "half_axes": 3 x 3 mm, one axis per column}``) and, if wanted, ``"name"``, ``"label"``,
              ``"color"`` (0..1), strokes and rectangles (:mod:`qmedsam.files.marks`).
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
    markups = [_markup_of(box, volume) for box in _numbered(boxes, "The boxes give")]
    text = json.dumps({"@schema": _SCHEMA, "markups": markups}, indent=2, ensure_ascii=False)
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
    """``name``, ``label`` and ``color`` of an object of a plain file."""
    color, label, name = entry.get("color"), entry.get("label", 0), entry.get("name", "")
    if not isinstance(name, str):
        raise QMedSAMError(f"The name of {where} is not a text.", "Put it in quotes.")
    name = encodable(name[:_MOST_LETTERS])
    return {"name": name, "label": _label(label, where), "color": None if color is None else _color(color, where)}


def _label(value: Any, where: str) -> int:
    if not is_number(value) or value != int(value) or not 0 <= value <= 65535:
        raise QMedSAMError(f"The label of {where} is not a whole number from 1 to 65535.", "Correct the file.")
    return int(value)


def _color(value: Any, where: str) -> Tuple[float, float, float]:
    red, green, blue = list_of(value, (3,), f"The color of {where}")
    if not all(0 <= c <= 1 for c in (red, green, blue)):
        raise QMedSAMError(f"The color of {where} is not red, green and blue between 0 and 1.", "Divide by 255.")
    return red, green, blue


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
        if "ijk" in entry:
            boxes.append(_from_indices(entry["ijk"], volume, _attributes(entry, where), where))
        elif isinstance(entry.get("ras"), dict):
            center = list_of(entry["ras"].get("center"), (3,), f"The center of {where}")
            rows = entry["ras"].get("half_axes")
            if not isinstance(rows, list) or len(rows) != 3:
                raise QMedSAMError(f"The half_axes of {where} are not 3 x 3 numbers.", "Give one row each for R, A and S.")
            axes = np.array([list_of(row, (3,), f"A row of half_axes of {where}") for row in rows])
            boxes.append(Box.from_ras(center, axes, volume.ijk_to_ras, **_attributes(entry, where)))
        else:
            raise QMedSAMError(f"{where} has neither 'ijk' nor 'ras'.", "Give one of them.")
        strokes, rectangles = marks_of(entry, volume, where)
        boxes[-1] = replace(boxes[-1], strokes=strokes, rectangles=rectangles)
    return boxes


def _from_markups(markups: Any, volume: Volume, path: Path) -> List[Box]:
    if not isinstance(markups, list) or not all(isinstance(m, dict) for m in markups):
        raise QMedSAMError(f"'{path.name}' has no list of markups.", "Save the ROI from Slicer as .mrk.json.")
    others = sorted({shown(m.get("type")) for m in markups if m.get("type") != "ROI"})
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise QMedSAMError(
            f"'{path.name}' holds markups that are no ROI: {', '.join(others[:3])}{more}.", "Save only ROI boxes in it."
        )
    return [_from_roi(m, _markup_name(m, n if len(markups) > 1 else 0, path), volume) for n, m in enumerate(markups, 1)]


def _markup_name(markup: Dict[str, Any], n: int, path: Path) -> str:
    """Its name, else the file's for the only one (``n`` is 0), else what its control point's label has before the number.

    Slicer 5.12 writes one ROI per file and no name, and takes the name from the file; the label keeps the name that the ROI
    was born with.
    """
    label = re.sub(r"-\d+$", "", str(_first_point(markup).get("label", ""))[:_MOST_LETTERS]) if n else name_of(path)
    return encodable(str(markup.get("name") or label or f"{name_of(path)}_{n}")[:_MOST_LETTERS])


def _first_point(markup: Dict[str, Any]) -> Dict[str, Any]:
    points = markup.get("controlPoints")
    return points[0] if isinstance(points, list) and points and isinstance(points[0], dict) else {}


def _from_roi(markup: Dict[str, Any], name: str, volume: Volume) -> Box:
    where = f"ROI '{shown(name)}'"
    if markup.get("roiType", "Box") not in ("Box", "BoundingBox"):
        raise QMedSAMError(f"{where} is of the type {shown(markup['roiType'])}.", "Only boxes can be prompts.")
    # Without a center (hand-made files) the one control point of a Box is it.
    center = list_of(markup.get("center", _first_point(markup).get("position")), (3,), f"The center of {where}")
    axes = np.array(list_of(markup.get("orientation", np.eye(3).ravel().tolist()), (9,), f"The orientation of {where}"))
    axes = axes.reshape(3, 3)
    if np.abs(axes.T @ axes - np.eye(3)).max() > _ORTHONORMAL:
        raise QMedSAMError(f"The axes of {where} are not at right angles and of length 1.", "Draw the ROI again.")
    size = np.array(list_of(markup.get("size"), (3,), f"The size of {where}"))
    if (size > 0).sum() < 2:
        raise QMedSAMError(f"{where} has no size.", "It was never placed, or is only a point or a line: draw it again.")
    to_ras, to_mm = _system(markup, where), _units(markup, where)
    return Box.from_ras(
        to_ras @ center * to_mm,
        to_ras @ axes * (size / 2 * to_mm),
        volume.ijk_to_ras,
        name=name,
        label=_label(markup.get("labelValue", 0), where),
        color=_display_color(markup, where),
    )


def _system(markup: Dict[str, Any], where: str) -> np.ndarray:
    """``3 x 3`` to RAS; 0 and 1 are Slicer's numbers for the two systems."""
    system = shown(markup.get("coordinateSystem", "LPS")).upper()
    if system not in ("LPS", "RAS", "0", "1"):
        raise QMedSAMError(f"{where} is in the unknown coordinate system '{system}'.", "Use LPS or RAS.")
    return np.eye(3) if system in ("RAS", "0") else LPS_TO_RAS[:3, :3]


def _units(markup: Dict[str, Any], where: str) -> float:
    """Length of the ROI's unit in mm; a string or a DICOM code (value, scheme, meaning)."""
    units = markup.get("coordinateUnits", "mm")
    units = units[0] if isinstance(units, list) and units else units
    if units not in ("mm", "um"):
        raise QMedSAMError(f"{where} is in the unknown unit '{shown(units)}'.", "Use mm.")
    return 1.0 if units == "mm" else 1e-3


def _display_color(markup: Dict[str, Any], where: str) -> Optional[Tuple[float, float, float]]:
    display = markup.get("display")
    display = display if isinstance(display, dict) else {}
    color = display.get("selectedColor", display.get("color"))
    return None if color is None else _color(color, where)


def _markup_of(box: Box, volume: Volume) -> Dict[str, Any]:
    name = one_line(box.name) or f"ROI_{box.label}"
    with np.errstate(all="ignore"):
        center = (volume.ijk_to_ras @ np.append(box.center_ijk, 1.0))[:3]
        half_axes = volume.ijk_to_ras[:3, :3] @ box.half_axes_ijk
    if not np.abs([*center, *half_axes.ravel()]).max() < _FARTHEST:
        raise QMedSAMError(f"The box '{name}' lies too far away, or is too large.", "Draw it on the image.")
    # The polar factor: for perpendicular columns it is their directions, and it completes those of zero length.
    left, _, right = np.linalg.svd(half_axes)
    axes = left @ right
    sizes = axes.T @ half_axes
    if np.abs(sizes - np.diag(np.diag(sizes))).max() > 1e-4 * np.abs(sizes).max():
        raise QMedSAMError(
            f"The sides of the box '{name}' are not at right angles in space.",
            "A Slicer ROI is a cuboid: resample the volume onto a regular grid.",
        )
    if np.linalg.det(axes) < 0:  # Slicer wants a rotation; a cuboid does not mind which way an axis points
        axes[:, 0] *= -1
    center, axes = LPS_TO_RAS[:3, :3] @ center, LPS_TO_RAS[:3, :3] @ axes
    placed = {"position": center.tolist(), "orientation": axes.ravel().tolist()}
    markup: Dict[str, Any] = {
        "type": "ROI",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        "roiType": "Box",
        "center": placed["position"],
        "orientation": placed["orientation"],
        "size": (2 * np.abs(np.diag(sizes))).tolist(),
        "insideOut": False,
        "labelValue": box.label,  # ours: Slicer passes over it and drops it when it saves
        "controlPoints": [{"id": "1", "label": f"{name}-1", "positionStatus": "defined", **placed}],
    }
    if box.color is not None:
        markup["display"] = {"color": list(box.color), "selectedColor": list(box.color)}
    return markup
