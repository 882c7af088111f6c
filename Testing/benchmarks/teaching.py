"""What teaching with 5, 10 and 20 cases is worth: sources that the shipped network has not seen, scored on other patients.

    python Testing/benchmarks/teaching.py DATA/manifest.csv --results teaching.csv
    python Testing/benchmarks/teaching.py DATA/manifest.csv --results teaching.csv --write

It goes the command's own way: folds, the share that the cases choose, and what the command would say. Every source and number of
cases is a group of rows of the results; what is there is not done again, and of a run that was stopped the parts are kept.
"""

from __future__ import annotations

import argparse
import csv
import platform
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
from qmedsam.evaluation.cases import Case, read_manifest
from qmedsam.evaluation.scores import bootstrap_interval
from qmedsam_training.data.splitting import chance_of
from qmedsam_training.networks import compact_of
from qmedsam_training.teaching.cases import Lessons, Taught, read_case
from qmedsam_training.teaching.plan import MOST_FRAMES, Plan
from qmedsam_training.teaching.run import Teaching, shipped_base
from qmedsam_training.teaching.scoring import tried
from qmedsam_training.teaching.settings import FEW, Lesson

#: Of the second round of data: none of them is among those that qmedsam-compact 0.4 was trained on.
SOURCES = ("pancreas_nih", "ms_lesion", "camelyon_tumour", "idrid_disc", "usgra_nerve", "axon_sem")
SIZES = (10, 5, 20)
SPLIT = "validation2"
PAGES = Path(__file__).resolve().parents[2] / "Docs" / "Evidence" / "Training"
_FOLDS = ("fold_gain", "fold_low", "fold_high", "share")
_SCORES = ("ellipse", "before", "taught", "all_the_way", "before_nsd", "taught_nsd", "others_before", "others")
_COLUMNS = ("source", "size", "cases", "patients", *_FOLDS, "patient", *_SCORES)
#: Points of loss that have to be said.
_LOSS = 0.5
#: What the command says when it writes nothing unless asked.
_NOTHING, _TOO_FEW = "nothing gained", "too few patients"


def of_source(cases: Sequence[Case], source: str) -> List[Case]:
    """One picture of each patient first, in the order of what patients' names hash to."""
    own = sorted((case for case in cases if case.source == source), key=lambda c: chance_of((c.source, c.patient_id)))
    seen: Dict[str, int] = defaultdict(int)
    rank = {}
    for case in own:
        rank[case.case_id] = seen[case.patient_id]
        seen[case.patient_id] += 1
    return sorted(own, key=lambda case: rank[case.case_id])


def usable(cases: Sequence[Case], most: int) -> List[Taught]:
    """The first ones with an object; all of a source's objects are one target."""
    found: List[Taught] = []
    for case in cases:
        one, _ = read_case(case, len(found) + 1, {})
        if one.objects:
            names = tuple((label, case.source) for label, _ in one.case.names)
            objects = {case.source: sum(one.objects.values())}
            found.append(replace(one, case=replace(one.case, names=names), objects=objects))
        if len(found) == most:
            break
    return found


