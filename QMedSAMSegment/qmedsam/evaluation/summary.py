"""From scores to tables: means, intervals, which cases to show. Nothing here touches an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rows import rows_csv
from .scores import bootstrap_interval

#: Sources whose targets are thin lines or hardly visible: no box says what is meant. Reported apart.
NOT_PROMPTABLE = ("fives", "hvdropdb_ridge", "cpaisd_stroke")
#: What a row is, and how its table is headed; in the order of the page. They are never averaged with each other.
KINDS = {
    "volume": "3D boxes on volumes",
    "slice": "single slices of volumes",
    "picture": "pictures",
}
#: Targets that cover less of the slice (in 3D: of the slice that they cover most of) are reported apart.
SMALL = 0.01
#: Prompts from which one case may make up most of a source; a case of many labels does so.
_MANY = 10


@dataclass(frozen=True)
class Score:
    """One row of ``scores.csv``: one prompt.

    Attributes:
        case: its id.
        patient: whose it is.
        label: of the object in the case's mask.
        name: of the label, where one is known.
        component: number of the connected component within the label, the largest is 1.
        source: data set.
        modality: of the case.
        kind: one of :data:`KINDS`: a 3D box scored in 3D, one slice of a volume, or a picture.
        voxels: size of the target.
        share: of the slice that the target covers; in 3D of the slice that it covers most of.
        dsc: of the prediction.
        nsd: of the prediction, tolerance 2 mm or 2 px.
        ellipse_dsc: of the ellipse or ellipsoid inscribed in the prompt.
        confidence: that the model gave itself.
        seconds: the case's time without loading the model, shared evenly among its prompts.
    """

    case: str
    patient: str
    label: int
    name: str
    component: int
    source: str
    modality: str
    kind: str
    voxels: int
    share: float
    dsc: float
    nsd: float
    ellipse_dsc: float
    confidence: float
    seconds: float

    @property
    def group(self) -> str:
        """Modality and source: what is averaged over before the mean over sources."""
        return f"{self.modality}/{self.source}"

    @property
    def gain(self) -> float:
        """DSC above the ellipse's."""
        return self.dsc - self.ellipse_dsc


def summarize(rows: Sequence[Score], not_promptable: Sequence[str] = NOT_PROMPTABLE) -> dict[str, Any]:
    """Means of scores, apart for every kind of row: what holds for pictures says little of volumes.

    A source's mean is over its prompts. The means above it are over the sources' means, so that a source with many
    prompts counts as much as one with few; their intervals resample the patients within every source.

    Args:
        rows: one per prompt.
        not_promptable: names of sources that only the list of sources and the mean over all sources contain.

    Returns:
        By kind, as far as there are rows: ``mean`` (over promptable sources), ``mean_all``, ``small`` (the mean over
        promptable sources' small targets), each None without rows, ``modalities`` and ``sources`` (lists). Every entry
        holds ``sources``, ``cases``, ``prompts``, ``dsc``, ``dsc_interval``, ``median`` (over prompts), ``nsd``,
        ``ellipse_dsc``, ``gain``, ``gain_interval``, ``seconds``; a source also ``heaviest``, the case that outweighs all
        others. ``headline`` names the kind that a reader should see
        first (volumes before pictures; None without rows).
    """
    parts = {kind: [row for row in rows if row.kind == kind] for kind in KINDS}
    parts = {kind: own for kind, own in parts.items() if own}
    return {"headline": next(iter(parts), None), **{kind: _part(own, not_promptable) for kind, own in parts.items()}}


def _part(rows: Sequence[Score], not_promptable: Sequence[str]) -> dict[str, Any]:
    promptable = [row for row in rows if row.source not in not_promptable]
    sources = []
    for members in _split(rows, lambda row: row.group):
        first = members[0]
        kind = {"modality": first.modality, "source": first.source, "promptable": first.source not in not_promptable}
        sources.append({**kind, **_mean(members), "heaviest": _heaviest(members)})
    return {
        "mean": _mean(promptable) if promptable else None,
        "mean_all": _mean(rows),
        "small": _mean(small) if (small := [row for row in promptable if row.share < SMALL]) else None,
        "modalities": [{"modality": m[0].modality, **_mean(m)} for m in _split(promptable, lambda row: row.modality)],
        "sources": sources,
    }


