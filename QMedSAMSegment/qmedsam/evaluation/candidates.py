"""What the network's other answers are worth: every object asked once more for each, and the best of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Answers asked for; the shipped network has three.
MOST = 3


@dataclass(frozen=True)
class Answered:
    """An object's score with one of the network's answers; 0 is the surest."""

    case: str
    source: str
    modality: str
    kind: str
    label: int
    component: int
    candidate: int
    dsc: float
    nsd: float


def candidates_markdown(rows: Sequence[Answered], left_out: Sequence[str]) -> str:
    """Means over sources of the surest answer, of each alone, and of the best one; volumes, their slices and pictures apart.

    Args:
        rows: of all objects.
        left_out: sources that a box cannot prompt; not in the means.
    """
    text = ["", "## The network's other answers", ""]
    for kind, title in (("volume", "Volumes"), ("slice", "Slices of volumes"), ("picture", "Pictures")):
        mine = [row for row in rows if row.kind == kind and row.source not in left_out]
        if not mine:
            continue
        text += [
            f"### {title}",
            "",
            "| | sources | the surest | second | third | the best of them |",
            "| --- | --- |" + " --- |" * (MOST + 1),
        ]
        groups = [("DSC, mean over promptable sources", mine, "dsc"), ("NSD", mine, "nsd")]
        groups += [(f"DSC, {m}", [r for r in mine if r.modality == m], "dsc") for m in sorted({r.modality for r in mine})]
        for name, some, what in groups:
            alone = [_mean([r for r in some if r.candidate == n], what) for n in range(MOST)]
            cells = " | ".join(f"{value:.3f}" for value in (*alone, _mean(some, what)))
            text.append(f"| {name} | {len({(r.modality, r.source) for r in some})} | {cells} |")
        text.append("")
    return "\n".join(text) + "\n"


def _mean(rows: Sequence[Answered], what: str) -> float:
    """Over sources, of the best row of every object."""
    best: dict[tuple[str, str], dict[tuple[str, int, int], float]] = defaultdict(dict)
    for row in rows:
        objects, key = best[row.modality, row.source], (row.case, row.label, row.component)
        objects[key] = max(objects.get(key, -np.inf), np.nan_to_num(getattr(row, what)))
    return float(np.mean([np.mean(list(objects.values())) for objects in best.values()]))