def measure(manifest: Path, source: str, size: int, work: Path, results: Path) -> None:
    """Teach with the first cases of a source's ``train`` and score on its :data:`SPLIT`."""
    base = shipped_base(is_3d=False)
    model, network = compact_of(base)
    lessons = Lessons(usable(of_source(read_manifest(manifest, "train"), source), size), {})
    others = usable(of_source(read_manifest(manifest, SPLIT), source), 1000)
    plan = Plan(MOST_FRAMES, len(lessons.folds()), Lesson(), 0, 0)
    teaching = Teaching(lessons, model, network, base.stem, plan, work / f"{source}-{size}", lambda: False)
    teaching.prepare()
    for kept in work.glob(f"{source}-*/case-*.frames"):  # the first cases are the same, however many there are
        number = int(kept.stem.partition("-")[2])
        if number <= len(lessons.cases) and not (teaching.work / kept.name).exists():
            shutil.copy(kept, teaching.work / kept.name)
    frames, scenes = teaching.frames(lambda *_: None)
    found, handed = teaching.findings(frames, scenes, lambda *_: None)
    models = [model, handed if found.gained else model, teaching.all_the_way()]
    gain = found.gain
    patients = len({case.patient for case in lessons.cases})
    about = (source, size, len(lessons.cases), patients, gain.mean, gain.low, gain.high, found.share)
    rows: List[Tuple[object, ...]] = []
    for number, case in enumerate(others, start=1):
        for one in tried(case, number, models, network.side):
            scores = (one.ellipse, *one.dsc, one.nsd[0], one.nsd[1], found.others_before, found.others_taught)
            rows.append((*about, case.case.patient_id, *scores))
    first = not results.exists()
    with results.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if first:
            writer.writerow(_COLUMNS)
        writer.writerows(rows)
    own = of_run(read(results), source, size)
    told = f"folds {gain.points} ({said(own)}); other patients {gains(own)[0]:+.1f}"
    print(f"{source}, {len(lessons.cases)} cases: {told}", flush=True)  # noqa: T201


def read(results: Path) -> List[Dict[str, str]]:
    """What was measured so far."""
    if not results.exists():
        return []
    with results.open(newline="") as stream:
        return list(csv.DictReader(stream))


def gains(rows: Sequence[Dict[str, str]], column: str = "taught") -> Tuple[float, float, float]:
    """Mean over patients of the gain in points, with its 95 % interval."""
    of: Dict[str, List[float]] = defaultdict(list)
    for row in rows:
        of[row["patient"]].append(100 * (float(row[column]) - float(row["before"])))
    low, high = bootstrap_interval(list(of.values()))
    return float(np.mean([np.mean(values) for values in of.values()])), low, high


def mean(rows: Sequence[Dict[str, str]], column: str) -> float:
    """Over patients."""
    of: Dict[str, List[float]] = defaultdict(list)
    for row in rows:
        of[row["patient"]].append(float(row[column]))
    return float(np.mean([np.nanmean(values) for values in of.values()]))


def of_run(rows: Sequence[Dict[str, str]], source: str, size: int) -> List[Dict[str, str]]:
    """Rows of a source and a number of cases."""
    return [row for row in rows if row["source"] == source and int(row["size"]) == size]


def said(own: Sequence[Dict[str, str]]) -> str:
    """What the command's sentence amounts to."""
    gain, low, share = (float(own[0][name]) for name in ("fold_gain", "fold_low", "share"))
    if not (share > 0 and gain > 0):
        return _NOTHING
    if int(own[0]["patients"]) < FEW:
        return _TOO_FEW
    return "better" if low > 0 else "not shown"


def cells(own: Sequence[Dict[str, str]]) -> List[str]:
    """Of a row of the table."""
    gain, low, high = gains(own)
    numbers = [f"{mean(own, name):.3f}" for name in ("ellipse", "before", "taught")]
    nsd = [f"{mean(own, name):.3f}" for name in ("before_nsd", "taught_nsd")]
    other = 100 * (float(own[0]["others"]) - float(own[0]["others_before"]))
    folds = [100 * float(own[0][name]) for name in _FOLDS[:3]]
    return [
        own[0]["source"],
        f"{own[0]['cases']} of {own[0]['patients']}",
        f"{folds[0]:+.1f} ({folds[1]:+.1f} to {folds[2]:+.1f}): {said(own)}",
        own[0]["share"],
        str(len({row["patient"] for row in own})),
        *numbers,
        f"{gain:+.1f} ({low:+.1f} to {high:+.1f})",
        f"{gains(own, 'all_the_way')[0]:+.1f}",
        *nsd,
        f"{other:+.1f}" if said(own) != _NOTHING else "0",
    ]


