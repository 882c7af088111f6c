"""The challenge's own scoring, with its mistakes, beside the same scores done right.

Whoever compares with published numbers needs the first; whoever wants to know how good a mask is, the second. What the
published script does (CVPR 2024 "MedSAM on Laptop", evaluation of DSC and NSD):

- a case's DSC is the mean over its labels 1 to the highest; a label that neither side has makes it NaN;
- its NSD is counted as 0 where its DSC is not above 0.2;
- the spacing, stored as x y z, is applied to arrays in the order z y x;
- a picture is scored as a slab one voxel thick, whose top and bottom count as surface: NSD then measures mostly area.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

import numpy as np

from ..geometry import Point
from .rows import rows_csv
from .scores import dsc, nsd

#: mm in 3D, pixels in 2D.
TOLERANCE = 2.0
#: A case whose DSC is not above this gets no NSD.
LEAST_DSC = 0.2


@dataclass(frozen=True)
class OfficialScore:
    """A case, scored in both ways: means over its labels. ``kind``: ``volume`` or ``picture``."""

    case: str
    kind: str
    modality: str
    source: str
    labels: int
    official_dsc: float
    official_nsd: float
    dsc: float
    nsd: float


def official_score(
    case: str,
    modality: str,
    source: str,
    truth_kji: np.ndarray,
    labels_kji: np.ndarray,
    spacing_xyz: Point,
    is_3d: bool,
) -> OfficialScore:
    """Score a label array.

    Args:
        case, modality, source: for the row.
        truth_kji: labels from 1; a picture has one slice.
        labels_kji: the same shape.
        spacing_xyz: mm; not looked at in 2D.
        is_3d: a volume, not a picture.
    """
    dscs, wrong, right = [], [], []
    for label in range(1, int(truth_kji.max(initial=0)) + 1):
        a, b = (_cropped(array == label, truth_kji, labels_kji, label) for array in (truth_kji, labels_kji))
        dscs.append(dsc(a, b))
        if is_3d:
            wrong.append(nsd(a, b, tuple(spacing_xyz), TOLERANCE))
            right.append(nsd(a, b, tuple(spacing_xyz)[::-1], TOLERANCE))
        else:
            wrong.append(nsd(a, b, (1, 1, 1), TOLERANCE))
            right.append(nsd(a[0], b[0], (1, 1), TOLERANCE))
    mean = float(np.mean(dscs)) if dscs else math.nan
    gated = float(np.mean(wrong)) if mean > LEAST_DSC else 0.0
    return OfficialScore(
        case, "volume" if is_3d else "picture", modality, source, len(dscs), mean, gated, _mean(dscs), _mean(right)
    )


def official_csv(rows: Sequence[OfficialScore]) -> str:
    """The rows as CSV text, five decimals."""
    return rows_csv(OfficialScore, rows, 5)


def official_markdown(rows: Sequence[OfficialScore]) -> str:
    """Means over cases by modality, as the challenge's table has them, both ways; volumes and pictures apart."""
    lines = ["", "## The challenge's conventions"]
    for kind in ("volume", "picture"):
        own = [row for row in rows if row.kind == kind]
        if own:
            lines += _table(kind, own)
    lines += [
        "",
        "Means over the labels of a case, then over cases; masks as they lie in the label map. Official: NaN where neither",
    ]
    lines += ["side has a label, NSD 0 where the DSC is not above 0.2, spacing in the order x y z on arrays in z y x, pictures"]
    lines += ["scored as slabs. The two columns on the right: the same masks without these."]
    return "\n".join(lines) + "\n"


def _table(kind: str, rows: Sequence[OfficialScore]) -> List[str]:
    lines = [
        "",
        f"| {kind}s of modality | cases | official DSC | official NSD | DSC | NSD |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    means = []
    for modality, members in _by_modality(rows):
        values = [float(np.mean([getattr(row, name) for row in members])) for name in ("official_dsc", "official_nsd")]
        values += [_mean([getattr(row, name) for row in members]) for name in ("dsc", "nsd")]
        means.append(values)
        lines.append(f"| {modality} | {len(members)} | " + " | ".join(f"{v:.4f}" for v in values) + " |")
    average = [f"{v:.4f}" for v in np.mean(means, axis=0)]
    return [*lines, f"| mean of modalities | {len(rows)} | " + " | ".join(average) + " |"]


def _cropped(mask: np.ndarray, truth_kji: np.ndarray, labels_kji: np.ndarray, label: int) -> np.ndarray:
    """The mask within the smallest box that holds the label in both arrays; surfaces do not depend on what is around."""
    crop = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero((truth_kji == label).any(axis=others) | (labels_kji == label).any(axis=others))
        crop.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return mask[tuple(crop)]


def _by_modality(rows: Sequence[OfficialScore]) -> Iterator[Tuple[str, List[OfficialScore]]]:
    for modality in sorted({row.modality for row in rows}):
        yield modality, [row for row in rows if row.modality == modality]


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return float(np.mean(finite)) if finite else math.nan