def _heaviest(rows: Sequence[Score]) -> dict[str, Any] | None:
    """The case with more than half of the prompts of a source of several cases; None where there is none."""
    (case, count), *others = Counter(row.case for row in rows).most_common()
    return {"case": case, "prompts": count} if others and count >= _MANY and 2 * count > len(rows) else None


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a page of tables (what ``evaluate`` returns, or ``summarize`` alone)."""
    lines = ["# Evaluation", ""]
    if summary.get("settings"):
        lines += [", ".join(f"{key}: {value}" for key, value in summary["settings"].items()), ""]
    headline = summary.get("headline")
    if headline:
        m = summary[headline]["mean"] or summary[headline]["mean_all"]
        interval = _range(m["dsc_interval"], ".3f")
        about = f" (95 % interval {interval})" if interval != "-" else ""
        told = f"**{KINDS[headline][0].upper()}{KINDS[headline][1:]}: DSC {m['dsc']:.3f}**{about}, NSD {m['nsd']:.3f}, "
        told += f"ellipse DSC {m['ellipse_dsc']:.3f}; mean over {m['sources']} source(s), {m['prompts']} prompt(s)."
        lines += [told, ""]
    lines += ["A source's mean is over its prompts, every mean above it over the sources' means; medians are over prompts."]
    lines += ["Volumes and pictures are never averaged with each other. Intervals: bootstrap of the patients within their"]
    lines += ["sources. The ellipse (ellipsoid) is the one inscribed in the prompt. NSD: 2 mm, or 2 px on pictures without"]
    lines += [f"spacing. Small: under {SMALL:.0%} of the slice (in 3D of its largest section's)."]
    for kind, name in KINDS.items():
        if summary.get(kind):
            lines += _tables(name[0].upper() + name[1:], summary[kind])
    if summary.get("failed"):
        lines += ["", "## Cases that could not be scored", ""]
        lines += [f"- {f['case']}: {f['reason']}" for f in summary["failed"]]
    if summary.get("without_prompt"):
        lines += ["", "## Cases without an object large enough for a prompt", "", ", ".join(summary["without_prompt"])]
    if summary.get("left_out"):
        lines += ["", "## Objects without a prompt", ""]
        lines += [f"- {count} {reason}" for reason, count in summary["left_out"].items()]
    if summary.get("notes"):
        lines += ["", "## Notes on masks", "", *(f"- {n['case']}: {n['note']}" for n in summary["notes"])]
    return "\n".join(lines) + "\n"


def _tables(title: str, part: Mapping[str, Any]) -> list[str]:
    head = ["DSC", "95 % interval", "median", "NSD", "ellipse DSC", "gain over ellipse", "95 % interval", "s / prompt"]
    totals = (
        ("mean over promptable sources", part["mean"]),
        ("mean over all sources", part["mean_all"]),
        ("small targets of promptable sources", part["small"]),
    )
    body = [[name, m["sources"], m["prompts"], *_cells(m)] for name, m in totals if m]
    lines = ["", f"## {title}", "", *_table(["", "sources", "prompts", *head], body)]
    if part["modalities"]:
        body = [[m["modality"], m["sources"], m["prompts"], *_cells(m)] for m in part["modalities"]]
        lines += ["", f"### {title} by modality (promptable sources)", ""]
        lines += _table(["modality", "sources", "prompts", *head], body)
    for about, promptable in (("by source", True), ("from sources that a box cannot prompt", False)):
        chosen = [s for s in part["sources"] if s["promptable"] == promptable]
        if chosen:
            body = [[s["modality"], s["source"], s["cases"], s["prompts"], *_cells(s)] for s in chosen]
            lines += ["", f"### {title} {about}", "", *_table(["modality", "source", "cases", "prompts", *head], body)]
        lines += [
            f"\nThe mean of '{s['source']}' is mostly that of one case: {h['prompts']} of its {s['prompts']} prompts are of "
            f"'{h['case']}'. Give it a source of its own, or leave out labels."
            for s in chosen
            if (h := s["heaviest"])
        ]
    return lines


def scores_csv(rows: Sequence[Score]) -> str:
    """The rows as CSV text, five decimals."""
    return rows_csv(Score, rows, 5)


def choose(
    rows: Sequence[Score], not_promptable: Sequence[str] = NOT_PROMPTABLE, columns: int = 6
) -> list[tuple[str, list[int]]]:
    """Positions of the best, the median and the worst rows of every kind for a sheet: of different sources as far as
    there are any."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    result = []
    for kind in kinds or [""]:
        pool = [n for n, row in enumerate(rows) if row.kind == kind]
        pool = [n for n in pool if rows[n].source not in not_promptable] or pool
        about = f"{KINDS[kind]}: " if len(kinds) > 1 else ""
        result += [(about + name, chosen) for name, chosen in _choose(rows, pool, columns)]
    return result


