"""Slicer's markups files: ROIs as boxes, lines as the axes of lesions, and boxes back to ROIs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError, encodable, shown
from ..geometry import Box, Volume
from .grids import LPS_TO_RAS
from .numeric import MOST_LETTERS, color_of, label_of, list_of
from .paths import name_of
from .segmentations import one_line

#: What Slicer writes since it has ROI markups. An identifier, not an address: nothing is fetched.
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
)

#: How far an ROI's axes may be from orthonormal; Slicer writes 16 digits, hand-made files at least four.
_ORTHONORMAL = 1e-3
#: mm that no patient reaches; a product of such numbers stays finite.
_FARTHEST = 1e100


def markup_name(markup: Mapping[str, Any], n: int, path: Path) -> str:
    """Its name, else the file's for the only one (``n`` is 0), else what its control point's label has before the number.

    Slicer 5.12 writes one ROI per file and no name, and takes the name from the file; the label keeps the name that the ROI
    was born with.
    """
    label = re.sub(r"-\d+$", "", str(_first_point(markup).get("label", ""))[:MOST_LETTERS]) if n else name_of(path)
    return encodable(str(markup.get("name") or label or f"{name_of(path)}_{n}")[:MOST_LETTERS])


def _first_point(markup: Mapping[str, Any]) -> Dict[str, Any]:
    points = markup.get("controlPoints")
    return points[0] if isinstance(points, list) and points and isinstance(points[0], dict) else {}


def box_of_roi(markup: Mapping[str, Any], name: str, volume: Volume) -> Box:
    """The box of a ROI markup.

    Raises:
        QMedSAMError: something of it is missing or wrong.
    """
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
    in_ras = to_ras(markup, where)
    return Box.from_ras(
        in_ras @ center,
        in_ras @ axes * (size / 2),
        volume.ijk_to_ras,
        name=name,
        label=label_of(markup.get("labelValue", 0), where),
        color=_display_color(markup, where),
    )


def to_ras(markup: Mapping[str, Any], where: str) -> np.ndarray:
    """``3 x 3`` from a markup's coordinates to RAS in mm.

    Raises:
        QMedSAMError: another system or unit than Slicer's.
    """
    system = shown(markup.get("coordinateSystem", "LPS")).upper()
    if system not in ("LPS", "RAS", "0", "1"):  # 0 and 1 are Slicer's numbers for the two systems
        raise QMedSAMError(f"{where} is in the unknown coordinate system '{system}'.", "Use LPS or RAS.")
    units = markup.get("coordinateUnits", "mm")
    units = units[0] if isinstance(units, list) and units else units  # a string or a DICOM code (value, scheme, meaning)
    if units not in ("mm", "um"):
        raise QMedSAMError(f"{where} is in the unknown unit '{shown(units)}'.", "Use mm.")
    return (np.eye(3) if system in ("RAS", "0") else LPS_TO_RAS[:3, :3]) * (1.0 if units == "mm" else 1e-3)


def _display_color(markup: Mapping[str, Any], where: str) -> Optional[Tuple[float, float, float]]:
    display = markup.get("display")
    display = display if isinstance(display, dict) else {}
    color = display.get("selectedColor", display.get("color"))
    return None if color is None else color_of(color, where)


def markup_of(box: Box, volume: Volume) -> Dict[str, Any]:
    """A box as a ROI markup.

    Raises:
        QMedSAMError: it is no cuboid in space, or lies too far away.
    """
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
