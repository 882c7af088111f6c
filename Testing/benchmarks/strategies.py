"""Which strategy for what: tables and pictures over labelled 3D cases and over phantoms whose truth is known.

    python Testing/benchmarks/strategies.py --data MANIFEST.csv -o Docs/Evidence/Strategies

Without ``--data`` the phantoms alone. Every strategy segments the same boxes with the same model on one thread; ``auto`` is the
row of the strategy that it takes. The strategies' settings were chosen on the split ``train``.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from qmedsam import ModelStore, Segmenter
from qmedsam.choices import strategy_for
from qmedsam.evaluation.cases import read_manifest
from qmedsam.evaluation.prompts import prompts_of
from qmedsam.evaluation.scores import dsc, ellipsoid_mask, nsd
from qmedsam.intensity import Intensity
from qmedsam.models import shipped_folder
from qmedsam.strategies import Options
from strategy_phantoms import Case, phantoms

STRATEGIES: Dict[str, Tuple[str, Options]] = {
    "fixed": ("fixed", Options()),
    "propagate": ("propagate", Options()),
    "propagate, every 3rd": ("propagate", Options(every=3)),
    "vote": ("vote", Options()),
    "vote, axial + coronal": ("vote", Options(view_weights=(1, 1, 0))),
    "vote on fixed masks": ("vote", Options(walk="fixed", vote_on="mask")),  # the paper's
}
SHOWN = ("ellipsoid", "fixed", "propagate", "vote")
COLORS = {
    "ellipsoid": "#b8b8b8",
    "fixed": "#4477aa",
    "propagate": "#ee7733",
    "propagate, every 3rd": "#f0b070",
    "vote": "#228833",
    "vote, axial + coronal": "#a5d08f",
    "vote on fixed masks": "#aa88cc",
}
SCORES = ("dsc", "nsd", "consistency", "seconds", "encodes", "decodes")


class Row(NamedTuple):
    """One prompt under one strategy; ``encodes`` and ``decodes`` per axial slice of the box."""

    group: str
    case: str
    modality: str
    strategy: str
    dsc: float
    nsd: float
    consistency: float
    seconds: float
    encodes: float
    decodes: float


def real_cases(manifest: Path, split: str, most: int) -> Iterator[Case]:
    """The 3D prompts of a split, sides moved outward by up to 5 %.

    At most ``most`` cases of a source, and ``most`` prompts of a case, evenly spread over its prompts.
    """
    taken: Dict[str, int] = defaultdict(int)
    for case in read_manifest(manifest, split):
        taken[case.group] += case.is_3d
        if not case.is_3d or taken[case.group] > most:
            continue
        volume, labels = case.load()
        prompts = prompts_of(case, labels, "volume", 0.05)
        for prompt in prompts[:: math.ceil(len(prompts) / most)] if prompts else []:
            truth = np.zeros(labels.shape, bool)
            truth[prompt.crop] = prompt.truth
            yield Case(case.group, f"{case.case_id} {prompt.box.name}", volume, truth, prompt.box)


def consistency(mask: np.ndarray) -> float:
    """Mean DSC of neighbouring axial slices, over the pairs of which at least one is not empty."""
    pairs = [dsc(a, b) for a, b in zip(mask, mask[1:]) if a.any() or b.any()]
    return float(np.mean(pairs)) if pairs else math.nan


def score(case: Case, segmenter: Segmenter) -> Iterator[Tuple[Row, np.ndarray]]:
    """The rows of a case, and the masks."""
    spacing = case.volume.spacing_mm[::-1]
    inner, crop = ellipsoid_mask(case.box, case.truth_kji.shape)

    def row(strategy: str, mask: np.ndarray, *cost: float) -> Tuple[Row, np.ndarray]:
        whole = np.zeros_like(case.truth_kji)
        whole[crop] = mask
        # How much less alike neighbouring slices are than in the truth (0: as smooth as the object itself).
        smooth = consistency(mask) - consistency(case.truth_kji[crop])
        scores = (dsc(whole, case.truth_kji), nsd(whole, case.truth_kji, spacing, 2.0), smooth)
        return Row(case.group, case.name, case.volume.modality, strategy, *scores, *cost), whole

    yield row("ellipsoid", inner, 0.0, 0.0, 0.0)
    for name, (strategy, options) in STRATEGIES.items():
        result = segmenter.segment(case.volume, [case.box], strategy=strategy, options=options, keep_masks=True)
        found, slices = result.objects[0], result.cost["single_decodes"]
        assert found.crop == crop
        seconds = result.seconds["total"] - result.seconds["load"]
        yield row(name, found.mask_kji_crop, seconds, result.cost["encodes"] / slices, result.cost["decodes"] / slices)


def means(rows: Sequence[Row]) -> Dict[str, List[float]]:
    """By strategy: the scores, averaged over the prompts of a group, then over the groups."""
    found: Dict[str, List[float]] = {}
    for strategy in ("ellipsoid", *STRATEGIES):
        groups = defaultdict(list)
        for row in rows:
            if row.strategy == strategy:
                groups[row.group].append([getattr(row, name) for name in SCORES])
        found[strategy] = list(np.mean([np.nanmean(np.array(members), axis=0) for members in groups.values()], axis=0))
    return found


def best(title: str, rows: Sequence[Row]) -> str:
    """The strategy of the highest mean DSC, in a few words."""
    scores = {strategy: values[0] for strategy, values in means(rows).items()}
    first = max(scores, key=scores.__getitem__)
    return f"{title} *{first}* {scores[first]:.3f}"


def table(title: str, rows: Sequence[Row], auto: str = "") -> List[str]:
    """A Markdown table of one row per strategy; the best DSC and NSD are bold."""
    values = means(rows)
    prompts, groups = len({(r.group, r.case) for r in rows}), len({r.group for r in rows})
    best = [max(round(v[n], 3) for v in values.values()) for n in (0, 1)]
    lines = [f"### {title}", "", f"{prompts} prompts of {groups} group{'s' * (groups > 1)}.", ""]
    lines += [
        "| strategy | DSC | NSD 2 mm | consistency | s / prompt | encodes | decodes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for strategy, (d, n, c, s, e, k) in values.items():
        cells = [f"**{v:.3f}**" if round(v, 3) == b else f"{v:.3f}" for v, b in zip((d, n), best)]
        name = f"{strategy} (auto)" if strategy == auto else strategy
        cost = ["-"] * 3 if strategy == "ellipsoid" else [f"{s:.2f}", f"{e:.2f}", f"{k:.2f}"]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {c:+.3f} | " + " | ".join(cost) + " |")
    return [*lines, ""]


def bars(path: Path, parts: Dict[str, Sequence[Row]]) -> None:
    """DSC of every strategy, part by part, with the single prompts as dots."""
    figure, axes = plt.subplots(figsize=(1.2 + 1.5 * len(parts), 4.2), dpi=110, layout="constrained")
    names = ("ellipsoid", *STRATEGIES)
    width = 0.85 / len(names)
    for p, rows in enumerate(parts.values()):
        for n, (strategy, values) in enumerate(means(rows).items()):
            at = p + (n - (len(names) - 1) / 2) * width
            axes.bar(at, values[0], width * 0.92, color=COLORS[strategy], label=strategy if p == 0 else None)
            dots = [row.dsc for row in rows if row.strategy == strategy]
            axes.scatter(np.full(len(dots), at), dots, s=5, color="black", alpha=0.35, linewidths=0, zorder=3)
    axes.set_xticks(range(len(parts)), [title.replace(" ", "\n", 1) for title in parts])
    axes.set_ylabel("DSC (bar: mean, dot: prompt)")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(names), fontsize=8, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def sheet(path: Path, shown: Sequence[Tuple[Case, Dict[str, np.ndarray], Dict[str, Row]]]) -> None:
    """Coronal cuts through the middle of some objects: the truth in white, each strategy in its colour."""
    figure, grid = plt.subplots(
        len(shown), len(SHOWN), figsize=(2.6 * len(SHOWN), 2.7 * len(shown)), dpi=80, layout="constrained"
    )
    for line, (case, masks, rows) in zip(grid, shown):
        j = int(np.argmax(case.truth_kji.sum(axis=(0, 2))))
        intensity = Intensity.of(case.volume, case.volume.modality)
        low, high = case.box.corners_ijk.min(axis=0), case.box.corners_ijk.max(axis=0)
        i, _, k = case.volume.spacing_mm
        for axes, name in zip(line, SHOWN):
            axes.imshow(intensity.apply(case.volume.array_kji[:, j]), cmap="gray", vmin=0, vmax=1, aspect=k / i, origin="lower")
            axes.contour(case.truth_kji[:, j], [0.5], colors="white", linewidths=1.0)
            if masks[name][:, j].any():
                axes.contour(masks[name][:, j], [0.5], colors=COLORS[name], linewidths=1.8)
            axes.add_patch(plt.Rectangle((low[0], low[2]), high[0] - low[0], high[2] - low[2], fill=False, ec="yellow", ls=":"))
            room = 0.25 * max((high[0] - low[0]) * i, (high[2] - low[2]) * k)
            axes.set_xlim(low[0] - room / i, high[0] + room / i)
            axes.set_ylim(low[2] - room / k, high[2] + room / k)
            axes.set_axis_off()
            axes.set_title(
                f"{name}, DSC {rows[name].dsc:.2f}", fontsize=9, color=COLORS[name] if name != "ellipsoid" else "#666666"
            )
        line[0].text(
            -0.04,
            0.5,
            f"{case.group}\n{case.name}",
            transform=line[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            fontsize=8,
        )
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="manifest of labelled cases")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", help="name or folder; default: the shipped one")
    parser.add_argument("--most", type=int, default=8, help="cases of one source, and prompts of one case")
    parser.add_argument("-o", "--output", type=Path, default=Path("Docs/Evidence/Strategies"))
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    model = ModelStore().get(chosen.model) if chosen.model else ModelStore([shipped_folder()]).route("*")
    segmenter = Segmenter(str(model.folder), threads=1)
    rows: List[Row] = []
    shown, seen = [], set()
    for case in [*phantoms(), *(real_cases(chosen.data, chosen.split, chosen.most) if chosen.data else [])]:
        if not rows:
            list(score(case, segmenter))  # to warm up
        found = list(score(case, segmenter))
        print(f"{time.perf_counter() - start:5.0f} s  {case.group}: {case.name}", flush=True)  # noqa: T201
        rows += [row for row, _ in found]
        if case.group not in seen and case.truth_kji.sum() > 200:
            seen.add(case.group)
            shown.append((case, {r.strategy: mask for r, mask in found}, {r.strategy: r for r, _ in found}))
    with (chosen.output / "scores.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([f"{v:.4f}" if isinstance(v, float) else v for v in row] for row in rows)
    real = [row for row in rows if "/" in row.group]
    made = [row for row in rows if "/" not in row.group]
    autos = {m: strategy_for(m, model.manifest.strategies) for m in ("PET", "CT", "MR")}
    parts = {f"{m} patients": [r for r in real if r.modality == m] for m in autos}
    parts = {title: some for title, some in parts.items() if some}
    name = f"{model.name} {model.manifest.version}"
    lines = [
        "# Which strategy for what",
        "",
        f"Made by `{command(chosen)}` with {name}, on one thread of a machine shared with others:",
    ]
    lines += ["seconds compare the rows of one table, nothing else.", "", "![DSC by strategy](dsc.png)", ""]
    found = {
        **parts,
        **{group: [row for row in made if row.group == group] for group in dict.fromkeys(row.group for row in made)},
    }
    lines += ["Best mean DSC: " + "; ".join(best(title, some) for title, some in found.items()) + ".", ""]
    if parts:
        lines += [f"## Patients (split `{chosen.split}`)", ""]
        for title, some in parts.items():
            lines += table(title, some, autos[title.split()[0]])
    lines += ["## Phantoms with known truth", ""]
    for group, some in found.items():
        if group not in parts:
            lines += table(group, some, autos[some[0].modality])
    lines += [NOTES, "", "![Coronal cuts](sheet.png)", ""]
    (chosen.output / "README.md").write_text("\n".join(lines), encoding="utf-8")
    bars(chosen.output / "dsc.png", found)
    sheet(chosen.output / "sheet.png", shown)
    print(f"{len(rows)} rows in {time.perf_counter() - start:.0f} s: {chosen.output / 'README.md'}")  # noqa: T201


NOTES = """## How to read it

Means over the prompts of a group, then over groups (a patients' group is a source). *Consistency*: mean DSC of neighbouring axial
slices, minus the truth's: below 0 the slices fit together worse than the object's own, above 0 the mask is too much alike from
slice to slice. *Encodes* and *decodes*: calls of the network per axial slice of the box; one look at every slice is 1.00.
*Ellipsoid*: the one inscribed in the box, which needs no network. *vote on fixed masks* is the paper's way (2 of 3, the box's
rectangle on every slice). *(auto)* marks what `auto` takes for the modality. Boxes of patients: every side moved outward by 0 to
5 % of the box's length; at most 8 cases of a source and 8 prompts of a case (`--most`).
"""


def command(chosen: argparse.Namespace) -> str:
    """As it can be typed again."""
    words = ["python Testing/benchmarks/strategies.py"]
    words += ["--data MANIFEST.csv"] if chosen.data else []
    words += [f"--split {chosen.split}"] if chosen.split != "validation" else []
    words += [f"--model {chosen.model}"] if chosen.model else []
    return " ".join([*words, "-o Docs/Evidence/Strategies"])


if __name__ == "__main__":
    main()