def _choose(rows: Sequence[Score], pool: Sequence[int], columns: int) -> list[tuple[str, list[int]]]:
    count = min(columns, math.ceil(len(pool) / 3))
    median = float(np.median([rows[n].dsc for n in pool])) if pool else 0.0
    result, taken = [], set()
    orders: tuple[tuple[str, Callable[[int], float]], ...] = (
        ("best", lambda n: -rows[n].dsc),
        ("worst", lambda n: rows[n].dsc),
        (f"around the median DSC ({median:.2f})", lambda n: abs(rows[n].dsc - median)),
    )
    for name, key in orders:
        ranked = sorted((n for n in pool if n not in taken), key=key)
        first_of = {rows[n].group: n for n in reversed(ranked)}
        fresh = [n for n in ranked if first_of[rows[n].group] == n]
        chosen = sorted((fresh + [n for n in ranked if n not in fresh])[:count], key=key)
        taken.update(chosen)
        result.append((name, chosen))
    return [result[0], result[2], result[1]]


def _split(rows: Sequence[Score], key: Callable[[Score], str]) -> Iterator[list[Score]]:
    """Rows with the same key, keys in alphabetical order."""
    groups: dict[str, list[Score]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    for name in sorted(groups):
        yield groups[name]


def _mean(rows: Sequence[Score]) -> dict[str, Any]:
    """Mean over sources of the mean over prompts."""
    groups = list(_split(rows, lambda row: row.group))

    def mean(name: str) -> float:
        values = [[v for v in (getattr(row, name) for row in group) if math.isfinite(v)] for group in groups]
        return float(np.mean([np.mean(v) for v in values if v])) if any(values) else math.nan

    def interval(name: str) -> list[float]:
        by_patient = (_split(group, lambda row: row.patient) for group in groups)
        return list(bootstrap_interval(*([[getattr(row, name) for row in own] for own in patients] for patients in by_patient)))

    return {
        "sources": len(groups),
        "cases": len({(row.group, row.case) for row in rows}),
        "prompts": len(rows),
        "dsc": mean("dsc"),
        "dsc_interval": interval("dsc"),
        "median": float(np.median([row.dsc for row in rows])),
        "nsd": mean("nsd"),
        "ellipse_dsc": mean("ellipse_dsc"),
        "gain": mean("gain"),
        "gain_interval": interval("gain"),
        "seconds": mean("seconds"),
    }


def _cells(mean: Mapping[str, Any]) -> list[str]:
    return [
        f"{mean['dsc']:.3f}",
        _range(mean["dsc_interval"], ".3f"),
        f"{mean['median']:.3f}",
        f"{mean['nsd']:.3f}",
        f"{mean['ellipse_dsc']:.3f}",
        f"{mean['gain']:+.3f}",
        _range(mean["gain_interval"], "+.3f"),
        f"{mean['seconds']:.3f}",
    ]


def _range(interval: Sequence[float], spec: str) -> str:
    low, high = interval
    return f"{low:{spec}} to {high:{spec}}" if math.isfinite(low) else "-"


def _table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> list[str]:
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in (head, ["---"] * len(head), *body)]