def sentence(rows: Sequence[Dict[str, str]], size: int) -> str:
    """Of all sources with a number of cases."""
    runs = [own for own in (of_run(rows, source, size) for source in SOURCES) if own]
    if not runs:
        return f"{size} cases: not measured."
    by = [gains(own)[0] for own in runs]
    unsaid = [own[0]["source"] for own, gain in zip(runs, by) if gain < -_LOSS and said(own) not in (_NOTHING, _TOO_FEW)]
    without = [gains(own, "all_the_way")[0] for own in runs]
    missing = ", ".join(source for source in SOURCES if not of_run(rows, source, size))
    return (
        f"{size} cases (or all there are), {len(by)} of {len(SOURCES)} sources: {np.mean(by):+.1f} points in the mean, "
        f"{min(by):+.1f} at worst; worse by more than {_LOSS} without saying so: {', '.join(unsaid) or 'none'}. Without "
        f"the choice of a share: {np.mean(without):+.1f} in the mean, {min(without):+.1f} at worst."
        f"{f' Not measured: {missing}.' if missing else ''}"
    )


def write(results: Path) -> None:
    """Table and plot among the pages of evidence; the page's further sections are written by hand, and stay."""
    rows = read(results)
    sources = [source for source in SOURCES if any(row["source"] == source for row in rows)]
    sizes = sorted({int(row["size"]) for row in rows})
    head = (
        *("source", "cases of patients", "what its own folds say", "share", "other patients", "ellipse", "before", "taught"),
        *("gain (95 %)", "all the way", "NSD before", "taught", "others"),
    )
    lines = [
        "# Teaching: 5, 10 and 20 cases",
        "",
        "The decoder of `compact-160.pt`, taught in the way of `qmedsam-train teach` and scored on the patients of",
        f"`{SPLIT}` (boxes up to 5 % too large, float networks, means over patients). The network has not seen these sources.",
        "*What its own folds say* is what the user reads before anything is written: points of DSC on cases that were held out,",
        "and what that amounts to. Where nothing is gained *taught* is the untaught network; of *too few patients* (fewer than",
        f"{FEW}) a model is written on request alone, and *taught* is that one. *Share*: how far",
        "it goes from the untaught network; *all the way*: the gain without that choice. *Others*: points on generated objects",
        f"of other kinds. At most 24 objects of a picture. Processor: {processor()}.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    runs = [of_run(rows, source, size) for source in sources for size in sizes]
    lines += [f"| {' | '.join(cells(own))} |" for own in runs if own]
    for size in sorted(SIZES):
        lines += ["", sentence(rows, size)]
    command = "python Testing/benchmarks/teaching.py DATA/manifest.csv --results teaching.csv --write"
    lines += ["", "![Gain by number of cases](teaching.png)", "", f"Measured by `{command}`."]
    page = PAGES / "teaching.md"
    by_hand = "".join(page.read_text(encoding="utf-8").partition("\n## ")[1:]) if page.exists() else ""
    page.write_text("\n".join(lines) + "\n" + by_hand, encoding="utf-8")
    plot(rows, sources, sizes)


def plot(rows: Sequence[Dict[str, str]], sources: Sequence[str], sizes: Sequence[int]) -> None:
    """Gain by number of cases, a line a source."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for source in sources:
        points = []
        for size in sizes:
            own = of_run(rows, source, size)
            if own:
                points.append((size, gains(own)[0]))
        axes.plot([0, *(p[0] for p in points)], [0, *(p[1] for p in points)], marker="o", label=source)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="cases", ylabel="gain in points of DSC")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PAGES / "teaching.png", dpi=110)


def processor() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "an unknown processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for what is kept of every run; default: beside the results")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--sources", nargs="+", default=list(SOURCES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="also table and plot among the pages")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for size in chosen.sizes:
        for source in chosen.sources:
            if not any(row["source"] == source and int(row["size"]) == size for row in read(chosen.results)):
                measure(chosen.manifest, source, size, chosen.work or chosen.results.with_suffix(""), chosen.results)
    if chosen.write:
        write(chosen.results)


if __name__ == "__main__":
    main()
